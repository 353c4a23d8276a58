"""Runs a model over the rows of an input file, and continues a stopped run."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adatp.run.answering import Answering, Outcome
from adatp.run.folder import Folder, Work
from adatp.run.preparing import Unit, units
from adatp.run.rows import Part, Row, Scanned, Settings, parts, read_rows, scan
from adatp.shard import Shard

ROWS_PER_FILE = 256
"""Default number of rows of a part."""

MOST_EXAMPLES = 5
"""Number of errors that a summary quotes."""

Update = Callable[[int, int], None]
"""Called with the number of rows done, and the total."""


@dataclass(frozen=True)
class Job:
    """The rows that are asked, and how they are cut into files.

    Attributes:
        path: the input file.
        root: the folder that relative paths of videos start from.
        defaults: settings of rows that give none themselves.
        size: rows of a part.
        shard: the shard whose parts are asked.
        again: whether rows that failed in an earlier run are asked again.
    """

    path: Path
    root: Path
    defaults: Settings = field(default_factory=Settings)
    size: int = ROWS_PER_FILE
    shard: Shard = field(default_factory=Shard)
    again: bool = False

    def scan(self) -> Scanned:
        """Check every row of the input.

        Raises:
            RowsError: see `scan`.
        """
        return scan(self.path, self.defaults, self.size, self.shard)

    def parts(self) -> Iterator[Part]:
        """The parts of the shard."""
        everything = parts(read_rows(self.path, self.defaults), self.size)
        return (part for part in everything if self.shard.has(part.number))

    def facts(self, scanned: Scanned, source: str, dtype: str) -> dict[str, Any]:
        """Everything that the answers depend on, to bind a folder to.

        Args:
            scanned: the scanned input.
            source: the model's folder or its id on the hub.
            dtype: the requested dtype.
        """
        return {
            "rows": scanned.rows,
            "rows_per_file": self.size,
            **self.defaults.facts(),  # before the digest, which knows them too: the first difference is named
            "questions": scanned.digest,
            "model": source,
            "weights": files_digest(source),
            "dtype": dtype,
        }

    def folder(self, path: Path, scanned: Scanned, source: str, dtype: str) -> Folder:
        """The folder of the answers, bound to this job.

        Args:
            path: made if missing.
            scanned: the scanned input.
            source: the model's folder or its id on the hub.
            dtype: the requested dtype.

        Raises:
            FolderError: see `Folder` and `Folder.check_videos`.
            OSError: it can't be written.
        """
        folder = Folder(path, self.facts(scanned, source, dtype))
        folder.check_videos(scanned.parts, self.root)
        return folder


@dataclass
class Summary:
    """Content of a shard's output, and the work of this run for it.

    Attributes:
        rows: all rows of the shard.
        failed: how many were not answered.
        examples: the first rows that failed, with their errors.
        flops_ratio: mean over the answered rows of real FLOPs of the prefill over vanilla's.
        asked: rows that this run asked.
        seconds: duration of this run.
        videos: how many videos were encoded.
        videos_shared: how many times a video needed no encoding, because it had been encoded before.
    """

    rows: int = 0
    failed: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    flops_ratio: float | None = None
    asked: int = 0
    seconds: float = 0.0
    videos: int = 0
    videos_shared: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain numbers, texts and lists."""
        return dict(vars(self))


def run(job: Job, scanned: Scanned, folder: Folder, answering: Answering, update: Update) -> Summary:
    """Ask all rows that the folder has no answer to.

    Args:
        job: the rows and their settings.
        scanned: the scanned input of the job.
        folder: the folder of the answers.
        answering: the model, entered.
        update: called after every row.

    Raises:
        FolderError: a file of an earlier run is damaged or in use.
        AdaTPError: as in `Answering.answer`.
        OSError: the output can't be written.
    """
    began, done, asked = time.monotonic(), 0, 0
    total = sum(scanned.parts.values())
    for rows, new in ask_parts(job, job.parts(), folder, answering):
        done += rows
        asked += new
        update(done, total)
    summary = summarise(folder, scanned)
    summary.asked, summary.seconds = asked, time.monotonic() - began
    summary.videos, summary.videos_shared = answering.videos
    return summary


def ask_parts(
    job: Job, wanted: Iterable[Part], folder: Folder, answering: Answering
) -> Iterator[tuple[int, int]]:
    """Ask the rows of some parts that the folder has no answer to.

    Args:
        job: the rows and their settings.
        wanted: its parts.
        folder: the folder of the answers.
        answering: the model, entered.

    Yields:
        After every step: how many more rows are done, and how many of these were asked now.
    """
    with _Open(job, folder) as parts:
        for outcome in answering.answer(parts.units(wanted)):
            parts.note(outcome)
            yield parts.found + 1, 1
            parts.found = 0
        if parts.found:
            yield parts.found, 0


class _Open:
    """The open parts, and their rows that are still to come.

    Attributes:
        found: rows that were already answered, counted since this was last set to 0.
    """

    def __init__(self, job: Job, folder: Folder) -> None:
        self.job, self.folder = job, folder
        self.found = 0
        self._open: dict[int, Work] = {}
        self._left: Counter[int] = Counter()  # rows to come, of each open part
        self._part: dict[int, int] = {}  # of each row to come

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *error: Any) -> None:
        for work in self._open.values():
            work.__exit__(*error)

    def units(self, wanted: Iterable[Part]) -> Iterator[Unit]:
        """The units to ask. A part is opened when the first of its units is needed."""
        for part in wanted:
            yield from units(self._begin(part), self.job.root)

    def note(self, outcome: Outcome) -> None:
        """Write down the result of a row."""
        number = self._part.pop(outcome.row.number)
        self._open[number].add(outcome.facts)
        self._left[number] -= 1
        if not self._left[number]:
            self._finish(number)

    def _begin(self, part: Part) -> list[Row]:
        """Open a part. Returns the rows that are still to be asked."""
        number = part.number
        if self.job.again and self.folder.done(number).exists():
            self.folder.reopen(number)
        if self.folder.done(number).exists():
            self.folder.work(number).unlink(missing_ok=True)  # of a run that was killed in between
            self.found += len(part.rows)
            return []
        work = Work(self.folder, number, self.job.again)
        self._open[number] = work
        rows = [row for row in part.rows if row.number not in work.held]
        self.found += len(part.rows) - len(rows)
        self._left[number] = len(rows)
        self._part.update((row.number, number) for row in rows)
        if not rows:
            self._finish(number)
        return rows

    def _finish(self, number: int) -> None:
        del self._left[number]
        self._open.pop(number).finish()


def summarise(folder: Folder, scanned: Scanned) -> Summary:
    """Read the content of a shard's output."""
    summary = Summary()
    total = 0.0
    for part in scanned.parts:
        for record in folder.records(part):
            summary.rows += 1
            if record["error"] is None:
                total += record["flops_ratio"]
                continue
            summary.failed += 1
            if len(summary.examples) < MOST_EXAMPLES:
                summary.examples.append((str(record["id"]), record["error"]))
    if answered := summary.rows - summary.failed:
        summary.flops_ratio = total / answered
    return summary


def files_digest(source: str) -> str | None:
    """A digest of a checkpoint's files: names, sizes, first and last bytes. None for a model on the hub."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}\n".encode(errors="surrogateescape"))
        with file.open("rb") as content:
            digest.update(content.read(1 << 16))
            content.seek(max(0, size - (1 << 16)))
            digest.update(content.read(1 << 16))
    return digest.hexdigest()[:16]
