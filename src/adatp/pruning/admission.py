"""Checks which models can be pruned, and allows one context per model at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from adatp.engine import attention_module
from adatp.errors import PruningError
from adatp.flops import LONE_MLPS, layer_types
from adatp.models import (
    Family,
    UnsupportedModelError,
    allow_general_rule,
    decoder_of,
    family_of,
    q_former_error,
    reads_videos,
)

_LAYER_TYPES = {"full_attention", "sliding_attention", "linear_attention", "conv", *LONE_MLPS}
_claimed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_lock = threading.Lock()


def family_for(model: Any) -> Family:
    """The model's family. A model that takes videos and is not registered gets the general rule.

    Raises:
        UnsupportedModelError: it is not known. If only a family file is missing, the message says so.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    try:
        return family_of(model_type).of(model)
    except UnsupportedModelError as error:
        if reads_videos(model):
            allow_general_rule(model_type)
            return family_of(model_type).of(model)
        try:
            attention_module(decoder_of(model).layers[0])
        except (AttributeError, ValueError):
            raise error from None
        raise UnsupportedModelError(
            f"{error}; its decoder is a standard one, so a subclass of adatp.models.Family, decorated with "
            f"@adatp.models.register({model_type!r}), is all it takes"
        ) from None


def check_config(config: Any) -> None:
    """Refuse models that can't be pruned exactly, by a config alone: before any weights are loaded.

    Args:
        config: the model's config.

    Raises:
        PruningError: the message names the reason.
    """
    if getattr(config, "qformer_config", None) is not None:
        raise q_former_error()
    try:
        text = config.get_text_config()
        layer_types(text)
    except (AttributeError, ValueError):  # of a checkpoint's own code: the model itself says it later
        return
    _check_layers(text)


def check_decoder(config: Any) -> None:
    """Refuse decoders that can't be pruned exactly.

    Args:
        config: the text model's config.

    Raises:
        PruningError: the message names the reason.
    """
    _check_layers(config)
    kinds = {*layer_types(config)}
    implementation = str(config._attn_implementation)
    if implementation == "flex_attention" or implementation.startswith("paged|"):
        raise PruningError(
            f"attention implementation {implementation!r} can't be pruned: load the model with 'sdpa'"
        )
    if "sliding_attention" in kinds and implementation not in ("eager", "sdpa"):
        raise PruningError(  # only a mask can tell which of the keys left are in the window
            f"attention implementation {implementation!r} counts a sliding window in keys, whatever was "
            "dropped between them: load the model with 'sdpa'"
        )


def _check_layers(config: Any) -> None:
    if unknown := {*layer_types(config)} - _LAYER_TYPES:
        raise PruningError(f"decoder layers of type {', '.join(sorted(unknown))} can't be pruned")
    if getattr(config, "num_kv_shared_layers", 0):  # they would read keys that are dropped by then
        raise PruningError("decoders whose last layers share the keys of earlier ones can't be pruned")
    if getattr(config, "index_topk", None):
        raise PruningError(
            "decoders with indexed attention can't be pruned: an index chooses keys by position"
        )


def unwrapped(model: Any) -> Any:
    """The model that reads and writes text, without its wrappers: PEFT, ``torch.compile``, omni models."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()
        elif isinstance(getattr(model, "thinker", None), nn.Module):  # the writing part of an omni model
            model = model.thinker
        else:
            return model


@contextmanager
def claimed(model: nn.Module, decoder: Any) -> Iterator[None]:
    """Keep other contexts off this model and its layers while the block runs.

    Raises:
        PruningError: another context is open on it.
    """
    parts = [model, decoder, *decoder.layers]
    with _lock:
        if any(part in _claimed for part in parts):
            raise PruningError("this model is being pruned already: leave that context first")
        _claimed.update(parts)
    try:
        yield
    finally:
        with _lock:
            _claimed.difference_update(parts)
