"""The context manager: while it is open, one model prunes; afterwards the model is what it was."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adatp.attention import ReceivedProbe
from adatp.engine import Engine, attention_module
from adatp.errors import AdaTPError
from adatp.flops import (
    DecoderShape,
    decode_flops,
    layer_types,
    lm_head_flops,
    paper_macs,
    prefill_flops,
)
from adatp.frame_reuse import FrameReuse
from adatp.layout import Grid, LayoutError, VideoLayout
from adatp.methods import check_frames
from adatp.methods.base import Method, Prefill
from adatp.models import Family, TowerCall, UnsupportedModelError, family_of
from adatp.plan import Plan
from adatp.relevance import PromptRelevance, Signal, settle
from adatp.report import Flops, Report, Stopwatch

_VISION = ("pixel_values", "pixel_values_videos", "pixel_values_images", "mm_encoder_outputs")
_ACTIVE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class PruningError(AdaTPError, RuntimeError):
    """The model can't be pruned this way."""


@dataclass(frozen=True, eq=False)
class _Reading:
    """A prompt with videos, on its way through the decoder."""

    layouts: list[VideoLayout]
    grids: list[Grid]
    relevance: PromptRelevance
    tower_flops: int
    plan: Plan | None
    past: int


class Pruner:
    """Prunes one model while its ``with`` block is open. Made by calling a method: ``AdaTP()(model)``."""

    def __init__(
        self, method: Method, model: Any, processor: Any, question: str | Sequence[str] | None
    ) -> None:
        self.method, self.model = method, model
        self.family = _family_of(model)
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.questions = [question] if isinstance(question, str) else question
        self.decoder: Any = model.get_decoder()
        self.shape = DecoderShape.from_config(self.decoder.config)
        self.tower = self.family.tower(model)
        self.engine: Engine | None = None
        self.signal: Signal | None = None
        self.tower_probe: ReceivedProbe | None = None
        self.reuse: FrameReuse | None = None
        self._signature = inspect.signature(model.base_model.forward)
        self._every_logit = "logits_to_keep" not in inspect.signature(model.forward).parameters
        self._handles: list[RemovableHandle] = []
        self._call: dict[str, Any] = {}
        self._tower_calls: list[tuple[dict[str, Any], Tensor | None, weakref.ref[Any]]] = []
        self._given: Any = None
        self._unread = False  # whether the tower has encoded anything since the decoder ran
        self._encoded: Any = None
        self._decoding = 0
        self._reading: _Reading | None = None
        self._stopwatch = Stopwatch(model.device)
        self._reports: list[Report] = []
        self.layouts: list[VideoLayout] = []
        """Where the visual tokens of the last report's prompts are, one layout a sample."""

    @property
    def reports(self) -> list[Report]:
        """One report a prefill that read a video, oldest first."""
        for report in self._reports:
            self._count_decode(report)
        return list(self._reports)

    @property
    def report(self) -> Report:
        """What the last prefill did.

        Raises:
            PruningError: no prompt with a video has been read yet.
        """
        if not self._reports:
            raise PruningError("nothing to report: no prompt with a video has been read in this context yet")
        return self.reports[-1]

    def __enter__(self) -> Pruner:
        if self.model in _ACTIVE:
            raise PruningError("this model is being pruned already: leave that context first")
        kinds = {*layer_types(self.decoder.config)}
        if unknown := kinds - {"full_attention", "sliding_attention", "linear_attention"}:
            raise PruningError(f"decoder layers of type {', '.join(sorted(unknown))} can't be pruned")
        implementation = str(self.decoder.config._attn_implementation)
        if implementation == "flex_attention" or implementation.startswith("paged|"):
            raise PruningError(
                f"attention implementation {implementation!r} can't be pruned: load the model with 'sdpa'"
            )
        if "sliding_attention" in kinds and implementation not in ("eager", "sdpa"):
            raise PruningError(  # only a mask can tell which of the keys left lie in the window
                f"attention implementation {implementation!r} counts a sliding window in keys, whatever was "
                "dropped between them: load the model with 'sdpa'"
            )
        if any(getattr(self.decoder.config, name, None) for name in ("kv_lora_rank", "index_topk")):
            raise PruningError("decoders with latent (MLA) or indexed attention can't be pruned")
        scored = self.method.scored_layers(self.shape)
        reuse = None
        if self.method.reuse_frames is not None:
            try:
                reuse = FrameReuse(self.tower, self.method.reuse_frames)
            except ValueError as error:
                raise PruningError(str(error)) from None
        engine = Engine(self.decoder, scored, self._begin, self._end, lambda: self._stopwatch.time("pruning"))
        self.signal = settle(self.method.relevance, self.model, self.tower, self.tokenizer, self.questions)
        if self.method.tower_attention:
            self.tower_probe = ReceivedProbe(self.family.tower_attention_module(self.model))
            self.tower_probe.install()
        self.engine = engine
        engine.install()
        self._handles = [
            self.model.register_forward_pre_hook(self._note_encoded, with_kwargs=True, prepend=True),
            self.model.base_model.register_forward_pre_hook(self._note_call, with_kwargs=True),
            self.tower.register_forward_pre_hook(self._before_tower),
        ]
        self.reuse = reuse
        if reuse is not None:  # between the two: its time is the tower's, and what it gives is the output
            reuse.install()
        self._handles.append(self.tower.register_forward_hook(self._after_tower, with_kwargs=True))
        self.model.get_compiled_call = self._uncompiled
        _ACTIVE.add(self.model)
        return self

    def __exit__(self, *_: object) -> None:
        _ACTIVE.discard(self.model)
        del self.model.get_compiled_call
        for handle in self._handles:
            handle.remove()
        for installed in (self.engine, self.tower_probe, self.reuse):
            if installed is not None:
                installed.remove()
        self.engine = self.tower_probe = self.reuse = None
        self._handles, self._call, self._tower_calls = [], {}, []
        self._given = self._encoded = self._reading = None

    def _uncompiled(self, _: Any) -> Any:
        """In place of the compiled forward that ``generate`` takes for static caches on a GPU.

        Made before, it would know nothing of the hooks; made now, it would be traced anew for every length.
        """
        warnings.warn("decoding is not compiled while the model is being pruned", stacklevel=3)
        return self.model.__call__

    # What the model is given, and what its tower makes of it.

    def _note_encoded(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given = kwargs.get("mm_encoder_outputs")

    def _note_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        self._call.update(self._call.pop("kwargs", {}))
        if self._given is not None:  # accelerate, which moves arguments between devices, hands on copies
            self._call["mm_encoder_outputs"], self._given = self._given, None

    def _before_tower(self, *_: Any) -> None:
        if self._reports and self._stopwatch is self._reports[-1].stopwatch:
            self._stopwatch = Stopwatch(self.model.device)
        if self.tower_probe is not None:
            self.tower_probe.disarm()
        self._stopwatch.start("vision")

    def _after_tower(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._stopwatch.stop("vision")
        received = self.tower_probe.take() if self.tower_probe is not None else None
        call = kwargs, received, weakref.ref(output)
        self._tower_calls = [*self._tower_calls[-1:], call]  # images, then videos
        self._unread = True
        self._encoded = output  # older transformers let go of it before the decoder runs

    def _video_call(self) -> tuple[bool, TowerCall | None]:
        """Whether the decoder is about to read videos, and the tower's call that encoded them."""
        kind = self.family.encoded_as
        encoded = (self._call.get("mm_encoder_outputs") or {}).get(kind)
        if self._call.get({"video": "pixel_values_videos", "image": "pixel_values"}[kind]) is not None:
            encoded = self._encoded
        if encoded is None:
            return False, None
        found = [
            TowerCall(kwargs, encoded, received)
            for kwargs, received, output in self._tower_calls
            if output() is encoded
        ]
        return True, found[0] if found else None

    # One call of the decoder.

    def _begin(self, kwargs: dict[str, Any], past: int) -> Plan | None:
        self._reading = None
        sees_video, tower = self._video_call()
        self._decoding = 0 if sees_video else kwargs["inputs_embeds"].shape[1]
        unread, self._unread = self._unread, False
        if self._decoding:
            if unread and not any(self._call.get(name) is not None for name in _VISION):
                warnings.warn("not pruned: the prompt comes in chunks", stacklevel=2)
            self._stopwatch.start("decode")
            return None
        try:
            with self._stopwatch.time("relevance"):
                self._reading = self._read(kwargs, past, tower)
        except LayoutError as error:
            warnings.warn(f"not pruned: {error}", stacklevel=2)
        self._stopwatch.start("prefill")
        return self._reading.plan if self._reading is not None else None

    @torch.no_grad()
    def _read(self, kwargs: dict[str, Any], past: int, tower: TowerCall | None) -> _Reading:
        """Lay out the prompts and have the method plan.

        Raises:
            LayoutError: they can't be laid out, so nothing can be pruned.
        """
        embeds: Tensor = kwargs["inputs_embeds"]
        if self._call.get("input_ids") is None:
            raise PruningError("the videos' tokens are found by their ids: pass input_ids, not inputs_embeds")
        if tower is None:
            raise LayoutError("the prompt comes in chunks, or its videos were encoded outside this context")
        input_ids = self._call["input_ids"] = self._call["input_ids"].to(embeds.device)
        real = _real_tokens(self._call.get("attention_mask"), input_ids, past)
        config = self.model.config
        grids = self.family.grids(config, self._call, tower)
        layouts = self.family.layouts(config, self._call, real, grids)
        check_frames(self.method, layouts)
        if any(len(layout.index) and not len(layout.question) for layout in layouts):
            raise LayoutError("no text follows the video in this call, so nothing says what to keep")
        if past and len(layouts) > 1 and self.shape.delta_net is not None:
            # A filler would lie between a sample's state and its next token.
            raise LayoutError("linear attention can't go on with several prompts that keep different tokens")
        features = self.family.frame_features(config, tower, grids)
        assert self.signal is not None
        relevance = PromptRelevance(self.signal, layouts, input_ids, embeds, features)
        received = self.family.tower_attention(config, tower, grids) if self.method.tower_attention else []
        prefill = Prefill(
            shape=self.shape,
            layouts=layouts,
            frame_features=lambda b: torch.cat([features[v].mean(1) for v in layouts[b].videos]).to(
                embeds.device
            ),
            relevance=relevance,
            visual=lambda b: embeds[b, layouts[b].index],
            tower_attention=lambda b: torch.cat([received[v] for v in layouts[b].videos]).to(embeds.device)[
                layouts[b].cell
            ],
        )
        flops = self.tower_probe.flops if self.tower_probe is not None else 0
        return _Reading(layouts, grids, relevance, flops, self.method.plan(prefill), past)

    def _end(self, kept: list[list[Tensor]] | None) -> None:
        self._stopwatch.stop("prefill")
        self._stopwatch.stop("decode")
        reading, self._reading = self._reading, None
        self._call, self._encoded = {}, None
        if reading is not None:
            self._reports.append(self._make_report(reading, kept))
            self.layouts = reading.layouts
        elif self._reports:
            self._reports[-1].decode_steps += self._decoding

    def _make_report(self, reading: _Reading, kept: list[list[Tensor]] | None) -> Report:
        layers, plan = self.shape.layers, reading.plan
        if kept is None or plan is None:
            kept = [[layout.real for layout in reading.layouts]] * layers
        other = [len(layout.real) - len(layout.index) for layout in reading.layouts]
        flops = Flops()
        for b, layout in enumerate(reading.layouts):
            tokens = [len(layer[b]) for layer in kept]
            rows = len(plan.queries[b]) if plan is not None else 0
            scored = dict.fromkeys(plan.scored, rows) if plan is not None else {}
            visual, whole = [n - other[b] for n in tokens], len(layout.real)
            flops.decoder += prefill_flops(self.shape, tokens, scored, reading.past)
            flops.decoder_vanilla += prefill_flops(self.shape, [whole] * layers, None, reading.past)
            flops.paper += paper_macs(self.shape, visual)
            flops.paper_vanilla += paper_macs(self.shape, [len(layout.index)] * layers)
            flops.lm_head += lm_head_flops(self.shape, len(layout.real) if self._every_logit else 1)
        flops.relevance = reading.relevance.flops
        flops.vision = self.family.vision_flops(self.model.config, reading.grids) + reading.tower_flops
        if self.reuse is not None:
            flops.vision_saved = self.reuse.saved_flops
            flops.vision -= flops.vision_saved
        return Report(
            method=self.method.name,
            settings=asdict(cast(Any, self.method)),
            relevance=self.signal.kind if plan is not None and self.signal is not None else "none",
            prompt_tokens=[len(layout.real) for layout in reading.layouts],
            prompt_visual_tokens=[len(layout.index) for layout in reading.layouts],
            kept=kept if not reading.past else [[at + reading.past for at in layer] for layer in kept],
            visual_tokens=[[len(p) - other[b] for b, p in enumerate(layer)] for layer in kept],
            notes=plan.notes() if plan is not None else [],
            flops=flops,
            stopwatch=self._stopwatch,
            past=reading.past,
        )

    def _count_decode(self, report: Report) -> None:
        steps, past = report.decode_steps, report.past
        report.flops.decode = sum(
            decode_flops(self.shape, [n + past for n in sample], steps)
            for sample in zip(*report.tokens, strict=True)
        )
        report.flops.decode_vanilla = sum(
            decode_flops(self.shape, [n + past] * self.shape.layers, steps) for n in report.prompt_tokens
        )


def _family_of(model: Any) -> Family:
    """The model's family; of one that is not known, whether a family file is all that it lacks."""
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    try:
        return family_of(model_type)
    except UnsupportedModelError as error:
        try:
            attention_module(model.get_decoder().layers[0])
        except (AttributeError, ValueError):
            raise error from None
        raise UnsupportedModelError(
            f"{error}; its decoder is a standard one, so a subclass of adatp.models.Family, decorated with "
            f"@adatp.models.register({model_type!r}), is all it takes"
        ) from None


def _real_tokens(attention_mask: Any, input_ids: Tensor, past: int) -> Tensor:
    """(B, L) bool: the tokens of this call that are not padding."""
    length = input_ids.shape[1]
    if isinstance(attention_mask, dict):  # a static cache's masks are made in advance
        attention_mask = attention_mask["full_attention"]  # a sliding window's leaves out what is far back
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    mask: Tensor = attention_mask.to(input_ids.device)
    if mask.ndim == 2:
        return mask[:, past : past + length].bool()
    own = mask[:, 0, :, past : past + length].diagonal(dim1=1, dim2=2)  # a pad does not even see itself
    own = own if own.dtype == torch.bool else own == 0
    return own.expand(len(input_ids), -1)
