"""Measures attention bias: which frames and spatial positions receive the attention that prunes.

The model runs unpruned. At every requested layer, its attention is scored exactly as a pruned run scores it.
AdaTP's two rules are then applied to the same scores, so that "debiased" is what AdaTP acts on. The two
statistics are the paper's; the controls and the rest are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from adatp.adatp_steps.debias import segment_weights, select, select_overall
from adatp.adatp_steps.relevance import pool_by_segment
from adatp.budget import Schedule
from adatp.errors import AdaTPError
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods import AdaTP, Method
from adatp.methods.segments import segments_of
from adatp.methods.selection import allocate
from adatp.methods.token_plan import Cut, Rule, TokenPlan
from adatp.prefill import Prefill
from adatp.report import Report
from adatp.session import Session
from adatp.video import Video

TOP = 0.1
"""Share of the visual tokens that count as the most attended ones; the paper's value."""

CONTROLS = ("shuffled", "identical", "black")
"""Conditions that separate position from content. Shuffled: the frames in another order. Identical: the
middle frame in every frame's place. Black: black frames.
"""


class BiasError(AdaTPError, ValueError):
    """The clips can't be measured together. The message is one line."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Distribution of a layer's attention on one clip.

    Attributes:
        top10_by_frame: (T,) share of the top-10 % tokens that lies in each frame; sums to 1.
        top10_by_position: (rows, columns) number of the top-10 % tokens at each spatial position, over all
            frames, relative to the mean over positions.
        mass_by_frame: (T,) share of the attention on visual tokens that each frame receives; sums to 1.
        mass_by_position: (rows, columns) mean over frames of the attention at each spatial position, relative
            to the mean over positions.
        entropy: of the attention over visual tokens, as a fraction of the highest possible; 1 is an even
            spread.
    """

    top10_by_frame: Tensor
    top10_by_position: Tensor
    mass_by_frame: Tensor
    mass_by_position: Tensor
    entropy: float

    @property
    def position_peak_to_mean(self) -> float:
        """The most attended position's attention over the mean position's; up to 5.77 in the paper."""
        return float(self.mass_by_position.max())

    @property
    def top10_position_peak_to_mean(self) -> float:
        """Ratio of the most to the mean number of top-10 % tokens over positions."""
        return float(self.top10_by_position.max())


def describe(attention: Tensor, top: Tensor, layout: VideoLayout) -> Statistics:
    """Compute the statistics of one clip.

    Args:
        attention: (n,) non-negative attention of the visual tokens of ``layout``, in any scale.
        top: (k,) int64, the tokens that count as the most attended.
        layout: layout of a prompt with one video.
    """
    frames, rows, columns = layout.grids[0]
    frame, position = layout.frame.cpu(), layout.position.cpu()
    p = attention.double() / attention.double().sum()
    chosen = torch.zeros_like(p).index_fill_(0, top, 1 / len(top))

    def by_frame(share: Tensor) -> Tensor:
        return share.new_zeros(frames).index_add_(0, frame, share)

    def by_position(share: Tensor) -> Tensor:
        total = share.new_zeros(rows * columns).index_add_(0, position, share)
        return total.view(rows, columns) * (rows * columns)

    return Statistics(
        top10_by_frame=by_frame(chosen),
        top10_by_position=by_position(chosen),
        mass_by_frame=by_frame(p),
        mass_by_position=by_position(p),
        entropy=float(torch.special.entr(p).sum()) / math.log(len(p)) if len(p) > 1 else 1.0,
    )


def debiased_attention(attention: Tensor, segment: Tensor, position: Tensor, share: Tensor) -> Tensor:
    """Apply AdaTP's two rules as weights on the attention. (`select` uses them to choose tokens.)

    Global: each segment has its share of the budget. Local: each spatial position of a segment has the same
    part of it. So attention only decides between the frames of one position in one segment.

    Args:
        attention: (n,) non-negative.
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token.
        share: (S,) share of each segment.

    Returns:
        (n,) float64, up to a common factor.

    Source: the rules are the paper's, this reading of them is ours.
    """
    # Every token gets some attention, so that a position whose attention underflows still has its part.
    a = attention.double().clamp_min(torch.finfo(torch.float64).tiny)
    spot = segment * (int(position.max()) + 1) + position
    total = a.new_zeros(int(spot.max()) + 1).index_add_(0, spot, a)
    return share.double()[segment] * a / total[spot]


@dataclass(frozen=True)
class AttentionRecorder(Method):
    """Keeps every token and records the attention that AdaTP would have decided by.

    Attributes:
        layers: layers whose attention is scored.
        relevance: relevance signal, as in `AdaTP`.
    """

    name: ClassVar[str] = "attention_recorder"

    flops: None = field(default=None, init=False)
    layers: tuple[int, ...] = ()
    relevance: str = AdaTP.relevance

    @property
    @override
    def query_rows(self) -> int:
        return AdaTP.max_queries

    @property
    @override
    def relevance_signal(self) -> str:
        return self.relevance

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """The layer after each recorded one: its scores are known there."""
        return tuple(layer + 1 for layer in self.layers)

    @override
    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        return self.layers

    def plan(self, prefill: Prefill) -> TokenPlan:
        """Drop nothing, but score the attention."""
        return TokenPlan(self, prefill)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Record the scores of one prompt."""
        segment = segments_of(prefill, sample, AdaTP.tau_s)
        relevance = prefill.relevance(sample)
        return _Record(segment, None if relevance is None else pool_by_segment(relevance.cpu(), segment))


class _Record:
    """Records one prompt: frames' segments, segments' relevance, attention by layer and token."""

    def __init__(self, segment: Tensor, relevance: Tensor | None) -> None:
        self.segment, self.relevance = segment, relevance
        self.attention: dict[int, Tensor] = {}

    def __call__(self, cut: Cut) -> Tensor:
        assert cut.scores is not None
        self.attention[cut.layer - 1] = cut.scores.cpu()
        return torch.arange(len(cut.token))

    def notes(self) -> dict[str, Any]:
        return {
            "segments": self.segment.tolist(),
            "segment_relevance": None if self.relevance is None else self.relevance.tolist(),
            "attention": {str(layer): scores.tolist() for layer, scores in self.attention.items()},
        }


def statistics_by_layer(
    report: Report, layout: VideoLayout
) -> Iterator[tuple[int, float, Statistics, Statistics]]:
    """Compute the statistics of one recorded prefill.

    Args:
        report: report of a run under `AttentionRecorder` with one prompt.
        layout: layout of that prompt, with one video.

    Yields:
        For each layer: its number, the share of all attention that visual tokens receive, and the statistics
            before and after debiasing.
    """
    [notes] = report.notes
    frame, position = layout.frame.cpu(), layout.position.cpu()
    segment = torch.tensor(notes["segments"])[frame]
    relevance = notes["segment_relevance"]
    sizes = segment.bincount()
    weights = segment_weights(None if relevance is None else torch.tensor(relevance), AdaTP.tau_r, sizes)
    keep = max(1, round(TOP * len(frame)))
    share = allocate(sizes, weights, keep)
    for layer, scores in sorted((int(layer), scores) for layer, scores in notes["attention"].items()):
        attention = torch.tensor(scores)
        top = select_overall(attention, segment, position, keep, local=False)
        chosen = select(attention, segment, position, sizes, share, local=True)
        debiased = debiased_attention(attention, segment, position, sizes * weights)
        yield (
            layer,
            float(attention.sum()),
            describe(attention, top, layout),
            describe(debiased, chosen, layout),
        )


def order(frames: int, unit: int, seed: int) -> NDArray[np.int64]:
    """A shuffled order of frames, (``frames``,), in blocks of ``unit`` frames that a model reads as one."""
    # A last block that is short stays the last: elsewhere it would move the borders of those after it.
    blocks = np.random.default_rng(seed).permutation(frames // unit)
    shuffled = (blocks[:, None] * unit + np.arange(unit)).ravel()
    return np.append(shuffled, np.arange(len(shuffled), frames))


def altered(frames: NDArray[np.uint8], control: str, shuffled: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A clip's frames (F, H, W, 3) under one of `CONTROLS`. Any other name leaves them unchanged."""
    if control == "shuffled":
        return frames[shuffled]
    if control == "identical":
        return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
    if control == "black":
        return np.zeros_like(frames)
    return frames


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's correlation of two profiles (T,); None where one is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 1e-12 else None


class _Layer:
    """Sums over clips of one layer's statistics under one condition."""

    def __init__(self) -> None:
        self.clips = 0
        self.mass = 0.0
        self.sums: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def add(self, mass: float, before: Statistics, after: Statistics) -> None:
        self.clips += 1
        self.mass += mass
        for sums, found in zip(self.sums, (before, after), strict=True):
            for name in (*vars(found), "position_peak_to_mean", "top10_position_peak_to_mean"):
                value = getattr(found, name)
                sums[name] = value if name not in sums else _sum(sums[name], value)

    def means(self) -> dict[str, Any]:
        def mean(total: Any) -> Any:
            if total is None:
                return None
            return torch.as_tensor(total / self.clips).double().round(decimals=6).tolist()

        before, after = ({name: mean(total) for name, total in sums.items()} for sums in self.sums)
        return {"visual_mass": mean(self.mass), **before, "debiased": after}


def _sum(total: Any, value: Any) -> Any:
    if isinstance(total, Tensor) and total.shape != value.shape:  # maps of clips in several formats
        return None
    return None if total is None else total + value


def _check_layers(shape: DecoderShape, watched: Sequence[int]) -> None:
    """Refuse layers that do not exist or whose attention is not full."""
    if not watched or not 0 <= watched[0] <= watched[-1] < shape.layers:
        raise BiasError(
            f"the decoder has layers 0 to {shape.layers - 1}, not all of {', '.join(map(str, watched))}"
        )
    if others := [layer for layer in watched if layer not in shape.full_layers]:
        raise BiasError(
            f"only layers with full attention can be looked at, not {', '.join(map(str, others))}"
        )


def measure(
    session: Session,
    clips: Iterable[tuple[Video, str]],
    *,
    layers: Sequence[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    relevance: str = AdaTP.relevance,
    progress: Callable[[int], None] = lambda clips: None,
) -> dict[str, Any]:
    """Attention bias of a model over a set of clips, with and without debiasing.

    Memory never holds more than the scores of one clip: one number per visual token and layer.

    Args:
        session: holds the model that is measured.
        clips: videos, each with a question; all with the same number of frames.
        layers: decoder layers to measure; None: all with full attention.
        controls: of `CONTROLS`, further conditions under which the same clips are measured.
        relevance: the text-relevance signal that splits the budget, as in `AdaTP`.
        progress: called after every clip with the number of clips done.

    Returns:
        Plain numbers, rounded to 1e-6, and lists. ``layers`` has for each layer ``layer``, ``visual_mass``
        (the share of the question's attention that visual tokens receive) and the means over clips of
        `Statistics`. Under ``debiased`` it has the same after AdaTP's rules. ``controls`` has the same for
        each control. Under ``shuffled`` there are also ``follows_slot`` and ``follows_content``: the mean
        correlation of a clip's ``mass_by_frame`` with that of the unshuffled clip, slot by slot in the order
        read, and each frame with itself. The maps by position are None where clips differ in format.

    Raises:
        BiasError: there are no clips or no such layers with full attention, or clips differ in length.
        PromptError: a clip with its question does not fit into the model's context.
    """
    shape = DecoderShape.from_config(session.config.get_text_config())
    watched = shape.full_layers if layers is None else tuple(sorted({*layers}))
    _check_layers(shape, watched)
    recorder = AttentionRecorder(layers=watched, relevance=relevance)
    conditions = {name: {layer: _Layer() for layer in watched} for name in ("original", *controls)}
    follows: dict[int, dict[str, list[float]]] = {layer: {"slot": [], "content": []} for layer in watched}
    frames = steps = done = 0
    segments: list[int] = []
    signal = ""
    for video, question in clips:
        if frames and len(video.frames) != frames:
            raise BiasError(
                f"a clip has {len(video.frames)} frames, the first {frames}: all clips need the same number"
            )
        frames, unit = len(video.frames), 1
        profiles: dict[tuple[str, int], Tensor] = {}
        for condition in conditions:
            shuffled = order(frames, unit, seed=done)
            shown = replace(video, frames=altered(video.frames, condition, shuffled))
            report, layout = _recorded(session, recorder, shown, question)
            for layer, mass, before, after in statistics_by_layer(report, layout):
                conditions[condition][layer].add(mass, before, after)
                profiles[condition, layer] = before.mass_by_frame
            if condition == "original":
                steps = layout.frames
                unit = math.ceil(frames / steps)
                segments.append(int(report.notes[0]["segments"][-1]) + 1)
                signal = report.relevance
            if condition == "shuffled":
                source = torch.from_numpy(shuffled[::unit] // unit)
                for layer in watched:
                    here, there = profiles["original", layer], profiles["shuffled", layer]
                    for what, profile in (("slot", here), ("content", here[source])):
                        if (r := correlation(profile, there)) is not None:
                            follows[layer][what].append(r)
        done += 1
        progress(done)
    if not done:
        raise BiasError("there is no clip to measure")
    found = {
        name: [{"layer": layer, **sums.means()} for layer, sums in by_layer.items()]
        for name, by_layer in conditions.items()
    }
    for row in found.get("shuffled", []):
        for what, values in follows[row["layer"]].items():
            row[f"follows_{what}"] = fmean(values) if values else None
    return {
        "clips": done,
        "frames": steps,
        "segments": fmean(segments),
        "relevance": signal,
        "layers": found.pop("original"),
        "controls": found,
    }


def _recorded(
    session: Session, recorder: AttentionRecorder, video: Video, question: str
) -> tuple[Report, VideoLayout]:
    """Run one prompt under the recorder."""
    # Skipped frames have no known attention, and a control would skip more frames than its original.
    prompt = session.prepare(video, question, every_token=True)
    answer = session.read(prompt, recorder)
    return answer.report, answer.layout
