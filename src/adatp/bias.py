"""Measures attention bias: which frames and which spatial positions the attention that prunes looks at.

The model runs unpruned; at every layer asked for, its attention is scored exactly as a pruned run scores it.
The same scores are then looked at through AdaTP's two rules, so that "debiased" is what AdaTP acts on. The
two statistics are the paper's, the controls and the rest are ours.
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
"""Share of the visual tokens that count as the most attended ones; the paper's."""

CONTROLS = ("shuffled", "identical", "black")
"""What tells position from content: the frames in another order; the middle frame in every frame's place;
black frames."""


class BiasError(AdaTPError, ValueError):
    """The clips can't be measured together. The message is one line."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Where a layer's attention on one clip lies.

    Attributes:
        top10_by_frame: (T,) share of the top-10 % tokens that lies in each frame; sums to 1.
        top10_by_position: (rows, columns) how many of the top-10 % tokens lie at each spatial position, over
            all frames; 1 is the mean over positions.
        mass_by_frame: (T,) share of the attention on visual tokens that each frame receives; sums to 1.
        mass_by_position: (rows, columns) mean over frames of the attention at each spatial position; 1 is the
            mean over positions.
        entropy: of the attention over visual tokens, as a fraction of the highest possible: 1 is an even
            spread.
    """

    top10_by_frame: Tensor
    top10_by_position: Tensor
    mass_by_frame: Tensor
    mass_by_position: Tensor
    entropy: float

    @property
    def position_peak_to_mean(self) -> float:
        """The most attended position's attention against the mean position's; the paper sees up to 5.77."""
        return float(self.mass_by_position.max())

    @property
    def top10_position_peak_to_mean(self) -> float:
        """The same of the number of top-10 % tokens."""
        return float(self.top10_by_position.max())


def describe(attention: Tensor, top: Tensor, layout: VideoLayout) -> Statistics:
    """The statistics of one clip.

    Args:
        attention: (n,) non-negative, of the visual tokens of ``layout``, in any scale.
        top: (k,) int64, the tokens that count as the most attended.
        layout: of a prompt with one video.
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
    """AdaTP's two rules as weights on the attention, where `select` makes a choice of them.

    Global: each segment has its share of the budget. Local: each spatial position has the same part of it. So
    attention decides only between the frames of one position in one segment.

    Args:
        attention: (n,) non-negative.
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token.
        share: (S,) of each segment.

    Returns:
        (n,) float64, in proportion.

    Source: the rules are the paper's, this reading of them is ours.
    """
    # No token is without attention, so that a position whose attention underflows still has its part.
    a = attention.double().clamp_min(torch.finfo(torch.float64).tiny)
    spot = segment * (int(position.max()) + 1) + position
    total = a.new_zeros(int(spot.max()) + 1).index_add_(0, spot, a)
    return share.double()[segment] * a / total[spot]


@dataclass(frozen=True)
class AttentionRecorder(Method):
    """Keeps every token and records what AdaTP would have decided by.

    Attributes:
        layers: whose attention to score.
        relevance: as of `AdaTP`.
    """

    name: ClassVar[str] = "attention_recorder"

    flops: None = field(default=None, init=False)
    layers: tuple[int, ...] = ()
    relevance: str = AdaTP.relevance

    @property
    def query_rows(self) -> int:
        """As many as AdaTP's."""
        return AdaTP.max_queries

    @property
    def relevance_signal(self) -> str:
        """`relevance`."""
        return self.relevance

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """After each of the layers: there its scores are known."""
        return tuple(layer + 1 for layer in self.layers)

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """Those asked for."""
        return self.layers

    def plan(self, prefill: Prefill) -> TokenPlan:
        """Drop nothing, score all the same."""
        return TokenPlan(self, prefill)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Record the scores of one prompt."""
        segment = segments_of(prefill, sample, AdaTP.tau_s)
        relevance = prefill.relevance(sample)
        return _Record(segment, None if relevance is None else pool_by_segment(relevance.cpu(), segment))


class _Record:
    """One prompt: the segment of each frame, each segment's relevance, each layer's attention by token."""

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
    """Evaluate one recorded prefill.

    Args:
        report: of a run under `AttentionRecorder` with one prompt.
        layout: of that prompt, with one video.

    Yields:
        For each layer its number, the share of all attention that visual tokens receive, and the statistics
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
    """A shuffled order of ``frames`` frames, in blocks of ``unit`` that a model reads as one."""
    blocks = np.random.default_rng(seed).permutation(math.ceil(frames / unit))
    shuffled = (blocks[:, None] * unit + np.arange(unit)).ravel()
    return shuffled[shuffled < frames]


def altered(frames: NDArray[np.uint8], control: str, shuffled: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A clip's frames (F, H, W, 3) under one of `CONTROLS`; as they are under any other name."""
    if control == "shuffled":
        return frames[shuffled]
    if control == "identical":
        return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
    if control == "black":
        return np.zeros_like(frames)
    return frames


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's, of two profiles (T,); None where one is flat."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 1e-12 else None


class _Layer:
    """Sums over clips of what one layer did under one condition."""

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
    """Refuse layers that there are not, or whose attention is not full."""
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
    told: Callable[[int], None] = lambda clips: None,
) -> dict[str, Any]:
    """Attention bias of a model over a set of clips, with and without debiasing.

    Never more than the scores of one clip are held: a number a visual token and layer.

    Args:
        session: whose model is measured.
        clips: videos, each with a question; all as many frames long.
        layers: decoder layers to look at; None: all with full attention.
        controls: of `CONTROLS`, conditions under which the same clips are looked at too.
        relevance: the text-relevance signal that splits the budget, as of `AdaTP`.
        told: called after every clip with how many are done.

    Returns:
        Plain numbers, rounded to 1e-6, and lists. ``layers``: for each layer ``layer``, ``visual_mass`` (the
        share of the question's attention that visual tokens receive) and the means over clips of
        `Statistics`, and under ``debiased`` the same after AdaTP's rules. ``controls``: the same for each
        control; under ``shuffled`` also ``follows_slot`` and ``follows_content``, the mean correlation of a
        clip's ``mass_by_frame`` with that of the unshuffled clip, frame by frame in the order read, and each
        frame with itself. The maps by position are None where clips differ in format.

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
        told(done)
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
    """Read one prompt."""
    # Of what is left out no attention is known, and a control would leave out more than its original.
    prompt = session.prepare(video, question, every_token=True)
    answer = session.read(prompt, recorder)
    return answer.report, answer.layout
