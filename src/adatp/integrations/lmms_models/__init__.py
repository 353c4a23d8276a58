"""The model that lmms-eval runs (see `adatp.integrations.lmms_eval`).

- `arguments`: reads ``--model_args``.
- `own`: lmms-eval's own model of a family, which writes the prompts and reads the answers.
- `written`: prompts of families for which lmms-eval has no model of its own.
- `together`: runs several requests up to their calls of ``generate``, which are then answered as one batch.
- `figures`: tokens, FLOPs, time and memory, for the results that lmms-eval writes.
- `model`: the two classes that lmms-eval loads.
"""
