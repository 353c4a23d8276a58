"""Which signal tells how relevant each frame is to the question, and what it says about one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adatp.adatp_steps.relevance import cosine_relevance, embedding_relevance
from adatp.encoders import EncoderError, NoEncoderError, SiglipPartner, load_partner
from adatp.layout import VideoLayout


@dataclass(frozen=True)
class Signal:
    """The signal that a run settled on.

    Attributes:
        kind: ``siglip``, ``embedding``, or one that gives nothing before the decoder runs.
        partner: the text encoder of ``siglip``.
        tokenizer: the model's, to read the question out of the prompt; None if there is none.
        questions: the questions, where the caller gave them.
    """

    kind: str
    partner: SiglipPartner | None
    tokenizer: Any
    questions: Sequence[str] | None


def choose_signal(
    kind: str, model: Any, tower: nn.Module, tokenizer: Any, questions: Sequence[str] | None
) -> Signal:
    """The signal that a method asks for; of ``auto``, siglip if it is at hand without a download.

    Raises:
        EncoderError: ``siglip`` can't be had, or the checkpoint's own text encoder is broken.
    """
    words = tokenizer is not None or questions is not None
    partner = None
    if kind == "siglip":
        if not words:
            raise EncoderError("relevance='siglip' needs the question's words: pass the processor too")
        partner = load_partner(model, tower, download=True)
    elif kind == "auto":
        kind = "embedding"
        try:
            if words:
                partner, kind = load_partner(model, tower, download=False), "siglip"
        except NoEncoderError:  # a broken one is an error: the answer would be another one
            pass
    return Signal(kind, partner, tokenizer, questions)


@dataclass(eq=False)
class PromptRelevance:
    """Relevance of the frames of one call's prompts, by sample, computed when asked for.

    Attributes:
        signal: what the run settled on.
        layouts: one a sample.
        input_ids: (B, L).
        embeds: (B, L, d) what the decoder reads.
        features: (frames, patches, d) of each video, as the vision tower made them.
        flops: real FLOPs spent so far.
    """

    signal: Signal
    layouts: Sequence[VideoLayout]
    input_ids: Tensor
    embeds: Tensor
    features: Sequence[Tensor]
    flops: int = 0

    def __call__(self, sample: int) -> Tensor | None:
        """(frames,) relevance in the signal's own scale; None if it gives none before the decoder runs."""
        signal, layout, embeds = self.signal, self.layouts[sample], self.embeds
        words = _content(layout.question, self.input_ids[sample], signal.tokenizer)
        if signal.kind == "embedding":
            self.flops += 2 * len(words) * len(layout.index) * embeds.shape[2]
            visual = embeds[sample, layout.index]
            return embedding_relevance(embeds[sample, words], visual, layout.frame, layout.frames)
        if signal.partner is None:
            return None
        if signal.questions is not None:
            question = signal.questions[sample * len(signal.questions) // len(self.layouts)]
        else:
            question = signal.tokenizer.decode(self.input_ids[sample, words]).strip()
        self.flops += signal.partner.flops(layout.frames)
        frames = torch.cat([signal.partner.embed_frames(self.features[v]) for v in layout.videos])
        return cosine_relevance(signal.partner.embed_text(question), frames).to(embeds.device)


def _content(question: Tensor, ids: Tensor, tokenizer: Any) -> Tensor:
    """The positions of the question's own words: the first run of tokens that are not the template's."""
    if tokenizer is None:
        return question
    special = torch.tensor(tokenizer.all_special_ids, device=ids.device)
    word = ~torch.isin(ids[question], special)
    begun = word.cumsum(0) > 0
    ended = (begun & ~word).cumsum(0) > 0
    words = question[begun & ~ended]
    return words if len(words) else question
