"""Passes the plugin's settings to the parts of vLLM that only receive a model's config."""

from __future__ import annotations

from typing import Any

from vllm import envs
from vllm.logger import init_logger
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from adatp.integrations.vllm.settings import Settings, SettingsError

_logger = init_logger("vllm.adatp")


class _ReadsSettings:
    """Marks the hooks of this module, so that registering twice wraps nothing twice."""


def read_settings_of(architecture: str) -> None:
    """Let vLLM read the plugin's settings whenever it finishes the config of a model.

    vLLM's own work there for the architecture is still done.
    """
    before = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)
    if issubclass(before, _ReadsSettings):
        return

    class ReadsSettings(_ReadsSettings, before):  # type: ignore[misc, valid-type]
        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            before.verify_and_update_config(vllm_config)
            _attach(vllm_config)

    MODELS_CONFIG_MAP[architecture] = ReadsSettings


def _attach(vllm_config: Any) -> None:
    settings = Settings.read(vllm_config.additional_config)
    if settings is None:
        return
    rate = vllm_config.model_config.multimodal_config.video_pruning_rate
    if not rate:
        raise SettingsError("adatp: say how much to drop, for example --video-pruning-rate 0.75")
    vllm_config.model_config.adatp = settings
    by = "what its question asks for and what is new" if settings.question else "what is new"
    _logger.info("adatp keeps %.4g of each video's tokens, chosen by %s", 1 - rate, by)


def refuse_what_loses_positions(vllm_config: Any) -> None:
    """Refuse modes in which a model can't correct its tokens' positions.

    Graphs of complete prefills are among them: they are replayed without the model's Python code.

    Raises:
        SettingsError: one of them is requested.
    """
    parallel, graphs = vllm_config.parallel_config, vllm_config.compilation_config.cudagraph_mode
    lost = {
        "speculative decoding": vllm_config.speculative_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "dual batch overlap": getattr(parallel, "enable_dbo", False),
        "graphs of whole prefills (cudagraph_mode FULL)": graphs is not None
        and graphs.mixed_mode().name == "FULL",
        "graphs that break at attention (VLLM_USE_BREAKABLE_CUDAGRAPH)": getattr(
            envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", False
        ),
    }
    for what, asked in lost.items():
        if asked:
            raise SettingsError(f"adatp: {what} does not go with pruned videos of this model")
