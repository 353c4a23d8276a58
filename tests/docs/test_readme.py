"""What the README and the guide for contributors show is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
)

from adatp import AdaTP, Session, tiny
from adatp.cli import main
from adatp.methods.fastv import FastV
from adatp.methods.visionzip import VisionZip
from adatp.models import UnsupportedModelError, family_of, registry
from agreement import Agree
from clips import write_clip
from families import CLIP, COMPLETE, IMAGE, TEXT, LlavaNextVideo, Prompt, Qwen25VL, batch, build
from flop_counting import flop_counter
from oracle import recorded
from rounding import limit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
METHOD = (ROOT / "docs" / "method.md").read_text()


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def shown(first_words: str, page: str = README) -> list[str]:
    """The lines of the page's block that begins with these words."""
    [block] = [content for _, content in blocks(page) if content.startswith(first_words)]
    return [line.rstrip() for line in block.splitlines()]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that the command prints, 80 columns wide."""
    capsys.readouterr()
    assert main(arguments) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_context_of_the_readme_prints_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = [code for language, code in blocks(README) if language == "python" and "generate(" in code]
    session = Session()
    inputs = session.prepare(tiny.CLIP, tiny.QUESTION).inputs
    names = {"AdaTP": AdaTP, "model": session.model, "processor": session.processor, "inputs": inputs}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    assert "27.3% of the prefill's FLOPs" in capsys.readouterr().out


def test_the_page_of_the_session_prints_what_is_shown(
    capsys: pytest.CaptureFixture[str], hub: Path, tmp_path: Path
) -> None:
    """Its first block, of a model of the hub, with a random one; all others print the block that follows."""
    names: dict[str, Any] = {}
    [(_, first), *found] = blocks((ROOT / "docs" / "session.md").read_text())
    first = first.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(hub / Qwen25VL.name))
    first = first.replace("holiday.mp4", str(write_clip(tmp_path / "holiday.mp4")))
    exec(compile(first, "session.md", "exec"), {})
    assert len(found) == 10
    for (language, code), (_, expected) in zip(found[::2], found[1::2], strict=True):
        assert language == "python"
        capsys.readouterr()
        exec(compile(code, "session.md", "exec", dont_inherit=True), names)
        assert capsys.readouterr().out == expected


def test_the_demo_prints_what_is_shown_but_for_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = printed(capsys, "ask", "--compare")

    def untimed(lines: list[str]) -> list[str]:
        return [line for line in lines if not line.startswith(" Time:")]

    assert untimed(out) == untimed(shown("what colour", QUICKSTART))
    assert in_order(untimed(shown("what colour")), out)
    labels = [line.split("  ")[0] for line in out]
    assert in_order([line.split("  ")[0] for line in shown("what colour")], labels)


def in_order(part: list[str], lines: list[str]) -> bool:
    """Whether all of some lines are among others, in the same order."""
    rest = iter(lines)
    return all(line in rest for line in part)


def test_the_budgets_shown_are_those_of_the_7b_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The sizes of Qwen2-7B after the tower that is the config's default, SigLIP so400m at 384 pixels."""
    monkeypatch.setenv("COLUMNS", "80")
    qwen2_7b = {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    LlavaOnevisionConfig(text_config=qwen2_7b).save_pretrained(tmp_path)
    table = shown("llava_onevision, 28 layers", METHOD)
    assert printed(capsys, "flops", "--model", str(tmp_path))[: len(table)] == table
    refused = printed(capsys, "flops", "--model", str(tmp_path), "--flops", "0.0001")
    [lowest] = re.findall(r"the lowest is ([\d.]+)%", "\n".join(refused))
    assert f"target, {lowest} % here" in METHOD


def test_the_settings_shown_are_the_defaults() -> None:
    defaults = AdaTP()
    table = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", METHOD, re.MULTILINE))
    names = {"on": True, "off": False}
    for name, value in table.items():
        noted = names.get(value, value.strip('`"'))
        assert str(getattr(defaults, name)) == str(noted)
    others = {"start", "end", "global_debias", "local_debias"}  # rows of two settings
    assert set(table) == set(vars(defaults)) - others
    for name in others:
        assert f"`{name}`" in METHOD


def run_guide(part: str) -> dict[str, Any]:
    """What the guide's example that holds ``part`` defines."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    [code] = [code for language, code in blocks(guide) if language == "python" and part in code]
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("family", COMPLETE, ids=lambda family: family.name)
def test_the_example_of_a_method_works(family: Any) -> None:
    """It is FastV but for its name."""
    names = run_guide("class ByAttention")
    prompts = [Prompt(before=1, seed=1), Prompt(before=5, seed=2)]
    model, inputs = build(family), batch(family, prompts)
    runs = []
    for method in (names["ByAttention"](flops=0.6), FastV(flops=0.6, layer=2)):
        with method(model) as run:
            model.generate(**inputs, max_new_tokens=3, do_sample=False)
        runs.append(run.report)
    example, fastv = runs
    assert example.method == "by-attention"
    assert example.visual_tokens[2] < example.visual_tokens[1]
    assert example.flops_ratio == fastv.flops_ratio <= 0.6
    for (layer, mine), theirs in zip(enumerate(example.kept), fastv.kept, strict=True):
        assert all(map(torch.equal, mine, theirs)), layer


class Llava(LlavaNextVideo):
    """4 x 4 patches per image, each of them a token."""

    name = "llava"
    model_class = LlavaForConditionalGeneration
    token = IMAGE
    tokens_a_frame = 16

    @staticmethod
    def config() -> Any:
        return LlavaConfig(
            text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**CLIP), image_token_index=IMAGE
        )

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(frames, 3, 16, 16, generator=generator)}


def test_the_example_of_a_family_works(monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    model, prompts = build(Llava), [Prompt(before=1, seed=1), Prompt(before=5, seed=2)]
    inputs = batch(Llava, prompts)
    with pytest.raises(
        UnsupportedModelError, match=r"'llava' is not supported.*@adatp\.models\.register\('llava'\)"
    ):
        AdaTP()(model)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    names = run_guide("class Llava")
    assert isinstance(family_of("llava"), names["Llava"])
    assert not family_of("llava").takes_videos(None)
    complete = model(**inputs).logits
    with AdaTP(flops=1.0)(model):
        assert torch.equal(model(**inputs).logits, complete)
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    for early in ("on", "off"):
        with AdaTP(flops=0.5, early=early)(model) as run, recorded(model) as record:
            model.generate(**inputs, **settings)
        assert run.report.prompt_visual_tokens == [8 * 16] * 2
        assert 0.49 < run.report.flops_ratio <= 0.5
        agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(Llava))
    with VisionZip(flops=0.5)(model):  # which asks for the tower's attention
        model(**inputs)
    with flop_counter() as counter:
        model.base_model.get_image_features(inputs["pixel_values"])
    noted = run.report.flops.vision
    assert noted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_tables_shown_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("result_tables", ROOT / "benchmarks" / "result_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for (file, mark), section in tables.SECTIONS.items():
        page = (ROOT / file).read_text()
        assert f"<!-- {mark} -->" in page
        assert tables.written(page, mark, section()) == page


def test_the_lines_for_a_checkpoint_of_the_hub_print_an_answer(
    capsys: pytest.CaptureFixture[str], hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lines, with a small random checkpoint of that family."""
    write_clip(tmp_path / "holiday.mp4")
    monkeypatch.chdir(tmp_path)
    [code] = [code for language, code in blocks(README) if language == "python" and "Session(" in code]
    names: dict[str, Any] = {}
    code = code.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(hub / Qwen25VL.name))
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    assert capsys.readouterr().out.startswith(f"{names['answer'].text}\n")
    assert names["answer"].report.flops_ratio < 1
    assert len(code.splitlines()) <= 10


def test_the_readme_is_one_page_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 160
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_no_sentence_is_long(page: str) -> None:
    """At most 35 words. A line of a list, a cell of a table and a heading end one too."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    for part in re.split(r"\n\n|\n(?=[-|#])|\||(?<=[.?!:])\s|·", text):
        assert len(part.split()) <= 35, part
