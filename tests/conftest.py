"""Shared setup: one thread a worker, and torchvision where transformers' video processors are tested."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
