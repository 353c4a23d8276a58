"""Makes a torchvision of another build of torch importable, as tests/conftest.py does it, in every process.

Only the two operators that are missed at import are declared; nothing here calls them. Images are decoded by
pillow instead of its library.
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

        import torchvision
        import torchvision.io

        def decode(data, mode=None, apply_exif_orientation=False):
            """An image file as (3, H, W), uint8."""
            import io

            import numpy as np
            from PIL import Image

            image = Image.open(data if isinstance(data, str) else io.BytesIO(data.numpy().tobytes()))
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

        torchvision.io.decode_image = decode
