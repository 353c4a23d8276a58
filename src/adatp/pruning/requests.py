"""Handles every decoder call in an open context: plans it if it reads a video, and always accounts for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from adatp.engine.cache import cache_among
from adatp.layout import LayoutError, runs
from adatp.models import Family
from adatp.plan import Plan
from adatp.pruning.accounting import Accountant
from adatp.pruning.following import follow, followed
from adatp.pruning.prompts import NOT_ENCODED, PromptReader, Reading
from adatp.pruning.run import Record
from adatp.pruning.timer import Timer
from adatp.pruning.tower import Encoding, TowerWatch
from adatp.report import Report
from adatp.threads import PerThread


class _Present(PerThread):
    """The decoder's call that one thread is processing.

    Attributes:
        reading: its prompts, if it reads videos that can be pruned.
        encoding: the tower's call that encoded them.
        follows: if it reads no video, the report of the request that it continues.
        tokens: how many tokens it reads in that case.
    """

    reading: Reading | None = None
    encoding: Encoding | None = None
    follows: Report | None = None
    tokens: int = 0


@dataclass(eq=False)
class Requests:
    """What the engine calls at the beginning and at the end of each call of the decoder.

    Attributes:
        reader: lays out prompts and lets the method plan.
        accountant: makes reports.
        watch: records the model's inputs.
        timer: times the stages.
        record: takes the reports.
    """

    reader: PromptReader
    accountant: Accountant
    watch: TowerWatch
    timer: Timer
    record: Record
    _present: _Present = field(default_factory=_Present, init=False)

    def begin(self, kwargs: dict[str, Any], past: int) -> Plan | None:
        """Plan a call of the decoder.

        Args:
            kwargs: its keyword arguments.
            past: length of the cached sequence.

        Returns:
            The plan; None: every token is processed.
        """
        present, cache = self._present, cache_among(kwargs)
        present.reading = present.follows = None
        present.tokens = _length(kwargs)
        self.watch.forget_interrupted(kwargs)
        encoded, present.encoding = self.watch.video_call()
        if encoded is None:
            if (reason := self._reason(past > 0 and followed(cache) is not None)) is not None:
                self._not_pruned(reason)
            if not past or reason is not None:
                follow(cache, None)
            present.follows = followed(cache)
            self.timer.use(None if present.follows is None else present.follows.stopwatch)
            self.timer.start("decode")
            return None
        self._take_stopwatch(present.encoding)
        try:
            with self.timer.time("relevance"):
                present.reading = self.reader.read(
                    self.watch.arguments,
                    kwargs["inputs_embeds"],
                    cache,
                    past,
                    None if present.encoding is None else present.encoding.call(encoded),
                )
        except LayoutError as error:
            self._not_pruned(str(error))
            follow(cache, None)
        self.timer.start("prefill")
        return present.reading.plan if present.reading is not None else None

    def end(self, kept: list[list[Tensor]] | None, cache: Any) -> None:
        """Account for a finished call.

        Args:
            kept: ``kept[l][b]``: positions that layer l processed; None where nothing was cut.
            cache: the cache that the decoder has filled, if any.
        """
        present = self._present
        self.timer.stop("prefill")
        self.timer.stop("decode")
        reading, present.reading = present.reading, None
        encoding, present.encoding = present.encoding, None
        follows, present.follows = present.follows, None
        if follows is not None:
            follows.decode_steps += present.tokens
        if reading is None:
            return
        report = self.accountant.report(
            reading,
            kept,
            self.timer.stopwatch,
            tower_scoring=encoding.scoring_flops if encoding is not None else 0,
            vision_saved=encoding.saved_flops if encoding is not None else 0,
        )
        self.record.add(report, reading.layouts)
        follow(cache, report)

    def _take_stopwatch(self, encoding: Encoding | None) -> None:
        """Use the request's own stopwatch, which includes the time that its videos took to encode."""
        self.timer.use(None if encoding is None else encoding.stopwatch)
        if encoding is not None:  # the next request with the same features starts at zero
            encoding.stopwatch = None

    def _reason(self, goes_on: bool) -> str | None:
        """Why a call without a known video is not pruned; None: there is nothing to prune.

        Args:
            goes_on: whether the call continues a request that was read. Drafts of its next tokens may repeat
                placeholders of the prompt.
        """
        arguments = self.watch.arguments
        ids = arguments.get("input_ids")
        if ids is None and arguments.get("inputs_embeds") is not None and self._present.tokens > 1:
            return "the prompt was given as inputs_embeds, in which no video can be found: pass input_ids"
        if ids is None or ids.shape[1] == 1:
            return None
        if not goes_on and not self.watch.is_given_vision and self._has_placeholders(ids):
            return NOT_ENCODED
        if self._several_images(ids):
            return "images are not frames of a video for this model: pass them as one video"
        return None

    def _has_placeholders(self, ids: Tensor) -> bool:
        """Whether a prompt has places for a video or an image."""
        names = ("video_token_id", "image_token_id")
        tokens = [getattr(self.reader.config, name, None) for name in names]
        return any(bool((ids == token).any()) for token in tokens if token is not None)

    def _several_images(self, ids: Tensor) -> bool:
        """Whether a prompt holds more than one image, for a model that takes videos as videos."""
        family: Family = self.reader.family
        token = getattr(self.reader.config, "image_token_id", None)
        if family.encoded_as != "video" or token is None:
            return False
        return any(len(images) > 1 for images in runs(ids, token))

    def _not_pruned(self, reason: str) -> None:
        self.record.not_pruned[reason] += 1
        warnings.warn(f"not pruned: {reason}", stacklevel=3)


def _length(kwargs: dict[str, Any]) -> int:
    """Tokens that the decoder is about to read, counted from its own ids if there are no embeddings."""
    given = [kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None]
    return int(given[0].shape[1]) if given else 0
