"""Chooses the signal of each frame's relevance to the question, and computes it for one prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from adatp.adatp_steps.relevance import cosine_relevance, embedding_relevance
from adatp.encoders import EncoderError, NoEncoderError, SiglipPartner, load_partner
from adatp.errors import AdaTPError
from adatp.layout import VideoLayout
from adatp.question import QuestionFinder

Questions = str | Sequence[str] | None
"""One for all prompts, one for each, or None: they are in the prompts."""


class QuestionError(AdaTPError, ValueError):
    """``question=`` does not fit the prompts. The message is one line."""


@dataclass(frozen=True)
class Signal:
    """The relevance signal of a run.

    Attributes:
        kind: ``siglip``, ``embedding``, or one that is not known before the decoder runs.
        partner: the text encoder of ``siglip``.
        finder: reads the question out of a prompt; None if there is no tokenizer.
        questions: the questions, if the caller gave them.
        embed: for ``embedding``: maps token ids to the language model's input embeddings (..., d).
        pooling: the partner whose head gives frame embeddings to cut segments by; None: segments are cut by
            the tower's own features.
    """

    kind: str
    partner: SiglipPartner | None
    finder: QuestionFinder | None
    questions: Questions
    embed: Callable[[Tensor], Tensor]
    pooling: SiglipPartner | None = None


def choose_signal(
    kind: str,
    model: Any,
    tower: nn.Module,
    processor: Any,
    questions: Questions,
    video_intro: str = "",
    pooled_frames: str = "mean",
) -> Signal:
    """The signal that a method uses. ``auto`` is siglip if it is available without a download.

    Args:
        kind: `AdaTP.relevance`.
        model: the model whose tower and embeddings are used.
        tower: its vision tower.
        processor: its processor or tokenizer, or None.
        questions: the caller's questions.
        video_intro: see `QuestionFinder`.
        pooled_frames: `AdaTP.segments`.

    Raises:
        EncoderError: ``siglip`` or the head can't be loaded, the checkpoint's own text encoder is broken, or
            questions can't be embedded without a tokenizer.
        QuestionError: the questions are no texts, or one is empty.
    """
    _check_texts(questions)
    tokenizer = getattr(processor, "tokenizer", processor)
    words = tokenizer is not None or questions is not None
    partner = finder = None
    if kind == "siglip":
        if not words:
            raise EncoderError("relevance='siglip' needs the question's words: pass the processor too")
        partner = load_partner(model, tower, download=True)
    elif kind == "auto":
        kind = "embedding"
        try:
            if words:
                partner, kind = load_partner(model, tower, download=False), "siglip"
        except NoEncoderError:  # a broken one is an error: falling back would change the answer
            pass
    if kind == "embedding" and questions is not None and tokenizer is None:
        raise EncoderError("question= has to be split into tokens: pass the processor too")
    if kind == "embedding" or (kind == "siglip" and questions is None):
        finder = QuestionFinder.of(processor, video_intro)
    pooling = _pooling(pooled_frames, model, tower, partner)
    return Signal(kind, partner, finder, questions, model.get_input_embeddings(), pooling)


def _check_texts(questions: Questions) -> None:
    """Refuse questions that are not in words: relevance to nothing would be noise."""
    given: Sequence[object] = [questions]
    if questions is None or (hasattr(questions, "__getitem__") and not isinstance(questions, (str, Mapping))):
        given = list(questions or ())
    if not all(isinstance(each, str) and each.strip() for each in given):
        raise QuestionError("question= is a text, or a list of texts, one for each prompt; none may be empty")


def _pooling(
    wanted: str, model: Any, tower: nn.Module, partner: SiglipPartner | None
) -> SiglipPartner | None:
    """The partner whose head pools frames, if it is wanted and available."""
    if wanted == "mean":
        return None
    try:
        return partner or load_partner(model, tower, download=wanted == "head")
    except NoEncoderError:
        if wanted == "head":
            raise
        return None


@dataclass(eq=False)
class PromptRelevance:
    """Relevance of the frames of one call's prompts, by sample, computed on demand.

    Copies of a prompt (beams, several return sequences) are neighbouring rows and are computed once.

    Attributes:
        signal: the run's signal.
        layouts: one per sample.
        input_ids: (B, L).
        embeds: (B, L, d) the decoder's input.
        features: (frames, patches, d) of each video, from the vision tower.
        flops: real FLOPs spent so far.

    Raises:
        QuestionError: the caller gave a list of questions whose length is not the number of prompts.
    """

    signal: Signal
    layouts: Sequence[VideoLayout]
    input_ids: Tensor
    embeds: Tensor
    features: Sequence[Tensor]
    flops: int = 0
    _questions: Sequence[str] | None = field(default=None, init=False)
    _measured: dict[int, Tensor | None] = field(default_factory=dict, init=False)
    _embedded: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.signal.questions is not None:
            self._questions = self._one_each(self.signal.questions)

    def __call__(self, sample: int) -> Tensor | None:
        """(frames,) relevance in the signal's own scale; None if it is not known before the decoder runs."""
        while sample and self._asks_the_same(sample):
            sample -= 1
        if sample not in self._measured:
            self._measured[sample] = self._measure(sample)
        return self._measured[sample]

    def _measure(self, sample: int) -> Tensor | None:
        signal, layout, embeds = self.signal, self.layouts[sample], self.embeds
        if signal.kind == "embedding":
            words = self._embedded_words(sample)
            self.flops += 2 * len(words) * len(layout.index) * embeds.shape[2]
            visual = embeds[sample, layout.index]
            return embedding_relevance(words, visual, layout.frame, layout.frames)
        if signal.partner is None:
            return None
        self.flops += signal.partner.text_flops()
        frames = self._embedded_frames(signal.partner, sample)
        return cosine_relevance(signal.partner.embed_text(self._text(sample)), frames).to(embeds.device)

    @cached_property
    def _ids(self) -> list[list[int]]:
        ids: list[list[int]] = self.input_ids.tolist()
        return ids

    def frame_embeddings(self, sample: int) -> Tensor | None:
        """(frames, d) pooled output of the frames of a sample from the partner's head; None without one."""
        pooling = self.signal.pooling
        return None if pooling is None else self._embedded_frames(pooling, sample).to(self.embeds.device)

    def _embedded_frames(self, partner: SiglipPartner, sample: int) -> Tensor:
        while sample and self.layouts[sample - 1].videos == self.layouts[sample].videos:
            sample -= 1  # beams of one prompt share its videos
        if sample not in self._embedded:  # relevance and segments read the same embeddings
            layout = self.layouts[sample]
            self.flops += partner.frame_flops(layout.frames)
            self._embedded[sample] = torch.cat(
                [partner.embed_frames(self.features[v]) for v in layout.videos]
            )
        return self._embedded[sample]

    def _text(self, sample: int) -> str:
        """The question's text in words."""
        if self._questions is not None:
            return self._questions[sample]
        assert self.signal.finder is not None
        words = self.input_ids[sample, self._positions(sample)]
        return str(self.signal.finder.tokenizer.decode(words)).strip()

    def _embedded_words(self, sample: int) -> Tensor:
        """(q, d) the question's tokens, as the decoder receives them."""
        if self._questions is None:
            return self.embeds[sample, self._positions(sample)]
        assert self.signal.finder is not None
        ids = self.signal.finder.tokenizer(self._questions[sample], add_special_tokens=False)["input_ids"]
        made = self.signal.embed(torch.tensor(ids, dtype=torch.int64, device=self.embeds.device))
        return made.to(self.embeds.device)

    def _positions(self, sample: int) -> Tensor:
        """(q,) int64: positions of the question in its prompt."""
        layout, finder = self.layouts[sample], self.signal.finder
        return layout.question if finder is None else finder.positions(layout, self.input_ids[sample])

    def _one_each(self, questions: str | Sequence[str]) -> Sequence[str]:
        """One question per row, from one for all prompts or one for each."""
        rows = len(self.layouts)
        if isinstance(questions, str):
            return [questions] * rows
        given = len(questions)
        if given == rows:
            return questions
        prompts: list[int] = []  # the rows of each
        for row in range(rows):
            if row and self._is_copy(row):
                prompts[-1] += 1
            else:
                prompts.append(1)
        copies = rows // given if given and rows % given == 0 else 0
        if not copies or any(length % copies for length in prompts):
            raise QuestionError(
                f"question= is a list of {given}, and there are {len(prompts)} prompts: give a list of "
                f"{len(prompts)}, or one text for all of them"
            )
        return [question for question in questions for _ in range(copies)]

    def _asks_the_same(self, row: int) -> bool:
        """Whether a row has exactly the features and the question of the row before it, not only similar
        ones.
        """
        questions = self._questions
        shares = self.layouts[row - 1].videos == self.layouts[row].videos
        return shares and (not questions or questions[row - 1] == questions[row]) and self._is_copy(row)

    def _is_copy(self, row: int) -> bool:
        """Whether a row is the prompt of the one before it, with the same videos."""
        one, other = self.layouts[row - 1], self.layouts[row]
        if not torch.equal(one.real, other.real) or self._ids[row - 1] != self._ids[row]:
            return False
        if one.videos == other.videos:
            return True
        before, here = self.embeds[row - 1].float(), self.embeds[row].float()
        # The tower has encoded each copy and may round them differently. Two videos differ far more.
        return bool((here - before).norm() <= _ROUNDING * before.norm())


_ROUNDING = 0.02
"""Embeddings of copies of a video in one batch differ by less than this, relatively."""
