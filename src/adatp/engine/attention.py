"""Attention scores of a few query rows against all keys, in addition to whatever kernel the model runs.

Transformers hands the final queries and keys (after norms, gates and rotary embedding) to the attention
function that the config names. A probe gives one attention module a shallow copy of its config that names our
function. That function scores the chosen rows and passes the call on. So no kernel is replaced and no mask is
built in another way. No other module is affected, not even one that shares the config.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from adatp.errors import PruningError
from adatp.threads import PerThread

NAME = "adatp_scored"

_LOWEST = torch.finfo(torch.float32).min
_SMALL = 2.0**-84


def attention_logits(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    scaling: float,
    past: int = 0,
    softcap: float | None = None,
) -> Tensor:
    """Logits of chosen query rows over all keys: their softmax equals those rows of eager attention.

    Args:
        query: (B, heads, n, d) final queries.
        key: (B, kv_heads, K, d) final keys, K >= past + n; a static cache's unused slots may follow.
        rows: (B, m) int64, the rows of ``query`` to score.
        mask: the attention function's mask: None (causal), (B, S) padding (flash attention), keys from S on
            unused, or (B or 1, heads or 1, n, K) boolean or additive.
        scaling: factor on the products.
        past: slots of ``key`` before this call's tokens.
        softcap: bound of the logits before the mask, as in Gemma 2; None: there is none.

    Returns:
        (B, heads, m, K) float32, with a padding mask (B, heads, m, S). Hidden keys have the lowest finite
        number, whatever kind of mask hides them. So a row that attends to nothing, as padding does, still has
        probabilities.
    """
    if mask is not None and mask.ndim == 2:
        key = key[:, :, : mask.shape[1]]
    batch, heads, _, width = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    picked = query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, width)) * scaling
    grouped = picked.reshape(batch, kv_heads, -1, width)
    logits = torch.matmul(grouped, key.transpose(2, 3)).view(batch, heads, -1, keys)
    logits = _capped(logits.float(), softcap)
    if mask is not None and mask.ndim == 4:
        mask = mask.expand(batch, -1, -1, -1)[..., :keys]
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, keys))
        if mask.dtype == torch.bool:
            return logits.masked_fill_(~mask, _LOWEST)
        return logits.add_(mask).clamp_(min=_LOWEST)
    hidden = torch.arange(keys, device=key.device) > (rows + past)[:, None, :, None]
    if mask is not None:
        hidden = hidden | ~mask[:, None, None].bool()
    return logits.masked_fill_(hidden, _LOWEST)


class RowWeights:
    """Weight of each query row in the mean over heads and rows.

    Args:
        weight: (B, m) float32, summing to 1.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._shares: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def shares(self, heads: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, heads * m) share of each row of each head, and its logarithm; computed once for all layers."""
        if (heads, device) not in self._shares:
            shares = self.weight.to(device).repeat(1, heads) / heads
            self._shares[heads, device] = shares, shares.log()
        return self._shares[heads, device]


def log_mean_attention(logits: Tensor, weight: RowWeights) -> Tensor:
    """Logarithm of the attention that each key receives, mean over heads and rows.

    If one key's logits are more than about 100 above all others, the others' probabilities are zero in
    float32. Their logarithms are not, so they still have an order.

    Args:
        logits: (B, heads, m, K) float32, see `attention_logits`.
        weight: weights of the rows.

    Returns:
        (B, K) float64. Its exponential, rounded to float32, equals the mean of the probabilities bit by bit.
    """
    shares, log_shares = weight.shares(logits.shape[1], logits.device)
    mean = torch.bmm(shares[:, None], logits.softmax(-1).flatten(1, 2))[:, 0]
    if mean.device.type == "cpu" and bool((mean >= _SMALL).all()):  # reading it would wait for a GPU
        return mean.double().log()
    logs = logits.log_softmax(-1).flatten(1, 2).add_(log_shares[..., None]).logsumexp(1)
    # Not the smallest float32: below this value, the mean has already lost terms.
    return torch.where(mean >= _SMALL, mean.double().log(), logs)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def received_attention(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """Attention that each token receives from all tokens of its image, as in a vision tower.

    Args:
        query: (B, heads, n, d) final queries.
        key: (B, heads, n, d) final keys.
        scaling: factor on the products.
        mask: the attention function's mask, which hides the padding of smaller images: (B, n) (flash
            attention), or (B or 1, 1, n, n) boolean or additive. None: all tokens attend to all.
        softcap: see `attention_logits`.

    Returns:
        (B, n) float32, mean over heads and queries of the softmax. Padding neither attends nor receives.
    """
    visible = None if mask is None else _visible(mask).expand(len(query), -1, -1)
    # Image by image: the probabilities of a 7B model's 32 frames together take a gigabyte.
    found = []
    for image, (q, k) in enumerate(zip(query, key, strict=True)):
        logits = _capped((q @ k.transpose(1, 2) * scaling).float(), softcap)
        if visible is None:
            found.append(logits.softmax(-1).mean((0, 1)))
        else:
            real = visible[image].any(0)  # nobody attends to padding
            by_query = logits.masked_fill_(~visible[image], _LOWEST).softmax(-1).mean(0)
            found.append(real.float() @ by_query / real.sum().clamp(min=1))
    return torch.stack(found)


def _visible(mask: Tensor) -> Tensor:
    """(B or 1, n or 1, n) bool: the keys that each query attends to."""
    if mask.ndim == 2:
        return mask[:, None].bool()
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2


class _Tap(ABC):
    """Reads the final queries and keys of one attention module, whatever kernel it runs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = cast(Any, module.config)
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if not isinstance(self.config._attn_implementation, str) or eager is None:
            raise ValueError(
                f"the attention of {type(module).__name__} can't be scored: it does not go through "
                "transformers' attention interface"
            )
        if getattr(module, "sinks", None) is not None:  # they take a share of the softmax
            raise PruningError(f"the attention of {type(module).__name__} can't be scored: it has sinks")
        self._eager: Callable[..., Any] = eager

    def kernel(self) -> Callable[..., Any]:
        """The attention function that the module's own config names now: it may change inside the context."""
        found: Callable[..., Any] = AttentionInterface().get_interface(
            self.config._attn_implementation, self._eager
        )
        return found

    def install(self) -> None:
        """Make the module's config name our attention function."""
        AttentionInterface.register(NAME, _tapped_attention)
        config = copy.copy(self.config)
        config._attn_implementation_internal = NAME
        config.adatp_tap = self
        config.__deepcopy__ = self._copied_config
        self.module.config = config

    def _copied_config(self, memo: dict[int, Any]) -> Any:
        """Config for a copy of the module, taken from the original one, so that the copy has no tap."""
        return copy.deepcopy(self.config, memo)

    def remove(self) -> None:
        """Give the module its own config back."""
        self.module.config = self.config
        self.disarm()

    @abstractmethod
    def disarm(self) -> None:
        """Drop the request and any result."""

    @abstractmethod
    def see(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float,
        packed: Any,
        softcap: float | None = None,
    ) -> None:
        """Read one call. ``packed`` are the ends of sequences laid side by side, if any.

        Args:
            query: (B, heads, n, d) final queries.
            key: (B, kv_heads, K, d) final keys.
            mask: see `attention_logits`.
            scaling: factor on the products.
            packed: int tensor, or None.
            softcap: see `attention_logits`.
        """


class Probe(_Tap):
    """Scores what one attention module's keys receive from chosen query rows.

    Arm it with the rows before the module runs. Afterwards ``log_scores`` holds the result until it is taken:
    (B, K) float64, the logarithm of the mean over heads and rows. Every thread has its own rows and scores.
    Scoring runs inside ``timed``.
    """

    def __init__(
        self, module: nn.Module, timed: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        super().__init__(module)
        self.timed = timed
        self._present = _Armed()

    @property
    def log_scores(self) -> Tensor | None:
        """(B, K) float64 scores of the last call, or None if none was scored."""
        return self._present.log_scores

    def arm(self, rows: Tensor, weight: RowWeights, past: int) -> None:
        """Score the next call: ``rows`` (B, m) int64, counted after ``past`` cache slots."""
        present = self._present
        present.rows, present.weight, present.past, present.log_scores = rows, weight, past, None

    def disarm(self) -> None:
        """Drop the requested rows and the scores."""
        self._present.rows = self._present.weight = self._present.log_scores = None

    @torch.no_grad()
    def see(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float,
        packed: Any,
        softcap: float | None = None,
    ) -> None:
        """Store the attention that each key receives."""
        present = self._present
        if present.rows is None or present.weight is None:
            return
        with self.timed():
            rows = present.rows.to(query.device)
            logits = attention_logits(query, key, rows, mask, scaling, present.past, softcap)
            present.log_scores = log_mean_attention(logits, present.weight)
        present.rows = present.weight = None


class _Armed(PerThread):
    """Request and result of a `Probe` in one thread."""

    rows: Tensor | None = None
    weight: RowWeights | None = None
    log_scores: Tensor | None = None
    past: int = 0


class _Received(PerThread):
    """Sum of a `ReceivedProbe` in one thread."""

    def __init__(self) -> None:
        self.received: list[Tensor] = []
        self.flops = self.taken_flops = 0


class ReceivedProbe(_Tap):
    """Adds up the attention that every patch receives in one layer of a vision tower, over all its calls.

    Attributes:
        flops: real FLOPs of the products computed for the attention taken last.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._received = _Received()

    @property
    def flops(self) -> int:
        """Real FLOPs of what this thread took last."""
        return self._received.taken_flops

    def disarm(self) -> None:
        """Drop the attention collected so far."""
        self._received.received, self._received.flops = [], 0

    def take(self) -> Tensor:
        """(patches,) float32 of all calls since the last `take`, images or windows side by side."""
        received, self._received.taken_flops = torch.cat(self._received.received), self._received.flops
        self.disarm()
        return received

    @torch.no_grad()
    def see(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float,
        packed: Any,
        softcap: float | None = None,
    ) -> None:
        """Add the mean over heads and queries of the attention that each patch receives."""
        lengths = [query.shape[2]] if packed is None else packed.diff().tolist()
        mask = mask if packed is None else None  # packed sequences have no padding
        for q, k in zip(torch.split(query, lengths, 2), torch.split(key, lengths, 2), strict=True):
            self._received.received.append(received_attention(q, k, scaling, mask, softcap).flatten())
            self._received.flops += 2 * q.numel() * k.shape[2]


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Any:
    config = cast(Any, module.config)
    tap: _Tap = config.adatp_tap
    scaling = kwargs.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    tap.see(query, key, attention_mask, scaling, kwargs.get("cu_seq_lens_q"), kwargs.get("softcap"))
    # Flash attention looks its kernel up by the name in the module's config. Other threads may be reading the
    # config of the module itself, so the kernel gets a copy of the module.
    twin = object.__new__(type(module))
    twin.__dict__ = {**vars(module), "config": tap.config}
    return tap.kernel()(twin, query, key, value, attention_mask, **kwargs)
