"""Every call of the decoder in an open context: planned if it reads a video, accounted for in any case."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from adatp.layout import LayoutError
from adatp.plan import Plan
from adatp.pruning.accounting import Accountant
from adatp.pruning.prompts import PromptReader, Reading
from adatp.pruning.run import Run
from adatp.pruning.timer import Timer
from adatp.pruning.tower import TowerWatch


@dataclass(eq=False)
class Requests:
    """What the engine asks at the beginning and at the end of each call of the decoder.

    Attributes:
        reader: lays out prompts and has the method plan.
        accountant: makes reports.
        watch: knows what the model was given.
        timer: times the stages.
        run: takes the reports.
    """

    reader: PromptReader
    accountant: Accountant
    watch: TowerWatch
    timer: Timer
    run: Run
    _reading: Reading | None = field(default=None, init=False)
    _decoding: int = field(default=0, init=False)

    def begin(self, kwargs: dict[str, Any], past: int) -> Plan | None:
        """Plan a call of the decoder.

        Args:
            kwargs: its keyword arguments.
            past: length of what is cached.

        Returns:
            The plan; None: every token is processed.
        """
        self._reading = None
        reads_video, tower = self.watch.video_call()
        in_chunks = self.watch.in_chunks()
        embeds: Tensor = kwargs["inputs_embeds"]
        self._decoding = 0 if reads_video else embeds.shape[1]
        if not reads_video:
            if in_chunks:
                warnings.warn("not pruned: the prompt comes in chunks", stacklevel=2)
            self.timer.start("decode")
            return None
        try:
            with self.timer.time("relevance"):
                self._reading = self.reader.read(self.watch.arguments, embeds, past, tower)
        except LayoutError as error:
            warnings.warn(f"not pruned: {error}", stacklevel=2)
        self.timer.start("prefill")
        return self._reading.plan if self._reading is not None else None

    def end(self, kept: list[list[Tensor]] | None) -> None:
        """Account for the call.

        Args:
            kept: ``kept[l][b]``: positions that layer l processed; None where nothing was cut.
        """
        self.timer.stop("prefill")
        self.timer.stop("decode")
        reading, self._reading = self._reading, None
        self.watch.forget()
        if reading is None:
            self.run._add_decode_steps(self._decoding)
            return
        probe, reuse = self.watch.probe, self.watch.reuse
        report = self.accountant.report(
            reading,
            kept,
            self.timer.reported(),
            tower_scoring=probe.flops if probe is not None else 0,
            vision_saved=reuse.saved_flops if reuse is not None else 0,
        )
        self.run._add(report, reading.layouts)
