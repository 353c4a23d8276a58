"""lmms-eval's entry point: the model ``adatp`` of ``python -m lmms_eval --model adatp``.

lmms-eval imports this module whenever it starts, whatever model it runs. So it imports nothing heavy, and the
classes are named, not imported.
"""

from __future__ import annotations

from typing import Any

_CLASSES = "adatp.integrations.lmms_models.model"


def manifests() -> list[Any]:
    """The models that lmms-eval registers: the chat model, and the one for ``--force_simple``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="adatp",
            simple_class_path=f"{_CLASSES}.AdaTPSimple",
            chat_class_path=f"{_CLASSES}.AdaTPChat",
        )
    ]
