"""The embedded models: small Video LLMs that ship with the package, and the first one's synthetic world."""

from __future__ import annotations

from pathlib import Path

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from .embedded import CHECKPOINT, EMBEDDED, embedded_folder
from .processor import TinyProcessor

CLIP: Path = Path(__file__).parent / "clip.mp4"
"""A 16-frame clip of the world, from the validation split."""

QUESTION: str = "what colour is the star ?"
"""A question about the clip `CLIP`."""

__all__ = ["CHECKPOINT", "CLIP", "EMBEDDED", "QUESTION", "TinyProcessor", "embedded_folder", "load"]


def load(dtype: torch.dtype = torch.float32) -> tuple[LlavaOnevisionForConditionalGeneration, TinyProcessor]:
    """The shipped model, in evaluation mode on the CPU, and its processor.

    Args:
        dtype: The floating-point type to load the weights in.
    """
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        CHECKPOINT, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    return model.eval(), TinyProcessor.from_pretrained(CHECKPOINT)
