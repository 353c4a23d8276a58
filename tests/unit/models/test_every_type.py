"""Every model type that reads videos has a family, gets the general rule, or is refused with a reason."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import transformers.models.auto.modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from adatp.errors import PruningError
from adatp.models import REFUSED, by_general_rule, family_of, supported
from adatp.models.general import GeneralRule, offered
from adatp.session import load_config
from families import FAMILIES, Glm46V, batch, build
from running import Run
from suite import LATE, ONE, VERSION, dropped

ROOT = Path(__file__).parents[3]
ANSWERS = {
    **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    **getattr(auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}),
}
READ_VIDEOS = sorted({*offered(), *({*VIDEO_PROCESSOR_MAPPING_NAMES} & {*ANSWERS})})
newest = pytest.mark.skipif(VERSION < (5, 24), reason="older versions do not have all of these types")


DEFAULTS_LACK: dict[str, dict[str, Any]] = {
    "gemma4": {"vision_config": {}},
    "gemma4_unified": {"vision_config": {}},
    "glm4v_moe": {"text_config": {"head_dim": 128}},
    "minimax_m3_vl": {
        "text_config": {"num_hidden_layers": 2, "sparse_attention_config": {"sparse_attention_freq": [0, 1]}}
    },
    "qwen3_omni_moe": {"thinker_config": {"text_config": {"head_dim": 128}}},
    "qwen3_omni_moe_thinker": {"text_config": {"head_dim": 128}},
}
"""What released configs say and transformers' default ones do not."""


def config_of(model_type: str) -> Any:
    return CONFIG_MAPPING[model_type](**DEFAULTS_LACK.get(model_type, {}))


@newest
def test_each_type_is_known_tried_or_refused() -> None:
    """A new one is to be looked at: this test is red until it is in the list."""
    assert {*READ_VIDEOS} - {*supported()} - {*REFUSED} == {"glmga", "qwen2_5_omni", "qwen3_omni_moe"}
    assert {*REFUSED} <= {*by_general_rule()}
    assert {*by_general_rule()} - {*REFUSED} == {"glmga"}
    for model_type in READ_VIDEOS:
        assert isinstance(family_of(model_type), GeneralRule) or model_type not in by_general_rule()


@pytest.mark.parametrize("model_type", [name for name in REFUSED if name in READ_VIDEOS])
def test_the_refused_are_refused_by_their_config_alone(model_type: str, tmp_path: Path, run: Run) -> None:
    """Before a processor or weights are looked for: there are none here."""
    config_of(model_type).save_pretrained(tmp_path)
    with pytest.raises(PruningError, match=r"can't be pruned") as refused:
        load_config(tmp_path)
    code, out, err = run("ask", "--model", tmp_path, "clip.mp4", "What happens?")
    assert (code, out, err) == (2, "", f"adatp: {refused.value}\n")


@newest
def test_what_is_not_refused_gets_through(tmp_path: Path) -> None:
    for number, model_type in enumerate(name for name in READ_VIDEOS if name not in REFUSED):
        folder = tmp_path / str(number)
        config_of(model_type).save_pretrained(folder)
        assert load_config(folder).model_type in (model_type, f"{model_type}_thinker")


def test_the_command_gives_the_reasons(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    _, out, _ = run("models")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    page = (ROOT / "docs" / "families.md").read_text()
    for model_type in {*REFUSED} & {*by_general_rule()}:
        assert "can't be pruned [" in " ".join(lines[model_type].split())
        assert f"] {REFUSED[model_type]}." in out
        assert f"`{model_type}`" in page
    assert "qwen2_5_omni" not in lines


@pytest.mark.skipif("glmga" not in ANSWERS, reason="this version does not have the type")
@torch.no_grad()
def test_a_type_without_a_module_of_its_own_has_anothers() -> None:
    """GLM-GA is a config over GLM-4.6V's model."""
    assert "glmga" in offered()
    given = {name: value for name, value in Glm46V.config().to_dict().items() if name != "model_type"}
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(CONFIG_MAPPING["glmga"](**given)).eval()
    known = build(Glm46V)
    with LATE(model) as run, LATE(known) as other:
        model(**batch(Glm46V, ONE))
        known(**batch(Glm46V, ONE))
    assert dropped(run)
    assert run.layouts[0].grids == other.layouts[0].grids
    assert torch.equal(run.layouts[0].index, other.layouts[0].index)


NAMED = {*supported(), *READ_VIDEOS, *(family.name for family in FAMILIES)}


def test_no_type_is_named_outside_the_families() -> None:
    """Code that asks for a type by name is a family's. The exception maps types to lmms-eval's own names."""
    package = ROOT / "src" / "adatp"
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "models"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in NAMED
    }
    assert naming == {"integrations/lmms_models/own.py"}


def test_the_table_is_of_families_that_there_are() -> None:
    """At least 30 types have passed the suite, on this version of transformers."""
    noted = json.loads((ROOT / "src" / "adatp" / "models" / "tested.json").read_text())
    assert len(noted["families"]) >= 30
    assert not any(
        "fails" in cell or "not run" in cell for row in noted["families"].values() for cell in row.values()
    )
