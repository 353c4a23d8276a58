"""Loads a checkpoint step by step: first its config, then its processor, then its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from adatp.torchvision_guard import BROKEN  # before transformers

# isort: split
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
)

from adatp.checkpoint import (
    CheckpointError,
    check_config,
    check_files,
    check_generation,
    check_numbers,
    check_processor,
    check_weights,
)
from adatp.errors import AdaTPError, first_line, is_out_of_memory, is_panic
from adatp.models import UnsupportedModelError, allow_general_rule, always_refused, family_of
from adatp.pruning import PruningError
from adatp.pruning import check_config as check_can_be_pruned
from adatp.session.errors import LoadError

# Importing it also registers the embedded models' processor with AutoProcessor.
from adatp.tiny import CHECKPOINT, EMBEDDED, embedded_folder


def source_of(source: str | os.PathLike[str] | None) -> str:
    """The checkpoint that a request names: a folder, an id on the hub, or the name of an embedded model.

    None means the first embedded model.
    """
    if source is None:
        return str(CHECKPOINT)
    named = os.fspath(source)
    return str(embedded_folder(named) or named)


@contextmanager
def _loading(source: str, what: str) -> Iterator[None]:
    """Turn errors during loading into one line that begins with ``source``."""
    try:
        yield
    except CheckpointError as error:
        raise LoadError(f"{source}: {error}") from error
    except AdaTPError:
        raise
    except (
        BaseException
    ) as error:  # safetensors, the hub's client, transformers and json all raise different ones
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        if "custom code" in str(error):
            raise LoadError(
                f"{source}: it needs Python code of its own, which is not run: --trust-remote-code "
                "(trust_remote_code=True) runs it, if you trust it"
            ) from error
        raise LoadError(f"{source}: {what} ({first_line(error)})") from error


def load_config(source: str | os.PathLike[str] | None = None, trust_remote_code: bool = False) -> Any:
    """Read only a checkpoint's config, and refuse models that can't be pruned.

    Of an omni model it is the config of its thinker, the part that reads and writes text.

    Args:
        source: a folder, the id of a model on the Hugging Face hub, or the name of an embedded model; None:
            the first embedded model.
        trust_remote_code: whether the checkpoint's code may run.

    Raises:
        LoadError: there is no such checkpoint, or its config is broken or implausible.
        UnsupportedModelError: no family file knows the model (a text model, for example).
        PruningError: its architecture can't be pruned exactly.
    """
    source = source_of(source)
    local = os.path.isdir(source)
    if not local and source in EMBEDDED:
        raise LoadError(f"{source}: this embedded model does not ship with this version: give its folder")
    if not source:
        raise LoadError("the model's name is empty: give a folder or an id on the hub")
    if os.path.isfile(source):
        raise LoadError(f"{source}: a file, not a model folder")
    if not local and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise LoadError(f"{source}: no such model folder")
    where = "no model in this folder" if local else "no such model folder, nor can it be had from the hub"
    with _loading(source, where):
        if local:
            check_files(Path(source))
        raw, _ = PreTrainedConfig.get_config_dict(source)
        if not isinstance(raw, dict):
            raise CheckpointError("the config is broken (config.json holds no config)")
        if (reason := always_refused(raw.get("model_type"))) is None:
            check_numbers(raw)
    if reason is not None:
        raise PruningError(f"{source}: models of type {raw['model_type']!r} can't be pruned: {reason}")
    if "model_type" not in raw:
        raise LoadError(f"{source}: no model in this folder (no config.json with a model_type)")
    try:
        family_of(raw["model_type"]).register_classes()
    except UnsupportedModelError as error:
        if not raw.get("auto_map"):
            raise UnsupportedModelError(f"{source}: {error}") from None
        if not trust_remote_code:
            raise UnsupportedModelError(
                f"{source}: {error}; it comes with Python code of its own: --trust-remote-code "
                "(trust_remote_code=True) runs it, if you trust it, and tries the general rule"
            ) from None
        allow_general_rule(raw["model_type"])  # checked on the videos that the checkpoint's own code encodes
    with _loading(source, "the config is broken"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        config = getattr(config, "thinker_config", config)
        check_config(config)
    try:
        check_can_be_pruned(config)
    except PruningError as error:
        raise type(error)(f"{source}: {error}") from None
    return config


def load_processor(source: str, trust_remote_code: bool = False) -> Any:
    """Load a checkpoint's processor.

    Args:
        source: a folder, or the id of a model on the hub.
        trust_remote_code: whether the checkpoint's code may run.

    Raises:
        LoadError: there is none, it is broken, or it needs a package that is not installed.
    """
    lacking = find_spec("torchvision") is None or find_spec("PIL") is None
    fitting = "" if BROKEN is None else f" that fits this torch (the one here: {BROKEN})"
    hint = f'{source}: its video processor needs torchvision{fitting}: pip install "adatp[hub]"'
    try:
        with _loading(source, "the processor can't be loaded"):
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
            if getattr(processor, "tokenizer", None) is None:
                raise CheckpointError("the processor can't be loaded (it has no tokenizer)")
            check_processor(processor)
    except LoadError as error:
        raise (LoadError(hint) if lacking else error) from error.__cause__
    if lacking and type(processor).__module__.startswith("transformers."):
        raise LoadError(hint)
    return processor


def load_model(
    source: str,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
) -> Any:
    """Load a checkpoint's weights, ready to generate.

    Args:
        source: a folder, or the id of a model on the hub.
        device: a torch device, or "auto": CUDA where there is one.
        dtype: a torch dtype or its name, or "auto": the checkpoint's own.
        trust_remote_code: whether the checkpoint's code may run, and its weights be pickled.

    Raises:
        LoadError: the weights are missing, broken or incomplete, or there is no such device.
    """
    place = pick_device(device)
    part: dict[str, Any] = {}
    with _loading(source, "the weights can't be loaded"):
        if (
            "thinker_config" in PreTrainedConfig.get_config_dict(source)[0]
        ):  # the rest speaks: it is not loaded
            part["config"] = load_config(source, trust_remote_code)
        if os.path.isdir(source) and not trust_remote_code:
            config = load_config(source)
            check_weights(Path(source), config, lambda: _without_weights(config))
        model, info = _auto_class(source, trust_remote_code).from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if trust_remote_code else True,
            **part,
        )
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError(f"the checkpoint lacks {len(missing)} weights ({missing[0]}, ...)")
        check_generation(model.generation_config)
    return model.to(place).eval()


def _auto_class(source: str, trust_remote_code: bool) -> Any:
    """The class that loads it: from the checkpoint's own code, or from transformers."""
    if not trust_remote_code:
        return AutoModelForImageTextToText
    raw, _ = PreTrainedConfig.get_config_dict(source)
    own = raw.get("auto_map") or {}
    classes = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)
    return next((each for each in classes if each.__name__ in own), AutoModelForImageTextToText)


def _without_weights(config: Any) -> Any:
    return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def count_parameters(source: str, config: Any) -> int:
    """How many numbers the weights of a model have, by its config: nothing is loaded.

    Args:
        source: what the checkpoint is called, for errors.
        config: of a model that transformers has the classes for.

    Raises:
        LoadError: no model can be made of this config.
    """
    with _loading(source, "no model can be made of its config"), torch.device("meta"):
        return sum(parameter.numel() for parameter in _without_weights(config).parameters())


def pick_dtype(config: Any, dtype: str) -> torch.dtype:
    """The type of numbers that a request for ``dtype`` ("auto": the checkpoint's own) loads."""
    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32


def pick_device(device: str) -> str:
    """The device for a request of ``device`` ("auto": CUDA if available).

    Raises:
        LoadError: there is no such device here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.empty(0, device=device).is_meta:
            raise LoadError(f"no device {device!r} here (it holds no numbers)")
    except LoadError:
        raise
    except Exception as error:  # torch asserts that it was built for it; some devices import a package
        said = first_line(error)
        # For some devices torch lists which of its operators exist, in a thousand characters.
        reason = f" ({said})" if len(said) <= 200 and "\n" not in str(error).strip() else ""
        raise LoadError(f"no device {device!r} here{reason}") from error
    return device
