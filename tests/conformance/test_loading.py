"""However a model is loaded: bfloat16, quantised layers, layers on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

import fake_flash
from adatp import AdaTP
from adatp.models import decoder_of
from agreement import Agree
from device import DEVICE
from families import FAMILIES, LlavaOnevision, Prompt, Qwen25VL, batch, build
from oracle import masked_logits, recorded
from rounding import limit, wide, widened
from suite import EARLY, GREEDY, RAGGED, batches, dropped, feature, generated_logits, skip_broken_cache


def keep_all(model: Any, inputs: dict[str, torch.Tensor], agree: Agree) -> None:
    """Changes no bit."""
    vanilla = model.generate(**inputs, **GREEDY)
    with AdaTP(flops=1.0)(model):
        kept = model.generate(**inputs, **GREEDY)
    agree(generated_logits(kept), generated_logits(vanilla))


def drop(model: Any, inputs: dict[str, torch.Tensor], agree: Agree, within: float) -> None:
    """Equals masking."""
    with EARLY(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=within)


@feature("bfloat16")
@torch.no_grad()
def test_dropping_equals_masking_as_far_as_bfloat16_goes(family: Any, agree: Agree) -> None:
    drop_in_bfloat16(family, "sdpa", RAGGED, None, agree)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="PyTorch has flash attention's kernels for GPUs alone")
@pytest.mark.parametrize("cache", [None, "static"])
@batches
@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if fake_flash.NAME in f.attentions], ids=lambda family: family.name
)
@torch.no_grad()
def test_with_the_kernels_of_flash_attention(
    family: Any, prompts: list[Prompt], cache: str | None, agree: Agree
) -> None:
    skip_broken_cache(family, cache)
    drop_in_bfloat16(family, fake_flash.NAME, prompts, cache, agree)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="PyTorch has flash attention's kernels for GPUs alone")
@pytest.mark.parametrize(("queries", "keys"), [(48, 48), (1, 48), (7, 48)])
def test_the_kernels_of_flash_attention_are_plain_attention(queries: int, keys: int) -> None:
    """Causal with respect to the last key; several query heads on one key."""
    q, k, v = torch.randn(2, queries, 4, 16), torch.randn(2, keys, 2, 16), torch.randn(2, keys, 2, 16)
    found = fake_flash.flash_attn_func(*(x.bfloat16() for x in (q, k, v)), causal=True)
    expected = fake_flash.flash_attn_func(*(x.bfloat16().float() for x in (q, k, v)), causal=True)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    starts = [torch.tensor([0, n, 2 * n], dtype=torch.int32) for n in (queries, keys)]
    packed = fake_flash.flash_attn_varlen_func(
        *(x.bfloat16().flatten(0, 1) for x in (q, k, v)), *starts, queries, keys, causal=True
    )
    torch.testing.assert_close(packed.view_as(found), found, rtol=0, atol=0.02)


def drop_in_bfloat16(
    family: Any, attention: str, prompts: list[Prompt], cache: str | None, agree: Agree
) -> None:
    """The two may lie apart by what rounding takes each of them from the truth, as it takes vanilla."""
    model, inputs = build(family, attention, torch.bfloat16), batch(family, prompts, torch.bfloat16)
    for layer in decoder_of(model).layers:
        if hasattr(layer, "self_attn"):  # as sharp as it is, attention makes rounding as large as the logits
            layer.self_attn.scaling /= 8
    keep_all(model, inputs, agree)
    real = inputs["attention_mask"].bool()
    exact = widened(model, torch.float32)(**wide(inputs, torch.float32)).logits[real]
    noise = root_mean_square(model(**inputs).logits[real], exact)
    with EARLY(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY, cache_implementation=cache)
    assert dropped(run)
    masked = masked_logits(model, record, run.report.kept, real)[:, record.ends]
    agree.error(root_mean_square(torch.stack(record.logits, 1), masked), BFLOAT16 * noise, torch.bfloat16)


BFLOAT16 = 8
"""Root mean squares of errors in bfloat16 may be so many times those of vanilla."""


def root_mean_square(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the differences: in bfloat16 the largest one is as large as a logit."""
    return float((found.double() - expected.double()).square().mean().sqrt())


class Int8Linear(torch.nn.Module):
    """A linear map with weights of eight bits and a scale a row, as torchao's weight-only kind."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("quantised", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.quantised.to(x.dtype) * self.scale, self.bias)


@feature("int8")
def test_quantised_linear_layers_do_not_matter(family: Any, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    for module in list(decoder_of(model).modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Int8Linear(child))
    keep_all(model, inputs, agree)
    drop(model, inputs, agree, within=limit(family))


@pytest.mark.parametrize("family", [LlavaOnevision, Qwen25VL], ids=lambda family: family.name)
@pytest.mark.parametrize("bits", [4, 8])
@torch.no_grad()
def test_layers_of_bitsandbytes_do_not_matter(family: Any, bits: int, agree: Agree, tmp_path: Path) -> None:
    """Eight bits are of activations too: what rounding adds to a token is then more than `limit`."""
    build(family).save_pretrained(tmp_path)
    asked = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path, quantization_config=asked, device_map=DEVICE
    )
    assert f"Linear{bits}bit" in {type(module).__name__[:10] for module in model.modules()}
    inputs = batch(family, RAGGED)
    keep_all(model, inputs, agree)
    if bits == 4:
        drop(model, inputs, agree, within=limit(family))


@feature("offload")
def test_accelerates_hooks_do_not_matter(family: Any, agree: Agree, tmp_path: Path) -> None:
    """The last layers lie on disk; accelerate hands copies of a call's arguments from part to part."""
    accelerate = pytest.importorskip("accelerate")
    model, inputs = build(family), batch(family, RAGGED)
    last = {id(module) for layer in decoder_of(model).layers[3:] for module in layer.modules()}
    parts: dict[str, str] = {}
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)):
            parts[name] = "disk" if id(module) in last else "cpu"
    parts |= {name: "cpu" for name, _ in model.named_parameters() if name.rpartition(".")[0] not in parts}
    accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    keep_all(model, inputs, agree)
    drop(model, inputs, agree, within=limit(family))
