"""No code of a checkpoint runs unless it is asked for, nobody is asked, and pickles stay closed."""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adatp
from adatp import Session
from damage import linked, setting, written
from hostile import Run

PACKAGE = Path(adatp.__file__).parent
QUICK = ("ask", "--frames", "4", "--max-new-tokens", "1")
CODE = """
from pathlib import Path
(Path({folder!r}) / "it-ran").touch()
from adatp.tiny.processor import TinyProcessor
class Brought(TinyProcessor):
    @classmethod
    def register_for_auto_class(cls, name=None):
        pass
    @classmethod
    def from_pretrained(cls, path, **_):
        return cls(TinyProcessor.from_pretrained(Path(path).with_name("plain")).tokenizer)
def generate(model, **kwargs):
    return type(model).generate(model, **kwargs)
"""


def with_code(name: str, key: str) -> Callable[[Path], None]:
    """A file that names Python code of the folder under ``auto_map``."""

    def prepare(folder: Path) -> None:
        path = folder / name
        raw = json.loads(path.read_text()) if path.exists() else {}
        raw["auto_map"] = {key: "brought.Brought"}
        if key == "AutoProcessor":
            raw["processor_class"] = "Brought"
        if key == "AutoTokenizer":
            raw |= {"tokenizer_class": "Brought", "auto_map": {key: ["brought.Brought", "brought.Brought"]}}
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(raw))

    return prepare


def with_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(folder=str(folder)))


BROUGHT = {
    "config": (with_code("config.json", "AutoConfig"), False),
    "model": (with_code("config.json", "AutoModelForImageTextToText"), False),
    "processor": (with_code("processor_config.json", "AutoProcessor"), True),
    "tokenizer": (with_code("tokenizer_config.json", "AutoTokenizer"), False),
    "relevance": (with_code("relevance/tokenizer_config.json", "AutoTokenizer"), False),
    "generate": (with_generate, False),
}
"""What a folder may bring, and whether it can't be done without."""


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails a test in which something is asked on standard input."""

    def asked(*_: object) -> str:
        pytest.fail("standard input was read")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def checkpoint(world: Path, folder: Path, what: str) -> Path:
    linked(world / "model", folder)
    for place in (folder, folder / "relevance"):
        (place / "brought.py").write_text(CODE.format(folder=str(folder)))
    BROUGHT[what][0](folder)
    return folder


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("what", BROUGHT)
def test_code_of_a_checkpoint_does_not_run(run: Run, world: Path, tmp_path: Path, what: str) -> None:
    folder = checkpoint(world, tmp_path / "model", what)
    code, _, err = run(*QUICK, "--model", folder)
    assert not (folder / "it-ran").exists()
    if BROUGHT[what][1]:
        assert code == 2
        assert "--trust-remote-code" in err
    if code:
        assert (code, err.count("\n")) == (2, 1)
    else:
        assert err == ""


@pytest.mark.usefixtures("unasked")
def test_code_of_a_checkpoint_runs_where_it_is_trusted(run: Run, world: Path, tmp_path: Path) -> None:
    linked(world / "model", tmp_path / "plain")
    folder = checkpoint(world, tmp_path / "model", "processor")
    code, _, err = run(*QUICK, "--model", folder, "--trust-remote-code")
    assert (code, err) == (0, "")
    assert (folder / "it-ran").exists()
    assert type(Session(folder, trust_remote_code=True).processor).__name__ == "Brought"


def pickled(world: Path, folder: Path, weights: Any) -> Path:
    linked(world / "model", folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_refused_and_how_to_convert_is_said(
    run: Run, world: Path, tmp_path: Path
) -> None:
    folder = pickled(world, tmp_path / "model", load_file(world / "model" / "model.safetensors"))
    code, out, err = run(*QUICK, "--model", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for words in ("pytorch_model.bin", "unpickling can run code", "save_pretrained", "--trust-remote-code"):
        assert words in err
    assert run(*QUICK, "--model", folder, "--trust-remote-code")[0] == 0


class Harmful:
    """Runs something as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_stays_closed(run: Run, world: Path, tmp_path: Path) -> None:
    folder = pickled(world, tmp_path / "model", {"lm_head.weight": Harmful(tmp_path / "it-ran")})
    assert run(*QUICK, "--model", folder)[0] == 2
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.usefixtures("unasked")
def test_a_checkpoint_that_is_converted_runs_no_code(run: Run, world: Path, tmp_path: Path) -> None:
    """Neither does it ask: its tokenizer is read as that of any other checkpoint."""
    folder = tmp_path / "official"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((world / "model" / name).read_bytes())
    (folder / "config.json").write_text('{"model_type": "llava_qwen", "vocab_size": 1000}')
    save_file({"model.vision_tower.vision_tower.a": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "brought.py").write_text(CODE.format(folder=str(folder)))
    with_code("tokenizer_config.json", "AutoTokenizer")(folder)
    code, out, err = run("convert", "llava-video", folder, tmp_path / "new")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (folder / "it-ran").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"official"}


def test_whatever_is_loaded_says_that_no_code_may_run() -> None:
    """Every call in the source: without the keyword, transformers asks on standard input."""
    found = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr != "from_pretrained" or owner in ("TinyProcessor", "SiglipConfig"):
                continue  # ours, and one that knows no code
            found += 1
            said = {keyword.arg for keyword in node.keywords}
            assert "trust_remote_code" in said, f"{path}, line {node.lineno}"
            assert "Model" not in owner.replace("_auto_class", "Model") or "use_safetensors" in said, path
    assert found >= 6


def test_helpers_damage_what_they_say(tmp_path: Path) -> None:
    written('{"a": {"b": 1}}')(tmp_path / "file")
    setting("a.c", 2)(tmp_path / "file")
    assert json.loads((tmp_path / "file").read_text()) == {"a": {"b": 1, "c": 2}}
