"""Shared setup: one thread a worker, torchvision for transformers' own video processors, the command line.

`make test` keeps torchvision beside the environment: where its compiled operators do not fit the build of
torch, importing it fails, and transformers with it. What transformers uses of it needs none of these
operators, so declaring the two that are missed at import is enough for the tests. The package itself never
needs torchvision.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

import device
from running import Run

if TYPE_CHECKING:
    from torch import Tensor

    from adatp import AdaTP
    from adatp.methods.token_plan import TokenPlan
    from adatp.plan import Selection

collect_ignore = ["vllm_plugin", "package"]  # in environments of their own: `make vllm`, `make package`
pytest_plugins = ["agreement", "browser", "pytester", "run_rows"]

hypothesis.settings.register_profile("suite", deadline=None)  # a slow machine is no fault
hypothesis.settings.load_profile("suite")

torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))  # `make rounding` tries other settings
device.use()
torch.backends.mkldnn.enabled = os.environ.get("TEST_ONEDNN", "1") != "0"

BESIDE = Path(sys.prefix) / "torchvision"
if BESIDE.is_dir():
    sys.path.append(str(BESIDE))
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def pytest_report_header() -> str:
    """`make versions` runs the suite on several."""
    import transformers  # not before torchvision is on the path

    return f"transformers {transformers.__version__} from {Path(transformers.__file__).parent}"


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: to look through it for garbage again and again takes a
    tenth of the time of all tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; exit code, stdout and stderr."""
    from adatp.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture(params=["late", "early"])
def prune(request: pytest.FixtureRequest) -> AdaTP:
    """Cuts between layers alone, and one in front of the first as well."""
    from suite import EARLY, LATE

    return {"late": LATE, "early": EARLY}[request.param]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of every family, saved with its own processor as on the hub."""
    from families import FAMILIES, build
    from processors import PROCESSORS

    folder = tmp_path_factory.mktemp("hub")
    for family in FAMILIES:
        build(family).save_pretrained(folder / family.name)
        PROCESSORS[family]().save_pretrained(folder / family.name)
    return folder


@pytest.fixture
def first_scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query rows, tokens and scores that the first cut of each sample is made by, in order."""
    from adatp.methods.token_plan import TokenPlan

    observed: list[tuple[Tensor, Tensor, Tensor]] = []
    select = TokenPlan.select

    def spy(
        plan: TokenPlan, layer: int, sample: int, alive: Tensor, log_scores: Tensor, hidden: Tensor
    ) -> Selection:
        if layer == min(plan.cuts - {0}):
            observed.append((plan.queries[sample], alive, log_scores.exp().float()))
        return select(plan, layer, sample, alive, log_scores, hidden)

    monkeypatch.setattr(TokenPlan, "select", spy)
    return observed


@pytest.fixture
def no_pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that imports pyplot, which holds state of the process. What imported it before does not
    count: gradio does so wherever it answers."""
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    monkeypatch.delattr("matplotlib.pyplot", raising=False)
    yield
    assert "matplotlib.pyplot" not in sys.modules
