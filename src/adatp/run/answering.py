"""Answers rows in batches of similar prompts, while workers prepare the next ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from adatp.errors import AdaTPError, is_out_of_memory
from adatp.models import family_of
from adatp.run.preparing import Unit, line_of
from adatp.run.rows import Row, Settings
from adatp.run.sizes import size_of
from adatp.run.workers import PATIENCE, Workers
from adatp.session import Answer, LoadError, Prompt, Session
from adatp.session.answer import kind_of
from adatp.session.encode_once import EncodeOnce

PADDING = 1.25
"""Approximate limit: how much longer than the shortest prompt of a batch the longest may be."""

MOST_UNEXPECTED = 10
"""After this many unexpected errors in a row, the model counts as broken."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A row with its prompt, waiting for its batch.

    Attributes:
        row: the question.
        prompt: ready for the model.
        video: key of the video; the same for all questions about it.
        size: bytes of the video.
    """

    row: Row
    prompt: Prompt
    video: Hashable
    size: int | None


@dataclass(frozen=True)
class Outcome:
    """The result for a row.

    Attributes:
        row: the question.
        facts: its output: plain numbers, texts and dictionaries, with the same names in every row.
    """

    row: Row
    facts: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether the row was not answered."""
        return self.facts["error"] is not None


class Answering:
    """One model that answers many rows. A context manager.

    Args:
        session: whose model answers.
        batch: most prompts in a batch.
        workers: how many processes read and prepare videos; 0: this one does.
        patience: seconds that one video may take to be read.

    Raises:
        LoadError: the weights can't be loaded (on entering).
        PromptError: the checkpoint's template or tokenizer takes too much time or memory (on entering).
    """

    def __init__(
        self, session: Session, batch: int = 8, workers: int = 1, patience: float = PATIENCE
    ) -> None:
        self.session, self.batch = session, batch
        self._workers = Workers(session.processor, session.config, workers, patience)
        self._ahead = 2 * batch + workers
        self._waiting: dict[Hashable, list[Asked]] = {}
        self._videos: Counter[Hashable] = Counter()  # prompts that wait, of each video
        self._unexpected = 0
        self._tower: EncodeOnce | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Answering:
        self.session.try_out()  # the workers do not
        self._stack.enter_context(self._workers)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        self._waiting = {}

    @property
    def videos(self) -> tuple[int, int]:
        """How many videos the vision tower has encoded, and how many times it could skip that."""
        return (self._tower.encoded, self._tower.shared) if self._tower is not None else (0, 0)

    def answer(self, units: Iterable[Unit]) -> Iterator[Outcome]:
        """Answer the rows of units, in approximately their order.

        Who stops before the last outcome leaves nothing of these units to a later call.

        Args:
            units: taken one by one, only a few ahead of the answers.

        Raises:
            WorkerError: worker processes can't be started.
            LoadError: the weights can't be loaded.
        """
        left = iter(units)
        try:
            coming = next(left, None)
            while coming is not None or self._workers.waiting or self._waiting:
                while coming is not None and self._workers.room and self._prompts() < self._ahead:
                    self._workers.give(coming)
                    coming = next(left, None)
                ready = self._workers.take(wait=self._waits())
                if ready is not None:
                    yield from self._sort(ready.unit, ready.prepared)
                elif self._waiting:
                    yield from self._answer_fullest()
        finally:  # of an error, or where nobody asks for the rest
            self._workers.drop()
            self._waiting, self._videos = {}, Counter()

    def _waits(self) -> bool:
        """Whether the model waits for more prompts, instead of answering those that are there.

        If reading takes long, the model has time for batches that are not full. They fill up while it is
        busy. If nobody reads meanwhile, a batch is filled first.
        """
        most = max(map(len, self._waiting.values()), default=0)
        alone = not self._workers.count and most < self.batch and self._prompts() < self._ahead
        return not self._waiting or alone

    def _prompts(self) -> int:
        """How many prompts wait for their batch."""
        return sum(map(len, self._waiting.values()))

    def _sort(self, unit: Unit, prepared: Sequence[Prompt | str]) -> Iterator[Outcome]:
        """Put prompts into groups that fit into one batch; yield the errors of the others."""
        size = size_of(unit.path)
        for row, made in zip(unit.rows, prepared, strict=True):
            if isinstance(made, str):
                yield Outcome(row, failure(row, made))
                continue
            length = made.inputs["input_ids"].shape[1]
            settings = row.settings
            how = settings.method, settings.flops, settings.max_new_tokens, settings.strict
            key = how, kind_of(made), int(math.log(length, PADDING))
            asked = Asked(row, made, unit, size)
            self._waiting.setdefault(key, []).append(asked)
            self._videos[unit] += 1

    def _answer_fullest(self) -> Iterator[Outcome]:
        """Answer one batch from the group with most waiting prompts."""
        key = max(self._waiting, key=lambda each: len(self._waiting[each]))
        group = self._waiting[key]
        together, rest = group[: self.batch], group[self.batch :]
        if rest:
            self._waiting[key] = rest
        else:
            del self._waiting[key]
        self._videos.subtract(asked.video for asked in together)
        self._videos = +self._videos
        yield from self._answer(together)

    def _answer(self, together: Sequence[Asked]) -> Iterator[Outcome]:
        """Answer prompts in one batch. If that fails, in two halves, down to the one that fails."""
        settings = together[0].row.settings
        try:
            answers = self._ask(together, settings)
        except LoadError:
            raise
        except Exception as error:  # a row of a million must not end all others
            reason = None if len(together) > 1 else self._reason(error)
        else:
            self._unexpected = 0
            for asked, answer in zip(together, answers, strict=True):
                yield Outcome(asked.row, success(asked, answer, len(together)))
            return
        # Outside of the handler: its traceback keeps the model's tensors in memory.
        if reason is not None:
            yield Outcome(together[0].row, failure(together[0].row, reason))
            return
        middle = len(together) // 2
        yield from self._answer(together[:middle])
        yield from self._answer(together[middle:])

    def _ask(self, together: Sequence[Asked], settings: Settings) -> list[Answer]:
        method = settings.pruning()
        if (tower := self._open_tower()) is not None:
            # Methods that read the attention inside the tower need its call.
            tower.show([] if method.tower_attention else [asked.video for asked in together], self._videos)
        return self.session.answer_batch(
            [asked.prompt for asked in together],
            method,
            max_new_tokens=settings.max_new_tokens,
            strict=settings.strict,
        )

    def _open_tower(self) -> EncodeOnce | None:
        """The cache of encoded videos; None: the vision tower is not known."""
        model = self.session.model
        tower = family_of(model.config.model_type).lone_tower(model) if self._tower is None else None
        if tower is not None:
            self._tower = self._stack.enter_context(EncodeOnce(tower))
        return self._tower

    def _reason(self, error: Exception) -> str:
        """The error text of a row.

        Raises:
            Exception: the error itself, if too many unexpected ones occurred in a row.
        """
        if not isinstance(error, AdaTPError) and not is_out_of_memory(error):
            self._unexpected += 1
            if self._unexpected > MOST_UNEXPECTED:
                raise error
        return line_of(error)


def success(asked: Asked, answer: Answer, batch: int) -> dict[str, Any]:
    """The output for a row that was answered."""
    report, row = answer.report, answer.row
    visual = [layer[row] for layer in report.visual_tokens]
    return {
        **asked.row.facts(),
        "answer": answer.text,
        "error": None,
        "method": asked.row.settings.method,
        "flops_target": asked.row.settings.pruning().flops,
        "flops_ratio": answer.flops_ratio,
        "out_of_reach": report.out_of_reach(row),
        "relevance": report.relevance,
        "prompt_tokens": report.prompt_tokens[row],
        "visual_tokens": report.prompt_visual_tokens[row],
        "visual_tokens_mean": sum(visual) / len(visual),
        "visual_tokens_last": visual[-1],
        "new_tokens": answer.new_tokens,
        "video_bytes": asked.size,
        "batch": batch,
        "video_milliseconds": asked.prompt.milliseconds["video"],
        "preprocess_milliseconds": asked.prompt.milliseconds["preprocess"],
        "generate_milliseconds": answer.milliseconds / batch,
    }


ANSWERED = (
    *("answer", "error", "method", "flops_target", "flops_ratio", "out_of_reach", "relevance"),
    *("prompt_tokens", "visual_tokens", "visual_tokens_mean", "visual_tokens_last", "new_tokens"),
    *("video_bytes", "batch", "video_milliseconds", "preprocess_milliseconds", "generate_milliseconds"),
)
"""Names in the output in addition to those of `Row.facts`."""

TIMES = ("batch", "video_milliseconds", "preprocess_milliseconds", "generate_milliseconds")
"""Those names whose values may differ in another run of the same rows."""


def failure(row: Row, reason: str) -> dict[str, Any]:
    """The output for a row that was not answered: the same names, without values."""
    return {**row.facts(), **dict.fromkeys(ANSWERED), "method": row.settings.method, "error": reason}


@contextmanager
def cpu_threads(session: Session, workers: int, cores: int) -> Iterator[None]:
    """On a CPU, leave the workers their cores while this is open. Two that share a core are slower than one.

    Args:
        session: holds the model.
        workers: how many processes work at the same time.
        cores: how many there are.
    """
    before = torch.get_num_threads()
    if session.device.startswith("cpu"):
        torch.set_num_threads(min(before, max(1, cores - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
