"""A process that reads videos and makes prompts of them; `workers` starts it."""

from __future__ import annotations

import os
import sys
import warnings

START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from adatp.run.worker import serve; serve()"
)
"""Arguments of the process, so that it imports from the same places as the process that starts it."""


def serve() -> None:
    """Answer units with prepared prompts, until the other side closes the pipe."""
    incoming = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries are not messages
    import torch

    from adatp.models import allow_general_rule
    from adatp.run.channel import receive, send
    from adatp.run.preparing import prepare
    from adatp.video.opening import decoded_by

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the model's process gives all necessary warnings
    try:
        processor, config, by_rule, decoder_threads = receive(incoming)
        if by_rule:
            allow_general_rule(config.model_type)
        send(outgoing, "ready")
        with decoded_by(decoder_threads):
            while True:
                unit = receive(incoming)
                send(outgoing, prepare(processor, config, unit))
    except (EOFError, BrokenPipeError):
        os._exit(0)
