"""What the page about serving shows is what the server does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving import Command

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


@pytest.mark.enable_socket
def test_the_page_prints_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = {"/tmp/videos": str(tmp_path / "videos"), "python": sys.executable}
    found = [content for _, content in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)]
    _, copy, start, address, curl, answer, program, printed, _ = found
    for word, place in here.items():
        copy, start, curl = (each.replace(word, place) for each in (copy, start, curl))
    subprocess.run(["bash", "-ec", copy], check=True)
    assert start.startswith("adatp serve ")
    command = Command(start.split()[2:])
    try:
        served, shown = command.address, address.strip().removesuffix("/v1")
        done = subprocess.run(
            ["bash", "-c", curl.replace(shown, served)], capture_output=True, text=True, check=True
        )
        mine, theirs = json.loads(done.stdout), json.loads(answer)
        for name in ("id", "created"):
            assert type(mine.pop(name)) is type(theirs.pop(name))
        assert mine.pop("usage") == pytest.approx(theirs.pop("usage"))
        assert mine == theirs
        exec(compile(program.replace(shown, served), "serve.md", "exec"), {})
        assert capsys.readouterr().out == printed
    finally:
        assert command.stop() == (0, "")
