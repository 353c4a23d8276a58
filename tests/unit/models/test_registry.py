"""Who registers which family, inside the package and outside of it."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

import adatp.models
from adatp import PruningError
from adatp.models import (
    Family,
    GeneralRuleError,
    UnsupportedModelError,
    family_of,
    register,
    registry,
    supported,
)
from adatp.models.qwen2_vl import Qwen2VL

FOLDER = Path(adatp.models.__file__).parent
FILES = [path for path in sorted(FOLDER.glob("*.py")) if "\n@register(" in path.read_text()]
SHARED = {"adatp.models.family", "adatp.models.registry"}

# A family of one's own in one's own file.
OWN = """
from adatp.models import register
from adatp.models.qwen2_vl import Qwen2VL

@register("own_vl", checkpoint="me/own-vl")
class OwnVL(Qwen2VL):
    pass
"""


@pytest.fixture(autouse=True)
def registrations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten afterwards, and entry points are read anew."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_unread_entry_points", True)
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution: its modules, and its entry points by name."""

    def call(entry_points: dict[str, str], **modules: str) -> None:
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / "own_families-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-families\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[adatp.families]", *lines]))
        monkeypatch.syspath_prepend(tmp_path)

    return call


def test_every_family_file_is_found_and_says_an_example() -> None:
    written = {
        ast.literal_eval(decorator.args[0])
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    }
    assert written == {*supported()}
    assert [*supported()] == sorted(supported())
    assert all(supported().values())
    assert isinstance(family_of("qwen2_vl"), Qwen2VL)
    assert supported()["qwen2_vl"] == "Qwen/Qwen2-VL-7B-Instruct"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_family_file_is_short_and_knows_no_other(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    ours = {str(module) for module in modules if str(module).startswith("adatp.models")}
    elsewhere = ("adatp.models.shared", "adatp.models.converted")
    assert {module for module in ours if not module.startswith(elsewhere)} <= SHARED


def test_a_family_is_registered_by_one_decorator() -> None:
    @register("first", checkpoint="me/first")
    @register("second")
    class Own(Qwen2VL):
        pass

    assert isinstance(family_of("first"), Own)
    assert isinstance(family_of("second"), Own)
    assert supported()["first"] == "me/first"
    assert supported()["second"] is None


def test_a_known_type_is_replaced() -> None:
    @register("qwen2_vl")
    class Own(Qwen2VL):
        pass

    assert type(family_of("qwen2_vl")) is Own
    assert supported()["qwen2_vl"] is None


def test_what_is_no_family_is_refused() -> None:
    wrong: Any = type("Wrong", (), {})
    with pytest.raises(TypeError, match=r"Wrong is registered for 'own', but is no adatp\.models\.Family"):
        register("own")(wrong)
    unfinished: Any = type("Unfinished", (Family,), {})
    with pytest.raises(TypeError, match=r"abstract.* grid\b"):
        register("own")(unfinished)
    with pytest.raises(UnsupportedModelError):
        family_of("own")


def test_an_unknown_model_is_refused() -> None:
    config = Qwen2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    with pytest.raises(UnsupportedModelError, match=r"'qwen2' is not supported.*gemma3, .*CONTRIBUTING"):
        family_of(Qwen2ForCausalLM(config).config.model_type)


def test_an_installed_package_adds_a_family(install: Install) -> None:
    install({"own": "own_family"}, own_family=OWN)
    assert isinstance(family_of("qwen2_vl"), Qwen2VL)
    assert "own_family" not in sys.modules  # until somebody asks for what is not there
    assert isinstance(family_of("own_vl"), Qwen2VL)
    assert supported()["own_vl"] == "me/own-vl"


def test_a_list_of_all_has_those_of_installed_packages(install: Install) -> None:
    install({"own": "own_family:OwnVL"}, own_family=OWN)
    assert "own_vl" in supported()


def test_an_installed_package_replaces_nothing(install: Install) -> None:
    install({"own": "own_family"}, own_family=OWN.replace("own_vl", "qwen2_vl"))
    assert supported()["qwen2_vl"] == "Qwen/Qwen2-VL-7B-Instruct"
    assert type(family_of("qwen2_vl")) is Qwen2VL


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_family", "RuntimeError: two lines"),
        ("own_family:Nothing", "AttributeError: "),
        ("missing_family", "ModuleNotFoundError: No module named 'missing_family'"),
    ],
)
def test_a_broken_entry_point_is_named_and_the_others_work(install: Install, value: str, reason: str) -> None:
    broken = "raise RuntimeError('two\\nlines')"
    install({"bad": value, "own": "other_family"}, broken_family=broken, own_family="", other_family=OWN)
    with pytest.warns(UserWarning, match="can't be loaded") as caught:
        assert isinstance(family_of("own_vl"), Qwen2VL)
    [warning] = caught
    told = str(warning.message)
    assert told.startswith(f"the entry point 'bad' ({value}) of own-families in the group 'adatp.families'")
    assert reason in told
    assert "\n" not in told
    assert warning.filename == __file__
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        supported()


def test_the_command_says_so_in_one_line(install: Install, run: Callable[..., tuple[int, str, str]]) -> None:
    install({"bad": "missing_family", "own": "own_family"}, own_family=OWN)
    code, out, err = run("models")
    assert code == 0
    assert "me/own-vl" in out
    [line] = err.splitlines()
    assert line.startswith("adatp: warning: the entry point 'bad' (missing_family) of own-families")


def test_a_family_names_the_transformers_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with both versions, wherever the model is met; the list of models says it as well."""
    assert registry.later_version("gemma4") is None
    monkeypatch.setattr(registry.transformers, "__version__", "5.5.0")
    with pytest.raises(PruningError, match=r"'gemma4' needs transformers 5\.23 or newer, this is 5\.5\.0$"):
        family_of("gemma4")
    assert registry.later_version("gemma4") == "5.23"
    late = {name for name in supported() if registry.later_version(name)}
    assert late == {
        "gemma4",
        "kimi_k25",
        "llava_video",
        "nemotron_h_omni",
        "perception_lm",
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
    }
    family_of("gemma3")


def test_all_refusals_of_a_model_are_of_one_class() -> None:
    """Users catch one; the classes in it say which kind of refusal it is."""
    assert issubclass(UnsupportedModelError, PruningError)
    assert issubclass(GeneralRuleError, PruningError)
    with pytest.raises(PruningError):
        family_of("mllama")
