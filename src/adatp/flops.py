"""Analytic FLOPs of a decoder: the paper's convention and real FLOPs. Plain integers, no tensors.

Two figures must not be mixed. `paper_macs` follows the literature: multiply-accumulates of the decoder's
prefill for the visual tokens only. Everything else here is real FLOPs, two per multiply-accumulate, of matrix
products, convolutions and attention. Attention is dense: what a causal mask hides is counted. This is how
`torch.utils.flop_counter.FlopCounterMode` counts. Norms, activations, softmax and rotary are left out.

That counter misses scaled_dot_product_attention on the CPU (torch 2.13). To compare there, use
attn_implementation="eager" or the meta device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adatp.mixers import CHUNK, DeltaNet, LatentAttention, StateMixer, mixer_of

LONE_MLPS = ("mlp", "moe")
"""Kinds of layers that are an MLP or a mixture of experts alone, in configs of transformers."""
PRESETS = ("fastv", "dycoke", "pyramiddrop", "fastvid")

_DYCOKE_STEPS = 100
# Names that configs give to the parts of a mixture of experts.
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_VISITED = ("num_experts_per_tok", "moe_k", "top_k_experts")
_SHARED = ("n_shared_experts", "moe_num_shared_experts")
_ACTIVATIONS = ("hidden_act", "mlp_hidden_act")
_NARROW = ("moe_hidden_size", "moe_latent_size")
_FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers")


@dataclass(frozen=True)
class DecoderShape:
    """The sizes that determine a decoder's FLOPs (grouped-query attention and, usually, a gated MLP).

    Attributes:
        layers: decoder layers.
        hidden: width of the hidden states.
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: width of a head; heads * head_dim need not equal hidden.
        intermediate: width of the MLP; in a mixture of experts, total width of those that one token visits.
        vocab: entries of the vocabulary.
        windows: sliding window of each layer, None where it attends to everything; empty: all layers do.
        experts: experts that each layer's router chooses among; 0: there is no router.
        mixer: what some layers have instead of attention, if any: linear attention, a short convolution
            or a Mamba.
        dense: layers without experts in a model that has a mixture of experts.
        dense_intermediate: width of the MLP in these.
        mlp_maps: linear maps of an MLP: three if it is gated, else two.
        gated: whether full attention is gated by a second query projection.
        beside: width of the further inputs that each layer has besides the hidden states; 0: none.
        latent: how keys and values are made, where they are cached in a compressed form.
        uneven: key/value heads and head width of each layer, where layers differ; empty: they do not.
        lone_mlps: layers that are an MLP or a mixture of experts alone, where no other layer has one. None:
            every layer has one.
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
    mixer: StateMixer | None = None
    dense: tuple[int, ...] = ()
    dense_intermediate: int = 0
    mlp_maps: int = 3
    gated: bool = False
    beside: int = 0
    latent: LatentAttention | None = None
    uneven: tuple[tuple[int, int], ...] = ()
    lone_mlps: tuple[int, ...] | None = None

    @classmethod
    def from_config(cls, config: Any) -> "DecoderShape":
        """Read a text config of transformers.

        For a mixture of experts, this counts the experts that a token visits, including a shared one.

        Raises:
            ValueError: the config has linear attention without the sizes of a `DeltaNet`, or does not name
                the layers that are mixtures of experts.
        """
        kinds = layer_types(config)
        windows = tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)
        lone = tuple(layer for layer, kind in enumerate(kinds) if kind in LONE_MLPS)
        experts, intermediate = 0, 0
        sizes = _attention_sizes(config)
        maps = 2 if "relu2" in (getattr(config, name, None) for name in _ACTIVATIONS) else 3
        dense: tuple[int, ...] = ()
        if _named(config, _VISITED):
            dense, experts = _dense_layers(config), _named(config, _EXPERTS)
            intermediate = _experts_width(config, maps)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=sizes[0][0],
            head_dim=sizes[0][1],
            intermediate=intermediate or config.intermediate_size,
            vocab=config.vocab_size,
            windows=windows if "sliding_attention" in kinds else (),
            experts=experts,
            mixer=mixer_of(config, kinds),
            dense=dense,
            dense_intermediate=config.intermediate_size if dense else 0,
            mlp_maps=maps,
            gated=hasattr(config, "qk_scale_factor"),  # only Muse's configs have it
            beside=getattr(config, "hidden_size_per_layer_input", None) or 0,
            latent=LatentAttention.from_config(config),
            uneven=tuple(sizes) if len({*sizes}) > 1 else (),
            lone_mlps=lone or None,
        )

    def held(self, layer: int, tokens: int) -> int:
        """Number of tokens in the layer's cache after it has read ``tokens`` of them."""
        window = self.windows[layer] if self.windows else None
        return tokens if window is None else min(tokens, window - 1)

    @cached_property
    def key_layers(self) -> tuple[int, ...]:
        """The layers that attend to keys; the others have linear attention, or are an MLP alone."""
        others = {*(() if self.mixer is None else self.mixer.layers), *(self.lone_mlps or ())}
        return tuple(layer for layer in range(self.layers) if layer not in others)

    @cached_property
    def full_layers(self) -> tuple[int, ...]:
        """Layers with full attention. Only their attention can be scored: all others miss distant tokens."""
        return tuple(layer for layer in self.key_layers if not self.windows or self.windows[layer] is None)

    @cached_property
    def cut_layers(self) -> tuple[int, ...]:
        """The layers before which tokens can be dropped by the attention of the layer before."""
        return tuple(layer + 1 for layer in self.full_layers if layer + 1 < self.layers)

    @property
    def width(self) -> int:
        """Query heads times head width, of the first layer."""
        return self.heads * self.head_dim

    def width_of(self, layer: int) -> int:
        """Query heads times head width of this layer."""
        if self.latent is not None:
            return self.heads * self.latent.key
        return self.heads * (self.uneven[layer][1] if self.uneven else self.head_dim)

    @cached_property
    def linear_macs(self) -> int:
        """Multiply-accumulates of a full-attention layer's linear maps for one token: q, k, v, o and MLP.

        In a mixture of experts, for a layer that is one.
        """
        if self.latent is not None:
            return self.latent.macs(self.hidden, self.heads) + self._mlp_macs
        gate = self.hidden * self.width if self.gated or isinstance(self.mixer, DeltaNet) else 0
        gate += (
            3 * self.hidden * self.beside
        )  # made for all layers together, scaled by the states, mapped back
        return 2 * self.hidden * (self.width + self.kv_heads * self.head_dim) + gate + self._mlp_macs

    @property
    def key_macs(self) -> int:
        """Multiply-accumulates that expand a cached entry to a key and its value, where it is compressed."""
        return 0 if self.latent is None else self.latent.expanding(self.heads)

    def pair_macs(self, layer: int) -> int:
        """Multiply-accumulates of one query and one key, value included."""
        return (
            2 * self.width_of(layer)
            if self.latent is None
            else self.heads * (self.latent.key + self.latent.value)
        )

    def keyless_macs(self, tokens: Sequence[int], chunk: int = CHUNK) -> int:
        """Multiply-accumulates of the layers without keys: linear attention and the like, MLP included.

        Args:
            tokens: tokens that each layer of the decoder processes.
            chunk: see `DeltaNet.macs`.
        """
        states = () if self.mixer is None else self.mixer.layers
        state = 0 if self.mixer is None else self.mixer.macs(self.hidden, chunk)
        one = {layer: state if layer in states else 0 for layer in range(self.layers)}
        for layer in self.key_layers:
            del one[layer]
        return sum(
            tokens[layer] * (macs + self._mlp_macs + self._mlp_more(layer)) for layer, macs in one.items()
        )

    def attention_layer_macs(self, layer: int) -> int:
        """`linear_macs` of this layer, which may have no MLP, a dense one among experts, or another width."""
        macs = self.linear_macs + self._mlp_more(layer)
        if self.uneven:
            kv_heads, head_dim = self.uneven[layer]
            more = (self.heads + kv_heads) * head_dim - (self.heads + self.kv_heads) * self.head_dim
            macs += 2 * self.hidden * more
        return macs

    def _mlp_more(self, layer: int) -> int:
        if self.lone_mlps is not None and layer not in self.lone_mlps:
            return -self._mlp_macs
        if layer not in self.dense:
            return 0
        return self.hidden * self.mlp_maps * self.dense_intermediate - self._mlp_macs

    @property
    def _mlp_macs(self) -> int:
        return self.hidden * (self.mlp_maps * self.intermediate + self.experts)


def layer_types(config: Any) -> list[str]:
    """Attention type of each layer of a text config, as transformers' caches read it."""
    windowed = getattr(config, "sliding_window", None) is not None
    default = ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers
    return list(getattr(config, "layer_types", None) or default)


def paper_macs(shape: DecoderShape, visual: Sequence[int], preset: str = "fastvid") -> int:
    """The literature's "FLOPs": multiply-accumulates of the prefill, visual tokens only, causal not halved.

    With n tokens, hidden size d, MLP width m, a layer counts:

    - "fastv" (also HoliTom, VisionZip): 4nd^2 + 2n^2 d + 2ndm;
    - "dycoke": the same, plus 100 decode steps;
    - "pyramiddrop": 4nd^2 + 2n^2 d + 3ndm;
    - "fastvid": exact for grouped-query attention and a gated MLP. Ours: a layer of linear attention counts
      its real operations, since no published formula covers it.

    Args:
        shape: the decoder.
        visual: visual tokens that each layer processes, one count per layer.
        preset: one of PRESETS.

    Raises:
        ValueError: the preset is not one of PRESETS or has no formula for the decoder, or there is not one
            count per layer.
    """
    _check_layers(shape, visual)
    d, m = shape.hidden, shape.intermediate
    if preset == "fastvid":
        return _prefill_macs(shape, visual, [0] * shape.layers)
    if shape.mixer is not None and preset in PRESETS:
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
    """Real FLOPs of the decoder layers while the prompt is read, without the lm_head.

    A layer with a sliding window also multiplies all of the prompt's queries and keys, then masks the
    products.

    Args:
        shape: the decoder.
        tokens: tokens that each layer processes, one count per layer.
        scored: layer -> query rows whose attention scores are computed again, against all of its keys.
        past: earlier tokens that a layer still has, one count for all layers or one per layer. A layer with a
            sliding window holds the last of them. Linear attention does not read them again.

    Raises:
        ValueError: there is not one count per layer.
    """
    _check_layers(shape, tokens)
    past = [past] * shape.layers if isinstance(past, int) else past
    _check_layers(shape, past)
    macs = _prefill_macs(shape, tokens, past)
    keys = {layer: tokens[layer] + shape.held(layer, past[layer]) for layer in scored or {}}
    macs += sum(rows * keys[layer] * shape.width_of(layer) for layer, rows in (scored or {}).items())
    return 2 * macs


def decode_flops(shape: DecoderShape, context: Sequence[int], steps: int) -> int:
    """Real FLOPs of `steps` forward passes on one token each, lm_head included.

    The prefill gives the first new token, so k new tokens take k - 1 steps.

    Args:
        shape: the decoder.
        context: tokens that each layer has processed before the first step, one count per layer. A layer of
            linear attention holds a state of constant size, whatever its count.
        steps: forward passes.

    Raises:
        ValueError: there is not one count per layer.
    """
    _check_layers(shape, context)
    keys = 0
    for layer in shape.key_layers:
        held = shape.held(layer, context[layer])
        growing = shape.held(layer, context[layer] + steps) - held  # steps until the sliding window is full
        read = steps * (held + 1) + growing * (growing - 1) // 2 + (steps - growing) * growing
        keys += read * (shape.pair_macs(layer) + shape.key_macs)
    macs = steps * sum(map(shape.attention_layer_macs, shape.key_layers)) + keys
    macs += shape.keyless_macs([steps] * shape.layers, chunk=0)
    return 2 * macs + lm_head_flops(shape, steps)


def lm_head_flops(shape: DecoderShape, positions: int) -> int:
    """Real FLOPs of the logits of this many positions."""
    return 2 * positions * shape.hidden * shape.vocab


def _attention_sizes(config: Any) -> list[tuple[int, int]]:
    """Key/value heads and head width of each layer of a config."""
    layers = range(config.num_hidden_layers)
    if getattr(config, "is_heterogeneous", False):
        return [_attention_size(config.per_layer_config[layer]) for layer in layers]
    return [_attention_size(config)] * len(layers)


def _attention_size(config: Any) -> tuple[int, int]:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _named(config: Any, names: Sequence[str]) -> int:
    """The config's number under one of these names, or 0."""
    found = [getattr(config, name, None) for name in names]
    return next((value for value in found if isinstance(value, int) and value), 0)


def _experts_width(config: Any, maps: int) -> int:
    """Width of an MLP that costs what the experts cost that one token visits, a shared one included."""
    width = config.moe_intermediate_size
    width = width if isinstance(width, int) else width[0]
    beside = _named(config, ("moe_shared_expert_intermediate_size",))  # of one on the states' own width
    visited = _named(config, _VISITED) + (0 if beside else _named(config, _SHARED))
    found: int = visited * width
    if narrow := _named(config, _NARROW):  # experts between two maps to a narrower width
        found = found * narrow // config.hidden_size + -(-2 * narrow // maps)
    return found + (beside or _named(config, ("shared_expert_intermediate_size",)))


def _dense_layers(config: Any) -> tuple[int, ...]:
    """Layers without experts in a mixture-of-experts config.

    Configs give a list of layers, a kind for each layer, or how many come first. With a step of 1, or a
    shared expert and no step (Qwen3.5), every layer has experts.

    Raises:
        ValueError: the config has none of these.
    """
    layers = range(config.num_hidden_layers)
    if lone := [layer for layer, kind in enumerate(layer_types(config)) if kind in LONE_MLPS]:
        return tuple(layer for layer in lone if layer_types(config)[layer] == "mlp")
    if kinds := getattr(config, "mlp_layer_types", None):
        return tuple(layer for layer in layers if kinds[layer] == "dense")
    if first := _named(config, _FIRST_DENSE):
        return tuple(layers[:first])
    step = getattr(config, "decoder_sparse_step", None)
    known = step == 1 if step is not None else hasattr(config, "shared_expert_intermediate_size")
    if not known and not any(hasattr(config, name) for name in (*_FIRST_DENSE, "enable_moe_block")):
        raise ValueError(f"FLOPs of dense among sparse layers ({config.model_type}) are not known")
    return tuple(getattr(config, "mlp_only_layers", None) or ())


def _prefill_macs(shape: DecoderShape, tokens: Sequence[int], past: Sequence[int]) -> int:
    macs = shape.keyless_macs(tokens)
    for layer in shape.key_layers:
        keys = tokens[layer] + shape.held(layer, past[layer])
        macs += tokens[layer] * (shape.attention_layer_macs(layer) + keys * shape.pair_macs(layer))
        macs += keys * shape.key_macs
    return macs


def _check_layers(shape: DecoderShape, counts: Sequence[int]) -> None:
    if len(counts) != shape.layers:
        raise ValueError(f"need one count for each of {shape.layers} layers, not {len(counts)}")
