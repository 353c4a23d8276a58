"""An OpenAI-compatible server of the whole method: ``adatp serve``.

A request travels one way: `gate` (who may ask) -> `bodies` (its bytes, within limits) -> `protocol` (what
it says) -> `media` (frames of its videos) -> `desk` (its prompt) -> `batching` (the model's thread) -> `rows`
(its answers, token by token) -> `replies` (JSON or events).
"""
