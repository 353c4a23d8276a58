"""Scores of query rows, for every kind of mask that an attention function is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssConfig

from adatp.engine.attention import (
    Probe,
    ReceivedProbe,
    RowWeights,
    attention_logits,
    log_mean_attention,
    received_attention,
)
from adatp.errors import PruningError
from adatp.models import family_of
from agreement import Agree
from families import LlavaOnevision, build

BATCH, HEADS, KV_HEADS, WIDTH, PAST, NEW = 2, 4, 2, 8, 3, 9
KEYS = PAST + NEW


def full_attention(query: Tensor, key: Tensor, allowed: Tensor, softcap: float | None = None) -> Tensor:
    """Every row, the plain way."""
    logits = query @ key.repeat_interleave(HEADS // KV_HEADS, 1).transpose(2, 3) * WIDTH**-0.5
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1)


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "padding", "static"])
@pytest.mark.parametrize("softcap", [None, 0.5])
def test_rows_of_full_attention(kind: str, softcap: float | None, agree: Agree) -> None:
    torch.manual_seed(0)
    query = torch.randn(BATCH, HEADS, NEW, WIDTH)
    key = torch.randn(BATCH, KV_HEADS, KEYS + 4 * (kind == "static"), WIDTH)
    allowed = torch.ones(NEW, key.shape[2], dtype=torch.bool).tril(PAST)[None, None].expand(BATCH, 1, -1, -1)
    padding = torch.ones(BATCH, key.shape[2], dtype=torch.bool)
    if kind in ("boolean", "additive", "padding"):
        padding[1, :2] = False
        allowed = allowed & padding[:, None, None]
    mask = {
        "none": None,
        "static": None,
        "boolean": allowed,
        "additive": torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min),
        "padding": padding.long(),
    }[kind]
    rows = torch.tensor([[8, 2, 5], [4, 6, 7]])
    scored = attention_logits(query, key, rows, mask, WIDTH**-0.5, PAST, softcap).softmax(-1)
    expected = full_attention(query, key, allowed, softcap)
    for b in range(BATCH):
        agree(scored[b], expected[b][:, rows[b]], within=1e-5)


@pytest.mark.parametrize("sink", [0.0, 60.0, 110.0, 500.0, 5000.0])
def test_logarithms_of_mean_attention(sink: float) -> None:
    """One key's logits are far above all others': their order is that of exact arithmetic."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, HEADS, 3, 40, generator=generator)
    logits[..., 0] += sink
    logits[:, :, 1:, 39] = torch.finfo(torch.float32).min
    logits[:, :, :, 38] = torch.finfo(torch.float32).min
    weight = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    found = log_mean_attention(logits, RowWeights(weight))
    exact = logits.double().log_softmax(-1) + (weight.double() / HEADS).log()[:, None, :, None]
    exact = exact.flatten(1, 2).logsumexp(1)
    observed = exact > -1e30
    assert torch.equal(observed.sum(1), torch.tensor([39, 39]))
    assert (found - exact)[observed].abs().max() < 1e-5 * max(1.0, sink)
    assert (found[~observed] < -1e30).all()
    mean = (logits.softmax(-1).mean(1) * weight[..., None]).sum(1)
    torch.testing.assert_close(found.exp().float(), mean, rtol=1e-4, atol=1e-37)
    if sink >= 500:
        assert (mean[:, 1:] == 0).all()
    order = found[:, 1:38].argsort(1, descending=True)
    assert torch.equal(order, exact[:, 1:38].argsort(1, descending=True))


def test_the_mean_itself_is_not_rounded_again() -> None:
    """Where single precision can tell tokens apart, they are chosen as by the mean."""
    logits = 5 * torch.randn(1, HEADS, 8, 5000, generator=torch.Generator().manual_seed(0))
    weight = torch.full((1, 8), 1 / 8)
    mean = torch.bmm(weight.repeat(1, HEADS)[:, None] / HEADS, logits.softmax(-1).flatten(1, 2))[:, 0]
    found = log_mean_attention(logits, RowWeights(weight))
    assert torch.equal(found.exp().float(), mean)
    assert torch.equal(
        found.argsort(descending=True, stable=True), mean.argsort(descending=True, stable=True)
    )


def test_a_probe_scores_once_and_passes_the_call_on() -> None:
    model = build(LlavaOnevision)
    module = model.get_decoder().layers[1].self_attn
    inputs = {
        "hidden_states": torch.randn(1, 7, 32),
        "position_embeddings": (torch.ones(1, 7, 8), torch.zeros(1, 7, 8)),
        "attention_mask": None,
    }
    expected = module(**inputs)[0]
    probe, config = Probe(module), module.config
    probe.install()
    assert torch.equal(module(**inputs)[0], expected)
    assert probe.log_scores is None
    weight = torch.tensor([[0.5, 0.5, 0.0]])
    probe.arm(torch.tensor([[5, 6, 2]]), RowWeights(weight), 0)
    assert torch.equal(module(**inputs)[0], expected)
    assert probe.log_scores.shape == (1, 7)
    assert probe.log_scores.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (probe.log_scores > -50).all()  # row 2, which weighs nothing, would see three keys only
    probe.remove()
    assert module.config is config
    assert torch.equal(module(**inputs)[0], expected)


def test_what_can_not_be_scored_is_refused() -> None:
    module = build(LlavaOnevision).get_decoder().layers[0].mlp
    module.config = LlavaOnevision.config().text_config
    module.config._attn_implementation = "sdpa"
    type(module).__module__, before = "builtins", type(module).__module__
    try:
        with pytest.raises(ValueError, match="can't be scored"):
            Probe(module)
    finally:
        type(module).__module__ = before


def test_sinks_are_refused() -> None:
    config = GptOssConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    config._attn_implementation = "eager"
    with pytest.raises(PruningError, match="can't be scored: it has sinks"):
        Probe(GptOssAttention(config, 0))


def test_a_towers_soft_cap_counts(agree: Agree) -> None:
    query, key = torch.randn(1, HEADS, 6, WIDTH), torch.randn(1, HEADS, 6, WIDTH)
    expected = (torch.tanh(query @ key.transpose(2, 3) / 0.5) * 0.5).softmax(-1).mean((1, 2))
    agree(received_attention(query, key, 1.0, softcap=0.5), expected, within=1e-6)


def test_what_patches_receive_is_the_same_packed_split_or_stacked(agree: Agree) -> None:
    """As flash attention, other kernels and square images hand them over."""
    torch.manual_seed(0)
    query, key = torch.randn(2, HEADS, 6, WIDTH), 3 * torch.randn(2, HEADS, 6, WIDTH)
    probe = ReceivedProbe(family_of("llava_onevision").tower_attention_module(build(LlavaOnevision)))
    expected = (query @ key.transpose(2, 3) * 0.3).softmax(-1).mean((1, 2)).flatten()

    def side_by_side(states: Tensor) -> Tensor:
        return torch.cat(list(states), 1)[None]

    probe.see(query, key, None, 0.3, None)
    stacked, spent = probe.take(), probe.flops
    probe.see(side_by_side(query), side_by_side(key), None, 0.3, torch.tensor([0, 6, 12]))
    packed = probe.take()
    for image in range(2):
        probe.see(query[image : image + 1], key[image : image + 1], None, 0.3, None)
    split = probe.take()
    for received in (stacked, packed, split):
        agree(received, expected, within=1e-5)
    assert probe.flops == spent == 2 * 2 * HEADS * 6 * 6 * WIDTH


@pytest.mark.parametrize("form", ["boolean", "additive", "flash"])
def test_padding_of_smaller_images_neither_attends_nor_receives(form: str, agree: Agree) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, HEADS, 6, WIDTH), 3 * torch.randn(2, HEADS, 6, WIDTH)
    probe = ReceivedProbe(family_of("llava_onevision").tower_attention_module(build(LlavaOnevision)))
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    seen_by_all = real[:, None, None].expand(2, 1, 6, 6)
    mask = {
        "boolean": seen_by_all,
        "additive": torch.zeros(2, 1, 6, 6).masked_fill(~seen_by_all, torch.finfo(torch.float32).min),
        "flash": real.long(),
    }[form]
    probe.see(query, key, mask, 0.3, None)
    received = probe.take().view(2, 6)
    for image, patches in enumerate(real.sum(1).tolist()):
        logits = query[image, :, :patches] @ key[image, :, :patches].transpose(1, 2) * 0.3
        agree(received[image, :patches], logits.softmax(-1).mean((0, 1)), within=1e-6)
    assert not received[1, 4:].any()
