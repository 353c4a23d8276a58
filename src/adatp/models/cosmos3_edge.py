"""Cosmos 3 Edge: SigLIP on frames of any size, a run of placeholders and a timestamp for each."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("cosmos3_edge", checkpoint="nvidia/Cosmos3-Edge")
class Cosmos3Edge(ByConvention):
    """Patches are merged two by two."""

    attention = "visual.encoder.layers.-1.self_attn"

    @override
    def processor_options(self, processor: Any, *, every_token: bool = False) -> dict[str, Any]:
        """What its timestamps and its positions are made of, which it leaves out unless asked."""
        return {"return_metadata": True, "return_mm_token_type_ids": True}
