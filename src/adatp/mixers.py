"""Parts of a decoder layer other than plain attention, and their multiply-accumulates. Plain integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

CHUNK = 64
"""Tokens that the delta rule processes at a time, in transformers and in flash-linear-attention."""

# Names that a config gives to the sizes of a `DeltaNet`.
_NAMES = {
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "key_dim": "linear_key_head_dim",
    "value_dim": "linear_value_head_dim",
    "kernel": "linear_conv_kernel_dim",
}


@dataclass(frozen=True)
class DeltaNet:
    """Sizes of linear attention by a gated delta net: one state per value head, no keys of the past.

    Attributes:
        layers: the decoder layers that have it instead of full attention, ascending.
        key_heads: query and key heads.
        value_heads: value heads.
        key_dim: width of a query or key head.
        value_dim: width of a value head.
        kernel: width in tokens of the causal convolution over queries, keys and values.
    """

    layers: tuple[int, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @classmethod
    def from_config(cls, config: Any, layers: Sequence[int]) -> DeltaNet:
        """Read the sizes from a text config of transformers.

        Raises:
            ValueError: the config lacks one of them, so its linear attention is of another kind.
        """
        if not all(hasattr(config, name) for name in _NAMES.values()):
            raise ValueError(f"FLOPs of linear attention ({config.model_type}) are not known")
        sizes = {size: getattr(config, name) for size, name in _NAMES.items()}
        return cls(layers=tuple(layers), **sizes)

    @property
    def state(self) -> int:
        """Numbers in the state that a layer carries from token to token, without the convolution's."""
        return self.value_heads * self.key_dim * self.value_dim

    def macs(self, hidden: int, chunk: int) -> int:
        """Multiply-accumulates for one token: linear maps, convolution and the delta rule's products.

        The rule processes complete chunks as matrices. The products between a chunk's tokens are computed
        densely and counted so. The triangular systems solved there (0.1 % of a layer of Qwen3.5-9B) are left
        out, as in FlopCounterMode. So is the padding of the last chunk.

        Args:
            hidden: width of the hidden states.
            chunk: tokens of a chunk; 0: one token updates the state by itself.
        """
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        linear = hidden * (2 * keys + 3 * values + 2 * self.value_heads)
        convolution = self.kernel * (2 * keys + values)
        state = 3 * self.key_dim * self.value_dim  # read by key, written, read by query
        within = chunk * (2 * self.key_dim + self.value_dim)
        return linear + convolution + self.value_heads * (state + within)


@dataclass(frozen=True)
class ShortConvolution:
    """A gated convolution over the last few tokens, used by LFM2 and LFM3.

    Attributes:
        layers: the decoder layers that have it instead of attention, ascending.
        kernel: width of the convolution in tokens.
    """

    layers: tuple[int, ...]
    kernel: int

    @property
    def state(self) -> int:
        """It carries nothing but the last few tokens."""
        return 0

    def macs(self, hidden: int, chunk: int) -> int:
        """Multiply-accumulates for one token: two linear maps and the convolution.

        Args:
            hidden: width of the hidden states.
            chunk: as in `DeltaNet.macs`; it makes no difference.
        """
        return 4 * hidden * hidden + self.kernel * hidden


@dataclass(frozen=True)
class Mamba2:
    """A selective state space model: one state per head, and an input, output and decay chosen by each token.

    Attributes:
        layers: the decoder layers that have it instead of attention, ascending.
        heads: heads, each with a state.
        groups: groups of heads that share what writes to their states and what reads them.
        head_dim: width of a head.
        state_dim: entries of the state for each of a head's channels.
        kernel: width in tokens of the causal convolution.
        chunk: tokens that are processed at a time.
    """

    layers: tuple[int, ...]
    heads: int
    groups: int
    head_dim: int
    state_dim: int
    kernel: int
    chunk: int

    @classmethod
    def from_config(cls, config: Any, layers: Sequence[int]) -> Mamba2 | None:
        """Read the sizes from a text config of transformers; None: its layers are of another kind."""
        if not getattr(config, "mamba_num_heads", None):
            return None
        return cls(
            layers=tuple(layers),
            heads=config.mamba_num_heads,
            groups=config.n_groups,
            head_dim=config.mamba_head_dim,
            state_dim=config.ssm_state_size,
            kernel=config.conv_kernel,
            chunk=config.chunk_size,
        )

    @property
    def state(self) -> int:
        """Numbers in the state that a layer carries from token to token, without the convolution's."""
        return self.heads * self.head_dim * self.state_dim

    def macs(self, hidden: int, chunk: int) -> int:
        """Multiply-accumulates for one token: linear maps, convolution and the products of the scan.

        The scan is the block decomposition of "Transformers are SSMs" (Dao and Gu 2024, section 6). In a
        chunk, outputs are read as in attention. The chunk's state is one product more, and so is what the
        state before it adds. As in `DeltaNet.macs`, products in a chunk are dense, and the padding of the
        last chunk is left out. Passing states from chunk to chunk is left out too: kernels do it without
        products. transformers' torch code multiplies all pairs of chunks there.

        Args:
            hidden: width of the hidden states.
            chunk: 0: one token updates the state by itself; else chunks have the model's own size.
        """
        inner, shared = self.heads * self.head_dim, 2 * self.groups * self.state_dim
        linear = hidden * (3 * inner + shared + self.heads)  # a gate, the input, one step a head; and back
        convolution = self.kernel * (inner + shared)
        within = self.chunk * (self.state_dim + self.head_dim) if chunk else 0
        return linear + convolution + self.heads * within + 2 * self.state  # written and read


StateMixer: TypeAlias = DeltaNet | ShortConvolution | Mamba2
"""What a layer may have instead of attention."""


def mixer_of(config: Any, kinds: Sequence[str]) -> StateMixer | None:
    """What some of a decoder's layers have instead of attention, or None.

    Args:
        config: a text config of transformers.
        kinds: the type of each of its layers.

    Raises:
        ValueError: the config has linear attention of a kind that is not known.
    """
    if "conv" in kinds:
        short = tuple(layer for layer, kind in enumerate(kinds) if kind == "conv")
        return ShortConvolution(short, config.conv_L_cache)
    linear = [layer for layer, kind in enumerate(kinds) if kind == "linear_attention"]
    if not linear:
        return None
    return Mamba2.from_config(config, linear) or DeltaNet.from_config(config, linear)


@dataclass(frozen=True)
class LatentAttention:
    """Attention whose keys and values are cached in a compressed form and expanded at every call (MLA).

    Attributes:
        query_rank: width that queries are compressed to; 0: they are not.
        rank: width that keys and values are compressed to.
        rotary: width of the part of a key that has a position.
        key: width of a query or key head, that part included.
        value: width of a value head.
    """

    query_rank: int
    rank: int
    rotary: int
    key: int
    value: int

    @classmethod
    def from_config(cls, config: Any) -> LatentAttention | None:
        """Read the sizes from a text config of transformers; None: its attention is of another kind."""
        if not getattr(config, "kv_lora_rank", None):
            return None
        rotary = config.qk_rope_head_dim
        key = config.qk_nope_head_dim + rotary
        return cls(config.q_lora_rank or 0, config.kv_lora_rank, rotary, key, config.v_head_dim)

    def macs(self, hidden: int, heads: int) -> int:
        """Multiply-accumulates of the linear maps for one token, except those that expand its key and value.

        Args:
            hidden: width of the hidden states.
            heads: query heads.
        """
        queries = heads * self.key
        query = self.query_rank * (hidden + queries) if self.query_rank else hidden * queries
        return query + hidden * (self.rank + self.rotary) + heads * self.value * hidden

    def expanding(self, heads: int) -> int:
        """Multiply-accumulates that make the key and the value of one cached token.

        Args:
            heads: query heads.
        """
        return self.rank * heads * (self.key - self.rotary + self.value)
