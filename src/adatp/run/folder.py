"""The folder of a run's output: one file per part, written so that a kill at any moment loses no answer."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from adatp.errors import AdaTPError
from adatp.locking import lock
from adatp.plain_json import to_json
from adatp.run.rows import place
from adatp.run.sizes import size_of
from adatp.small_files import read_small_json

FACTS = "run.json"
"""The file that records which run the folder belongs to."""

SYNC_SECONDS = 1.0
"""Seconds of work that a power cut may cost; a killed process loses nothing."""

_OURS = re.compile(r"part-\d{5,}(\.work)?\.jsonl")


class FolderError(AdaTPError, ValueError):
    """A folder can't take a run's output. The message is one line; existing files are not changed."""


class Folder:
    """The output of one run, perhaps of several processes with a shard each.

    A part grows in a work file, one line per answer, written at once. After its last answer it becomes one
    file in the order of the input, under its final name, in one step.

    Args:
        path: made if missing.
        facts: everything that the answers depend on. A folder is bound to those of its first run.

    Raises:
        FolderError: the folder holds a run of other facts, or files of ours of no run.
        OSError: it can't be written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        check(path, facts)
        path.mkdir(exist_ok=True)
        if not (path / FACTS).exists():
            draft = path / f".{FACTS}.{uuid4().hex}"  # shards in containers have the same process ids
            draft.write_text(json.dumps(facts, indent=1) + "\n")
            try:
                os.link(draft, path / FACTS)
            except FileExistsError:  # another shard was first
                pass
            except OSError:  # a file system without hard links, such as a mounted cloud drive
                draft.replace(path / FACTS)
            draft.unlink(missing_ok=True)
            check(path, facts)

    def done(self, part: int) -> Path:
        """The file of a part that is complete."""
        return self.path / f"part-{part:05d}.jsonl"

    def has(self, parts: Iterable[int]) -> bool:
        """Whether all of these parts are complete."""
        return all(self.done(part).exists() for part in parts)

    def work(self, part: int) -> Path:
        """The file that collects a part's answers."""
        return self.path / f"part-{part:05d}.work.jsonl"

    def draft(self, part: int) -> Path:
        """The draft of either file while it is written."""
        return self.path / f".part-{part:05d}.draft"

    def records(self, part: int) -> Iterator[dict[str, Any]]:
        """The answers of a part that is complete.

        Raises:
            FolderError: the file is damaged.
        """
        path = self.done(part)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _record(path, number, line)

    def check_videos(self, parts: Iterable[int], root: Path) -> None:
        """Refuse answers about other videos than those that are there now, judged by their sizes.

        Args:
            parts: numbers of the parts that are compared.
            root: the folder that relative paths of videos start from.

        Raises:
            FolderError: a video has another size, or is gone; or a file of answers is damaged.
        """
        for part in parts:
            sizes: dict[str, int | None] = {}
            for record in self._answers(part):
                if (held := record.get("video_bytes")) is None:
                    continue
                path = place(record["video"], root)
                if path not in sizes:
                    sizes[path] = size_of(path)
                if (here := sizes[path]) != held:
                    now = "can't be read" if here is None else f"has {here:,} bytes"
                    raise FolderError(
                        f"{self.path} holds another run: {record['video']} had {held:,} bytes there, and "
                        f"{path} {now} here; look at the root of the videos, or give another folder"
                    )

    def _answers(self, part: int) -> Iterator[dict[str, Any]]:
        """The answers of a part so far, complete or not."""
        if self.done(part).exists():
            yield from self.records(part)
        elif self.work(part).exists():
            *lines, _rest = self.work(part).read_bytes().split(b"\n")  # the last may be cut short
            for number, line in enumerate(lines, 1):
                yield _record(self.work(part), number, line)

    def reopen(self, part: int) -> None:
        """Make a complete part ask its failed rows again. Nothing happens if none failed."""
        records = list(self.records(part))
        good = [record for record in records if record["error"] is None]
        if len(good) < len(records):
            draft = self.draft(part)
            draft.write_text("".join(to_json(record) + "\n" for record in good))
            draft.replace(self.work(part))
            self.done(part).unlink()


def check(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder that can't take the output of a run.

    Raises:
        FolderError: as in `Folder`.
    """
    if not os.path.lexists(path / FACTS):
        for there in path.iterdir() if path.is_dir() else ():
            if _OURS.fullmatch(there.name):
                raise FolderError(
                    f"{path}: holds {there.name}, which is of no run (no {FACTS}); give another folder"
                )
        return
    try:
        held = read_small_json(path / FACTS)
        if not isinstance(held, dict):
            raise ValueError(held)
    except ValueError:
        raise FolderError(f"{path / FACTS}: damaged or not of a run; give another folder") from None
    for name, value in json.loads(json.dumps(facts)).items():
        if name not in held:
            raise FolderError(
                f"{path} holds a run of another version of adatp ({FACTS} lacks {name}); give another folder"
            )
        if held[name] != value:
            raise FolderError(
                f"{path} holds another run: {name} is {json.dumps(held[name])} there, "
                f"{json.dumps(value)} here; give another folder"
            )


class Work:
    """The answers of one part while it is answered. A context manager; one process at a time.

    Args:
        folder: of the run.
        part: its number.
        again: whether rows that failed before are asked again.

    Raises:
        FolderError: the work file is damaged before its last line, or in use.
        OSError: it can't be written.

    Attributes:
        held: numbers of the rows that need not be asked.
    """

    def __init__(self, folder: Folder, part: int, again: bool = False) -> None:
        self.folder, self.part = folder, part
        self.path = folder.work(part)
        self.held: set[int] = set()
        self._file = self.path.open("a+b")
        try:
            self._lock()
            self._read(again)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(*(() if kind is None else (OSError,))):  # on a full disk, what failed before counts
            self._file.close()

    def add(self, facts: Mapping[str, Any]) -> None:
        """Add the result of a row."""
        self._file.write(to_json(facts).encode() + b"\n")
        self._file.flush()
        self.held.add(facts["row"])
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self) -> None:
        """Give the part its final form and name."""
        self._file.seek(0)
        lines = sorted(self._file, key=lambda line: int(json.loads(line)["row"]))
        draft = self.folder.draft(self.part)
        try:
            with draft.open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder.done(self.part))
        finally:
            draft.unlink(missing_ok=True)
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        if not lock(self._file):
            raise FolderError(f"{self.path} is being written by another run")

    def _read(self, again: bool) -> None:
        """Read the existing lines, except a last line cut short by a kill, and rows that are asked again."""
        self._file.seek(0)
        *lines, _rest = self._file.read().split(b"\n")
        kept = []
        for number, line in enumerate(lines, 1):
            record = _record(self.path, number, line)
            if (again and record["error"] is not None) or record["row"] in self.held:
                continue
            self.held.add(record["row"])
            kept.append(line + b"\n")
        size = sum(map(len, kept))
        if len(kept) < len(lines):
            self._rewrite(kept)
        else:
            self._file.truncate(size)

    def _rewrite(self, lines: list[bytes]) -> None:
        """Replace the content in one step, and continue in the new file."""
        draft = self.folder.draft(self.part)
        draft.write_bytes(b"".join(lines))
        draft.replace(self.path)
        self._file.close()
        self._file = self.path.open("a+b")
        self._lock()


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not (isinstance(record, dict) and isinstance(record["row"], int) and "error" in record):
            raise ValueError(line)
    except (ValueError, KeyError, RecursionError):
        raise FolderError(
            f"{path}: line {number} is damaged or not an answer; mend it, or give another folder"
        ) from None
    return record
