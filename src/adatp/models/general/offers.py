"""Finds the model types that the general rule can be tried on."""

from __future__ import annotations

import inspect
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers.models.auto.modeling_auto as auto
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

_GENERATES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")


@cache
def offered() -> tuple[str, ...]:
    """The model types of the installed transformers that generate text and read videos, in order."""
    classes = {name: cls for table in _GENERATES for name, cls in getattr(auto, table, {}).items()}

    def written(name: str) -> bool:
        if _source(name):
            return _is_written_for_videos(name)
        # Its module has no model: it is of another type's class.
        return any(_is_written_for_videos(other) for other, cls in classes.items() if cls == classes[name])

    return tuple(sorted(filter(written, classes)))


def reads_videos(model: Any) -> bool:
    """Whether a loaded model takes videos as such. It may be transformers' or of a checkpoint's own code."""
    base = getattr(model, "base_model", None)
    if base is None or not callable(getattr(model, "get_decoder", None)):
        return False
    encodes = getattr(base, "get_video_features", None) or getattr(base, "get_image_features", None)
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    takes = "pixel_values_videos" in inspect.signature(base.forward).parameters
    return encodes is not None and (takes or model_type in offered())


def _is_written_for_videos(model_type: str) -> bool:
    """Decided by the text of its module, since importing all modules would take a minute."""
    source = _source(model_type)
    if "def get_video_features" in source or "pixel_values_videos" in source:
        return True
    return model_type in VIDEO_PROCESSOR_MAPPING_NAMES and "def get_image_features" in source


def _source(model_type: str) -> str:
    """The text of the model's module; empty if there is none."""
    module = model_type_to_module_name(model_type)
    package = find_spec(f"transformers.models.{module}")
    folders = package.submodule_search_locations if package is not None else None
    files = [Path(folder) / f"modeling_{module}.py" for folder in folders or ()]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
