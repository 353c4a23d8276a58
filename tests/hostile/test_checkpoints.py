"""Checkpoints from strangers: each command refuses each broken one in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from damage import BROKEN, Damage, damaged, setting, unreadable_header, without_weights
from hostile import Call, Run, check

COMMANDS: dict[str, tuple[str, ...]] = {
    "ask": ("ask", "--frames", "4", "--max-new-tokens", "1", "--json", "{tmp}/out.json"),
    "show": ("show", "--frames", "4", "--max-new-tokens", "1", "--out", "{tmp}/out"),
    "flops": ("flops",),
    "bias": ("bias", "--frames", "4", "--limit", "1", "--json", "{tmp}/out.json", "--plot", "{tmp}/out"),
    "eval": ("eval", "--frames", "4", "--limit", "1", "--methods", "vanilla", "--plot", "{tmp}/out.png"),
    "ablate": ("ablate", "--frames", "4", "--limit", "1"),
    "demo": ("demo", "--port", "0"),
}
"""Every command that takes a model."""


def call_on(command: str, source: str, name: str, damage: Damage, words: str) -> Call:
    return Call(
        (*COMMANDS[command], "--model", "{tmp}/bad", *(("--flops", "0.8") if source == "hub" else ())),
        words,
        lambda tmp, world: void(damaged(world / source, tmp / "bad", name, damage)),
    )


def void(_: object) -> None:
    return


@pytest.mark.enable_socket  # `demo` listens before it loads anything
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_config(run: Run, tmp_path: Path, world: Path, how: str, command: str) -> None:
    check(run, call_on(command, "model", "config.json", BROKEN[how], "/bad: "), tmp_path, world)


SETTINGS: list[tuple[str, Any, str]] = [
    ("model_type", ["llava_onevision"], "model_type is a name, not ['llava_onevision']"),
    ("model_type", {"a": 1}, "model_type is a name"),
    ("model_type", None, "model_type is a name, not null"),
    ("model_type", "qwen2", "'qwen2' is not supported"),
    ("text_config", None, "text_config is a config of its own, not null"),
    ("text_config", [], "text_config is a config of its own"),
    ("text_config", {}, "the checkpoint lacks most of them"),
    ("vision_config", None, "vision_config is a config of its own, not null"),
    ("vision_config", "siglip", "vision_config is a config of its own"),
    ("text_config.num_hidden_layers", 0, "text_config.num_hidden_layers is a whole number from 1"),
    ("text_config.num_hidden_layers", -3, "text_config.num_hidden_layers is a whole number from 1"),
    ("text_config.num_hidden_layers", 10**9, "text_config.num_hidden_layers is a whole number from 1"),
    ("text_config.num_hidden_layers", 10**30, "not a number beyond 64 bits"),
    ("text_config.num_hidden_layers", 12.5, "text_config.num_hidden_layers is a whole number"),
    ("text_config.num_hidden_layers", True, "text_config.num_hidden_layers is a whole number"),
    ("text_config.num_hidden_layers", "12", "text_config.num_hidden_layers is a whole number"),
    ("text_config.num_hidden_layers", None, "text_config.num_hidden_layers is a whole number"),
    ("text_config.num_attention_heads", 0, "text_config.num_attention_heads is a whole number"),
    ("text_config.num_attention_heads", 7, "can't be divided by its 7 heads"),
    ("text_config.num_key_value_heads", 0, "text_config.num_key_value_heads is a whole number"),
    ("text_config.num_key_value_heads", 4, "its 6 heads can't be divided by 4 key-value heads"),
    ("text_config.hidden_size", 0, "text_config.hidden_size is a whole number"),
    ("text_config.hidden_size", 10**12, "text_config.hidden_size is a whole number"),
    ("text_config.hidden_size", [192], "text_config.hidden_size is a whole number"),
    ("text_config.hidden_size", {}, "text_config.hidden_size"),
    ("text_config.intermediate_size", -1, "text_config.intermediate_size is a whole number"),
    ("text_config.vocab_size", 0, "text_config.vocab_size is a whole number"),
    ("text_config.vocab_size", 10**15, "text_config.vocab_size is a whole number"),
    ("text_config.max_position_embeddings", -1, "text_config.max_position_embeddings is a whole number"),
    ("text_config.rms_norm_eps", -1.0, "text_config.rms_norm_eps is a number above 0"),
    ("text_config.rms_norm_eps", float("nan"), "text_config.rms_norm_eps is a number above 0"),
    ("text_config.rope_parameters.rope_theta", 0, "rope_theta is a number above 0"),
    ("text_config.pad_token_id", 10**30, "text_config.pad_token_id can't be a number beyond 64 bits"),
    ("text_config.head_dim", 0, "text_config.head_dim is a whole number"),
    ("vision_config.num_attention_heads", 0, "vision_config.num_attention_heads is a whole number"),
    ("vision_config.num_attention_heads", 3, "can't be divided by its 3 heads"),
    ("vision_config.patch_size", 0, "vision_config.patch_size is a whole number"),
    ("vision_config.patch_size", 1000, "its patch_size 1000 is more than its image_size 96"),
    ("vision_config.patch_size", "8", "vision_config.patch_size is a whole number"),
    ("vision_config.image_size", 0, "vision_config.image_size is a whole number"),
    ("vision_config.image_size", 10**7, "vision_config.image_size is a whole number"),
    ("vision_config.num_channels", 0, "vision_config.num_channels is a whole number"),
    ("vision_config.hidden_size", 0, "vision_config.hidden_size is a whole number"),
    ("vision_config.num_hidden_layers", 10**9, "vision_config.num_hidden_layers is a whole number"),
    ("video_token_index", float("inf"), "video_token_index can't be inf"),
]
WEIGHED = ("the checkpoint lacks most of them",)
"""What only a look at the weights shows: not ``flops``, which needs none."""


@pytest.mark.parametrize("command", ["ask", "flops"])
@pytest.mark.parametrize(("keys", "value", "words"), SETTINGS)
def test_a_config_with_implausible_numbers(
    run: Run, tmp_path: Path, world: Path, keys: str, value: Any, words: str, command: str
) -> None:
    if command == "flops" and words in WEIGHED:
        command = "bias"
    check(run, call_on(command, "model", "config.json", setting(keys, value), words), tmp_path, world)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
        for how in BROKEN
    ]
    + [("generation_config.json", how) for how in BROKEN if how not in ("missing", "an empty object")],
)
def test_a_broken_tokenizer_or_processor(run: Run, tmp_path: Path, world: Path, name: str, how: str) -> None:
    if (name, how) in (("tokenizer_config.json", "missing"), ("tokenizer_config.json", "an empty object")):
        words = "padding token"  # it says which token pads, and that a prompt needs
    else:
        words = "/bad: "
    check(run, call_on("ask", "model", name, BROKEN[how], words), tmp_path, world)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        for how in ("empty", "a list", "null", "no UTF-8", "nested", "a folder", "a FIFO", "a dangling link")
    ]
    + [
        (name, how)
        for name in ("config.json", "tokenizer.json")
        for how in ("an empty object", "missing", "a device")
    ]
    + [("model.safetensors", how) for how in ("empty", "half", "binary", "missing", "a folder", "a FIFO")],
)
def test_a_broken_text_encoder(run: Run, tmp_path: Path, world: Path, name: str, how: str) -> None:
    call = call_on("ask", "model", f"relevance/{name}", BROKEN[how], "/bad/relevance can't be loaded: ")
    check(run, call, tmp_path, world)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("relevance/model.safetensors", without_weights("text_model"), "lacks 38 weights (text_model"),
        ("relevance/model.safetensors", without_weights("head"), "lacks "),
        ("relevance/model.safetensors", unreadable_header, "cut short"),
        ("relevance/config.json", setting("text_config.vocab_size", 7), "can't be loaded"),
        ("relevance/config.json", setting("text_config.vocab_size", 10**15), "text_config.vocab_size is"),
        ("relevance/config.json", setting("text_config", None), "text_config is a config of its own"),
        ("relevance/config.json", setting("text_config.projection_size", 64), "can't be loaded"),
        ("relevance/config.json", setting("vision_config.num_hidden_layers", 2), "fewer layers"),
        ("relevance/config.json", setting("vision_config.num_attention_heads", 0), "is a whole number"),
        ("relevance/tokenizer.json", setting("model.vocab.star", 131_000), "does not know"),
        ("model.safetensors", unreadable_header, "cut short"),
        ("model.safetensors", without_weights("vision_tower"), "lacks"),
        ("model.safetensors", without_weights("layers.3.mlp"), "lacks 7 weights"),
        ("tokenizer.json", setting("model.vocab.star", 131_000), "the model knows 132"),
        ("tokenizer.json", setting("model", None), "holds no tokenizer"),
        ("tokenizer.json", setting("model.type", "Nothing"), "/bad: "),
        ("tokenizer.json", setting("padding", {"strategy": {"Fixed": 10**9}}), "pads every text"),
        ("generation_config.json", setting("num_beams", 10**6), "num_beams is a whole number"),
        ("generation_config.json", setting("num_return_sequences", 5), "num_return_sequences"),
        ("generation_config.json", setting("repetition_penalty", -1.0), "penalty"),
        ("generation_config.json", setting("cache_implementation", "nothing"), "cache_implementation"),
        ("processor_config.json", setting("processor_class", "Nothing"), "/bad: "),
        ("processor_config.json", setting("processor_class", 7), "/bad: "),
    ],
)
def test_one_thing_is_wrong(
    run: Run, tmp_path: Path, world: Path, name: str, damage: Damage, words: str
) -> None:
    check(run, call_on("ask", "model", name, damage, words), tmp_path, world)


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("processor_config.json", "video_processor.size", {"height": 0, "width": 16}, "size.height is"),
        ("processor_config.json", "video_processor.size", {"height": -1, "width": 16}, "size.height is"),
        ("processor_config.json", "video_processor.size", {"height": 10**7, "width": 16}, "size.height is"),
        ("processor_config.json", "video_processor.size", {"shortest_edge": 10**6}, "size.shortest_edge is"),
        ("processor_config.json", "video_processor.size", {"height": "a", "width": 16}, "/bad: "),
        ("processor_config.json", "video_processor.size", "large", "/bad: "),
        ("processor_config.json", "video_processor.image_mean", [0.5, 0.5], "refuses this video"),
        ("processor_config.json", "video_processor.image_mean", "grey", "refuses this video"),
        ("processor_config.json", "video_processor.video_processor_type", "Nothing", "/bad: "),
        ("processor_config.json", "video_processor", None, "/bad: "),
        ("processor_config.json", "video_processor", [], "/bad: "),
        ("processor_config.json", "image_processor", 3, "/bad: "),
        ("processor_config.json", "num_image_tokens", "many", "refuses this video"),
    ],
)
def test_a_processor_of_the_hub_with_wrong_settings(
    run: Run, tmp_path: Path, world: Path, name: str, keys: str, value: Any, words: str
) -> None:
    check(run, call_on("ask", "hub", name, setting(keys, value), words), tmp_path, world)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}", "refuses this video"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[99]['role'] }}", "refuses this video"),
        ("{{ raise_exception('no') }}", "(no)"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "refuses this video"),
        ("{{ ''.__class__.__mro__ }}", "refuses this video"),
        ("nothing of the prompt", "the processor refuses this video"),
        ("", "refuses this video"),
    ],
)
def test_a_chat_template_that_fails(run: Run, tmp_path: Path, world: Path, template: str, words: str) -> None:
    def damage(path: Path) -> None:
        path.write_text(template)

    check(run, call_on("ask", "hub", "chat_template.jinja", damage, words), tmp_path, world)


ENDLESS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
DOUBLING = "{% set all = namespace(text='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}" + (
    "{% set all.text = all.text + all.text %}{% endfor %}{{ all.text }}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 'a' * 10 ** 10 }}", "takes more than 1024 MB for one text"),
        ("{{ '%9999999999d' % 1 }}", "takes more than 1024 MB for one text"),
        (DOUBLING, "takes more than 1024 MB for one text"),
        (ENDLESS, "takes more than 1 s for one text"),
    ],
)
def test_a_chat_template_that_takes_all(
    run: Run, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    if template == ENDLESS:  # the others may take longer than that to fill their memory
        monkeypatch.setattr("adatp.checkpoint.trial.MOST_SECONDS", 1)

    def damage(path: Path) -> None:
        path.write_text(template)

    check(run, call_on("ask", "hub", "chat_template.jinja", damage, words), tmp_path, world)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_chat_template_that_takes_all_of_a_run(
    run: Run, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("adatp.checkpoint.trial.MOST_SECONDS", 1)
    damaged(
        world / "hub", tmp_path / "bad", "chat_template.jinja", lambda path: void(path.write_text(ENDLESS))
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"video": str(world / "clip.mp4"), "question": "what ?"}) + "\n")
    code, out, err = run(
        "run", rows, "--out", tmp_path / "out", "--model", tmp_path / "bad", "--workers", workers
    )
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "takes more than 1 s for one text" in err
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.parametrize("file", ["tokenizer.json", "relevance/tokenizer.json"])
def test_a_tokenizer_whose_pattern_tries_every_way(run: Run, tmp_path: Path, world: Path, file: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": "([a-y ]+)+$"}, "behavior": "Isolated", "invert": False}
    words = "its tokenizer gives up on this text"
    call = call_on("ask", "model", file, setting("pre_tokenizer", split), words)
    command, *options = call.arguments
    asked = (command, "{world}/clip.mp4", "what is it " * 4 + "z", *options)
    check(run, replace(call, arguments=asked), tmp_path, world)
