"""What a model is made of, to check that a context leaves nothing installed."""

from __future__ import annotations

from typing import Any

GENERATES = {"_previous_max_cache_length"}
"""What `generate` itself leaves on a model that had a static cache."""


def public(attribute: str) -> bool:
    # Qwen-VL keeps the rope deltas of its last call, pruned or not.
    return not attribute.startswith("_") and attribute != "rope_deltas"


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that a context could leave installed."""
    return {
        name: {
            "config": id(getattr(module, "config", None)),
            "implementation": getattr(getattr(module, "config", None), "_attn_implementation", None),
            "training": module.training,
            "attributes": {key: id(value) for key, value in vars(module).items() if public(key)},
            "private": sorted(vars(module).keys() - GENERATES),
            "hooks": [
                list(getattr(module, hooks))
                for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
            ],
            "always": list(module._forward_hooks_always_called),
        }
        for name, module in model.named_modules()
    } | {"state": {name: (id(t), t.sum().item()) for name, t in model.state_dict(keep_vars=True).items()}}
