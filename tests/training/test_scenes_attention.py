"""The training's attention against torch's own with the mask written out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from training.scenes.attention import STRIP, shared_prefix_attention

SCALE = 0.3


def written_out(prefix: int, questions: int, length: int, causal: bool) -> torch.Tensor:
    """Which token attends to which: bool (tokens, tokens)."""
    total = prefix + questions * length
    allowed = torch.zeros(total, total, dtype=torch.bool)
    allowed[:, :prefix] = True
    allowed[:prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril(0 if causal else prefix)
    for at in range(prefix, total, length):
        allowed[at : at + length, at : at + length] = torch.ones(length, length, dtype=torch.bool).tril()
    return allowed


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("questions", [0, 1, 3])
def test_the_shared_attention_and_its_gradients_are_torchs_own(questions: int, causal: bool) -> None:
    prefix, length, generator = 2 * STRIP + 7, 5, torch.Generator().manual_seed(questions)
    total = prefix + questions * length
    drawn = [torch.randn(2, total, heads, 8, generator=generator).transpose(1, 2) for heads in (6, 2, 2)]
    wanted = torch.randn(2, total, 6, 8, generator=generator)

    def run(attend: Any) -> list[torch.Tensor]:
        inputs = [x.clone().requires_grad_() for x in drawn]
        out = attend(*inputs)
        return [out, *torch.autograd.grad(out, inputs, wanted)]

    own = torch.ones(length, length, dtype=torch.bool).tril().expand(1, questions, -1, -1)
    module: Any = SimpleNamespace(is_causal=causal)
    allowed = written_out(prefix, questions, length, causal)
    ours = run(lambda *x: shared_prefix_attention(module, *x, own if questions else None, SCALE)[0])
    theirs = run(
        lambda *x: F.scaled_dot_product_attention(
            *x, attn_mask=allowed, scale=SCALE, enable_gqa=True
        ).transpose(1, 2)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)
