"""Drops tokens between decoder layers, exactly.

Every decoder layer of transformers is called ``layer(hidden_states, **kwargs)`` with the rotary embedding,
the mask, position ids and the cache among its arguments. The engine puts a pre-hook on each layer that
gathers the rows of the tokens still processed, and remaps the mask's columns to what that layer's cache
holds, in prefill and in every later step. Kept tokens keep their own rotary positions, also those that others
are averaged into. Which tokens to keep is a plan's business: the engine knows no method and no model family.
"""

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from adatp.engine.hooks import Engine, attention_module

__all__ = ["Engine", "attention_module"]
