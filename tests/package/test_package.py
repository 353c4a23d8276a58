"""`make package`: what is in the wheel and the sdist in ``dist``, and what a user gets from the wheel."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 40_000_000
"""Bytes: each file is smaller, so that a package index takes it without asking."""

PRIVATE = ("PYTHONPATH", "VIRTUAL_ENV", "MYPYPATH")
"""Variables that would show the checkout to the clean environment."""


def built(pattern: str) -> Path:
    (path,) = (ROOT / "dist").glob(pattern)
    return path


@pytest.fixture(scope="module")
def wheel() -> Path:
    return built("*.whl")


@pytest.fixture(scope="module")
def sdist() -> Path:
    return built("*.tar.gz")


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints; it ends with a code, and gets no help from the checkout or a model hub."""
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile torch again takes seconds
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hub"), "COLUMNS": "80"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clean(wheel: Path) -> Iterator[Path]:
    """A folder outside the checkout with an environment, ``env``: the wheel and what it asks for."""
    (torch,) = re.findall(r"^torch==.*", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    with TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "venv", "env", cwd=folder)
        # Torch first: the newest one may be a build of gigabytes. To compile all of it takes a minute.
        for package in (torch, str(wheel)):
            run("env/bin/python", "-m", "pip", "install", "--quiet", "--no-compile", package, cwd=folder)
        yield folder


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    package = {name for name in names if name.startswith("adatp/")}
    assert package == {path.relative_to(ROOT / "src").as_posix() for path in files}
    checkpoints = ("adatp/tiny/checkpoint", "adatp/tiny/checkpoint-scenes")
    weights = {f"{checkpoint}/model.safetensors" for checkpoint in checkpoints}
    assert {"adatp/py.typed", "adatp/tiny/clip.mp4", *weights} <= package
    assert {PurePosixPath(name).parts[0] for name in names - package} == {f"adatp-{version()}.dist-info"}
    assert f"adatp-{version()}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if re.search(r"(^|/)(tests?/|test_|conftest)", name)]
    assert wheel.stat().st_size < LIMIT


def version() -> str:
    (found,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    return str(found)


def test_the_metadata_says_licence_version_and_readme(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"adatp-{version()}.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    assert (metadata["Version"], metadata["License-Expression"]) == (version(), "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme, shown = (ROOT / "README.md").read_text(encoding="utf-8"), str(metadata.get_payload())
    assert shown.splitlines()[0] == readme.splitlines()[0]
    assert len(shown.split()) > 0.95 * len(readme.split())
    assert re.findall(r"\]\((?!https?://)", readme)
    assert not re.findall(r"\]\((?!https?://)", shown)
    assert f"\nversion: {version()}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_to_the_repository_if_it_has_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from hatch_build import shown_by_an_index

    text = "[a](docs/a.md#b), [c](https://d.org), ![e](docs/f.png) [g](#h)"
    assert shown_by_an_index(text, None, "1.0") == "a, [c](https://d.org),  [g](#h)"
    assert shown_by_an_index(text, "https://example.org/me/adatp/", "1.0") == (
        "[a](https://example.org/me/adatp/blob/v1.0/docs/a.md#b), [c](https://d.org), "
        "![e](https://example.org/me/adatp/raw/v1.0/docs/f.png) [g](#h)"
    )


def test_the_sdist_has_what_a_clone_has_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = [PurePosixPath(name) for name in archive.getnames()]
    assert {path.parts[0] for path in members} == {f"adatp-{version()}"}
    paths = {path.relative_to(path.parts[0]).as_posix() for path in members}
    assert {path.split("/")[0] for path in paths} == {
        *("src", "tests", "benchmarks", "training", "docs", "examples", "mkdocs.yml", "Makefile"),
        *("constraints.txt", "constraints-lmms-eval.txt", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
        *("LICENSE", "CITATION.cff", "pyproject.toml", "PKG-INFO", ".gitignore", "hatch_build.py"),
    }
    assert {"tests/conftest.py", "tests/package/test_package.py", "src/adatp/py.typed"} <= paths
    assert not [path for path in paths if re.search(r"(^|/)(\.venv|__pycache__|runs/)", path)]
    assert sdist.stat().st_size < LIMIT


def test_the_installed_package_answers(clean: Path) -> None:
    place = run("env/bin/python", "-c", "import adatp; print(adatp.__file__)", cwd=clean)
    assert Path(place.strip()).resolve().is_relative_to((clean / "env").resolve())
    printed = run("env/bin/adatp", "ask", cwd=clean)
    assert "what colour is the star ?" in printed
    assert re.search(r"^│ yellow +│$", printed, re.MULTILINE), printed


def test_a_users_program_runs(clean: Path) -> None:
    program = Path(__file__).with_name("user_program.py")
    lines = run("env/bin/python", program, cwd=clean).splitlines()
    rows = [line.split() for line in lines]
    assert [(name, answer, fell) for name, answer, _, fell in rows] == [
        *(("vanilla", "yellow", "False"), ("adatp", "yellow", "True"), ("fastv", "yellow", "True")),
    ]
    assert [float(ratio) for _, _, ratio, _ in rows] == pytest.approx([1, 0.273, 0.5], abs=0.01)


@pytest.mark.parametrize(
    ("change", "errors"),
    [(("", ""), 0), (("flops=0.5", 'flops="half"'), 1), (("answer.text", "answer.words"), 1)],
    ids=["right", "argument", "attribute"],
)
def test_types_are_checked_from_outside(clean: Path, change: tuple[str, str], errors: int) -> None:
    """A right program passes strict mypy; wrong ones don't, so the types are really read."""
    source = Path(__file__).with_name("user_program.py").read_text(encoding="utf-8")
    assert change[0] in source
    (clean / "user_program.py").write_text(source.replace(*change), encoding="utf-8")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", "env/bin/python")
    printed = run(*mypy, "user_program.py", cwd=clean, code=min(errors, 1))
    if errors:
        assert f"Found {errors} error" in printed, printed
    else:
        assert "Success: no issues found in 1 source file" in printed, printed
