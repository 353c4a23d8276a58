"""What docs/benchmarks.md shows is what the code does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adatp import Session
from adatp.methods import AdaTP
from adatp.paper.offline import write_lossless
from adatp.tiny.world import make_clip

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


def test_the_guess_is_what_the_dry_run_prints(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = run("paper", "--dry-run", "--out", tmp_path / "paper")
    assert code == 0
    assert out.splitlines()[-1] in PAGE


class BaseModel:
    """As VLMEvalKit's, as far as the launcher meets it."""

    allowed_types = ("text", "image")

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        assert all(part["type"] in self.allowed_types for part in message)
        return str(self.generate_inner(message, dataset))  # type: ignore[attr-defined]


def test_the_launcher_of_vlmevalkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[str, Any] = {}
    stand_ins = {"run": {"main": None}, "vlmeval.config": {"supported_VLM": table}}
    stand_ins |= {"vlmeval": {}, "vlmeval.vlm": {}, "vlmeval.vlm.base": {"BaseModel": BaseModel}}
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "run_adatp.py", "exec", dont_inherit=True), {"__name__": "run_adatp"})
    model = table["adatp"](pretrained=None, frames=8, max_new_tokens=8)
    write_lossless(tmp_path / "clip.mp4", make_clip(0, 8, "test").frames)
    question = "what colour is the square ?"
    message = [
        {"type": "video", "value": str(tmp_path / "clip.mp4")},
        {"type": "text", "value": question},
    ]
    expected = Session().ask(tmp_path / "clip.mp4", question, AdaTP(flops=0.273), frames=8, max_new_tokens=8)
    assert model.generate(message, "Video-MME") == expected.text != ""
