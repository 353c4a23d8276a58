"""Reads the rows of an input file: each is a question about a video, with its settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adatp.errors import AdaTPError, first_line
from adatp.methods import NAMES, Method, make_method, method_class
from adatp.shard import Shard

LONGEST_LINE = 16 << 20
"""Bytes of a line of JSON; a file without line ends is no list of rows."""

_MOST = {"frames": 1_000_000, "max_new_tokens": 2**31 - 1}


class RowsError(AdaTPError, ValueError):
    """The input can't be read as rows. The message is one line that names the file and the row."""


@dataclass(frozen=True)
class Settings:
    """The settings of one question.

    Attributes:
        method: name of the pruning method or variant.
        flops: FLOPs target, a fraction of vanilla's prefill; None: the method's own default.
        frames: how many to sample.
        max_new_tokens: longest answer, in tokens.
        strict: whether a FLOPs target out of reach is an error. If not, the least that the method can do is
            run.
    """

    method: str = "adatp"
    flops: float | None = None
    frames: int = 32
    max_new_tokens: int = 64
    strict: bool = False

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """These settings, overridden by those of a row. A value of None overrides nothing.

        A method without a FLOPs target ignores a default target.

        Raises:
            ValueError: a value has the wrong type or is out of range.
        """
        own = {name: values[name] for name in vars(self) if values.get(name) is not None}
        for name, most in _MOST.items():
            own[name] = _whole_number(name, own.get(name, getattr(self, name)), most)
        if not isinstance(own.get("strict", False), bool):
            raise ValueError(f"strict is true or false, not {own['strict']!r}")
        if (name := own.get("method", self.method)) not in NAMES:
            raise ValueError(f"no method {name!r}; there are {', '.join(NAMES)}")
        aims = method_class(name).flops is not None
        if "flops" in own:
            own["flops"] = _fraction(own["flops"])
            if not aims:
                raise ValueError(f"method {name!r} has no FLOPs target: leave flops out")
        elif not aims:
            own["flops"] = None
        return replace(self, **own)

    def pruning(self) -> Method:
        """The pruning method with its target."""
        return make_method(self.method, self.flops)

    def facts(self) -> dict[str, Any]:
        """The settings by name, with the method's own FLOPs target if none is given."""
        flops = method_class(self.method).flops if self.flops is None else float(self.flops)
        return {**vars(self), "flops": flops}


def _whole_number(name: str, value: Any, most: int) -> int:
    number = int(value) if isinstance(value, float) and value.is_integer() else value  # of Parquet with nulls
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise ValueError(f"{name} is a whole number from 1 to {most}, not {value!r}")
    return number


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"flops is a fraction of vanilla, in (0, 1], not {value!r}")
    return float(value)


@dataclass(frozen=True)
class Row:
    """One question about one video.

    Attributes:
        number: its place in the input, from 0.
        id: its id in the input, a text or a number; without one, its number.
        video: the path as written in the input.
        question: the question.
        settings: its settings.
    """

    number: int
    id: str | int | float
    video: str
    question: str
    settings: Settings

    @classmethod
    def of(cls, number: int, record: Any, defaults: Settings) -> Row:
        """Make a row from a record of the input.

        Args:
            number: its place in the input.
            record: a dictionary; unknown names are ignored.
            defaults: the settings that it does not give itself.

        Raises:
            ValueError: something is missing or has the wrong type.
        """
        if not isinstance(record, Mapping):
            raise ValueError("not an object with a video and a question")
        for name in ("video", "question"):
            if not isinstance(value := record.get(name), str):
                raise ValueError(f"{name} is missing" if value is None else f"{name} is no text: {value!r}")
        if not record["video"]:
            raise ValueError("video is empty")
        known: Any = record.get("id")
        if known is None or (isinstance(known, float) and not math.isfinite(known)):
            known = number
        if isinstance(known, bool) or not isinstance(known, str | int | float):
            raise ValueError(f"id is a text or a number, not {known!r}")
        return cls(number, known, record["video"], record["question"], defaults.changed(record))

    def facts(self) -> dict[str, Any]:
        """The question and its settings, in the order of the output."""
        return {"row": self.number, "id": self.id, "video": self.video, "question": self.question}


def read_rows(path: Path, defaults: Settings) -> Iterator[Row]:
    """Read the rows of a file, one at a time.

    Args:
        path: a ``.parquet`` file (it needs pyarrow), or JSON, one object per line.
        defaults: settings of rows that give none themselves.

    Raises:
        RowsError: the file can't be read, or a row is no question about a video.
    """
    number, where = 0, "row"
    try:
        if path.suffix.lower() == ".parquet":
            for number, record in enumerate(_parquet(path)):
                yield Row.of(number, record, defaults)
        else:
            where = "line"
            for count, (number, line) in enumerate(_lines(path)):  # noqa: B007
                yield Row.of(count, json.loads(line), defaults)
    except (ValueError, RecursionError) as error:
        if isinstance(error, AdaTPError):
            raise
        reason = "not JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "not UTF-8 text"
        raise RowsError(f"{path}, {where} {number + 1}: {reason}") from error
    except OSError as error:
        raise RowsError(f"{path}: can't be read ({error.strerror or first_line(error)})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 0."""
    if path.exists() and not path.is_file():  # a FIFO can't be read twice
        raise RowsError(f"{path}: can't be read (not a regular file)")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise RowsError(f"{path}, line {number + 1}: longer than {LONGEST_LINE >> 20} MB")
            if line.strip():
                try:
                    yield number, line.decode("utf-8-sig" if number == 0 else "utf-8")
                except UnicodeDecodeError:
                    raise RowsError(f"{path}, line {number + 1}: not UTF-8 text") from None
            number += 1


_COLUMNS = ("id", "video", "question", *vars(Settings()))


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a few at a time in memory."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise RowsError(f'{path}: Parquet needs pyarrow: pip install "adatp[parquet]"') from None
    if not path.is_file():
        raise RowsError(f"{path}: no such file")
    try:
        with parquet.ParquetFile(path) as file:
            known = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=known):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise RowsError(f"{path}: can't be read as Parquet ({first_line(error)})") from error


@dataclass(frozen=True)
class Part:
    """Consecutive rows whose answers are in one file.

    Attributes:
        number: its place among the parts, from 0.
        rows: in the order of the input.
    """

    number: int
    rows: tuple[Row, ...]


def parts(rows: Iterable[Row], size: int) -> Iterator[Part]:
    """Cut rows into parts. The same input always gives the same parts.

    Args:
        rows: all rows of an input.
        size: how many rows a part has. A part continues, to twice as many, while the next row is about the
            same video as the last. So that video is read and encoded once.
    """
    held: list[Row] = []
    number = 0
    for row in rows:
        full = len(held) >= size
        if held and full and (row.video != held[-1].video or len(held) >= 2 * size):
            yield Part(number, tuple(held))
            held, number = [], number + 1
        held.append(row)
    if held:
        yield Part(number, tuple(held))


@dataclass(frozen=True)
class Scanned:
    """Facts from reading an input once.

    Attributes:
        rows: number of rows of all shards.
        parts: number of rows of each part of this shard, by its number.
        digest: digest of all rows with their settings.
    """

    rows: int
    parts: dict[int, int]
    digest: str


def scan(path: Path, defaults: Settings, size: int, shard: Shard) -> Scanned:
    """Read an input once, to check every row before anything slow begins.

    Args:
        path: the input.
        defaults: settings of rows that give none themselves.
        size: see `parts`.
        shard: the shard whose parts are counted.

    Warns if rows have the same id.

    Raises:
        RowsError: as in `read_rows`, or there are no rows.
    """
    digest, count = hashlib.sha256(), 0
    ids = array("q")  # hashes: of millions of rows, the ids themselves would fill the memory

    def noted() -> Iterator[Row]:
        nonlocal count
        for row in read_rows(path, defaults):
            digest.update(json.dumps([row.facts(), row.settings.facts()]).encode())
            ids.append(hash(row.id))
            count += 1
            yield row

    found = {part.number: len(part.rows) for part in parts(noted(), size) if shard.has(part.number)}
    if not count:
        raise RowsError(f"{path}: no rows in it")
    _warn_of_twins(path, defaults, ids)
    return Scanned(count, found, digest.hexdigest()[:16])


def _warn_of_twins(path: Path, defaults: Settings, ids: array[int]) -> None:
    """Warn if two rows have one id, and name the first two.

    Args:
        path: the input.
        defaults: settings of rows that give none themselves.
        ids: a hash of each row's id.
    """
    values, counts = np.unique(np.frombuffer(ids, np.int64), return_counts=True)
    twice = set(values[counts > 1].tolist())
    first: dict[str | int | float, int] = {}
    for row in read_rows(path, defaults) if twice else ():
        if hash(row.id) not in twice:
            continue
        if (number := first.setdefault(row.id, row.number)) != row.number:
            warnings.warn(
                f"{path}: rows {number} and {row.number}, counted from 0, have the same id {row.id!r}: "
                "join the answers by row",
                stacklevel=3,
            )
            return


def place(video: str, root: Path) -> str:
    """The path of a row's video: a relative one starts from ``root``."""
    return video if "://" in video or root == Path() else os.path.join(root, video)
