"""AdaTP: attention-debiased visual token pruning (arXiv 2505.20100).

From the paper: segments; text relevance from the vision tower's partner; one representative per spatial
position within a segment; text-to-visual attention as the signal; layers 2 to N - 12.

The paper does not publish its other rules. Ours are the geometric schedule solved for a FLOPs target, the
split of the budget between segments, which frame represents a position, and the use of budget left over.
Beyond the paper we add the early stage, for targets that the decoder's own cuts can't reach well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from typing_extensions import override

from adatp.adatp_steps.before_layers import Thresholds, kept_tokens
from adatp.budget import BudgetError, Schedule, constant, cuts_between, default_range, solve, solve_early
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts, VideoLayout
from adatp.methods.base import Method
from adatp.methods.before_layers import BeforeLayers, shares_of_videos
from adatp.methods.debiasing import Debiasing
from adatp.methods.segments import Features
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill

Relevance = Literal["auto", "siglip", "embedding", "attention", "none"]
Early = Literal["auto", "on", "off", "only"]
Duplicates = Literal["segment", "video"]
Ranking = Literal["attention", "novelty", "both", "random"]
Prior = Literal["none", "video"]
Shares = Literal["tokens", "distinct"]

_KINDS: dict[str, tuple[str, ...]] = {
    "relevance": get_args(Relevance),
    "early": get_args(Early),
    "duplicates": get_args(Duplicates),
    "ranking": get_args(Ranking),
    "prior": get_args(Prior),
    "shares": get_args(Shares),
    "segments": get_args(Features),
}

# Settings that work without scores inside the decoder; then without a question, or with embeddings alone.
_NO_SCORES: dict[str, tuple[Any, ...]] = {
    "start": (None,),
    "end": (None,),
    "every": (1,),
    "ranking": ("attention",),
    "first_layers": (1,),
    "prior": ("none",),
}
_QUESTION_FREE: dict[str, tuple[Any, ...]] = {"relevance": ("auto", "none"), "early": ("auto", "on")}
_EARLY_ONLY: dict[str, tuple[Any, ...]] = {
    "relevance": ("auto", "siglip", "embedding", "none"),
    "adaptive": (False,),
    "global_debias": (True,),
    "duplicates": ("segment",),
    "shares": ("tokens",),
    "soften": (False,),
    "merge": (None,),
    "segments": ("mean",),
}

# `auto` drops early where the decoder's cuts alone would leave fewer than this share of the visual tokens.
_FEW_LEFT = 0.25
# The early stage is even and the cuts after it are gentle where the last layer then has at least this share.
_PLENTY = 0.125
_GENTLE, _STEEP = 0.8, 0.5  # `survive`, with plenty of tokens and without


@dataclass(frozen=True)
class AdaTP(Method):
    """Drop visual tokens by debiased attention, progressively, down to a FLOPs target.

    Attributes:
        flops: real FLOPs of the decoder's prefill, scoring included, as a fraction of vanilla, in (0, 1]. Met
            from below, within 1 %. 1.0 keeps everything.
        keep: with ``early="only"``, the share of each video's tokens that stays, in (0, 1]; else None.
        start: first layer before which tokens are dropped; None: 2 of 28 layers, others in proportion. Where
            some layers have linear attention or a window, tokens are only dropped after layers of full
            attention.
        end: last such layer; None: 16 of 28 (the paper's N - 12), others in proportion.
        every: tokens are dropped before every ``every``-th of these layers; the paper's value is 1. Higher
            values are faster on a GPU with one short prompt, where the many small operations of cuts take as
            long as the layers.
        tau_s: neighbouring frames whose pooled tower features have at least this cosine share a segment.
        tau_r: temperature of the split between segments. Lower values give relevant segments more;
            ``math.inf`` ignores relevance.
        global_debias: split the budget between segments before comparing attention.
        local_debias: within a segment, prefer each position's best frame over a position's second best.
        adaptive: keep at most one representative per position and segment, even if the budget has room. FLOPs
            come out lower on redundant videos.
        relevance: the signal that finds relevant segments. ``siglip``: the tower's partner text encoder.
            ``embedding``: words against visual tokens in the decoder's input space. ``attention``: the mass
            that a segment receives in the layer scored last. ``none``: all segments count the same. ``auto``:
            siglip if the partner is available without a download, else embedding.
        max_queries: at most this many of the prompt's last text tokens score.
        early: whether tokens are dropped before the decoder's first layer, as far as the target needs it.
            What stays covers each frame. ``auto``: where the decoder's cuts alone would leave fewer than a
            quarter of the visual tokens, or can't reach the target. ``only``: nothing is dropped inside the
            decoder. Each video then keeps a number of tokens that is known in advance, chosen from the input
            embeddings. A serving engine can do the same (`adatp.integrations.vllm`).
        survive: approximate share of the early stage's tokens that the decoder's cuts leave, in (0, 1]. Less
            leaves more to the decoder's attention. None: 0.8 where at least an eighth of the visual tokens
            then reaches the last layer, else 0.5.
        even: share of the early stage's tokens that is split evenly over the frames, in [0, 1]. The rest is
            split by relevance and by what is distinct in each segment. None: 1 where at least an eighth of
            the visual tokens reaches the last layer, else 0.5; where no cuts follow, 0.5.
        tau_d: the early stage treats tokens of one spatial position and segment as duplicates if their
            projected features have at least this cosine.
        question_free: the video alone decides what stays. All tokens are dropped before the decoder's first
            layer, as in the early stage, but without relevance. Use it for a cache that later questions
            continue, since they only see what the first one left. Relevance, attention and the cuts from
            ``start`` to ``end`` are not used.
        duplicates: whether the early stage looks for duplicates within each segment or across each video.
        ranking: how the cuts after layer 0 rank tokens: by ``attention``; by ``novelty``, which is how much a
            token differs from earlier ones at its position; by ``both``, the mean of the two ranks; or at
            ``random``, to measure what attention is worth.
        first_layers: layers whose scores the first of these cuts ranks by, as the mean of their logarithms.
            At most as many as there are before ``start``.
        prior: ``video`` subtracts from the scores what time and spatial position explain of them.
        shares: how segments share the budget where there is no early stage: by all their ``tokens``, or by
            their ``distinct`` tokens, as the early stage does.
        soften: whether the weights of segments move closer together the less relevance differs between
            segments, compared with its variation within them.
        merge: from this cosine on, a dropped token is averaged into the most similar kept one of its segment;
            None: nothing is merged.
        segments: what frames are compared by. ``mean``: the mean of the tower's features. ``head``: the
            pooled output of the head of the SigLIP that the tower is cut from. ``auto``: the head if
            available, else the mean.
    """

    name: ClassVar[str] = "adatp"
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "survive": (None, 0.25, 0.5),
        "even": (None, 0.0, 0.5, 1.0),
        "tau_d": (0.8, 0.85, 0.9, 0.95, 0.98),
        "tau_r": (0.5, 1.0, 2.0),
        "tau_s": (0.9, 0.95, 0.98),
        "duplicates": get_args(Duplicates),
        "ranking": get_args(Ranking)[:3],
        "prior": get_args(Prior),
        "soften": (False, True),
        "merge": (None, 0.8, 0.9),
        "segments": ("mean", "auto"),
    }

    flops: float = 0.273
    start: int | None = None
    end: int | None = None
    every: int = 1
    tau_s: float = 0.95
    tau_r: float = 1.0
    global_debias: bool = True
    local_debias: bool = True
    adaptive: bool = False
    relevance: Relevance = "auto"
    max_queries: int = 32
    early: Early = "auto"
    survive: float | None = None
    even: float | None = None
    tau_d: float = 0.9
    keep: float | None = None
    question_free: bool = False
    duplicates: Duplicates = "segment"
    ranking: Ranking = "attention"
    first_layers: int = 1
    prior: Prior = "none"
    shares: Shares = "tokens"
    soften: bool = False
    merge: float | None = None
    segments: Features = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_s", "tau_d", "merge"):
            if (value := getattr(self, name)) is not None and not -1 <= value <= 1:
                raise SettingError(f"{name} is a cosine, in [-1, 1], not {value}")
        if self.survive is not None and not 0 < self.survive <= 1:
            raise SettingError(f"survive is a share of tokens, in (0, 1], not {self.survive}")
        if self.even is not None and not 0 <= self.even <= 1:
            raise SettingError(f"even is a share of tokens, in [0, 1], not {self.even}")
        if not self.tau_r > 0:
            raise SettingError(f"tau_r must be above 0, not {self.tau_r}")
        for name in ("max_queries", "first_layers", "every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, kinds in _KINDS.items():
            if getattr(self, name) not in kinds:
                raise SettingError(f"{name} must be one of {', '.join(kinds)}, not {getattr(self, name)!r}")
        if self.question_free:
            self._check_unused("question_free=True", _QUESTION_FREE)
        elif self.early == "only":
            self._check_unused('early="only"', _EARLY_ONLY)
        if self.keep is not None:
            self._check_keep(self.keep)

    def _check_unused(self, what: str, fitting: Mapping[str, tuple[Any, ...]]) -> None:
        for name, values in {**_NO_SCORES, **fitting}.items():
            if (value := getattr(self, name)) not in values:
                raise SettingError(f"{what} does not go with {name}={value!r}")

    def _check_keep(self, keep: float) -> None:
        if self.early != "only" or self.question_free:
            raise SettingError('keep needs early="only": elsewhere flops says how many tokens stay')
        if not 0 < keep <= 1:
            raise SettingError(f"keep is a share of each video's tokens, in (0, 1], not {keep}")
        object.__setattr__(self, "flops", None)

    @property
    @override
    def keeps_everything(self) -> bool:
        return super().keeps_everything if self.keep is None else self.keep == 1

    @property
    def before_the_first_layer(self) -> bool:
        """Whether all tokens are dropped before the decoder's first layer."""
        return self.question_free or self.early == "only"

    @classmethod
    def paper(cls, flops: float = 0.273, **more: Any) -> Self:
        """The paper's method, as far as it is published: without the early stage.

        Segments are cut by the head of the tower's SigLIP where it is available, because the paper compares
        one "global visual token" per frame. What the paper does not publish has our default.

        Args:
            flops: see the class.
            more: further parameters.
        """
        return cls(**{"flops": flops, "early": "off", "segments": "auto", **more})

    @property
    @override
    def merges(self) -> bool:  # type: ignore[override]  # of other methods a constant
        return self.merge is not None

    @property
    @override
    def pooled_frames(self) -> str:
        return self.segments

    @property
    @override
    def query_rows(self) -> int:
        return self.max_queries

    @property
    @override
    def relevance_signal(self) -> str:
        return "none" if self.question_free else self.relevance

    def layer_range(self, shape: DecoderShape) -> tuple[int, int]:
        """First and last layer before which tokens may be dropped by scores."""
        start, end = default_range(shape.layers)
        return start if self.start is None else self.start, end if self.end is None else self.end

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Layer 0 for the early stage, then every layer of the range that follows full attention."""
        if self.before_the_first_layer:
            return (0,)
        return 0, *self.extra_cuts(shape), *cuts_between(shape, *self.layer_range(shape), self.every)

    def extra_cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Layers before the first cut by scores at which scores are read and nothing is dropped."""
        if self.question_free or self.first_layers == 1:
            return ()
        first = cuts_between(shape, *self.layer_range(shape))[0]
        return tuple(cut for cut in shape.cut_layers if cut < first)[1 - self.first_layers :]

    def drops_early(self, schedule: Schedule, visual: int) -> bool:
        """Whether anything is dropped before the first layer."""
        return schedule.visual[0] < visual or (self.adaptive and self.early == "on")

    def cuts_of(self, shape: DecoderShape, schedule: Schedule, visual: int) -> Iterable[int]:
        """Layers before which the schedule drops something, or `adaptive` may after an early stage."""
        before = (visual, *schedule.visual)
        cuts = {layer for layer, kept in enumerate(schedule.visual) if kept < before[layer]}
        if cuts - {0}:
            cuts.update(self.extra_cuts(shape))
        reads = self.ranking in ("novelty", "both") or self.shares == "distinct"
        return cuts | {0} if (cuts and reads) or self.drops_early(schedule, visual) else cuts

    def schedule(self, shape: DecoderShape, counts: PromptCounts) -> Schedule:
        """Geometric decay over the cuts, after an early cut where the target needs one."""
        if self.keep is not None:
            return constant(shape, counts, kept_tokens(counts.visual, self.keep))
        if self.before_the_first_layer:
            return super().schedule(shape, counts)
        start, end = self.layer_range(shape)
        asked: dict[str, Any] = {
            "target": self.flops,
            "start": start,
            "end": end,
            "every": self.every,
            "queries": min(self.max_queries, counts.question),
            "extra": self._extra_layers(shape),
        }
        if self.early != "on":
            try:
                late = solve(shape, counts, **asked)
                if self.early == "off" or late.visual[-1] >= _FEW_LEFT * counts.visual:
                    return late
            except BudgetError:
                if self.early == "off":
                    raise
        if self.survive is not None:
            return solve_early(shape, counts, survive=self.survive, **asked)
        gentle = solve_early(shape, counts, survive=_GENTLE, **asked)
        if leaves_plenty(gentle, counts.visual):
            return gentle
        return solve_early(shape, counts, survive=_STEEP, **asked)

    def even_part(self, schedule: Schedule, visual: int) -> float:
        """Share of the early stage's tokens that is split evenly over the frames.

        Args:
            schedule: of the prompt.
            visual: tokens of the prompt.
        """
        if self.even is not None:
            return self.even
        cuts_follow = not self.before_the_first_layer
        return 1.0 if cuts_follow and leaves_plenty(schedule, visual) else Thresholds.even

    def _extra_layers(self, shape: DecoderShape) -> tuple[int, ...]:
        return tuple(cut - 1 for cut in self.extra_cuts(shape))

    @override
    def schedule_of(self, shape: DecoderShape, layout: VideoLayout) -> Schedule:
        if self.keep is None:
            return super().schedule_of(shape, layout)
        return constant(shape, layout.counts, sum(shares_of_videos(layout, self.keep)))

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Both debiasing rules, with the segments of one prompt and their relevance."""
        if self.early == "only":
            even = self.even_part(schedule, prefill.layouts[sample].counts.visual)
            thresholds = Thresholds(self.tau_s, self.tau_d, self.tau_r, even)
            return BeforeLayers(thresholds, self.keep, prefill.layouts[sample], prefill.relevance(sample))
        return Debiasing(self, prefill, sample, schedule)


def leaves_plenty(schedule: Schedule, visual: int) -> bool:
    """Whether at least an eighth of a prompt's visual tokens reaches the last layer."""
    return schedule.visual[-1] >= _PLENTY * visual
