"""What both embedded models do with towers: how SigLIP's starts, how the Video LLM's is cut from it."""

from __future__ import annotations

import torch
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel, SiglipVisionModel


@torch.no_grad()
def look_at_neighbours(vision: SiglipVisionModel) -> None:
    """Start a tower with heads that attend to the patches around: neighbours together make a shape.

    From SigLIP's random start a tower learns colours quickly and shapes hardly at all. Here position has 32
    dimensions of its own, sines and cosines of row and column. Turned by a fixed angle they are those of a
    patch one step away, which is the query of a head in layer 0 (beside, above, below) or 1 (diagonals).
    Training may change all of it.
    """
    side, waves = vision.config.image_size // vision.config.patch_size, torch.linspace(0.25, 2.5, 8)
    wide = 4 * len(waves)
    phase = torch.arange(side)[:, None] * waves
    axis = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    vision.embeddings.position_embedding.weight[:, wide:] = 0
    vision.embeddings.position_embedding.weight[:, :wide] = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    vision.embeddings.patch_embedding.weight[:wide] *= 0.1

    def turn(steps: int) -> torch.Tensor:
        cos, sin = (steps * waves).cos().diag(), (steps * waves).sin().diag()
        return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])

    around = ((0, -1), (0, 1), (-1, 0), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1))
    for layer, offsets in zip(vision.encoder.layers, around, strict=False):
        for head, (down, right) in enumerate(offsets):
            query = layer.self_attn.q_proj.weight[head * wide : (head + 1) * wide]
            key = layer.self_attn.k_proj.weight[head * wide : (head + 1) * wide]
            query.zero_()
            key.zero_()
            query[: wide // 2, : wide // 2] = 1.2 * turn(down)
            query[wide // 2 :, wide // 2 : wide] = 1.2 * turn(right)
            key[:, :wide] = 1.2 * torch.eye(wide)
        layer.self_attn.out_proj.weight[:wide] *= 0.1  # leave the place legible to the layers above
        layer.mlp.fc2.weight[:wide] *= 0.1


@torch.no_grad()
def graft_tower(model: LlavaOnevisionForConditionalGeneration, partner: SiglipModel) -> None:
    """Copy the partner's vision tower, without its last layer and head, into the Video LLM, in place."""
    tower, full = model.model.vision_tower, partner.vision_model
    tower.embeddings.load_state_dict(full.embeddings.state_dict())
    tower.post_layernorm.load_state_dict(full.post_layernorm.state_dict())
    for mine, theirs in zip(tower.encoder.layers, full.encoder.layers[:-1], strict=True):
        mine.load_state_dict(theirs.state_dict())
