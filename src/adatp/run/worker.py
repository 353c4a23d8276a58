"""A process that reads videos and makes prompts of them; `workers` starts it."""

from __future__ import annotations

import os
import sys
import warnings

START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from adatp.run.worker import serve; serve()"
)
"""What the process is started with, so that it imports from where the one that starts it does."""


def serve() -> None:
    """Answer units with prepared prompts, until the other side closes the pipe."""
    incoming = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    import torch

    from adatp.run.channel import receive, send
    from adatp.run.preparing import prepare
    from adatp.video.opening import decoded_by

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the model's process says what there is to say
    try:
        processor, config, decoder_threads = receive(incoming)
        send(outgoing, "ready")
        with decoded_by(decoder_threads):
            while True:
                unit = receive(incoming)
                send(outgoing, prepare(processor, config, unit))
    except (EOFError, BrokenPipeError):
        os._exit(0)
