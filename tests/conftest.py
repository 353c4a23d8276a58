"""Shared setup: one thread a worker, and torchvision for transformers' own video processors.

`make test` keeps torchvision beside the environment: where its compiled operators do not fit the build of
torch, importing it fails, and transformers with it. What transformers uses of it needs none of these
operators, so declaring the two that are missed at import is enough for the tests. The package itself never
needs torchvision.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

BESIDE = Path(sys.prefix) / "torchvision"
if BESIDE.is_dir():
    sys.path.append(str(BESIDE))
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
