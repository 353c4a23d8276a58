"""A plugin of vLLM: video tokens are dropped before the language model, to a number known in advance.

If adatp is installed together with vLLM, vLLM finds the plugin. It does nothing until ``--additional-config``
names it:

    vllm serve Qwen/Qwen2.5-VL-7B-Instruct --video-pruning-rate 0.75 --additional-config '{"adatp": {}}'
"""

_MODELS = "adatp.integrations.vllm.models"

ARCHITECTURES = {
    "Qwen2_5_VLForConditionalGeneration": f"{_MODELS}.qwen2_5_vl:Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration": f"{_MODELS}.qwen3_vl:Qwen3VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration": f"{_MODELS}.qwen3_5:Qwen3_5ForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration": (
        f"{_MODELS}.llava_onevision:LlavaOnevisionForConditionalGeneration"
    ),
    "InternVLForConditionalGeneration": f"{_MODELS}.internvl:InternVLForConditionalGeneration",
}
"""vLLM's name of a model -> the class that takes its place."""


def register() -> None:
    """Put the classes of `ARCHITECTURES` into vLLM's registry. vLLM calls it in each of its processes."""
    from vllm import ModelRegistry

    from adatp.integrations.vllm.configuration import read_settings_of

    for architecture, path in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, path)
        read_settings_of(architecture)
