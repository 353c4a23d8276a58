"""The answers of one batch, token by token: each row samples, stops and reports by its own settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from adatp.session.answer import words_of
from adatp.session.stream import settled_words

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the next token of an answer is sampled.

    Attributes:
        temperature: 0: the likeliest token is taken.
        top_p: share of probability to sample from.
        seed: equal seeds give equal answers; None: a different one every time.
        ignore_eos: whether the answer continues after its end.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False


class Row:
    """One answer while it is generated.

    Attributes:
        sampling: how its tokens are sampled.
        max_new_tokens: its longest answer.
        tokens: tokens so far.
        text: the part of its text that may be sent; complete once it is finished.
        finish: why it ended; None: it has not.
        cancelled: whether nobody waits for it any more. Set by any thread.
    """

    def __init__(
        self,
        processor: Any,
        sampling: Sampling,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        *,
        streamed: bool = False,
        changed: Callable[[Row], object] = lambda row: None,
    ) -> None:
        """A row that has no tokens yet.

        Args:
            processor: turns tokens into text; no other thread uses it.
            sampling: how its tokens are sampled.
            max_new_tokens: its longest answer.
            stops: texts that end it, which are not part of it.
            streamed: whether its text is needed before it is finished.
            changed: called when its text grew or it is finished.
        """
        self.sampling, self.max_new_tokens = sampling, max_new_tokens
        self.tokens: list[int] = []
        self.text = ""
        self.finish: Finish | None = None
        self.cancelled = False
        self._processor, self._stops, self._streamed, self._changed = processor, stops, streamed, changed
        self._generator: torch.Generator | None = None

    def take(self, token: int, ends: frozenset[int]) -> None:
        """Add one token; ``ends`` are those that end an answer."""
        self.tokens.append(token)
        if self.cancelled:
            self.finish = "cancelled"
        elif token in ends and not self.sampling.ignore_eos:
            self.finish = "stop"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish = "length"
        if self.finish is None and not self._streamed and not self._stops:
            return
        words = words_of if self.finish else settled_words
        text, stopped = cut_at(words(self._processor, self.tokens), self._stops)
        if stopped and self.finish != "cancelled":
            self.finish = "stop"
        if self.finish is None:
            text = without_begun(text, self._stops)
        grew = self._streamed and len(text) > len(self.text) and text.startswith(self.text)
        if self.finish or grew:
            self.text = text
            self._changed(self)

    def end(self) -> None:
        """Finish an answer that the model ended, for whatever reason."""
        if self.finish is None:
            self.finish = "stop"
            self.text, _ = cut_at(words_of(self._processor, self.tokens), self._stops)
            self._changed(self)

    def draw(self, scores: Tensor, ends: frozenset[int]) -> Tensor:
        """Scores of the next token, (vocabulary,), whose largest is the sampled token.

        With Gumbel noise, the largest score is a sample from their softmax. The noise depends on this row
        alone. So a row samples the same tokens in any batch, and on any device.
        """
        scores = scores.float()
        if self.sampling.ignore_eos:
            scores = scores.index_fill(
                0, torch.tensor(sorted(ends), dtype=torch.int64, device=scores.device), -torch.inf
            )
        if self.sampling.temperature == 0:
            return scores
        scores = _nucleus(scores / max(self.sampling.temperature, 1e-3), self.sampling.top_p)
        if self._generator is None:
            seed = self.sampling.seed
            chosen = int.from_bytes(os.urandom(7), "big") if seed is None else seed
            self._generator = torch.Generator().manual_seed(chosen)
        noise = torch.rand(len(scores), generator=self._generator, dtype=torch.float64)
        return scores + (-(-noise.log()).log()).float().to(scores.device)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with all tokens masked except the likeliest, which have a share ``top_p`` together."""
    if top_p >= 1:
        return scores
    ordered, order = scores.softmax(-1).sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return scores.index_fill(0, order[before >= top_p], -torch.inf)


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stops in it, and whether there is one."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)].rstrip(), True) if found else (text, False)


def without_begun(text: str, stops: Sequence[str]) -> str:
    """The text without an ending that may be the beginning of a stop."""
    longest = max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
    )
    return text[: len(text) - longest].rstrip() if longest else text


class RowSampler:
    """Lets every row sample its own token. Decoding is otherwise greedy."""

    def __init__(self, rows: Sequence[Row], ends: frozenset[int]) -> None:
        self._rows, self._ends = rows, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores, (rows, vocabulary), whose largest are the sampled tokens."""
        drawn = [
            scores[number].float() if row.finish else row.draw(scores[number], self._ends)
            for number, row in enumerate(self._rows)
        ]
        return torch.stack(drawn)


class RowKeeper:
    """Gives every row its tokens, and ends it when the row decides so."""

    def __init__(self, rows: Sequence[Row], ends: frozenset[int]) -> None:
        self._rows, self._ends = rows, ends

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is finished, (rows,)."""
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish is None:
                row.take(token, self._ends)
        return torch.tensor([row.finish is not None for row in self._rows], device=input_ids.device)
