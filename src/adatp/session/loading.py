"""Loads a checkpoint step by step: first its config, then its processor, then its weights."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from adatp.models import UnsupportedModelError, family_of
from adatp.session.errors import LoadError, first_line
from adatp.tiny import CHECKPOINT  # its import also makes AutoProcessor know the embedded model's processor


def source_of(source: str | os.PathLike[str] | None) -> str:
    """The checkpoint that a request names: a folder or an id on the hub; None is the embedded model."""
    return str(CHECKPOINT) if source is None else os.fspath(source)


def load_config(source: str | os.PathLike[str] | None = None) -> Any:
    """Read a checkpoint's config, nothing else, and refuse what can't be pruned.

    Args:
        source: a folder, or the id of a model on the Hugging Face hub; None: the embedded model.

    Raises:
        LoadError: there is no such checkpoint, or its config is broken.
        UnsupportedModelError: no family file knows the model (a text model, for one).
    """
    source = source_of(source)
    local = bool(source) and Path(source).is_dir()
    if not local and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise LoadError(f"{source}: no such model folder")
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source)
    except Exception as error:  # the hub's client, transformers and json raise each their own
        where = "no model in this folder" if local else "no such model folder, nor can it be had from the hub"
        raise LoadError(f"{source}: {where} ({first_line(error)})") from error
    if "model_type" not in raw:
        raise LoadError(f"{source}: no model in this folder (no config.json with a model_type)")
    try:
        family_of(raw["model_type"])
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{source}: {error}") from None
    try:
        return AutoConfig.from_pretrained(source)
    except Exception as error:
        raise LoadError(f"{source}: the config is broken ({first_line(error)})") from error


def load_processor(source: str) -> Any:
    """Load a checkpoint's processor.

    Raises:
        LoadError: there is none, it is broken, or it needs a package that is not installed.
    """
    lacking = find_spec("torchvision") is None or find_spec("PIL") is None
    hint = f'{source}: its video processor needs torchvision: pip install "adatp[hub]"'
    try:
        processor = AutoProcessor.from_pretrained(source)
    except Exception as error:
        said = f"{source}: the processor can't be loaded ({first_line(error)})"
        raise LoadError(hint if lacking else said) from error
    if lacking and type(processor).__module__.startswith("transformers."):
        raise LoadError(hint)
    return processor


def load_model(source: str, device: str = "auto", dtype: str | torch.dtype = "auto") -> Any:
    """Load a checkpoint's weights, ready to generate.

    Args:
        source: a folder, or the id of a model on the hub.
        device: a torch device, or "auto": CUDA where there is one.
        dtype: a torch dtype or its name, or "auto": the checkpoint's own.

    Raises:
        LoadError: the weights are missing, broken or incomplete, or there is no such device.
    """
    place = pick_device(device)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # safetensors, the hub's client and transformers raise each their own
        raise LoadError(f"{source}: the weights can't be loaded ({first_line(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise LoadError(f"{source}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...)")
    return model.to(place).eval()


def pick_device(device: str) -> str:
    """The device that a request for ``device`` ("auto": CUDA where there is one) is run on.

    Raises:
        LoadError: there is no such device here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for it
        raise LoadError(f"no device {device!r} here ({first_line(error)})") from error
    return device
