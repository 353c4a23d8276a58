"""Model types of transformers that read videos and can't be pruned exactly, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping

_Q_FORMER = "a Q-Former has made a few tokens of each frame already, in an order without places"
_INDEXED = "an index of its own chooses keys by position"

REFUSED: Mapping[str, str] = {
    "dots3_note": _INDEXED,
    "glm5_next": _INDEXED,
    "hy_v4_vl": _INDEXED,
    "instructblip": _Q_FORMER,
    "instructblipvideo": _Q_FORMER,
    "minimax_m3_vl": "its sparse layers choose blocks of keys by position",
    "qwen4_exp": _INDEXED,
}
"""Why each is refused when its config is loaded."""

_BY_LAYERS = ("minimax_m3_vl",)
"""Types whose config may have no such layers: the layers of each model decide."""


def always_refused(model_type: object) -> str | None:
    """Why no model of this type can be pruned, or None."""
    if not isinstance(model_type, str) or model_type in _BY_LAYERS:
        return None
    return REFUSED.get(model_type)
