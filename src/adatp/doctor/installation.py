"""Versions, extras, attention kernels and video decoders, and advice on what is missing."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adatp.torchvision_guard import BROKEN  # before transformers

# isort: split
import av
import torch
from packaging.requirements import Requirement
from transformers.utils import is_flash_attn_2_available

DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""The codecs that most videos use."""

FOR_USERS = ("hub", "plot", "demo", "serve", "parquet", "ray", "vllm", "lmms-eval")
"""Extras for users. The others are for developing adatp."""


@dataclass(frozen=True)
class Installation:
    """The installed packages and what they can do.

    Attributes:
        versions: versions of Python and of the packages that matter.
        extras: for each extra, the missing packages.
        attention: implementations of attention that can be used, and why flash attention can't.
        decoders: for each usual codec, whether it can be decoded.
        advice: what to do about missing or incompatible packages, one line each.
    """

    versions: dict[str, str]
    extras: dict[str, list[str]]
    attention: list[str]
    decoders: dict[str, bool]
    advice: list[str]


def inspect_installation() -> Installation:
    """Inspect everything. Nothing is downloaded or changed."""
    extras = missing_by_extra()
    decoders = {name: _can_decode(name) for name in DECODERS}
    return Installation(_versions(), extras, _attention(), decoders, _advice(extras, decoders))


def missing_by_extra() -> dict[str, list[str]]:
    """For each extra for users, the packages that are not installed or too old."""
    wanted = [Requirement(text) for text in requires("adatp") or ()]
    return {
        extra: [each.name for each in wanted if _belongs_to(each, extra) and not _is_met(each)]
        for extra in FOR_USERS
    }


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_met(requirement: Requirement) -> bool:
    if requirement.name == "torchvision" and (BROKEN is not None or find_spec("torchvision") is None):
        return False
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _versions() -> dict[str, str]:
    system = f"{platform.system()} {platform.machine()}"
    ffmpeg = re.sub(r"^n(?=\d)", "", str(getattr(av, "ffmpeg_version_info", "") or "of unknown version"))
    found = {
        "adatp": version("adatp"),
        "Python": f"{platform.python_version()}, {system}",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "PyAV": f"{version('av')}, FFmpeg {ffmpeg}",
    }
    if torch.version.cuda:
        found["torch"] += f", CUDA {torch.version.cuda}"
    return found


def _attention() -> list[str]:
    sdpa = "sdpa"
    if torch.cuda.is_available():
        cuda: Any = torch.backends.cuda
        kernels = {
            "flash": cuda.flash_sdp_enabled(),
            "memory-efficient": cuda.mem_efficient_sdp_enabled(),
            "cuDNN": cuda.cudnn_sdp_enabled(),
        }
        sdpa += f" ({', '.join(name for name, on in kernels.items() if on) or 'plain'})"
    if is_flash_attn_2_available():
        flash = "flash_attention_2"
    elif torch.cuda.is_available():
        flash = "no flash_attention_2 (the package flash-attn is not installed)"
    else:
        flash = "no flash_attention_2 (it needs CUDA)"
    return ["eager", sdpa, flash]


def _can_decode(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except Exception:  # PyAV has an error of its own for this
        return False
    return True


def _advice(extras: dict[str, list[str]], decoders: dict[str, bool]) -> list[str]:
    found = []
    if BROKEN is not None:
        found.append(
            f"torchvision does not fit torch {torch.__version__} ({BROKEN}): install the one made for it."
        )
    elif extras["hub"]:
        found.append(
            f'Models from the Hugging Face hub need {" and ".join(extras["hub"])}: pip install "adatp[hub]"'
        )
    if not torch.cuda.is_available() and Path("/dev/nvidia0").exists():
        reason = "is built for CPUs" if torch.version.cuda is None else "can't reach it: look at the driver"
        found.append(f"This machine has an NVIDIA GPU, but this torch {reason}.")
    if lacking := [name for name, can in decoders.items() if not can]:
        found.append(
            f"Videos coded as {', '.join(lacking)} can't be read: install PyAV from PyPI (pip install av)."
        )
    return found
