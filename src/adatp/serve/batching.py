"""The thread that asks the model. Requests that wait together are answered in one batch."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from transformers import LogitsProcessorList, StoppingCriteriaList

from adatp.errors import AdaTPError, is_out_of_memory
from adatp.methods import Method
from adatp.models import family_of
from adatp.pruning import Run
from adatp.report import Report
from adatp.serve.errors import RequestError
from adatp.serve.memory import SECONDS, trimmer
from adatp.serve.rows import Row, RowKeeper, RowSampler
from adatp.session import Prompt, Session
from adatp.session.answer import kind_of
from adatp.session.encode_once import EncodeOnce

STOPPED = "the server is being stopped"


@dataclass(eq=False)
class Job:
    """One request that waits for the model.

    Attributes:
        prompt: the prompt of the request.
        method: the pruning method.
        rows: the answers to generate.
        started: called, in the model's thread, when it begins.
        failed: called, in the model's thread, when it ends without answers; None: it was cancelled.
        arrived: when it began to wait, in seconds of ``time.monotonic``.
        alone: whether it is answered in a batch of its own.
        report: what the method did, once the model has read the prompt, and the job's first row there.
    """

    prompt: Prompt
    method: Method
    rows: list[Row]
    started: Callable[[], object]
    failed: Callable[[Exception | None], object]
    arrived: float = field(default_factory=time.monotonic)
    alone: bool = False
    report: tuple[Report, int] | None = None

    @property
    def length(self) -> int:
        """Number of tokens of the prompt."""
        return int(self.prompt.inputs["input_ids"].shape[1])

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for any of its answers."""
        return all(row.cancelled for row in self.rows)

    @property
    def key(self) -> Hashable:
        """A key that is equal for jobs that can be answered together."""
        return self.method, kind_of(self.prompt)


class Batcher:
    """A session, and the thread that it answers in.

    Attributes:
        running: number of answers that are being generated.
        batches: called with the number of answers of each batch.
    """

    def __init__(
        self,
        session: Session,
        max_batch: int,
        wait: float,
        expected: Callable[[], int] = lambda: 0,
        batches: Callable[[int], object] = lambda rows: None,
    ) -> None:
        """A batcher that does nothing until `start`.

        Args:
            session: holds the model; no other thread asks it.
            max_batch: number of answers that are generated together.
            wait: seconds that a job waits for others, if any are expected.
            expected: how many jobs are on their way.
            batches: called with the number of answers of each batch.
        """
        self._session, self._max_batch, self._wait, self._expected = session, max_batch, wait, expected
        self.batches = batches
        self.running = 0
        self._longest = int(session.config.get_text_config().max_position_embeddings)
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="adatp-model", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread that answers."""
        self._thread.start()

    def stop(self) -> None:
        """Drop waiting jobs, and end running ones at their next token."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self) -> None:
        """Stop, and return when the thread has ended."""
        self.stop()
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Add a job to those that wait."""
        with self._changed:
            if not self._closed:
                self._waiting.append(job)
                self._changed.notify()
                return
        job.failed(RequestError(503, STOPPED))

    def cancel(self, job: Job) -> None:
        """Cancel a job: a waiting one at once, a running one at its next token."""
        for row in job.rows:
            row.cancelled = True
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.failed(None)

    def _work(self) -> None:
        give_back = trimmer()
        while (jobs := self._next()) is not None:
            if jobs:
                self.running = sum(len(job.rows) for job in jobs)
                self.batches(self.running)
                try:
                    self._answer(jobs)
                finally:
                    self.running = 0
                    del jobs  # their inputs are not held while nothing is asked
            give_back()

    def _next(self) -> list[Job] | None:
        """The jobs of the next batch, including the one that has waited longest. None once it is closed.

        The list is empty where nothing comes for some seconds.
        """
        with self._changed:
            while not self._closed:
                if not self._waiting:
                    if not self._changed.wait(SECONDS):
                        return []
                    continue
                jobs = self._fitting()
                left = jobs[0].arrived + self._wait - time.monotonic()
                full = jobs[0].alone or sum(len(job.rows) for job in jobs) >= self._max_batch
                if full or left <= 0 or not self._expected():
                    for job in jobs:
                        self._waiting.remove(job)
                    return jobs
                self._changed.wait(min(left, 0.01))  # others may give up meanwhile
            dropped, self._waiting = self._waiting, []
        for job in dropped:
            job.failed(RequestError(503, STOPPED))
        return None

    def _fitting(self) -> list[Job]:
        """The first job that waits, and those after it that can be answered with it."""
        first, *others = self._waiting
        jobs = [first]
        if first.alone:
            return jobs
        rows, longest = len(first.rows), (first.length, _answer_tokens([first]))
        for job in others:
            both = max(longest[0], job.length), max(longest[1], _answer_tokens([job]))
            fits = rows + len(job.rows) <= self._max_batch and sum(both) <= self._longest
            if fits and not job.alone and job.key == first.key:
                jobs.append(job)
                rows, longest = rows + len(job.rows), both
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs in one batch. If that fails, answer those without a token one by one."""
        for job in jobs:
            job.started()
        try:
            self._generate(jobs)
        except Exception as error:  # of one request, or a bug: the server continues
            for job in jobs:
                if len(jobs) > 1 and not any(row.tokens for row in job.rows) and not self._closed:
                    job.alone = True
                    with self._changed:
                        self._waiting.insert(0, job)
                else:
                    job.failed(self._reason(error))
            return
        for job in jobs:
            if self._closed and any(row.finish == "cancelled" for row in job.rows):
                job.failed(RequestError(503, STOPPED))
            elif job.cancelled:
                job.failed(None)
            for row in job.rows:
                row.end()

    def _generate(self, jobs: Sequence[Job]) -> None:
        session = self._session
        rows = [row for job in jobs for row in job.rows]
        settings: dict[str, Any] = {"num_beams": 1}  # a row is one answer, whatever the checkpoint's settings
        ends = session.model.generation_config.eos_token_id
        stop_at = frozenset([ends] if isinstance(ends, int) else ends or ())
        runs: list[Run] = []
        keeper = _Keeper(rows, stop_at, lambda: self._note(jobs, runs[-1]), lambda: self._closed)
        settings["stopping_criteria"] = StoppingCriteriaList([keeper])
        if any(row.sampling.temperature or row.sampling.ignore_eos for row in rows):
            settings["logits_processor"] = LogitsProcessorList([RowSampler(rows, stop_at)])
        with self._encoding_once(jobs):
            session.answer_batch(
                [job.prompt for job in jobs for _ in job.rows],
                jobs[0].method,
                max_new_tokens=max(row.max_new_tokens for row in rows),
                watch=runs.append,
                **settings,
            )

    def _encoding_once(self, jobs: Sequence[Job]) -> AbstractContextManager[object]:
        """While open, the vision tower encodes a job's videos once for all its rows."""
        # Methods that read the attention inside the tower have to be there when it encodes.
        if jobs[0].method.tower_attention or all(len(job.rows) == 1 for job in jobs):
            return nullcontext()
        model = self._session.model
        tower = family_of(model.config.model_type).of(model).lone_tower(model)
        if tower is None:  # a model of the general rule that does not say where it is
            return nullcontext()
        once = EncodeOnce(tower)
        once.show([number for number, job in enumerate(jobs) for _ in job.rows])
        return once

    def _note(self, jobs: Sequence[Job], run: Run) -> None:
        """Store what the method did, before the first answer can be finished."""
        report, row = run.report, 0
        for job in jobs:
            job.report = report, row
            row += len(job.rows)

    def _reason(self, error: Exception) -> RequestError:
        """The error that the client receives."""
        if is_out_of_memory(error):
            return RequestError(503, "out of memory: ask for fewer frames")
        if isinstance(error, AdaTPError):
            return RequestError(400, str(error))
        traceback.print_exception(error)
        return RequestError(500, "something went wrong here; the server's log says what")


def _answer_tokens(jobs: Sequence[Job]) -> int:
    return max(row.max_new_tokens for job in jobs for row in job.rows)


class _Keeper(RowKeeper):
    """Stores what the method did before it hands out the first tokens. On request, it ends all rows."""

    def __init__(
        self,
        rows: Sequence[Row],
        ends: frozenset[int],
        begin: Callable[[], object],
        closed: Callable[[], bool],
    ) -> None:
        super().__init__(rows, ends)
        self._begin, self._closed, self._begun = begin, closed, False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row is finished, (rows,)."""
        if not self._begun:
            self._begin()
            self._begun = True
        if self._closed():
            for row in self._rows:
                row.cancelled = True
        return super().__call__(input_ids, scores, **kwargs)
