"""What the README shows is what the code prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_the_python_example_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    number = next(i for i, (_, code) in enumerate(BLOCKS) if "tiny.load()" in code)
    (language, code), (_, expected) = BLOCKS[number : number + 2]
    assert language == "python"
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out.split()
    for word, told in zip(shown, expected.split(), strict=True):
        if word.startswith("0."):
            assert float(word) == pytest.approx(float(told), rel=1e-6)
        else:
            assert word == told


def test_the_settings_shown_are_the_defaults() -> None:
    from adatp import AdaTP

    defaults = AdaTP()
    shown = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", README, re.MULTILINE))
    names = {"on": True, "off": False}
    assert {"flops", "tau_s", "tau_r", "adaptive", "max_queries", "relevance"} <= set(shown)
    for name, value in shown.items():
        told = names.get(value, value.strip('`"'))
        assert str(getattr(defaults, name)) == str(told)
