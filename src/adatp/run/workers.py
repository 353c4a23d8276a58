"""Worker processes that prepare the next prompts while the model answers."""

from __future__ import annotations

import os
import pickle
import queue
import select
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

from adatp.errors import AdaTPError
from adatp.machine import cores
from adatp.models import family_of
from adatp.run.channel import receive, send
from adatp.run.preparing import Prepared, Unit, line_of, prepare
from adatp.run.worker import START

PATIENCE = 600.0
"""Seconds that reading one video may take. Then its process is ended."""

TRIES = 2
"""How many processes may die on a video before its rows become errors."""


class WorkerError(AdaTPError, RuntimeError):
    """Worker processes can't be started. The message is one line."""


@dataclass(frozen=True)
class Ready:
    """A unit with its prepared rows, or with the error that ended the work."""

    unit: Unit
    prepared: list[Prepared]
    failure: BaseException | None = None


class Workers:
    """Prepares units, in other processes if asked for. A context manager.

    If a process dies, another one prepares its unit. If that dies too, the unit becomes an error. The
    processes end with the one that started them, however that ends.

    Args:
        processor: the model's.
        config: the model's.
        count: how many processes; 0: units are prepared in this one, when `take` asks for them.
        patience: seconds that one video may take.

    Attributes:
        count: how many processes.
    """

    def __init__(self, processor: Any, config: Any, count: int, patience: float = PATIENCE) -> None:
        self._processor, self._config = processor, config
        self.count, self._patience = count, patience
        self._units: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Ready] = queue.SimpleQueue()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._threads: list[Thread] = []
        self._closed = False
        self._given: set[Unit] = set()  # and not yet taken

    def __enter__(self) -> Workers:
        for number in range(self.count):
            thread = Thread(target=self._work, args=(number,), name=f"adatp-worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _thread in self._threads:
            self._units.put(None)
        for number in list(self._running):
            self._end(number)
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """How many units were given and not yet taken."""
        return len(self._given)

    @property
    def room(self) -> bool:
        """Whether another unit would begin at once, or be the one that is ready for the next process."""
        return self.waiting < self.count + 1

    def give(self, unit: Unit) -> None:
        """Pass on a unit to be prepared."""
        self._given.add(unit)
        self._units.put(unit)

    def drop(self) -> None:
        """Forget the units that were given: nobody takes what becomes of them."""
        with suppress(queue.Empty):
            while True:
                self._units.get_nowait()
        self._given = set()

    def take(self, wait: bool) -> Ready | None:
        """Take a unit that is prepared.

        Args:
            wait: whether to wait for one; otherwise None if none is ready.

        Raises:
            WorkerError: the processes can't be started.
        """
        while self.waiting:
            if not self.count:
                if not wait:
                    return None
                unit = self._units.get()
                assert unit is not None
                self._ready.put(Ready(unit, prepare(self._processor, self._config, unit)))
            try:
                ready = self._ready.get(block=wait)
            except queue.Empty:
                return None
            if ready.unit not in self._given:  # dropped while a process worked on it
                continue
            self._given.remove(ready.unit)
            if ready.failure is not None:
                raise ready.failure
            return ready
        return None

    def _work(self, number: int) -> None:
        """One thread per process: it passes on units and waits for the prepared ones."""
        with suppress(Exception):  # the first unit raises it again
            self._start(number)
        while not self._closed and (unit := self._units.get()) is not None:
            try:
                prepared = self._prepare(number, unit)
                self._ready.put(Ready(unit, prepared))
            except BaseException as error:  # raised again by `take`
                self._ready.put(Ready(unit, [], error))
        self._end(number)

    def _prepare(self, number: int, unit: Unit) -> list[Prepared]:
        reason = "the work was ended"
        for _ in range(TRIES):
            if self._closed:
                break
            process = self._running.get(number) or self._start(number)
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                send(process.stdin, unit)
                if not _speaks(process.stdout, self._patience):
                    self._end(number)
                    reason = f"reading it took longer than {self._patience:.0f} s"
                    break
                found: list[Prepared] = receive(process.stdout)
                return found
            except (EOFError, OSError):
                code = self._end(number)
                reason = f"the process that read it ended ({_of_code(code)})"
        return [f"{unit.path}: {reason}"] * len(unit.rows)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **single, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,  # Ctrl-C is for the process that answers
            )
        except OSError as error:  # too many open files or processes
            raise WorkerError(f"a worker process can't be started ({error.strerror})") from error
        self._running[number] = process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(sys.path, process.stdin)
            by_rule = family_of(self._config.model_type).by_rule
            threads = decoder_threads(self.count)
            send(process.stdin, (self._processor, self._config, by_rule, threads))
            receive(process.stdout)
        except (EOFError, OSError) as error:
            code = self._end(number)
            raise WorkerError(f"a worker process can't be started ({_of_code(code)})") from error
        except Exception as error:  # of any kind: pickling runs the processor's own code
            self._end(number)
            raise WorkerError(
                f"the model's processor can't be sent to a worker ({line_of(error)}): use 0 workers"
            ) from error
        return process

    def _end(self, number: int) -> int | None:
        """End a process; returns its exit code."""
        process = self._running.pop(number, None)
        if process is None:
            return None
        with suppress(OSError):
            process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent yet
                pipe.close()  # type: ignore[union-attr]
        return code


def decoder_threads(workers: int) -> int:
    """How many threads each worker decodes with: the cores are the workers' and the model's together.

    Args:
        workers: how many there are.
    """
    return max(1, cores() // (workers + 1))


def _of_code(code: int | None) -> str:
    return "it was ended" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"


def _speaks(stream: Any, seconds: float) -> bool:
    """Whether something can be read within this number of seconds. Always true on Windows for pipes."""
    return os.name == "nt" or bool(select.select([stream], [], [], seconds)[0])
