"""Cosmos 3 Edge: SigLIP on frames of any size, with a run of placeholders and a timestamp per frame."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("cosmos3_edge", checkpoint="nvidia/Cosmos3-Edge")
class Cosmos3Edge(ByConvention):
    """Patches are merged two by two into tokens."""

    attention = "visual.encoder.layers.-1.self_attn"

    @override
    def processor_options(self, processor: Any, *, every_token: bool = False) -> dict[str, Any]:
        """Request the inputs of timestamps and positions, which the processor omits by default."""
        return {"return_metadata": True, "return_mm_token_type_ids": True}
