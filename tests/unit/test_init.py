"""What `import adatp` gives: the public names, and nothing imported before one of them is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import adatp
from adatp.errors import AdaTPError

HEAVY = ("torch", "transformers", "numpy", "av")


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_adatp_imports_nothing_heavy() -> None:
    loaded = f"print(*[name for name in {HEAVY} if name in sys.modules])"
    assert run(f"import sys, adatp; dir(adatp); adatp.AdaTPError; {loaded}").split() == []
    assert "torch" in run(f"import sys, adatp; adatp.Report; {loaded}").split()


def test_dir_is_the_public_names() -> None:
    assert dir(adatp) == sorted(adatp.__all__)  # whatever other tests have imported by now
    assert all(getattr(adatp, name).__name__ == name for name in dir(adatp))


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    imports = [
        node
        for block in ast.parse(inspect.getsource(adatp)).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    ]
    named = {alias.asname: node.module for node in imports for alias in node.names}
    assert named == adatp._HOMES
    assert all(alias.asname == alias.name for node in imports for alias in node.names)


def test_submodules_and_a_star_can_be_imported_from_the_package() -> None:
    """Nor does any of them import gradio, which the page alone does."""
    code = (
        "import sys, adatp.cli, adatp.demo.results; from adatp import *; from adatp import tiny, video; "
        "print(AdaTP.name, tiny.CLIP.name, video.Video.__name__, 'gradio' in sys.modules)"
    )
    assert run(code) == "adatp clip.mp4 Video False\n"


def test_every_public_error_has_one_root() -> None:
    errors = [name for name in adatp.__all__ if name.endswith("Error")]
    assert len(errors) > 3
    assert all(issubclass(getattr(adatp, name), AdaTPError) for name in errors)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'adatp' has no attribute 'Prunner'"):
        adatp.Prunner  # noqa: B018
