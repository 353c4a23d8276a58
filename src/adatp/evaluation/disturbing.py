"""Disturbances of an evaluation: of a clip's pixels, of projected tokens, of relevance scores.

A disturbance depends only on the question's clip, so it is the same for every entrant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adatp.methods import Method
from adatp.models import decoder_of, family_of
from adatp.prefill import Prefill
from adatp.scenes import DISTURBANCES, disturb

FEATURES, RELEVANCE = "features", "relevance"
AMOUNTS = {FEATURES: 0.5, RELEVANCE: 1.0}
"""Disturbances that take an amount, with their default."""

NAMES = ("none", *DISTURBANCES, *AMOUNTS)


@dataclass(frozen=True)
class Disturbance:
    """A change to every question's clip.

    Attributes:
        kind: "none"; a pixel disturbance of `adatp.scenes.DISTURBANCES`; "features": Gaussian noise on the
            visual tokens that the decoder reads; "relevance": Gaussian noise on the frames' relevance.
        amount: standard deviation of the noise: of features in root mean squares of the clip's tokens, of
            relevance in standard deviations of the clip's frames. 0 for other kinds.
    """

    kind: str = "none"
    amount: float = 0.0

    @classmethod
    def named(cls, text: str) -> Disturbance:
        """Read ``kind`` or ``kind:amount``.

        Raises:
            ValueError: there is none of that name, it takes no amount, or the amount is not above 0.
        """
        kind, colon, given = text.partition(":")
        if kind not in NAMES:
            raise ValueError(f"no disturbance {kind!r}; there are {', '.join(NAMES)}")
        if not colon:
            return cls(kind, AMOUNTS.get(kind, 0.0))
        try:
            amount = float(given)
        except ValueError:
            amount = math.nan
        if kind not in AMOUNTS or not 0 < amount < math.inf:
            problem = "takes no amount" if kind not in AMOUNTS else "takes an amount above 0"
            raise ValueError(f"disturbance {kind!r} {problem}, not {given!r}")
        return cls(kind, amount)

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}" if self.kind in AMOUNTS else self.kind

    def __bool__(self) -> bool:
        return self.kind != "none"

    @property
    def of_pixels(self) -> bool:
        """Whether it changes the pixels that the model receives."""
        return self.kind in DISTURBANCES

    def pixels(self, frames: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Apply it to a clip's frames (F, H, W, 3)."""
        return disturb(frames, self.kind, seed) if self.of_pixels else frames

    def method(self, method: Method, seeds: Sequence[int]) -> Method:
        """Apply it to a method: the result reads worse relevance. One seed per prompt of a batch."""
        if self.kind != RELEVANCE:
            return method
        worse = with_noisy_relevance(self.amount, seeds)
        return cast(Method, WithPrefill(method, worse))

    @contextmanager
    def tokens(self, model: Any, seeds: Sequence[int]) -> Iterator[None]:
        """While open, apply it to the visual tokens that a decoder reads. One seed per prompt."""
        if self.kind != FEATURES:
            yield
            return
        noise = TokenNoise(model, self.amount, seeds)
        handles = [
            model.base_model.register_forward_pre_hook(noise.note, with_kwargs=True),
            decoder_of(model).register_forward_pre_hook(noise.add, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


UNDISTURBED = Disturbance()


class TokenNoise:
    """Hooks that add noise to the visual tokens of a prompt, before the decoder.

    Args:
        model: a Video LLM of a supported family.
        amount: standard deviation, in root mean squares of the prompt's visual tokens.
        seeds: seeds of the noise, one for each prompt of a batch.
    """

    def __init__(self, model: Any, amount: float, seeds: Sequence[int]) -> None:
        config = model.config
        images = family_of(config.model_type).of(model).encoded_as == "image"
        self.placeholder: int = config.image_token_id if images else config.video_token_id
        self.amount, self.seeds = amount, seeds
        self.visual: Tensor | None = None

    def note(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the positions of the call's visual tokens."""
        ids = args[0] if args else kwargs.get("input_ids")
        self.visual = None if ids is None else ids == self.placeholder

    def add(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add the noise to the decoder's input."""
        embeds, visual, self.visual = kwargs.get("inputs_embeds"), self.visual, None
        if embeds is None or visual is None or not bool(visual.any()):
            return args, kwargs
        changed = embeds.clone()
        for row, seed in enumerate(self.seeds):
            tokens = embeds[row, visual[row]].float()
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(tokens.shape, generator=generator).to(tokens.device)
            noisy = tokens + self.amount * tokens.square().mean().sqrt() * noise
            changed[row, visual[row]] = noisy.to(embeds)
        return args, {**kwargs, "inputs_embeds": changed}


class WithPrefill:
    """A method that plans with a changed prefill.

    Args:
        method: the method otherwise.
        alter: a prefill -> the one that the method plans with.
    """

    def __init__(self, method: Method, alter: Callable[[Prefill], Prefill]) -> None:
        self._method, self._alter = method, alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def plan(self, prefill: Prefill) -> Any:
        """The method's plan for the altered prefill."""
        return self._method.plan(self._alter(prefill))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare to prune a model, as the method itself does."""
        return type(self._method).__call__(cast(Method, self), *args, **kwargs)


def with_noisy_relevance(amount: float, seeds: Sequence[int]) -> Callable[[Prefill], Prefill]:
    """Make the relevance of a prefill's frames worse.

    Args:
        amount: standard deviation of the noise, in standard deviations of a prompt's frames.
        seeds: seeds of the noise, one for each prompt of a batch.
    """

    def alter(prefill: Prefill) -> Prefill:
        def relevance(sample: int) -> Tensor | None:
            found = prefill.relevance(sample)
            if found is None:
                return None
            noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(seeds[sample])).to(found)
            return found + amount * found.std(correction=0) * noise

        return replace(prefill, relevance=relevance)

    return alter
