"""Random requests against the masked reference.

The short form draws the same scenarios every time. ``make fuzz MINUTES=60`` draws new ones until the time is
over and prints a smallest example of each fault.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import fake_flash
from adatp.methods import AdaTP
from families import Prompt
from judging import WrongError
from playing import play
from scenarios import Scenario, Turn, scenarios

MINUTES, EXAMPLES = float(os.environ.get("FUZZ_MINUTES", "0")), int(os.environ.get("FUZZ_EXAMPLES", "80"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
LOOSE = {"database": None, "deadline": None, "suppress_health_check": [*HealthCheck]}


class Tally:
    """What has been played, and what it came to."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def play(self, scenario: Scenario) -> None:
        self.kinds.update(scenario.kinds)
        try:
            self.outcomes[play(scenario)] += 1
        except BaseException:
            self.outcomes["failed"] += 1
            raise

    def lines(self) -> Iterator[str]:
        yield f"{self.outcomes.total():6} scenarios"
        for counter in (self.outcomes, self.kinds):
            for name, number in sorted(counter.items()):
                yield f"{number:6} {name}"


@pytest.fixture
def tally(capsys: pytest.CaptureFixture[str]) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    with capsys.disabled():
        print("", *tally.lines(), sep="\n")


@pytest.mark.skipif(MINUTES > 0, reason="the long form runs")
def test_some_scenarios(tally: Tally) -> None:
    @seed(SEED)
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], **LOOSE)
    @given(scenarios())
    def several(scenario: Scenario) -> None:
        tally.play(scenario)

    several()
    assert tally.outcomes["equal"] > EXAMPLES / 10


class Hunt:
    """Scenarios played until the time is over; each fault by the smallest scenario found.

    Attributes:
        faults: by signature, the scenario and the end of the traceback.
        shown: the signatures that need no further example.
    """

    def __init__(self, tally: Tally, minutes: float) -> None:
        self.tally, self.end = tally, time.monotonic() + 60 * minutes
        self.faults: dict[str, tuple[Scenario, str]] = {}
        self.shown: set[str] = set()

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def check(self, scenario: Scenario) -> None:
        if self.over:
            return
        try:
            self.tally.play(scenario)
        except Exception as error:
            if signature(error) not in self.shown:
                self.faults[signature(error)] = scenario, traceback.format_exc()[-1500:]
                raise

    def round(self, number: int) -> list[str]:
        """A hundred scenarios; the faults that are new."""
        drawn = given(scenarios())(self.check)
        phases = [Phase.generate, Phase.shrink]
        with suppress(Exception):  # kept in `faults`
            seed(number)(settings(max_examples=100, phases=phases, **LOOSE)(drawn))()
        new = sorted(self.faults.keys() - self.shown)
        self.shown |= self.faults.keys()
        return [f"FAULT {name}\n{self.faults[name][0]!r}\n{self.faults[name][1]}" for name in new]


@pytest.mark.skipif(MINUTES <= 0, reason="by hand: make fuzz MINUTES=60")
def test_many_scenarios(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    """Goes on after a fault."""
    hunt = Hunt(tally, MINUTES)
    for number in count(SEED):
        if hunt.over:
            break
        for fault in hunt.round(number):
            with capsys.disabled():
                print(f"\n{fault}", flush=True)
    assert not hunt.faults


def signature(error: BaseException) -> str:
    """One for all examples of a fault: its type, the line of ours it came from, its words without numbers."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/adatp/" in frame.filename]
    where = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].name}" if frames else ""
    return f"{type(error).__name__} {where} {re.sub('[0-9][0-9.e+-]*', '#', str(error))[:60]}"


@pytest.mark.parametrize("family", ["smolvlm", "qwen2_vl"])
def test_unused_keys_of_a_static_cache_are_no_fault(family: str) -> None:
    """The second call of a split prompt has a mask: transformers' flash attention is wrong without one."""
    split = Scenario(
        family=family,
        attention=fake_flash.NAME,
        method=AdaTP(flops=0.95),
        prompts=(Prompt(), Prompt()),
        padding="left",
        way="split",
        cache="static",
        slack=1,
        turns=(),
        interruption=None,
        text_before=False,
    )
    assert play(split) in ("equal", "not pruned")


def test_it_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With kept tokens rotated by their place among those kept, a plain scenario fails."""
    from adatp.engine import hooks

    plain = Scenario(
        family="llava_onevision",
        attention="sdpa",
        method=AdaTP(flops=0.5, early="off"),
        prompts=(Prompt(),),
        padding="left",
        way="calls",
        cache="dynamic",
        slack=0,
        turns=(Turn(0, 3, 1),),
        interruption=None,
        text_before=False,
    )
    assert play(plain) == "equal"

    def recounted(rotary: tuple[Any, ...], index: Any) -> tuple[Any, ...]:
        return tuple(part[..., : index.shape[1], :] for part in rotary)

    monkeypatch.setattr(hooks, "gather_rotary", recounted)
    with pytest.raises(WrongError, match="differ by"):
        play(plain)
