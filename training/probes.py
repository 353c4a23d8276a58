"""Linear probes: they ask the decoder's hidden states for what few answers teach.

Some layers up, every visual token must name its frame ("clock") and which way its thing moves ("motion").
Every name in a question must give the frame of what it names ("named"). The second name of two must say
whether its thing comes later or, where one of the two is asked for, whether it is that one ("second"). The
word "things" must give the colours and shapes of what is counted ("members"). That is thousands of labels a
clip for what few questions ask. The probes are thrown away after training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatp.tiny.sizes import TOKENS_PER_FRAME
from adatp.tiny.world import COLOURS, DIRECTIONS, SHAPES, Question
from training.clips import ClipBatch
from training.labels import IGNORE

CLOCK_LAYER, MOTION_LAYER, NAME_LAYER = 2, 4, 9
"""Before these layers of 12 the hidden states have to hold: the frame of a visual token, its motion, and what
the words of a question stand for."""

_Spot = tuple[int, int, int]
"""A token of a question: numbers of the clip, of the question among the clip's, of the token in it."""


@dataclass(frozen=True)
class SharedPass:
    """What the decoder made of clips, each followed by all its questions.

    Attributes:
        hidden: (B, blocks, length, d), the decoder's output for the questions.
        states: The input of each layer, (B, prefix + blocks * length, d); empty if they were not kept.
        first: Place of the first visual token.
        prefix: Tokens before the questions; the last of them is the newline after the visual tokens.
    """

    hidden: Tensor
    states: tuple[Tensor, ...]
    first: int
    prefix: int

    def visual(self, layer: int) -> Tensor:
        """Normalised input of a layer for the visual tokens, (B, n, d)."""
        states = self.states[layer][:, self.first : self.prefix - 1].float()
        return F.rms_norm(states, states.shape[-1:])

    def words(self, layer: int, spots: list[_Spot]) -> Tensor:
        """Normalised input of a layer for some tokens of questions, (number of spots, d)."""
        states = self.states[layer][:, self.prefix :].reshape(self.hidden.shape)
        chosen = states[torch.tensor(spots, device=states.device).unbind(1)].float()
        return F.rms_norm(chosen, chosen.shape[-1:])


@dataclass(frozen=True)
class Term:
    """A probe's part of the loss, weighted, and how often it was right, as ones and zeros."""

    name: str
    loss: Tensor
    right: list[float]


def build_probes(width: int) -> nn.ModuleDict:
    """The probes with random weights, for hidden states of so many dimensions."""
    return nn.ModuleDict(
        {
            "clock": nn.Linear(width, 1),
            "motion": nn.Linear(width, 1 + len(DIRECTIONS)),
            "named": nn.Linear(width, 1),
            "second": nn.Linear(width, 1),
            "members": nn.Linear(width, len(COLOURS) + len(SHAPES)),
        }
    )


def probe_terms(
    batch: ClipBatch, probes: nn.ModuleDict, shared: SharedPass, last: Tensor, kept: Tensor
) -> Iterator[Term]:
    """The loss of every probe that the batch has labels for.

    Args:
        batch: Clips and questions.
        probes: As `build_probes` makes them.
        shared: The decoder's pass over the batch, with states.
        last: int64 (B, blocks), the place of the token that ends each answer.
        kept: int64 (B, n), the visual tokens that the decoder read.
    """
    yield _clock(probes["clock"], shared, kept)
    yield from _named(batch, probes["named"], shared)
    yield from _members(batch, probes["members"], shared)
    yield from _second(batch, probes["second"], shared, last)
    yield from _motion(batch, probes["motion"], shared, kept)


def _clock(probe: nn.Module, shared: SharedPass, kept: Tensor) -> Term:
    frames = (kept // TOKENS_PER_FRAME).float()
    guess = probe(shared.visual(CLOCK_LAYER)).squeeze(-1).float() * 8
    right = ((guess - frames).abs() < 1).float().flatten().tolist()
    return Term("token frame", 0.1 * F.huber_loss(guess, frames), right)


def _named(batch: ClipBatch, probe: nn.Module, shared: SharedPass) -> Iterator[Term]:
    single = [
        ((i, j, word), frame)
        for i, row in enumerate(batch.named)
        for j, names in enumerate(row)
        for word, frame in names
    ]
    if single:
        frames = torch.tensor([frame for _, frame in single], device=shared.hidden.device)
        words = shared.words(NAME_LAYER, [spot for spot, _ in single])
        guess = probe(words).float().squeeze(-1) * 8
        right = ((guess - frames).abs() < 1.5).float().tolist()
        yield Term("name frame", 0.3 * F.huber_loss(guess, frames), right)


def _members(batch: ClipBatch, probe: nn.Module, shared: SharedPass) -> Iterator[Term]:
    counts = [
        ((i, j, x[0]), x[1])
        for i, row in enumerate(batch.members)
        for j, x in enumerate(row)
        if x is not None
    ]
    if counts:
        members = torch.tensor([looks for _, looks in counts], device=shared.hidden.device)
        guess = probe(shared.words(NAME_LAYER, [spot for spot, _ in counts])).float()
        right = ((guess > 0) == (members > 0)).all(1).float().tolist()
        yield Term("members", F.binary_cross_entropy_with_logits(guess, members), right)


def _second(batch: ClipBatch, probe: nn.Module, shared: SharedPass, last: Tensor) -> Iterator[Term]:
    # Which of two to name has to reach the token that answers while it can still attend to both.
    pairs = [
        (i, j, names) for i, row in enumerate(batch.named) for j, names in enumerate(row) if len(names) == 2
    ]
    chosen = [(i, j, names) for i, j, names in pairs if batch.questions[i][j].kind == "first/last"]
    for name, some, spots, layer in (
        ("name second", pairs, [(i, j, names[1][0]) for i, j, names in pairs], NAME_LAYER),
        ("answer second", chosen, [(i, j, int(last[i, j]) - 2) for i, j, _ in chosen], NAME_LAYER + 1),
    ):
        if some:
            labels = [_is_second(batch.questions[i][j], names) for i, j, names in some]
            truth = torch.tensor(labels, device=shared.hidden.device)
            guess = probe(shared.words(layer, spots)).float().squeeze(-1)
            loss = 0.3 * F.binary_cross_entropy_with_logits(guess, truth.float())
            yield Term(name, loss, ((guess > 0) == truth).float().tolist())


def _is_second(question: Question, names: list[tuple[int, float]]) -> bool:
    """Whether the second thing named is the answer or, where neither can be, whether it comes later."""
    if question.kind == "first/last":
        return question.text.split()[names[1][0]] == question.answer
    return names[1][1] > names[0][1]


def _motion(batch: ClipBatch, probe: nn.Module, shared: SharedPass, kept: Tensor) -> Iterator[Term]:
    truth = batch.motion.to(shared.hidden.device).gather(1, kept)
    if (truth > 0).any():
        guess = probe(shared.visual(MOTION_LAYER)[truth != IGNORE]).float()
        truth = truth[truth != IGNORE]
        losses = F.cross_entropy(guess, truth, reduction="none")
        still = truth == 0
        loss = 0.3 * (losses[~still].mean() + losses[still].sum() / still.sum().clamp(1))
        yield Term("token motion", loss, (guess.argmax(-1) == truth)[~still].float().tolist())
