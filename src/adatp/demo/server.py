"""The server of the page."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from adatp.session import Session


def serve(session: Session, listener: socket.socket, ready: Callable[[], object]) -> None:
    """Serve the page until SIGINT or SIGTERM, then clean up and return.

    Args:
        session: of the model.
        listener: a socket that listens.
        ready: called once requests are accepted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Everything that is uploaded, or made for the page, is in here.
        with tempfile.TemporaryDirectory(prefix="adatp-demo-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # read as gradio is imported, and later
            import uvicorn

            from adatp.demo.app import build_app

            app = build_app(session, Path(folder))
            # Browsers hold connections open for events: they are cut off when the server stops.
            config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
            ready()
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return
