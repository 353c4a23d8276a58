"""Qwen3.5: in its vision part Qwen3-VL without DeepStack; most decoder layers have linear attention."""

from __future__ import annotations

from vllm.model_executor.models import qwen3_5 as base
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from adatp.integrations.vllm.models.qwen3_vl import Processor, PrunedQwen3VL


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.Qwen3_5ProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen3_5ForConditionalGeneration(PrunedQwen3VL, base.Qwen3_5ForConditionalGeneration):  # noqa: N801
    """vLLM's class. With settings of the plugin, other tokens of a video stay."""
