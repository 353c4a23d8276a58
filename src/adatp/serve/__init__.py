"""An OpenAI-compatible server that prunes as sessions do: ``adatp serve``.

A request travels one way through these modules:

- `gate`: who may ask;
- `bodies`: its bytes, within limits;
- `protocol`: its content;
- `media`: frames of its videos;
- `desk`: its prompt;
- `batching`: the model's thread;
- `rows`: its answers, token by token;
- `replies`: JSON or events.
"""
