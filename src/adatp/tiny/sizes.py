"""Sizes of the embedded model that its processor and its training share."""

from .world import SIZE

PATCH: int = 8
"""Side in pixels of a patch of the vision tower."""

TOKENS_PER_FRAME: int = (SIZE // PATCH // 2) ** 2
"""Visual tokens of a frame: 12 x 12 patches, pooled 2 x 2."""

TEXT_LENGTH: int = 24
"""Positions of SigLIP's text tower. Texts are padded to it on the left, since it pools the last position."""
