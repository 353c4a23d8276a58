"""Copied into the environment of `make vllm`: lets a torchvision built for another torch be imported.

PyPI's torchvision is linked to CUDA, so that its operators can't be loaded beside torch for CPUs, and then
not even `import transformers` works. What video processors need of it is written in Python. vLLM starts
several processes, so the operators are declared here, in what all of them run.
"""

import sys


class _Declaring:
    """Declares the two operators that torchvision registers things for, when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.torchvision_operators = library  # declared as long as it lives


sys.meta_path.insert(0, _Declaring())
