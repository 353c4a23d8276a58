"""What a run did: tokens kept, FLOPs spent, time taken."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adatp.plain_json import to_json

# Spans on a GPU whose events are kept. When there are more, the oldest, long finished, are added up.
_PENDING = 256


class Stopwatch:
    """Adds up the time of named stages. On CUDA it records events and waits only when it is read.

    Its memory does not grow with the number of spans.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._total: dict[str, float] = {}
        self._pending: deque[tuple[str, Any, Any]] = deque()
        self._begun: dict[str, Any] = {}

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def start(self, stage: str) -> None:
        """Begin a span of ``stage``."""
        self._begun[stage] = self._now()

    def stop(self, stage: str) -> None:
        """End the last span of ``stage``. Nothing happens if none was begun."""
        if stage not in self._begun:
            return
        begun, ended = self._begun.pop(stage), self._now()
        if not self.cuda:
            self._add(stage, 1000 * (ended - begun))
            return
        self._pending.append((stage, begun, ended))
        if len(self._pending) > _PENDING:
            self._pending[0][2].synchronize()
            self._add_oldest()

    def _add(self, stage: str, milliseconds: float) -> None:
        self._total[stage] = self._total.get(stage, 0.0) + milliseconds

    def _add_oldest(self) -> None:
        stage, begun, ended = self._pending.popleft()
        self._add(stage, begun.elapsed_time(ended))

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a block as a span of ``stage``."""
        self.start(stage)
        try:
            yield
        finally:
            self.stop(stage)

    def milliseconds(self) -> dict[str, float]:
        """Total time of each stage."""
        if self._pending:
            torch.cuda.synchronize()
            while self._pending:
                self._add_oldest()
        return dict(self._total)


@dataclass
class Flops:
    """FLOPs of a request: real ones (two per multiply-accumulate), and the paper's kind under ``paper``.

    Attributes:
        decoder: the decoder layers' prefill, scoring included, each prompt by itself. Pads, and the fillers
            that make the rows of a pruned batch equally long, are not counted.
        decoder_vanilla: the same without pruning.
        decoder_padded: what the decoder layers' prefill really computed, with pads and fillers, and with
            scores in every row if one prompt needs them. For a single prompt it equals ``decoder``.
        decoder_padded_vanilla: the same without pruning, pads included.
        paper: multiply-accumulates of the visual tokens' prefill, by the FastVID preset.
        paper_vanilla: the same without pruning.
        vision: encoding the videos, projector included.
        vision_scoring: what a method that reads the tower's attention adds to ``vision``.
        vision_saved: what the frames that were not encoded, but took another's features, would have added.
        relevance: the text-relevance encoder.
        lm_head: the logits of the prefill's last token; of all tokens if the model's forward has no
            ``logits_to_keep``.
        decode: every decode step so far, lm_head included.
        decode_vanilla: the same without pruning.
    """

    decoder: int = 0
    decoder_vanilla: int = 0
    decoder_padded: int = 0
    decoder_padded_vanilla: int = 0
    paper: int = 0
    paper_vanilla: int = 0
    vision: int = 0
    vision_scoring: int = 0
    vision_saved: int = 0
    relevance: int = 0
    lm_head: int = 0
    decode: int = 0
    decode_vanilla: int = 0

    @property
    def request(self) -> int:
        """Total FLOPs of the request."""
        return self.vision + self.relevance + self.decoder + self.lm_head + self.decode

    @property
    def request_vanilla(self) -> int:
        """Total FLOPs of the request without pruning."""
        vision = self.vision - self.vision_scoring + self.vision_saved
        return vision + self.decoder_vanilla + self.lm_head + self.decode_vanilla


@dataclass
class Report:
    """One prefill and the decode steps that followed it.

    Attributes:
        method: name of the method.
        settings: its parameters.
        merges: whether it averages tokens into kept ones, not only drops them.
        relevance: the text-relevance signal that was used.
        prompt_tokens: tokens of each sample's prompt, pads excluded.
        prompt_visual_tokens: number of visual tokens among them.
        kept: ``kept[l][b]``: positions of the tokens of sample b in this call that decoder layer l processed.
            They are positions in the complete sequence, ascending, pads excluded; int64, on the CPU. Layers
            that process the same tokens share one tensor.
        visual_tokens: ``visual_tokens[l][b]``: number of visual tokens among them.
        notes: per sample, further facts from the method (segments, relevance, schedule). ``out_of_reach``
            gives the reason if a prompt was pruned as far as possible without meeting the FLOPs target.
        cost: FLOPs of the request after a number of decode steps; `flops` is the cost so far.
        stopwatch: time by stage: vision; relevance, with laying out and planning; prefill; pruning, the part
            of prefill that scores, selects and gathers; decode.
        past: length of the sequence before the prefill, pads included; an earlier video of it may have been
            pruned.
        decode_steps: tokens that the decoder has processed since the prefill, one per step.
        prompt_flops: for each sample, its part of `Flops.decoder` and `Flops.decoder_vanilla`.
    """

    method: str
    settings: dict[str, Any]
    merges: bool
    relevance: str
    prompt_tokens: list[int]
    prompt_visual_tokens: list[int]
    kept: list[list[Tensor]]
    visual_tokens: list[list[int]]
    notes: list[dict[str, Any]]
    cost: Callable[[int], Flops]
    stopwatch: Stopwatch
    past: int = 0
    decode_steps: int = 0
    prompt_flops: list[tuple[int, int]] = field(default_factory=list)

    @property
    def flops_ratios(self) -> list[float]:
        """Per sample, `flops_ratio` of its prompt alone."""
        return [pruned / vanilla for pruned, vanilla in self.prompt_flops]

    @property
    def flops(self) -> Flops:
        """FLOPs of the request so far."""
        return self.cost(self.decode_steps)

    @property
    def tokens(self) -> list[list[int]]:
        """``tokens[l][b]``: how many tokens of sample b layer l processed."""
        return [[len(positions) for positions in layer] for layer in self.kept]

    @property
    def flops_ratio(self) -> float:
        """Real FLOPs of the decoder's prefill over vanilla's, each prompt of a batch by itself."""
        flops = self.flops
        return flops.decoder / flops.decoder_vanilla

    @property
    def padded_flops_ratio(self) -> float:
        """Real FLOPs ratio with the pads and fillers of a batch counted on both sides."""
        flops = self.flops
        return flops.decoder_padded / flops.decoder_padded_vanilla

    @property
    def milliseconds(self) -> dict[str, float]:
        """Time by stage: vision, relevance, prefill, pruning (a part of prefill), decode."""
        return self.stopwatch.milliseconds()

    def out_of_reach(self, row: int) -> str | None:
        """Why a prompt takes more FLOPs than the target; None: it meets the target."""
        reason: str | None = self.notes[row].get("out_of_reach") if self.notes else None
        return reason

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers, strings, lists and dictionaries."""
        flops = self.flops
        return {
            "method": self.method,
            "settings": self.settings,
            "relevance": self.relevance,
            "flops_ratio": self.flops_ratio,
            "padded_flops_ratio": self.padded_flops_ratio,
            "flops": {
                **vars(flops),
                "request": flops.request,
                "request_vanilla": flops.request_vanilla,
            },
            "milliseconds": self.milliseconds,
            "decode_steps": self.decode_steps,
            "prompt_tokens": self.prompt_tokens,
            "prompt_visual_tokens": self.prompt_visual_tokens,
            "tokens": self.tokens,
            "visual_tokens": self.visual_tokens,
            "kept": [[positions.tolist() for positions in layer] for layer in self.kept],
            "samples": self.notes,
        }

    def to_json(self) -> str:
        """``to_dict`` as one JSON object, see `to_json`."""
        return to_json(self.to_dict())

    def __str__(self) -> str:
        first, flops = sum(self.prompt_visual_tokens), self.flops
        last = sum(self.visual_tokens[-1])
        padded = f", {self.padded_flops_ratio:.1%} with padding" if len(self.prompt_tokens) > 1 else ""
        time = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in self.milliseconds.items())
        return (
            f"{self.method}: {first} -> {last} visual tokens, {self.flops_ratio:.1%} of the prefill's FLOPs "
            f"({flops.decoder / 1e12:.3g} of {flops.decoder_vanilla / 1e12:.3g} T)"
            f"{padded}, "
            f"relevance {self.relevance}; {time}"
        )
