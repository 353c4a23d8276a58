"""The same model without pruning, where dropped tokens are hidden by a mask of each layer's own.

Linear attention has no mask that hides: there each sample's kept tokens are read by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.models import decoder_of
from device import DEVICE


@contextmanager
def hidden_columns(
    model: Any,
    kept: Sequence[Sequence[Tensor]],
    prompt: int,
    real: Tensor,
    types: Tensor | None = None,
) -> Iterator[None]:
    """Mask a forward over the complete sequence: layer l attends, in the prompt, only to ``kept[l]``.

    Args:
        model: unpruned.
        kept: ``kept[l][b]`` positions, as in a report.
        prompt: length of the prompt, pads included; everything after it is visible.
        real: (B, S) bool, False on padding.
        types: (B, S), tokens of one number above 0, side by side, attend to each other; None: no tokens do.
    """
    batch, length = real.shape
    itself = torch.eye(length, dtype=torch.bool)
    past = torch.arange(length)[:, None] - torch.arange(length)  # how far each query looks back to each key
    causal = (past >= 0).expand(batch, -1, -1)
    if types is not None:
        causal = causal | in_one_image(types)
    config = decoder_of(model).config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(kept)

    def mask(layer: int, dtype: torch.dtype) -> Tensor:
        observed = torch.zeros(batch, length, dtype=torch.bool)
        for b in range(batch):
            observed[b, kept[layer][b]] = True
        observed[:, prompt:] = True
        allowed = causal & (observed & real)[:, None, :]
        if kinds[layer] == "sliding_attention":
            allowed = allowed & (past < config.sliding_window)
        allowed = allowed | itself
        if config._attn_implementation == "eager":
            return torch.zeros(batch, 1, length, length, dtype=dtype).masked_fill(
                ~allowed[:, None], torch.finfo(dtype).min
            )
        return allowed[:, None]

    def hook(layer: int) -> Any:
        def replace(_: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "attention_mask": mask(layer, args[0].dtype)}

        return replace

    def alone(layer: int, mixer: Any) -> Any:
        forward = mixer.forward

        def shortened(hidden_states: Tensor, **_: Any) -> Tensor:
            out = torch.zeros_like(hidden_states)
            for b in range(batch):
                rows = torch.cat([kept[layer][b].to(DEVICE), torch.arange(prompt, length)])
                out[b, rows] = forward(hidden_states[b : b + 1, rows])[0]
            return out

        return shortened

    layers = decoder_of(model).layers
    linear = [
        (number, next(getattr(layer, name) for name in WITH_STATE if hasattr(layer, name)))
        for number, layer in enumerate(layers)
        if kinds[number] in ("linear_attention", "conv")
    ]
    handles = [
        layer.register_forward_pre_hook(hook(number), with_kwargs=True) for number, layer in enumerate(layers)
    ]
    for number, mixer in linear:
        mixer.forward = alone(number, mixer)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for _, mixer in linear:
            del mixer.forward


def head_of(model: Any) -> Any:
    """The linear map to logits, which may lie in a text model of its own."""
    return model.lm_head if hasattr(model, "lm_head") else model.language_model.lm_head


WITH_STATE = ("linear_attn", "conv", "mixer")
"""Names that models give to what a layer has instead of attention."""


def in_one_image(types: Tensor) -> Tensor:
    """(B, S, S) bool: tokens that attend to each other, whichever comes first.

    Args:
        types: (B, S), above 0 on the tokens of images: each run is one. From ``ONE_BLOCK`` on, all tokens of
            one number are one, wherever they stand.
    """
    shown = types > 0
    number = (types.diff(dim=1, prepend=torch.zeros_like(types[:, :1])) != 0).cumsum(1)
    number = torch.where(types >= ONE_BLOCK, -types, number)
    return (number[:, :, None] == number[:, None]) & shown[:, :, None] & shown[:, None]


ONE_BLOCK = 9


def seeing_each_other(model: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Types as `in_one_picture` takes them, of a call of the multimodal model; None: no tokens do."""
    types = kwargs.get("mm_token_type_ids")
    if types is None:
        return kwargs.get("token_type_ids")
    if hasattr(model.config, "adapter_config"):  # Molmo 2
        return ONE_BLOCK * (types == 1)
    text = model.config.get_text_config()
    return types if getattr(text, "use_bidirectional_attention", None) == "vision" else None


@dataclass
class Record:
    """Every call of a model's decoder: what went in, and the logits of the last position that came out."""

    embeds: list[Tensor] = field(default_factory=list)
    positions: list[Tensor | None] = field(default_factory=list)
    deepstack: list[tuple[Tensor, list[Tensor]] | None] = field(default_factory=list)
    beside: list[dict[str, Tensor]] = field(
        default_factory=list
    )  # what else the decoder was given for each token
    types: Tensor | None = None  # of the complete sequence's tokens, from the call that had most
    logits: list[Tensor] = field(default_factory=list)

    @property
    def ends(self) -> list[int]:
        """Where in the complete sequence each call's last token is."""
        return [end - 1 for end in accumulate(part.shape[1] for part in self.embeds)]


PLACED = {"inputs_embeds", "input_ids", "attention_mask", "position_ids", "visual_pos_masks"}


def beside_of(record: Record) -> dict[str, Tensor]:
    """What else the decoder was given for each token of the complete sequence; zeros where a call said
    nothing.
    """
    found: dict[str, Tensor] = {}
    for name in {name for each in record.beside for name in each}:
        like = next(each[name] for each in record.beside if name in each)
        parts = [
            each.get(name, like.new_zeros(*embeds.shape[:2], *like.shape[2:]))
            for each, embeds in zip(record.beside, record.embeds, strict=True)
        ]
        found[name] = torch.cat(parts, 1)
    return found


@contextmanager
def recorded(model: Any) -> Iterator[Record]:
    """Record a model's calls, in its own precision (``generate`` rounds logits to float32)."""
    record = Record()

    def before(_: Any, args: Any, kwargs: Any) -> None:
        record.embeds.append(kwargs["inputs_embeds"])
        record.positions.append(kwargs.get("position_ids"))
        record.beside.append(
            {
                name: value
                for name, value in kwargs.items()
                if name not in PLACED
                and isinstance(value, Tensor)
                and value.shape[:2] == record.embeds[-1].shape[:2]
            }
        )
        features = kwargs.get("deepstack_visual_embeds")
        record.deepstack.append(None if features is None else (kwargs["visual_pos_masks"], features))

    def noted(_: Any, args: Any, kwargs: Any) -> None:
        types, length = seeing_each_other(model, kwargs), kwargs["input_ids"].shape[1]
        if types is None and record.types is not None:
            types = record.types.new_zeros(len(kwargs["input_ids"]), length)
        if types is not None and (record.types is None or types.shape[1] > length):
            if record.types is not None:  # what an earlier call read has not read this one's images
                before = record.types.shape[1]
                later = types[:, before:]
                types = torch.cat([record.types, later + (later == ONE_BLOCK) * len(record.logits)], 1)
            record.types = types  # Gemma 3's and Molmo 2's are of the complete sequence
        elif types is not None:
            record.types = torch.cat([record.types, types], 1)

    def after(_: Any, args: Any, output: Tensor) -> None:
        record.logits.append(finished(model, output[:, -1]))

    handles = [
        model.base_model.register_forward_pre_hook(noted, with_kwargs=True),
        # Before the engine's hook, which may take arguments out.
        decoder_of(model).register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        head_of(model).register_forward_hook(after),
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def deepstack_of(record: Record) -> dict[str, Any]:
    """What DeepStack added in the recorded calls, as one call's arguments."""
    given = [each for each in record.deepstack if each is not None]
    if not given:
        return {}
    where = [
        torch.zeros(embeds.shape[:2], dtype=torch.bool) if each is None else each[0]
        for embeds, each in zip(record.embeds, record.deepstack, strict=True)
    ]
    counts = [mask.sum(1).tolist() for mask, _ in given]

    def by_sample(parts: Sequence[Tensor]) -> Tensor:
        """Of each call's features, sample after sample, the complete sequence's."""
        split = [part.split(count) for part, count in zip(parts, counts, strict=True)]
        return torch.cat([sample for row in zip(*split, strict=True) for sample in row])

    features = [by_sample(parts) for parts in zip(*(levels for _, levels in given), strict=True)]
    return {"visual_pos_masks": torch.cat(where, 1), "deepstack_visual_embeds": features}


@torch.no_grad()
def masked_logits(model: Any, record: Record, kept: Sequence[Sequence[Tensor]], real: Tensor) -> Tensor:
    """Logits (B, S, vocabulary) of one masked run over the complete recorded sequence.

    Args:
        model: unpruned by now.
        record: the calls whose embeddings and positions make up the sequence.
        kept: ``kept[l][b]`` positions of the prompt, as in reports.
        real: (B, prompt) bool, False on padding.
    """
    embeds = torch.cat(record.embeds, 1)
    positions = None
    if all(part is not None for part in record.positions):
        positions = torch.cat(record.positions, -1)
    behind = torch.ones(len(real), embeds.shape[1] - real.shape[1], dtype=torch.bool)
    config = decoder_of(model).config
    attention = config._attn_implementation
    if "flash" in attention:  # it has no masks of single rows
        config._attn_implementation = "sdpa"
    types = record.types
    if types is not None:
        types = F.pad(types, (0, embeds.shape[1] - types.shape[1]))
    with hidden_columns(model, kept, real.shape[1], torch.cat([real, behind], 1), types):
        hidden = decoder_of(model)(
            inputs_embeds=embeds,
            position_ids=positions,
            use_cache=False,
            **deepstack_of(record),
            **beside_of(record),
        )
    config._attn_implementation = attention
    return finished(model, head_of(model)(hidden.last_hidden_state))


def finished(model: Any, logits: Tensor) -> Tensor:
    """What a model makes of the numbers that come out of its last linear map."""
    text = model.config.get_text_config()
    logits = logits * getattr(text, "output_multiplier", 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def masking_error(model: Any, record: Record, kept: Sequence[Sequence[Tensor]], real: Tensor) -> float:
    """Largest difference between the recorded calls' logits and those of the masked run."""
    expected = masked_logits(model, record, kept, real)[:, record.ends]
    return (torch.stack(record.logits, 1) - expected).abs().max().item()
