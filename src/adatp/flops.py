"""Analytic FLOPs of a decoder: the paper's convention and what really runs. Plain integers, no tensors.

Two figures that must not be mixed. `paper_macs` follows the literature: multiply-accumulates of the decoder's
prefill for the visual tokens only. Everything else here is real FLOPs, two to a multiply-accumulate, of
matrix products, convolutions and attention (dense: what a causal mask hides is counted), as
`torch.utils.flop_counter.FlopCounterMode` counts them; norms, activations, softmax and rotary are left out.

The counter itself sees nothing of scaled_dot_product_attention on the CPU (torch 2.13): compare there with
attn_implementation="eager", or on the meta device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

PRESETS = ("fastv", "dycoke", "pyramiddrop", "fastvid")

_DYCOKE_STEPS = 100
# Tokens that the delta rule takes at a time, in transformers and in flash-linear-attention.
_CHUNK = 64
# What a config calls the sizes of a `DeltaNet`.
_DELTA_NET = {
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "key_dim": "linear_key_head_dim",
    "value_dim": "linear_value_head_dim",
    "kernel": "linear_conv_kernel_dim",
}
# With one of these a config says that some layers of a mixture of experts are dense.
_DENSE_LAYERS = ("mlp_only_layers", "mlp_layer_types", "first_k_dense_replace", "num_dense_layers")


@dataclass(frozen=True)
class DeltaNet:
    """The sizes of linear attention by a gated delta net: a state for each value head, no keys of the past.

    Attributes:
        layers: the decoder layers that have it in the place of full attention, ascending.
        key_heads: query and key heads.
        value_heads: value heads.
        key_dim: width of a query or key head.
        value_dim: width of a value head.
        kernel: tokens that the causal convolution over queries, keys and values sees.
    """

    layers: tuple[int, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @classmethod
    def from_config(cls, config: Any, layers: Sequence[int]) -> "DeltaNet":
        """Read the sizes from a text config of transformers.

        Raises:
            ValueError: the config lacks one of them, so its linear attention is of another kind.
        """
        if not all(hasattr(config, name) for name in _DELTA_NET.values()):
            raise ValueError(f"FLOPs of linear attention ({config.model_type}) are not known")
        sizes = {size: getattr(config, name) for size, name in _DELTA_NET.items()}
        return cls(layers=tuple(layers), **sizes)

    def macs(self, hidden: int, chunk: int) -> int:
        """Multiply-accumulates for one token: linear maps, convolution and the delta rule's products.

        The rule takes whole chunks as matrices, and what it computes between a chunk's tokens is counted as
        dense as it is computed; the triangular systems it solves there (0.1 % of a layer of Qwen3.5-9B) are
        left out, as FlopCounterMode does, and so is what fills up the last chunk.

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
class DecoderShape:
    """The sizes of a decoder with grouped-query attention and a gated MLP, on which its FLOPs depend.

    Attributes:
        layers: decoder layers.
        hidden: width of the hidden states.
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: width of a head; heads * head_dim need not be hidden.
        intermediate: width of the MLP; of a mixture of experts, of those that one token visits together.
        vocab: entries of the vocabulary.
        windows: of each layer the sliding window, None where it attends to everything; empty: all do.
        experts: experts that each layer's router chooses among; 0: there is none.
        delta_net: the linear attention of some layers, if any. Full attention is then gated by a second query
            projection, as in every model of transformers that has both and reads video.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    windows: tuple[int | None, ...] = ()
    experts: int = 0
    delta_net: DeltaNet | None = None

    @classmethod
    def from_config(cls, config: Any) -> "DecoderShape":
        """Read a text config of transformers.

        A mixture of experts counts the experts that a token visits, a shared one among them.

        Raises:
            ValueError: the config has linear attention without the sizes of a `DeltaNet`, or some of its
                layers are mixtures of experts and others are not.
        """
        kinds = layer_types(config)
        linear = [layer for layer, kind in enumerate(kinds) if kind == "linear_attention"]
        windows = tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)
        heads, experts, intermediate = config.num_attention_heads, 0, 0
        if getattr(config, "num_experts_per_tok", None):
            if not _sparse_everywhere(config):
                raise ValueError(f"FLOPs of dense among sparse layers ({config.model_type}) are not known")
            experts = config.num_experts
            intermediate = config.num_experts_per_tok * config.moe_intermediate_size
            intermediate += getattr(config, "shared_expert_intermediate_size", 0)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate=intermediate or config.intermediate_size,
            vocab=config.vocab_size,
            windows=windows if "sliding_attention" in kinds else (),
            experts=experts,
            delta_net=DeltaNet.from_config(config, linear) if linear else None,
        )

    def held(self, layer: int, tokens: int) -> int:
        """Of so many tokens read, those that the layer's cache still holds for the next."""
        window = self.windows[layer] if self.windows else None
        return tokens if window is None else min(tokens, window - 1)

    @cached_property
    def key_layers(self) -> tuple[int, ...]:
        """The layers that attend to keys; the others have linear attention."""
        linear = () if self.delta_net is None else self.delta_net.layers
        return tuple(layer for layer in range(self.layers) if layer not in linear)

    @cached_property
    def full_layers(self) -> tuple[int, ...]:
        """The layers with full attention, whose attention can be scored: all others miss what is far back."""
        return tuple(layer for layer in self.key_layers if not self.windows or self.windows[layer] is None)

    @cached_property
    def cut_layers(self) -> tuple[int, ...]:
        """The layers before which tokens can be dropped by the attention of the layer before."""
        return tuple(layer + 1 for layer in self.full_layers if layer + 1 < self.layers)

    @property
    def width(self) -> int:
        """Query heads times head width."""
        return self.heads * self.head_dim

    @cached_property
    def linear_macs(self) -> int:
        """Multiply-accumulates of a full-attention layer's linear maps for one token: q, k, v, o and MLP."""
        gate = 0 if self.delta_net is None else self.hidden * self.width
        return 2 * self.hidden * (self.width + self.kv_heads * self.head_dim) + gate + self._mlp_macs

    def delta_macs(self, tokens: Sequence[int], chunk: int = _CHUNK) -> int:
        """Multiply-accumulates of the layers with a delta net, MLP included, see `DeltaNet.macs`.

        Args:
            tokens: tokens that each layer of the decoder processes.
            chunk: see there.
        """
        if self.delta_net is None:
            return 0
        one = self.delta_net.macs(self.hidden, chunk) + self._mlp_macs
        return one * sum(tokens[layer] for layer in self.delta_net.layers)

    @property
    def _mlp_macs(self) -> int:
        return self.hidden * (3 * self.intermediate + self.experts)


def layer_types(config: Any) -> list[str]:
    """What each layer of a text config attends to, as transformers' caches read it."""
    windowed = getattr(config, "sliding_window", None) is not None
    default = ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers
    return list(getattr(config, "layer_types", None) or default)


def paper_macs(shape: DecoderShape, visual: Sequence[int], preset: str = "fastvid") -> int:
    """The literature's "FLOPs": multiply-accumulates of the prefill, visual tokens only, causal not halved.

    With n tokens, hidden size d, MLP width m, a layer counts:

    - "fastv" (also HoliTom, VisionZip): 4nd^2 + 2n^2 d + 2ndm;
    - "dycoke": the same, plus 100 decode steps;
    - "pyramiddrop": 4nd^2 + 2n^2 d + 3ndm;
    - "fastvid": exact for grouped-query attention and a gated MLP; ours: a layer of linear attention counts
      what it computes, the others have no formula for it.

    Args:
        shape: the decoder.
        visual: visual tokens that each layer processes, one count a layer.
        preset: one of PRESETS.

    Raises:
        ValueError: if the preset is not one of PRESETS or has no formula for the decoder, or there is not one
            count a layer.
    """
    _check_layers(shape, visual)
    d, m = shape.hidden, shape.intermediate
    if preset == "fastvid":
        return _prefill_macs(shape, visual, [0] * shape.layers)
    if shape.delta_net is not None and preset in PRESETS:
        raise ValueError(f"preset {preset!r} knows no linear attention: only 'fastvid' does")
    if preset == "pyramiddrop":
        return sum(4 * n * d * d + 2 * n * n * d + 3 * n * d * m for n in visual)
    plain = sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in visual)
    if preset == "fastv":
        return plain
    if preset == "dycoke":
        steps = _DYCOKE_STEPS
        return plain + sum(steps * (4 * d * d + 2 * d * m + 2 * d * n + d * (steps + 1)) for n in visual)
    raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")


def prefill_flops(
    shape: DecoderShape,
    tokens: Sequence[int],
    scored: Mapping[int, int] | None = None,
    past: int | Sequence[int] = 0,
) -> int:
    """Real FLOPs of the decoder layers while the prompt is read; the lm_head is not in it.

    A layer with a sliding window multiplies all of the prompt's queries and keys too, and masks the products.

    Args:
        shape: the decoder.
        tokens: tokens that each layer processes, one count a layer.
        scored: layer -> query rows whose attention scores are computed once more, against all of its keys.
        past: tokens read before that a layer still has, one count for all layers or one a layer; a layer
            with a sliding window holds the last of them, and linear attention does not look at them again.

    Raises:
        ValueError: if there is not one count a layer.
    """
    _check_layers(shape, tokens)
    past = [past] * shape.layers if isinstance(past, int) else past
    _check_layers(shape, past)
    macs = _prefill_macs(shape, tokens, past)
    keys = {layer: tokens[layer] + shape.held(layer, past[layer]) for layer in scored or {}}
    macs += sum(rows * keys[layer] * shape.width for layer, rows in (scored or {}).items())
    return 2 * macs


def decode_flops(shape: DecoderShape, context: Sequence[int], steps: int) -> int:
    """Real FLOPs of `steps` forward passes on one token each, lm_head included.

    The first new token comes out of the prefill: k new tokens take k - 1 steps.

    Args:
        shape: the decoder.
        context: tokens that each layer has processed before the first step, one count a layer; a layer of
            linear attention holds a state of one size, whatever its count.
        steps: forward passes.

    Raises:
        ValueError: if there is not one count a layer.
    """
    _check_layers(shape, context)
    keys = 0
    for layer in shape.key_layers:
        held = shape.held(layer, context[layer])
        growing = shape.held(layer, context[layer] + steps) - held  # steps until a sliding window is full
        keys += steps * (held + 1) + growing * (growing - 1) // 2 + (steps - growing) * growing
    macs = steps * len(shape.key_layers) * shape.linear_macs + 2 * keys * shape.width
    macs += shape.delta_macs([steps] * shape.layers, chunk=0)
    return 2 * macs + lm_head_flops(shape, steps)


def lm_head_flops(shape: DecoderShape, positions: int) -> int:
    """Real FLOPs of the logits of so many positions."""
    return 2 * positions * shape.hidden * shape.vocab


def _sparse_everywhere(config: Any) -> bool:
    """Whether every layer is a mixture of experts.

    A config says so with a step of 1. Where it has no step (Qwen3.5), it has a shared expert.
    """
    if any(getattr(config, name, None) for name in _DENSE_LAYERS):
        return False
    step = getattr(config, "decoder_sparse_step", None)
    return step == 1 if step is not None else hasattr(config, "shared_expert_intermediate_size")


def _prefill_macs(shape: DecoderShape, tokens: Sequence[int], past: Sequence[int]) -> int:
    linear, width = shape.linear_macs, 2 * shape.width
    full = [(tokens[layer], tokens[layer] + shape.held(layer, past[layer])) for layer in shape.key_layers]
    return sum(n * (linear + keys * width) for n, keys in full) + shape.delta_macs(tokens)


def _check_layers(shape: DecoderShape, counts: Sequence[int]) -> None:
    if len(counts) != shape.layers:
        raise ValueError(f"need one count for each of {shape.layers} layers, not {len(counts)}")
