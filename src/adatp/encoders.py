"""The text encoder that was trained with a vision tower. It measures each frame's relevance to a question."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, SiglipConfig, SiglipModel

from adatp.checkpoint import (
    CheckpointError,
    check_config,
    check_files,
    check_numbers,
    check_weights,
    try_out,
)
from adatp.errors import AdaTPError, first_line, is_out_of_memory, is_panic
from adatp.tower_flops import siglip_text_flops, siglip_vision_flops

# A tower, as (width, image size, patch size), and the checkpoint that it comes from.
PARTNERS = {(1152, 384, 14): "google/siglip-so400m-patch14-384"}


class EncoderError(AdaTPError, ValueError):
    """The text encoder of this model's vision tower can't be used."""


class NoEncoderError(EncoderError):
    """There is no text encoder for this model's vision tower, or it is not on this machine."""


def partner_of(model: Any) -> str | None:
    """Location of the SigLIP checkpoint of a model's vision tower: a folder or a hub id; None if unknown.

    A checkpoint folder may have its own, in ``relevance/``.
    """
    name = model.config._name_or_path
    if name and (beside := Path(name) / "relevance").is_dir():
        return str(beside)
    vision: Any = getattr(model.config, "vision_config", None)
    if getattr(vision, "model_type", None) != "siglip_vision_model":
        return None
    return PARTNERS.get((vision.hidden_size, vision.image_size, vision.patch_size))


class SiglipPartner(nn.Module):
    """SigLIP's text tower, and the part of its image tower that the Video LLM left out: last layers and head.

    The Video LLM has already run the first layers. The rest runs on its hidden states, so each frame's
    embedding needs no second encoding. A Video LLM that fine-tuned its tower has moved away from its partner.
    The cosine is then only as good as this drift allows.
    """

    def __init__(self, source: str, tower_layers: int, dtype: torch.dtype) -> None:
        super().__init__()
        siglip = _load_siglip(source, dtype)
        vision = siglip.vision_model
        self.text: nn.Module = siglip.text_model
        self.rest: nn.ModuleList = vision.encoder.layers[tower_layers:]
        self.post_layernorm: nn.Module = vision.post_layernorm
        self.head: nn.Module = vision.head
        self.vision_config: Any = vision.config
        self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if len(vision.encoder.layers) < tower_layers:
            raise CheckpointError(f"it has fewer layers than this vision tower, which has {tower_layers}")
        if (text := siglip.text_model.config.projection_size) != (image := vision.config.hidden_size):
            raise CheckpointError(f"its embeddings of texts have {text} numbers, those of images {image}")
        self.requires_grad_(False).eval()
        self._ids("a")  # a broken tokenizer fails here, not in the middle of a run
        self._source, self._strange = source, Path(source).is_dir()

    @torch.no_grad()
    def embed_text(self, question: str) -> Tensor:
        """Embedding (d,) of a question. Text beyond the encoder's length is cut off.

        Raises:
            EncoderError: the tokenizer, a stranger's, takes all time or memory for the first question.
        """
        if self._strange:
            self._strange = False  # once is enough, as for the model's own tokenizer
            try:
                try_out(lambda: self._ids(question))
            except CheckpointError as error:
                raise EncoderError(f"the text encoder {self._source} can't be used: {error}") from error
        ids = self._ids(question)
        return cast(Tensor, self.text(ids.to(next(self.parameters()).device)).pooler_output[0])

    def _ids(self, question: str) -> Tensor:
        """Tokens (1, encoder length) of a question."""
        config = cast(Any, self.text).config
        ids = cast(
            Tensor,
            self.tokenizer(
                [question],
                padding="max_length",
                truncation=True,
                max_length=config.max_position_embeddings,
                return_tensors="pt",
            )["input_ids"],
        )
        if int(ids.max()) >= config.vocab_size:
            raise CheckpointError("its tokenizer makes tokens that its text tower does not know")
        return ids

    @torch.no_grad()
    def embed_frames(self, features: Tensor) -> Tensor:
        """Embeddings (frames, d) from the tower's hidden states (frames, patches, width)."""
        states = features.to(next(self.parameters()).dtype)
        for layer in self.rest:
            states = layer(states, attention_mask=None)
            states = states[0] if isinstance(states, tuple) else states
        return cast(Tensor, self.head(self.post_layernorm(states)))

    def text_flops(self) -> int:
        """Real FLOPs of embedding one question."""
        text: Any = self.text.config
        return siglip_text_flops(text, 1, text.max_position_embeddings)

    def frame_flops(self, frames: int) -> int:
        """Real FLOPs of embedding a video's frames, given the tower's hidden states."""
        complete = siglip_vision_flops(self.vision_config, frames)
        tower = copy(self.vision_config)  # layers that the Video LLM has already run
        tower.num_hidden_layers -= len(self.rest)
        tower.vision_use_head = False
        return complete - siglip_vision_flops(tower, frames)


def _load_siglip(source: str, dtype: torch.dtype) -> Any:
    """Load a SigLIP with both towers, after checking that its files are plausible.

    Raises:
        CheckpointError: its files are broken or incomplete.
    """
    if (folder := Path(source)).is_dir():
        check_files(folder)
        raw, _ = PreTrainedConfig.get_config_dict(source)
        check_numbers(raw)
        config = SiglipConfig.from_pretrained(source)
        for part in (config.text_config, config.vision_config):
            check_config(part)
        check_weights(folder, config, lambda: SiglipModel(config))
    siglip, info = SiglipModel.from_pretrained(
        source, dtype=dtype, output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )
    if missing := sorted(info["missing_keys"]):  # they would be random numbers
        raise CheckpointError(f"the checkpoint lacks {len(missing)} weights ({missing[0]}, ...)")
    return siglip


@lru_cache(maxsize=1)
def _load(source: str, tower_layers: int, device: torch.device, dtype: torch.dtype) -> SiglipPartner:
    return SiglipPartner(source, tower_layers, dtype).to(device)


def _device_of(tower: nn.Module) -> torch.device:
    """Where the tower computes. Weights that accelerate keeps elsewhere between calls are on ``meta``."""
    device = next(tower.parameters()).device
    if device.type != "meta":
        return device
    for module in tower.modules():
        runs_on = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if runs_on is not None:  # it may be a plain number, 0 too
            return torch.device(runs_on)
    return device


def load_partner(model: Any, tower: nn.Module, *, download: bool) -> SiglipPartner:
    """The partner of a model's vision tower, on the tower's device and in its precision. It is cached.

    Args:
        model: the Video LLM.
        tower: its vision tower.
        download: whether it may be fetched from the hub.

    Raises:
        EncoderError: no partner is known, or it can't be loaded.
    """
    source = partner_of(model)
    if source is None or not hasattr(model.config, "vision_feature_layer"):
        raise NoEncoderError(
            f"no SigLIP text encoder is known for the vision tower of {model.config.model_type}: "
            "use relevance='embedding'"
        )
    if not download and not Path(source).is_dir():
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(source, "model.safetensors"), str):
            raise NoEncoderError(f"{source} is not on this machine: relevance='siglip' fetches it")
    config = model.config.vision_config
    # The hidden states that the projector reads; 0 is before all layers.
    read = model.config.vision_feature_layer
    layers = read if isinstance(read, int) else read[-1]
    layers += config.num_hidden_layers + 1 if layers < 0 else 0
    try:
        partner = _load(source, layers, _device_of(tower), next(tower.parameters()).dtype)
    except (
        BaseException
    ) as error:  # any kind: the files are the checkpoint's, and a Rust panic is no Exception
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        kind = EncoderError if Path(source).is_dir() else NoEncoderError
        raise kind(f"the text encoder {source} can't be loaded: {first_line(error)}") from error
    if partner.vision_config.hidden_size != config.hidden_size:
        raise EncoderError(f"{source} is not the partner of this vision tower: its width differs")
    return partner
