"""What holds however a model is loaded and driven: precision, quantised or offloaded layers, assistants."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DeepseekV2Config, DynamicCache

from adatp import AdaTP
from adatp.methods.random import Random
from adatp.pruner import PruningError
from agreement import Agree
from families import FAMILIES, LlavaOnevision, batch, build
from oracle import masked_logits, recorded
from suite import (
    EARLY,
    GREEDY,
    LATE,
    ONE,
    RAGGED,
    STEPS,
    continued,
    dropped,
    feature,
    generated_logits,
)


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
    """The two may lie apart by what rounding takes each of them from the truth, as it takes vanilla."""
    model, inputs = build(family, dtype=torch.bfloat16), batch(family, RAGGED, torch.bfloat16)
    keep_all(model, inputs, agree)
    rounded = model(**inputs).logits[inputs["attention_mask"].bool()]
    wide = {name: part.float() if part.is_floating_point() else part for name, part in inputs.items()}
    exact = copy.deepcopy(model).float()(**wide).logits[inputs["attention_mask"].bool()]
    drop(model, inputs, agree, within=2 * (rounded - exact).abs().max().item())


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
    for module in list(model.get_decoder().modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Int8Linear(child))
    keep_all(model, inputs, agree)
    drop(model, inputs, agree, within=2e-5)


@feature("offload")
def test_accelerates_hooks_do_not_matter(family: Any, agree: Agree, tmp_path: Path) -> None:
    """The last layers lie on disk; accelerate hands copies of a call's arguments from part to part."""
    accelerate = pytest.importorskip("accelerate")
    model, inputs = build(family), batch(family, RAGGED)
    last = {id(module) for layer in model.get_decoder().layers[3:] for module in layer.modules()}
    parts: dict[str, str] = {}
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            parts[name] = "disk" if id(module) in last else "cpu"
    parts |= {name: "cpu" for name, _ in model.named_parameters() if name.rpartition(".")[0] not in parts}
    accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    keep_all(model, inputs, agree)
    drop(model, inputs, agree, within=2e-5)


@feature("assisted")
@pytest.mark.parametrize("drafts", ["lookup", "assistant"])
def test_assisted_decoding(family: Any, drafts: str, prune: AdaTP, agree: Agree) -> None:
    """Several tokens a step, those that are refused taken back."""
    model, inputs, assistant = build(family), batch(family, ONE), build(family)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn(parameter.shape))
    lookup = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    with prune(model) as run, recorded(model) as steps:
        output = model.generate(
            **inputs, **GREEDY, **(lookup if drafts == "lookup" else {"assistant_model": assistant})
        )
    assert dropped(run)
    if drafts == "assistant":  # lookup finds nothing in some of these prompts
        assert sum(part.shape[1] for part in steps.embeds) > output.sequences.shape[1] - 1  # some taken back
    with recorded(model) as record:  # the sequence that came out, unpruned, in one call
        model(**continued(inputs, output.sequences))
    logits = masked_logits(model, record, run.report.kept, inputs["attention_mask"].bool())
    agree(generated_logits(output), logits[:, -STEPS - 1 : -1], within=1e-5)


# Transformers crops neither states nor windows but where assisted decoding has told them to.
@pytest.mark.parametrize("family", FAMILIES[:2], ids=lambda family: family.name)
@torch.no_grad()
def test_a_pruned_cache_is_cropped_to_what_no_layer_dropped(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    length = inputs["input_ids"].shape[1]
    cache = DynamicCache(config=model.config.get_text_config())
    step = {
        "input_ids": torch.tensor([[5], [6], [7]]),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1),
        "position_ids": family.position(torch.full((3, 1), 50)),
    }
    with prune(model):
        model(**inputs, past_key_values=cache)
        expected = model(**step, past_key_values=cache).logits
        cache.crop(-1)
        agree(model(**step, past_key_values=cache).logits, expected)
        cache.crop(length)  # what is left, as up to transformers 5.13
        assert cache.get_seq_length() == length
        agree(model(**step, past_key_values=cache).logits, expected)
        cache.crop(-4)  # into the question
        assert cache.get_seq_length() == length - 3
        with pytest.raises(ValueError, match="within what was pruned"):
            cache.crop(-20)
        assert cache.get_seq_length() == length - 3


@pytest.mark.parametrize("name", ["kv_lora_rank", "index_topk"])
def test_latent_and_indexed_attention_are_refused(name: str) -> None:
    model = build(LlavaOnevision)
    setattr(model.get_decoder().config, name, 16)
    with pytest.raises(PruningError, match="latent"):
        LATE(model).__enter__()
    assert DeepseekV2Config().kv_lora_rank  # what such configs call it
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@torch.no_grad()
def test_layers_that_were_compiled_without_hooks_are_noticed() -> None:
    """Compiled code does not ask again whether there are any."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    expected = model(**inputs, use_cache=False).logits
    model.get_decoder().compile(backend="eager")
    assert torch.equal(model(**inputs, use_cache=False).logits, expected)
    with Random(flops=0.5)(model), pytest.raises(RuntimeError, match="without the hooks"):
        model(**inputs, use_cache=False)
    assert torch.equal(model(**inputs, use_cache=False).logits, expected)
    torch._dynamo.reset()


@torch.no_grad()
def test_decoding_that_generate_would_compile_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU `generate` compiles the steps behind a prompt on a static cache; here it does when told to."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    static = {**GREEDY, "cache_implementation": "static"}
    asked = CompileConfig(backend="eager", mode=None)
    asked._compile_all_devices = True
    compiled: list[Any] = []
    monkeypatch.setattr(type(model), "get_compiled_call", lambda self, _: compiled.append(self) or self)
    with LATE(model):
        expected = generated_logits(model.generate(**inputs, **static))
        with pytest.warns(UserWarning, match="not compiled while the model is being pruned"):
            output = model.generate(**inputs, **static, compile_config=asked)
    assert torch.equal(generated_logits(output), expected)
    assert not compiled
    model.generate(**inputs, **static, compile_config=asked)
    assert compiled == [model]
