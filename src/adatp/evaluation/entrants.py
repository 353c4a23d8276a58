"""Defines the entrants of a comparison: methods at FLOPs targets, baselines, and variants of AdaTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adatp.budget import default_range
from adatp.evaluation.disturbing import RELEVANCE, UNDISTURBED, Disturbance
from adatp.evaluation.settings import Settings, with_settings
from adatp.methods import METHODS, NAMES, VARIANTS, AdaTP, Method, Vanilla, make_method

VIEWS = ("video", "blind", "single_frame")
"""The model's input: the clip; black frames; the clip's middle frame in the place of every frame."""


@dataclass(frozen=True)
class Entrant:
    """One competitor of an evaluation.

    Attributes:
        label: its name in tables.
        method: the pruning method.
        reference: `key` of the entrant that it is compared with, question by question.
        view: one of `VIEWS`.
        reuse_frames: see `adatp.methods.Method.__call__`.
        disturbance: change to every clip before the question is asked.
    """

    label: str
    method: Method
    reference: str = "vanilla"
    view: str = "video"
    reuse_frames: float | None = None
    disturbance: Disturbance = UNDISTURBED

    @property
    def target(self) -> float | None:
        """Its FLOPs target, as a fraction of vanilla; None if it has none."""
        return self.method.flops

    @property
    def key(self) -> str:
        """Its name in the work file."""
        named = self.label if self.target is None else f"{self.label}@{self.target:g}"
        return f"{named} under {self.disturbance}" if self.disturbance else named

    def facts(self) -> dict[str, Any]:
        """All that distinguishes it from others, as plain values for JSON."""
        reuse = {} if self.reuse_frames is None else {"reuse_frames": self.reuse_frames}
        disturbed = {"disturbance": str(self.disturbance)} if self.disturbance else {}
        return {
            "label": self.label,
            "method": self.method.name,
            "flops_target": self.target,
            "reference": self.reference,
            "view": self.view,
            "settings": self.method.settings | reuse,
            **disturbed,
        }


VANILLA = Entrant("vanilla", Vanilla())
BASELINES = {view: Entrant(view, Vanilla(), view=view) for view in VIEWS[1:]}
"""Baselines by name: they show what the questions alone give away, and what one frame does."""


def names() -> list[str]:
    """Every name that `entrants` knows."""
    return [*NAMES, *BASELINES]


def entrants(
    wanted: Sequence[str], targets: Sequence[float], settings: Settings | None = None
) -> list[Entrant]:
    """Methods and baselines by name, each at every target if it takes one. Vanilla is always included.

    Args:
        wanted: names from `names()`.
        targets: FLOPs as fractions of vanilla, in (0, 1].
        settings: parameters of methods that differ from their defaults.

    Raises:
        KeyError: there is no such name.
        BudgetError: a method does not take such a target.
    """
    made = [VANILLA]
    for name in dict.fromkeys(wanted):
        if name in BASELINES:
            made.append(BASELINES[name])
        elif name in VARIANTS:
            made += [Entrant(name, make_method(name, target)) for target in dict.fromkeys(targets)]
        elif METHODS[name].flops is not None:
            made += [
                Entrant(name, with_settings(METHODS[name], settings or {}, flops=target))
                for target in dict.fromkeys(targets)
            ]
        elif name != VANILLA.label:
            made.append(Entrant(name, METHODS[name]()))
    return made


def disturbed(competing: Sequence[Entrant], disturbances: Sequence[Disturbance]) -> list[Entrant]:
    """The same entrants under each disturbance, each compared with its reference under the same one.

    Worse relevance only concerns methods that read it. They are compared with the undisturbed reference,
    which is asked as well.

    Args:
        competing: entrants without a disturbance.
        disturbances: disturbances, of which one may be "none".
    """
    made: list[Entrant] = []
    for disturbance in dict.fromkeys(disturbances):
        for each in competing:
            if disturbance.kind == RELEVANCE:
                if _reads_relevance(each.method):
                    made.append(replace(each, disturbance=disturbance))
            elif disturbance and each.view != "blind":  # black frames stay black under any disturbance
                reference = f"{each.reference} under {disturbance}"
                made.append(replace(each, disturbance=disturbance, reference=reference))
            elif not disturbance:
                made.append(each)
    lacking = {each.reference for each in made} - {each.key for each in made}
    return [each for each in competing if each.key in lacking] + made


def _reads_relevance(method: Method) -> bool:
    """Whether noise on the relevance of frames can reach a method."""
    # Relevance by attention is only measured inside the decoder, where no noise is added.
    return not method.keeps_everything and method.relevance_signal not in ("none", "attention")


def ablations(targets: Sequence[float], layers: int, paper: bool = False) -> list[Entrant]:
    """AdaTP, and AdaTP with one change each, compared with the full one at the same FLOPs target.

    Args:
        targets: FLOPs as fractions of vanilla, in (0, 1].
        layers: number of decoder layers.
        paper: whether the full one is the paper's method, `AdaTP.paper()`, instead of the default.

    Raises:
        BudgetError: AdaTP does not take such a target.
    """
    start, end = default_range(layers)
    settings: dict[str, dict[str, Any]] = {
        "full": {},
        "no global debias": {"global_debias": False},
        "no local debias": {"local_debias": False},
        "neither": {"global_debias": False, "local_debias": False},
        "relevance siglip": {"relevance": "siglip"},
        "relevance embedding": {"relevance": "embedding"},
        "relevance attention": {"relevance": "attention"},
        "relevance none": {"relevance": "none"},
        "adaptive": {"adaptive": True},
        "early on": {"early": "on"},
        "early off": {"early": "off"},
        f"start {start + 1}": {"start": start + 1},
        f"start {start + 2}": {"start": start + 2},
        f"end {end - 2}": {"end": end - 2},
        f"end {end + 2}": {"end": end + 2},
        "every 2": {"every": 2},
        "every 4": {"every": 4},
        "tau_s 0.98": {"tau_s": 0.98},
        "tau_s 0.99": {"tau_s": 0.99},
        "duplicates video": {"duplicates": "video"},
        "ranking novelty": {"ranking": "novelty"},
        "ranking both": {"ranking": "both"},
        "ranking random": {"ranking": "random"},
        f"{start + 1} first layers": {"start": start + 1, "first_layers": start + 1},
        "prior video": {"prior": "video"},
        "shares distinct": {"shares": "distinct"},
        "relevance softened": {"soften": True},
        "relevance ignored": {"tau_r": math.inf},
        "merge 0.9": {"merge": 0.9},
        "segments head": {"segments": "head"},
        "segments mean": {"segments": "mean"},
    }
    if not paper:  # whose segments by the head are read from the tower
        settings |= {"early only": {"early": "only"}, "survive 0.5": {"survive": 0.5}}
        settings |= {f"even {share:g}": {"even": share} for share in (0.0, 0.5, 1.0)}
    full = AdaTP.paper if paper else AdaTP
    made = []
    for target in dict.fromkeys(targets):
        for label, changed in settings.items():
            method = full(**{"flops": target, **changed})
            if not changed or method != full(flops=target):  # a change that changes nothing is no variant
                made.append(Entrant(label, method, reference=f"full@{target:g}"))
    return made
