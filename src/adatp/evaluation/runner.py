"""Asks every entrant every question of a world's benchmark, and stores each answer at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adatp.budget import BudgetError
from adatp.encoders import NoEncoderError
from adatp.evaluation.entrants import Entrant
from adatp.evaluation.results import Results
from adatp.evaluation.worlds import TINY, World
from adatp.methods import GridError, Vanilla
from adatp.models import GeneralRuleError, family_of
from adatp.session import Answer, Prompt, Session
from adatp.session.answer import batches
from adatp.session.encode_once import replaced_forward, same_tensors

LONGEST_ANSWER = 8
"""Tokens generated: the answers are words, which may be several tokens."""


class TowerCache:
    """While open, a vision tower encodes a batch that comes again once. Its hooks fire as if it did so each
    time.

    See `adatp.session.encode_once.EncodeOnce` for why there are two of this kind.

    Args:
        tower: the vision tower.
        attention: its module whose attention some methods watch; for them only this module runs again. None:
            it is not known, and there are no such methods.
    """

    def __init__(self, tower: nn.Module, attention: nn.Module | None) -> None:
        self.tower, self.attention = tower, attention
        self._video: object = None
        self._watched = False
        self._output: Any = None
        self._given: list[torch.Tensor] = []
        self._calls: list[tuple[Any, Any]] = []
        self._replaced = ExitStack()

    def __enter__(self) -> TowerCache:
        encode = self.tower.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            if self._output is None or not same_tensors(given, self._given):  # other frames are left out
                self._given, self._calls = given, []
                with self._noting():
                    self._output = encode(*args, **kwargs)
            elif self._watched and self.attention is not None:
                for again, named in self._calls:
                    self.attention(*again, **named)
            return copy(self._output)  # Qwen2.5-VL's model changes its input in place

        self._replaced.enter_context(replaced_forward(self.tower, forward))
        return self

    def __exit__(self, *_: object) -> None:
        self._replaced.close()

    def show(self, video: object, watched: bool) -> None:
        """Announce the video that is encoded next, and whether the attention is watched."""
        self._watched = watched
        if video is not self._video:
            self._video, self._output, self._calls = video, None, []

    @contextmanager
    def _noting(self) -> Iterator[None]:
        if self.attention is None:
            yield
            return
        note = self.attention.register_forward_pre_hook(self._note, with_kwargs=True)
        try:
            yield
        finally:
            note.remove()

    def _note(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._calls.append((args, kwargs))


def view_of(frames: NDArray[np.uint8], view: str) -> NDArray[np.uint8]:
    """The model's input for a clip's frames (F, H, W, 3), with the same shape (see ``entrants.VIEWS``)."""
    if view == "blind":
        return np.zeros_like(frames)
    if view == "single_frame":
        return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
    return frames


def fingerprint(model: Any) -> str:
    """A digest of a model's weights from a few numbers of every parameter, so that it costs nothing."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        digest.update(name.encode())
        digest.update(flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Asked:
    """One question and the frames (F, H, W, 3) of its clip."""

    number: int
    seed: int
    text: str
    frames: NDArray[np.uint8]


def evaluate(
    session: Session,
    entrants: Sequence[Entrant],
    frame_counts: Sequence[int],
    split: str,
    limit: int,
    results: Results,
    progress: Callable[[str | None], None] = lambda reason: None,
    world: World = TINY,
    batch: int = 1,
) -> None:
    """Ask the questions that the work file has no answers to.

    A clip is made once, and encoded by the vision tower once, for all entrants.

    Args:
        session: holds the model.
        entrants: the competitors, together with their references.
        frame_counts: lengths of the clips.
        split: a split of the world.
        limit: how many questions of each length. A later run on the same work file may ask more, not fewer.
        results: the open work file; questions answered in it are not asked again.
        progress: called after every answer with None, and with a line of text if an entrant has to be
            skipped.
        world: the world of the questions.
        batch: questions that are asked together. FLOPs are then the mean of those.

    Raises:
        ResultsError: the work file belongs to another model or split, has more questions, or other ones.
        PromptError: a clip with its question does not fit into the model's context.
    """
    model = session.model
    settings: list[tuple[str, Any]] = [
        ("world", world.name),
        ("split", split),
        ("limit", limit),
        ("weights", fingerprint(model)),
        ("dtype", str(model.dtype)),
    ]
    settings += [(f"run {entrant.key}", entrant.facts()) for entrant in entrants]
    settings += [
        (f"first clip of {frames} frames", _first_clip(world, split, frames)) for frames in frame_counts
    ]
    results.pin_all(settings)
    ordered = sorted(entrants, key=_shown)  # the cache holds one video
    with _tower_cache(model) as tower, torch.no_grad():
        for frames in frame_counts:
            wanted = _wanted(world, ordered, split, frames, limit, results)
            while together := list(islice(wanted, batch)):
                _ask_all(session, ordered, together, frames, results, progress, tower)


@contextmanager
def _tower_cache(model: Any) -> Iterator[TowerCache | None]:
    """A cache of the last encoded video; None: it is not known where the vision tower is."""
    family = family_of(model.config.model_type).of(model)
    if (tower := family.lone_tower(model)) is None:
        yield None
        return
    try:
        attention = family.tower_attention_module(model)
    except GeneralRuleError:
        attention = None
    with TowerCache(tower, attention) as cache:
        yield cache


def _first_clip(world: World, split: str, frames: int) -> str:
    """A digest of a split's first clip, as another version of the world may draw other clips for a seed."""
    seed, _ = next(iter(world.benchmark(split, frames, 1)))
    return hashlib.sha256(world.make_clip(seed, frames, split).frames.tobytes()).hexdigest()[:16]


def _wanted(
    world: World, entrants: Sequence[Entrant], split: str, frames: int, limit: int, results: Results
) -> Iterator[Asked]:
    """The questions of one length that some entrant has not answered yet."""
    for number, (seed, question) in enumerate(world.benchmark(split, frames, limit)):
        if not any(results.wants(each.key, frames, number) for each in entrants):
            continue
        clip = world.make_clip(seed, frames, split)
        results.add_question(
            frames,
            number,
            seed=seed,
            kind=question.kind,
            text=question.text,
            answer=question.answer,
            third=world.third_of(clip, question),
        )
        yield Asked(number, seed, question.text, clip.frames)


def _shown(entrant: Entrant) -> tuple[str, str]:
    """A key that is equal for entrants with the same input."""
    return entrant.view, str(entrant.disturbance) if entrant.disturbance.of_pixels else ""


def _ask_all(
    session: Session,
    entrants: Sequence[Entrant],
    together: Sequence[Asked],
    frames: int,
    results: Results,
    progress: Callable[[str | None], None],
    tower: TowerCache | None,
) -> None:
    """Ask each entrant those of some questions that it has not answered. Store answers, or why there are
    none.
    """
    made: tuple[object, list[tuple[list[Asked], list[Prompt]]]] = (None, [])
    for entrant in entrants:
        lacking = [each for each in together if results.wants(entrant.key, frames, each.number)]
        if not lacking:
            continue
        key = (_shown(entrant), [each.number for each in lacking])
        if key != made[0]:
            found = [_prompt(session, entrant, each) for each in lacking]
            # The batches that the model gets, as noise follows their rows.
            made = key, [([lacking[n] for n in rows], [found[n] for n in rows]) for rows in batches(found)]
        try:
            for asked, prompts in made[1]:
                if tower is not None:
                    tower.show(prompts, entrant.method.tower_attention)
                answers = _answers(session, entrant, asked, prompts)
                for each, answer in zip(asked, answers, strict=True):
                    results.add_answer(entrant.key, frames, each.number, **_facts(answer))
                    progress(None)
        except (BudgetError, NoEncoderError, GridError, GeneralRuleError) as error:
            results.skips[entrant.key, frames] = reason = " ".join(str(error).split())
            progress(f"{entrant.key}, {frames} frames: {reason}")


def _answers(
    session: Session, entrant: Entrant, together: Sequence[Asked], prompts: Sequence[Prompt]
) -> list[Answer]:
    """An entrant's answers to questions that fit into one batch, under its disturbance."""
    seeds = [each.seed for each in together]
    with entrant.disturbance.tokens(session.model, seeds):
        return session.answer_batch(
            prompts,
            entrant.disturbance.method(entrant.method, seeds),
            max_new_tokens=LONGEST_ANSWER,
            reuse_frames=entrant.reuse_frames,
            strict=True,
        )


def _prompt(session: Session, entrant: Entrant, asked: Asked) -> Prompt:
    """The prompt of a question with an entrant's view of its clip, on the model's device."""
    shown = view_of(entrant.disturbance.pixels(asked.frames, asked.seed), entrant.view)
    prompt = session.prepare(shown, asked.text)
    session.check(prompt, Vanilla(), max_new_tokens=LONGEST_ANSWER)
    return prompt.to(session.model.device)


def _facts(answer: Answer) -> dict[str, Any]:
    """The stored facts of an answer: its word and its costs. FLOPs are those of its batch."""
    report = answer.report
    visual = [layer[answer.row] for layer in report.visual_tokens]
    return {
        "word": first_word(answer.text),
        "flops_ratio": report.flops_ratio,
        "visual_mean": sum(visual) / len(visual),
        "visual_last": visual[-1],
    }


def first_word(text: str) -> str:
    """The first word of an answer, lower case; empty if it has none."""
    return next(iter(re.findall(r"\w+", text.lower())), "")
