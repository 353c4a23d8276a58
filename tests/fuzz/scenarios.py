"""What the fuzzer draws: a model, a way of calling it, prompts, a method, and what goes wrong on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

import fake_flash
from adatp.methods import METHODS, AdaTP, Method, Vanilla
from families import FAMILIES, Prompt, Qwen35, VideoLlama3Whole

FOUND = {family.name: family for family in FAMILIES}
FOUND[VideoLlama3Whole.__name__] = VideoLlama3Whole
WAYS = ("calls", "generate", "beams", "sampling", "chunks", "split", "thread", "threads")
ERRORS = {"exception": ZeroDivisionError, "interrupt": KeyboardInterrupt}


@dataclass(frozen=True)
class Turn:
    """What is said after the first prompt: words, or another video with words."""

    frames: int
    words: int
    seed: int


@dataclass(frozen=True)
class Interruption:
    """An error in one layer, in a request before the one that is checked.

    Attributes:
        error: a key of ``ERRORS``.
        layer: whose MLP raises.
        decoding: whether in a step after the prompt, not in the prompt.
        leaves: whether one more such request ends a context of its own by the error.
    """

    error: str
    layer: int
    decoding: bool
    leaves: bool


@dataclass(frozen=True)
class Scenario:
    """One example.

    Attributes:
        family: a key of ``FOUND``.
        attention: an implementation that the family has.
        method: which prunes.
        prompts: of one batch, all with as many frames.
        padding: on which side.
        way: ``calls`` of forward, ``generate``, ``beams``, ``sampling``, ``chunks``, ``split`` (the video in
            one call, the question in the next), ``threads`` (two requests at once), ``thread`` (a request in
            another thread than the one that opened the context).
        cache: ``dynamic``, ``static`` or ``none``.
        slack: slots of a static cache that stay free.
        turns: which follow on the same cache, in ``calls``.
        interruption: of an earlier request in the same context.
        text_before: whether a request without a video comes first in the context.
    """

    family: str
    attention: str
    method: Method
    prompts: tuple[Prompt, ...]
    padding: str
    way: str
    cache: str
    slack: int
    turns: tuple[Turn, ...]
    interruption: Interruption | None
    text_before: bool

    @property
    def kinds(self) -> list[str]:
        """What it is counted as."""
        return [
            f"family {self.family}",
            f"attention {self.attention}",
            f"method {self.method.name}",
            f"way {self.way}",
            f"cache {self.cache}",
            f"batch {len(self.prompts)}, padded {self.padding}",
            f"turns {1 + len(self.turns)}",
            f"interrupted by {self.interruption.error if self.interruption else 'nothing'}",
        ]

    @property
    def needs_masks(self) -> bool:
        """Whether transformers itself, unpruned, goes wrong in a later call that has no mask."""
        # Flash attention then reads a static cache's unused keys.
        return self.cache == "static" and self.attention == fake_flash.NAME

    @property
    def ragged(self) -> bool:
        return len({prompt.before + prompt.question for prompt in self.prompts}) > 1


def prompts() -> st.SearchStrategy[tuple[Prompt, ...]]:
    def of(frames: int) -> st.SearchStrategy[Prompt]:
        return st.builds(Prompt, st.just(frames), st.integers(0, 9), st.integers(1, 11), st.integers(0, 9))

    return st.sampled_from([2, 4, 6, 8, 12]).flatmap(
        lambda frames: st.lists(of(frames), min_size=1, max_size=3).map(tuple)
    )


def methods() -> st.SearchStrategy[Method]:
    flops = st.sampled_from([0.2, 0.273, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 1.0])
    ours = st.builds(
        AdaTP,
        flops=flops,
        early=st.sampled_from(["auto", "on", "off"]),
        relevance=st.sampled_from(["auto", "embedding", "attention", "none"]),
        global_debias=st.booleans(),
        local_debias=st.booleans(),
        adaptive=st.booleans(),
        tau_s=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
        tau_r=st.sampled_from([0.1, 1.0, 10.0]),
        tau_d=st.sampled_from([0.0, 0.9, 1.0]),
        max_queries=st.sampled_from([1, 3, 32]),
    )
    others = [kind for kind in METHODS.values() if kind not in (AdaTP, Vanilla)]
    theirs = st.builds(lambda kind, flops: kind(flops=flops), st.sampled_from(others), flops)
    return st.sampled_from([ours] * 4 + [theirs] * 4 + [st.just(Vanilla())]).flatmap(lambda one: one)


@st.composite
def scenarios(draw: Any) -> Scenario:
    """Only what transformers itself can do."""
    name = draw(st.sampled_from(sorted(FOUND)))
    family = FOUND[name]
    by_generate = ("beams", "sampling", "chunks")
    often = ("calls", "calls", "generate")
    way = draw(st.sampled_from([w for w in (*often, *WAYS) if family.found or w not in by_generate]))
    # A state takes in the padding on the right, pruned or not.
    sides = ["left", "right"] if way == "calls" and not issubclass(family, Qwen35) else ["left"]
    padding = draw(st.sampled_from(sides))
    cache = draw(
        st.sampled_from(
            ["dynamic", "static", "none"] if way in ("calls", "generate") else ["dynamic", "static"]
        )
    )
    turn = st.builds(Turn, st.sampled_from([0, 4, 6]), st.integers(1, 7), st.integers(0, 9))
    more = draw(st.sampled_from([0, 1, 1, 2])) if way == "calls" and cache != "none" else 0
    turns = [draw(turn) for _ in range(more)]
    interruption = st.builds(
        Interruption, st.sampled_from(sorted(ERRORS)), st.integers(0, 5), st.booleans(), st.booleans()
    )
    return Scenario(
        family=name,
        attention=draw(st.sampled_from(family.attentions)),
        method=draw(methods()),
        prompts=draw(prompts()),
        padding=padding,
        way=way,
        cache=cache,
        slack=draw(st.sampled_from([0, 1, 50])),
        turns=tuple(turns),
        interruption=draw(st.one_of(st.none(), interruption)),
        text_before=draw(st.booleans()),
    )
