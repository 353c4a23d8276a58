"""LLaVA-Video: a converted checkpoint computes what the official code does, newlines after rows included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from adatp import AdaTP
from adatp.errors import RefusedError
from adatp.models import family_of, registry
from adatp.models.converted.llava_video import with_newlines
from adatp.models.converted.llava_video_checkpoint import convert
from agreement import Agree
from families import END, PAD, START, TEXT
from oracle import recorded
from processors import tokenizer
from prompts import asked, frames
from suite import GREEDY

SIDE, TOKENS = 5, 3  # patches and pooled tokens on a side of a frame: odd, so that pooling interpolates
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "image_size": 4 * SIDE,
    "patch_size": 4,
}


class Official:
    """The official forward, written anew from its description: tower, projector, pooling, newlines, Qwen2."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.text = Qwen2ForCausalLM(Qwen2Config(**{**TEXT, "vocab_size": 104})).eval()
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(**VISION, num_hidden_layers=2, vision_use_head=False)
        ).eval()
        self.first, self.second = torch.nn.Linear(24, 32), torch.nn.Linear(32, 32)
        self.newline = torch.randn(32)

    @torch.no_grad()
    def video(self, pixels: Tensor) -> Tensor:
        """(frames, 3, height, width) -> (frames * rows * (columns + 1), d)."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states[-1]
        states = self.second(torch.nn.functional.gelu(self.first(states)))
        grid = states.view(len(pixels), SIDE, SIDE, -1).permute(0, 3, 1, 2)
        pooled = torch.nn.functional.interpolate(grid, size=(TOKENS, TOKENS), mode="bilinear")
        tokens = []
        for frame in pooled.permute(0, 2, 3, 1):
            for row in frame:
                tokens += [*row, self.newline]
        return torch.stack(tokens)

    @torch.no_grad()
    def logits(self, before: list[int], pixels: Tensor, after: list[int]) -> Tensor:
        """Of every token of a prompt with one video."""
        embed = self.text.get_input_embeddings()
        parts = [embed(torch.tensor(before)), self.video(pixels), embed(torch.tensor(after))]
        return self.text(inputs_embeds=torch.cat(parts)[None]).logits[0]

    def save(self, folder: Path, *, tower: bool = True, **config: Any) -> None:
        """As the official code saves it."""
        folder.mkdir()
        state = dict(self.text.state_dict())
        state |= {"model.image_newline": self.newline}
        for name, linear in (("0", self.first), ("2", self.second)):
            state |= {f"model.mm_projector.{name}.{key}": part for key, part in linear.state_dict().items()}
        if tower:
            for name, part in self.tower.state_dict().items():
                inner = name if name.startswith("vision_model.") else f"vision_model.{name}"
                state[f"model.vision_tower.vision_tower.{inner}"] = part
        save_file(
            {name: part.detach().clone().contiguous() for name, part in state.items()},
            folder / "model.safetensors",
        )
        said = {**self.text.config.to_dict(), "model_type": "llava_qwen", "mm_newline_position": "grid"}
        said |= {
            "mm_spatial_pool_mode": "bilinear",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
        }
        (folder / "config.json").write_text(json.dumps({**said, **config}))
        tokenizer({PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>"}).save_pretrained(folder)


@pytest.fixture
def official() -> Official:
    return Official()


@pytest.fixture
def converted(official: Official, tmp_path: Path) -> Path:
    official.save(tmp_path / "official")
    siglip(tmp_path)
    convert(tmp_path / "official", tmp_path / "converted", tmp_path / "siglip")
    return tmp_path / "converted"


def siglip(folder: Path) -> None:
    """The tower's own config; it has a layer more."""
    SiglipVisionConfig(**VISION, num_hidden_layers=3).save_pretrained(folder / "siglip")


def test_the_converted_model_computes_what_the_official_one_does(official: Official, converted: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(converted).eval()
    pixels = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    before, after = [START, 7, 8], [9, 10, 11, END]
    placeholders = [model.config.video_token_id] * (4 * TOKENS * (TOKENS + 1))
    ids = torch.tensor([before + placeholders + after])
    with torch.no_grad():
        features = model.get_video_features(pixels[None]).pooler_output[0]
        logits = model(input_ids=ids, pixel_values_videos=pixels[None]).logits[0]
    assert torch.equal(features, official.video(pixels))
    torch.testing.assert_close(logits, official.logits(before, pixels, after), rtol=0, atol=1e-6)


def test_newlines_stand_after_rows() -> None:
    tokens = torch.arange(1, 9.0).view(1, 8, 1)
    found = with_newlines(tokens, 2, torch.zeros(1))[0, :, 0]
    assert found.tolist() == [1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 8, 0]


@torch.no_grad()
def test_it_is_pruned_and_keeps_its_newlines(converted: Path, agree: Agree) -> None:
    model = AutoModelForImageTextToText.from_pretrained(converted, attn_implementation="eager").eval()
    processor = AutoProcessor.from_pretrained(converted)
    inputs = asked(processor, ["what is the red ball ?"], [frames(6, 20, 20)])
    with AdaTP(flops=0.6)(model) as run, recorded(model) as record:
        model.generate(**inputs, **{**GREEDY, "suppress_tokens": None})
    [layout] = run.layouts
    assert layout.grids == ((6, TOKENS, TOKENS),)
    newlines = (
        (inputs["input_ids"][0] == model.config.video_token_id).nonzero().squeeze(1)[TOKENS :: TOKENS + 1]
    )
    assert len(newlines) == 6 * TOKENS
    assert not torch.isin(newlines, layout.index).any()
    assert all(torch.isin(newlines, kept[0]).all() for kept in run.report.kept)
    assert run.report.visual_tokens[-1] < run.report.visual_tokens[0]
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=1e-5)


@torch.no_grad()
def test_the_general_rule_finds_the_same_newlines(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForImageTextToText.from_pretrained(converted).eval()
    inputs = asked(AutoProcessor.from_pretrained(converted), ["what is ?"], [frames(4, 20, 20)])
    layouts = []
    for entries in (registry._entries, {}):
        monkeypatch.setattr(registry, "_entries", entries)
        with AdaTP(flops=0.7)(model) as run:
            model(**inputs)
        layouts += run.layouts
    assert family_of("llava_video").by_rule
    assert layouts[0].grids == layouts[1].grids
    assert torch.equal(layouts[0].index, layouts[1].index)
    assert torch.equal(layouts[0].cell, layouts[1].cell)


def test_what_the_tower_costs() -> None:
    """Every patch is projected; a frame has the tokens of its rows."""
    from adatp.models.converted.llava_video import LlavaVideoConfig

    config = LlavaVideoConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
    )
    ours = family_of("llava_video")
    assert ours.grid(config, 4, 0, 0) == (4, TOKENS, TOKENS)
    assert ours.vision_flops(config, [(4, TOKENS, TOKENS)]) == 2 * ours.vision_flops(
        config, [(2, TOKENS, TOKENS)]
    )


def test_the_command(official: Official, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    official.save(tmp_path / "official")
    siglip(tmp_path)
    arguments = (tmp_path / "official", tmp_path / "new", "--vision-tower", tmp_path / "siglip")
    code, out, _ = run("convert", "llava-video", *arguments)
    assert code == 0
    assert "adatp ask --model" in out
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "new").iterdir()
    }
    code, _, err = run("convert", "llava-video", *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "exists already" in err


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llava"}, "no LLaVA-Video"),
        ({"mm_newline_position": "one_token"}, "only 'grid'"),
        ({"add_faster_video": True}, "only False"),
        ({"mm_spatial_pool_stride": 4}, "not 2"),
        ({"hidden_size": 64}, "lacks"),
        ({"vocab_size": 100}, "no room"),
    ],
)
def test_what_is_something_else_is_refused_and_leaves_nothing(
    official: Official, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    official.save(tmp_path / "official", **config)
    siglip(tmp_path)
    with pytest.raises(RefusedError, match=reason):
        convert(tmp_path / "official", tmp_path / "new", tmp_path / "siglip")
    assert {path.name for path in tmp_path.iterdir()} == {"official", "siglip"}


def test_a_missing_tower_is_asked_for(official: Official, tmp_path: Path) -> None:
    official.save(tmp_path / "official", tower=False)
    with pytest.raises(RefusedError, match="--vision-tower"):
        convert(tmp_path / "official", tmp_path / "new")
