"""Makes a torchvision of another build of torch importable, as tests/conftest.py does it, in every process.

Only the two operators that are missed at import are declared; nothing here calls them.
"""

from importlib.util import find_spec

if find_spec("torch") is not None and find_spec("torchvision") is not None:
    import torch

    try:
        import torchvision
    except Exception:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
