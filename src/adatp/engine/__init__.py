"""Drops tokens between decoder layers, exactly.

Every decoder layer of transformers is called as ``layer(hidden_states, **kwargs)``. Its arguments include the
rotary embedding, the mask, position ids and the cache. The engine puts a pre-hook on each layer. The hook
gathers the rows of the tokens still processed. It also remaps the mask's columns to the tokens in that
layer's cache, in prefill and in every later step. Kept tokens keep their own rotary positions, even if others
are averaged into them. The plan decides which tokens to keep: the engine knows no method and no model family.
"""

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from adatp.engine.hooks import Engine, attention_module

__all__ = ["Engine", "attention_module"]
