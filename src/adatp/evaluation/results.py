"""The work file: stores every answer of an evaluation at once, so that a killed run can continue.

It has one JSON object per line, of three kinds: a *pin* (a setting that later runs must share), a *question*,
or a *run*'s answer to a question.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adatp.errors import AdaTPError
from adatp.locking import lock

KINDS = {
    "pin": ("value",),
    "question": ("frames", "seed", "kind", "text", "answer", "third"),
    "run": ("frames", "number", "word", "flops_ratio", "visual_mean", "visual_last"),
}
"""First key of a line -> the keys that follow."""

_STARTS = [f'{{"{kind}": '.encode() for kind in KINDS]

SYNC_SECONDS = 1.0
"""Seconds of work that a power cut may cost; a killed process loses nothing."""

GROWING = ("limit",)
"""Pins that a later run may raise: the first questions stay the same ones."""


class ResultsError(AdaTPError, ValueError):
    """The work file can't be used. The message is one line; the file is not changed."""


class Results:
    """The answers so far, in memory and in the work file. A context manager; one process at a time.

    Attributes:
        pins: name -> value of each setting that the file is bound to.
        questions: ``questions[frames][number]`` is a question's line.
        answers: ``answers[run, frames][number]`` is an answer's line.
        skips: ``skips[run, frames]`` is the reason why a run is impossible. It is not in the file: the next
            run tries again.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and prepare to append to it. A last line cut short by a kill is dropped.

        Raises:
            ResultsError: the file is not a work file, is damaged before its last line, or is in use.
            OSError: it can't be read or written.
        """
        self.path = path
        self.pins: dict[str, Any] = {}
        self.questions: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.answers: dict[tuple[str, int], dict[int, dict[str, Any]]] = defaultdict(dict)
        self.skips: dict[tuple[str, int], str] = {}
        self._file = path.open("a+b")
        try:
            if not lock(self._file):
                raise ResultsError(f"{self.path} is being written by another run")
            self._file.seek(0)
            complete = self._read(self._file.read())
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(complete)
        self._synced = time.monotonic()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(*(() if kind is None else (OSError,))):  # on a full disk, the first failure counts
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()  # writes the buffer

    def pin(self, name: str, value: Any) -> None:
        """Bind the file to a setting.

        Args:
            name: name of the setting.
            value: a value that JSON can express.

        Raises:
            ResultsError: the file is bound to another value; of those in `GROWING`, to a higher one.
        """
        self.pin_all([(name, value)])

    def pin_all(self, settings: Sequence[tuple[str, Any]]) -> None:
        """Bind the file to several settings. If it refuses one, it is bound to none of them.

        Args:
            settings: names and values, as in `pin`.

        Raises:
            ResultsError: as in `pin`.
        """
        for name, value in settings:
            self._lacks(name, value)
        for name, value in settings:
            if self._lacks(name, value):
                self._append({"pin": name, "value": value})

    def _lacks(self, name: str, value: Any) -> bool:
        """Whether a setting is still to be written. Refuses one that the file is not bound to."""
        if name not in self.pins or (name in GROWING and value > self.pins[name]):
            return True
        if (held := self.pins[name]) != (value := json.loads(json.dumps(value))):
            if isinstance(held, dict) and isinstance(value, dict):  # report only what differs
                changed = [key for key in {**held, **value} if held.get(key) != value.get(key)]
                held, value = ({key: side.get(key) for key in changed} for side in (held, value))
            raise ResultsError(
                f"{self.path} holds results of another run: {name} is {json.dumps(held)} there, "
                f"{json.dumps(value)} here; give another output file"
            )
        return False

    def add_question(self, frames: int, number: int, **facts: Any) -> None:
        """Add a question, or check that it equals the one in the file.

        Raises:
            ResultsError: the file has another question of that number.
        """
        record = {"question": number, "frames": frames, **facts}
        held = self.questions[frames].get(number)
        if held is None:
            self._append(record)
        elif held != record:
            raise ResultsError(
                f"{self.path} holds results on other questions: number {number} of {frames} frames is "
                f"{held['text']!r} there, {facts['text']!r} here; give another output file"
            )

    def add_answer(self, run: str, frames: int, number: int, **facts: Any) -> None:
        """Add a run's answer to a question."""
        self._append({"run": run, "frames": frames, "number": number, **facts})

    def wants(self, run: str, frames: int, number: int) -> bool:
        """Whether a question is still to be asked."""
        return (run, frames) not in self.skips and number not in self.answers[run, frames]

    def _read(self, data: bytes) -> int:
        """Read the file's lines. Returns the length of the complete ones."""
        *lines, rest = data.split(b"\n")
        number = 0
        try:
            for number, line in enumerate(lines, 1):  # noqa: B007
                self._take(json.loads(line))
            number += 1
            if not any(start.startswith(rest[: len(start)]) for start in _STARTS):
                raise ValueError(rest)
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError):
            raise ResultsError(
                f"{self.path}: line {number} is damaged or not a result; mend it, or give another output file"
            ) from None
        return len(data) - len(rest)

    def _take(self, record: dict[str, Any]) -> None:
        kind = next(iter(record))
        if tuple(record)[1:] != KINDS[kind]:
            raise ValueError(kind)
        name = record[kind]
        if kind == "pin":
            held, value = self.pins.get(name, record["value"]), record["value"]
            if name in GROWING:
                value = held = max(held, value)
            if held != value:
                raise ValueError(name)
            self.pins[name] = value
        elif kind == "question":
            self.questions[record["frames"]][name] = record
        else:
            self.answers[name, record["frames"]][record["number"]] = record

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record)
        self._take(json.loads(line))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
