"""The analytic figures against the literature's, and against torch's FlopCounterMode on real models.

Big models run on the meta device, where the counter sees attention as matrix products; on the CPU it does not
count scaled_dot_product_attention at all, so what runs there runs with eager attention.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3_5MoeTextConfig,
    Qwen3_5MoeTextModel,
    Qwen3_5TextConfig,
    Qwen3_5TextModel,
    Qwen3VLMoeTextConfig,
    Qwen3VLMoeTextModel,
)

from adatp.flops import (
    PRESETS,
    DecoderShape,
    DeltaNet,
    decode_flops,
    lm_head_flops,
    paper_macs,
    prefill_flops,
)
from flop_counting import QWEN2_05B, QWEN2_7B, QWEN25_3B, QWEN25_7B, counted, on_meta, within_one_percent

# --- the literature's convention --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "published"),
    [(QWEN2_7B, (40.77, 41.42, 52.69, 48.82)), (QWEN2_05B, (3.49, 3.54, 4.14, 3.94))],
    ids=["7B", "0.5B"],
)
def test_presets_reproduce_what_papers_print(config: dict[str, int], published: Sequence[float]) -> None:
    shape = DecoderShape.from_config(Qwen2Config(**config))
    visual = [6272] * shape.layers
    assert [round(paper_macs(shape, visual, preset) / 1e12, 2) for preset in PRESETS] == list(published)
    assert paper_macs(shape, visual) == paper_macs(shape, visual, "fastvid")


def test_the_default_preset_is_half_of_the_real_flops_of_the_visual_tokens() -> None:
    shape = DecoderShape.from_config(Qwen2Config(**QWEN2_7B))
    visual = list(range(2800, 0, -100))
    assert 2 * paper_macs(shape, visual) == prefill_flops(shape, visual)


def test_dycoke_adds_a_hundred_decode_steps() -> None:
    shape, n = DecoderShape(2, 8, 2, 1, 4, 16, 10), 5
    added = paper_macs(shape, [n] * 2, "dycoke") - paper_macs(shape, [n] * 2, "fastv")
    assert added == 2 * 100 * ((4 * 8**2 + 2 * 8 * 16) + 2 * (8 * n + 8 * 101 / 2))


@pytest.mark.parametrize("preset", PRESETS)
def test_paper_macs_adds_up_layers_with_counts_of_their_own(preset: str) -> None:
    shape = DecoderShape.from_config(Qwen2Config(**QWEN2_05B))
    one, other = (paper_macs(shape, [n] * 24, preset) for n in (1000, 100))
    assert 24 * paper_macs(shape, [1000] * 6 + [100] * 18, preset) == 6 * one + 18 * other


def test_what_does_not_fit_is_refused() -> None:
    shape = DecoderShape(3, 8, 2, 1, 4, 16, 10)
    with pytest.raises(ValueError, match="fastv, dycoke"):
        paper_macs(shape, [5] * 3, "fastvlm")
    for flops in (paper_macs, prefill_flops):
        with pytest.raises(ValueError, match="each of 3 layers, not 2"):
            flops(shape, [5] * 2)
    hybrid = DecoderShape(3, 8, 2, 1, 4, 16, 10, mixer=DeltaNet((0, 1), 1, 1, 4, 4, 4))
    for preset in PRESETS[:3]:
        with pytest.raises(ValueError, match=f"'{preset}' knows no linear attention"):
            paper_macs(hybrid, [5] * 3, preset)
    with pytest.raises(ValueError, match="each of 3 layers, not 4"):
        decode_flops(shape, [5] * 4, 1)


# --- reading configs --------------------------------------------------------------------------------------


def test_shape_from_a_config_without_the_optional_entries() -> None:
    config = SimpleNamespace(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=10
    )
    assert DecoderShape.from_config(config) == DecoderShape(2, 64, 4, 4, 16, 128, 10)
    config.head_dim, config.num_key_value_heads = 32, 2
    assert DecoderShape.from_config(config) == DecoderShape(2, 64, 4, 2, 32, 128, 10)
    config.head_dim = config.num_key_value_heads = None
    assert DecoderShape.from_config(config) == DecoderShape(2, 64, 4, 4, 16, 128, 10)


def test_shapes_whose_layers_differ_are_refused() -> None:
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 10,
    }
    hybrid = SimpleNamespace(model_type="hybrid", layer_types=["linear_attention", "full_attention"], **sizes)
    with pytest.raises(ValueError, match=r"linear attention \(hybrid\)"):
        DecoderShape.from_config(hybrid)
    net = {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 3}
    for name, value in {**net, "linear_value_head_dim": 4}.items():
        setattr(hybrid, name, value)
    with pytest.raises(ValueError, match=r"linear attention \(hybrid\)"):  # one of its sizes is missing
        DecoderShape.from_config(hybrid)
    hybrid.linear_conv_kernel_dim = 5
    assert DecoderShape.from_config(hybrid).mixer == DeltaNet((0,), 1, 2, 3, 4, 5)
    experts = {**sizes, "model_type": "sparse", "num_experts": 4, "num_experts_per_tok": 2}
    experts |= {"moe_intermediate_size": 32}
    everywhere: list[dict[str, Any]] = [{"decoder_sparse_step": 1}, {"shared_expert_intermediate_size": 8}]
    for says in everywhere:
        shape = DecoderShape.from_config(SimpleNamespace(**experts, **says, mlp_only_layers=[]))
        assert shape.experts == 4
        assert shape.intermediate == 2 * 32 + says.get("shared_expert_intermediate_size", 0)
    dense: list[dict[str, Any]] = [{"mlp_only_layers": [0]}, {"first_k_dense_replace": 1}]
    dense = [{**says, **some} for says in everywhere for some in dense]
    for some in [*dense, {"mlp_layer_types": ["dense", "sparse"]}]:
        shape = DecoderShape.from_config(SimpleNamespace(**experts, **some))
        assert (shape.dense, shape.dense_intermediate) == ((0,), sizes["intermediate_size"])
        more = shape.attention_layer_macs(0) - shape.attention_layer_macs(1)
        assert more == shape.hidden * (3 * (shape.dense_intermediate - shape.intermediate) - shape.experts)
    for some in [{}, {"decoder_sparse_step": 2}, {**everywhere[1], "decoder_sparse_step": 2}]:
        with pytest.raises(ValueError, match=r"dense among sparse layers \(sparse\)"):
            DecoderShape.from_config(SimpleNamespace(**experts, **some))


# --- real decoders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [QWEN2_7B, QWEN2_05B], ids=["LLaVA-OneVision-7B", "LLaVA-OneVision-0.5B"])
def test_prefill_and_decode_of_llava_onevision(config: dict[str, int]) -> None:
    check_decoder(on_meta(lambda: Qwen2Model(Qwen2Config(**config))))


@pytest.mark.parametrize("config", [QWEN25_3B, QWEN25_7B], ids=["Qwen2.5-VL-3B", "Qwen2.5-VL-7B"])
def test_prefill_and_decode_of_qwen2_5_vl(config: dict[str, int]) -> None:
    text = Qwen2_5_VLConfig(text_config=config).text_config
    check_decoder(on_meta(lambda: Qwen2_5_VLTextModel(text)))


def test_prefill_and_decode_of_gemma3() -> None:
    """Five of six layers hold a window alone."""
    text = Gemma3TextConfig(sliding_window=512)
    assert DecoderShape.from_config(text).windows[:6] == (512,) * 5 + (None,)
    check_decoder(on_meta(lambda: Gemma3TextModel(text)))


def check_decoder(model: Any) -> None:
    shape, length = DecoderShape.from_config(model.config), 6272 + 30
    head = torch.empty(shape.vocab, shape.hidden, device="meta")
    cache = None

    def read(tokens: int) -> None:
        nonlocal cache
        out = model(
            inputs_embeds=torch.empty(1, tokens, shape.hidden, device="meta"),
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        torch.nn.functional.linear(out.last_hidden_state[:, -1], head)

    prefill = prefill_flops(shape, [length] * shape.layers) + lm_head_flops(shape, 1)
    assert counted(lambda: read(length)) == within_one_percent(prefill)
    first = decode_flops(shape, [length] * shape.layers, 1)
    assert counted(lambda: read(1)) == within_one_percent(first)
    assert counted(lambda: read(1)) == within_one_percent(
        decode_flops(shape, [length] * shape.layers, 2) - first
    )


def test_prefill_and_decode_of_qwen3_5() -> None:
    check_decoder(on_meta(lambda: Qwen3_5TextModel(Qwen3_5TextConfig(num_hidden_layers=8))))


SMALL_HYBRID: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 160, "vocab_size": 100, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "pad_token_id": 0,
    "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
def test_linear_attention_to_the_last_product(experts: bool) -> None:
    """All that is left out: what the convolution makes of padding, and the gate of the shared expert."""
    if experts:
        sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        sizes |= {"shared_expert_intermediate_size": 40, "experts_implementation": "eager"}
        model = Qwen3_5MoeTextModel(Qwen3_5MoeTextConfig(**SMALL_HYBRID, **sizes)).eval()
    else:
        model = Qwen3_5TextModel(Qwen3_5TextConfig(**SMALL_HYBRID)).eval()
    shape, cache, channels = DecoderShape.from_config(model.config), None, 2 * 2 * 8 + 4 * 16

    def read(tokens: int, padding: int) -> int:
        nonlocal cache

        def run() -> None:
            nonlocal cache
            cache = model(inputs_embeds=torch.randn(1, tokens, 64), past_key_values=cache).past_key_values

        left_out = 2 * padding * channels * 4 + 3 * tokens * 64 * experts
        return counted(run) - 2 * left_out

    assert read(128, 3) == prefill_flops(shape, [128] * 3)  # complete chunks
    assert read(64, 7) == prefill_flops(shape, [64] * 3, past=128)
    update = 2 * 2 * 3 * 4 * 8 * 16  # computed element by element, which the counter does not see
    assert read(1, 1) == decode_flops(shape, [192] * 3, 1) - lm_head_flops(shape, 1) - update
    assert read(1, 1) == (
        decode_flops(shape, [192] * 3, 2)
        - decode_flops(shape, [192] * 3, 1)
        - lm_head_flops(shape, 1)
        - update
    )
    assert 2 * paper_macs(shape, [128] * 3) == prefill_flops(shape, [128] * 3)


def small_decoder() -> Qwen2Model:
    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=160, vocab_size=100, attn_implementation="eager",
    )  # fmt: skip
    return Qwen2Model(config).eval()


def test_a_ragged_prefill_with_scores_counts_each_layer_by_itself() -> None:
    model = small_decoder()
    shape = DecoderShape.from_config(model.config)
    tokens, rows = [90, 90, 50, 21, 21], 7
    hidden = torch.randn(1, 90, 64)
    cos, sin = model.rotary_emb(hidden, torch.arange(90)[None])

    def run() -> None:
        state = hidden
        for layer, n in zip(model.layers, tokens, strict=True):
            state = layer(state[:, :n], position_embeddings=(cos[:, :n], sin[:, :n]), attention_mask=None)
        for n in (tokens[1], tokens[2]):
            torch.randn(4, rows, 16) @ torch.randn(4, 16, n)

    assert counted(run) == prefill_flops(shape, tokens, scored={1: rows, 2: rows})


def test_a_second_turn_attends_to_the_past_and_decode_to_a_growing_ragged_cache() -> None:
    model = small_decoder()
    shape = DecoderShape.from_config(model.config)
    cache = model(inputs_embeds=torch.randn(1, 40, 64), use_cache=True).past_key_values
    turn = counted(lambda: model(inputs_embeds=torch.randn(1, 12, 64), past_key_values=cache))
    assert turn == prefill_flops(shape, [12] * 5, past=40)

    context, steps = [52, 52, 30, 9, 9], 3
    macs = sum(shape.linear_macs + 2 * (n + i) * 64 for n in context for i in range(1, steps + 1))
    assert decode_flops(shape, context, steps) == 2 * (macs + steps * 64 * 100)


def test_a_mixture_of_experts_counts_the_experts_a_token_visits() -> None:
    config = Qwen3VLMoeTextConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        moe_intermediate_size=96, num_experts=4, num_experts_per_tok=2, intermediate_size=7, vocab_size=100,
        attn_implementation="eager", experts_implementation="eager", pad_token_id=0,
        rope_parameters={"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4},
    )  # fmt: skip
    model = Qwen3VLMoeTextModel(config).eval()
    run = counted(lambda: model(inputs_embeds=torch.randn(1, 50, 64)))
    assert run == within_one_percent(prefill_flops(DecoderShape.from_config(config), [50, 50]))
