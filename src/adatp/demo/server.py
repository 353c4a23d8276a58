"""Runs the server of the page."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType

from adatp.demo.uploads import swept
from adatp.session import Session
from adatp.signals import stopping

MOST_CONNECTIONS = 256
"""Connections at a time; a page has a few."""


class _TerminatedError(BaseException):
    """Raised when SIGTERM comes, to stop serving."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


def serve(
    session: Session, listener: socket.socket, names: Collection[str], ready: Callable[[], object]
) -> None:
    """Serve the page until a signal comes, then clean up. Returns after SIGTERM.

    Args:
        session: holds the model.
        listener: a listening socket.
        names: host names that the page may have in an address, besides any IP address.
        ready: called once requests are accepted.

    Raises:
        KeyboardInterrupt: SIGINT came.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # All uploads and generated files are in this folder.
        with tempfile.TemporaryDirectory(prefix="adatp-demo-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # gradio reads it on import, and later
            import uvicorn

            from adatp.demo.app import build_app

            app = build_app(session, Path(folder), names)
            config = uvicorn.Config(
                app,
                log_level="critical",
                limit_concurrency=MOST_CONNECTIONS,
                server_header=False,
                timeout_graceful_shutdown=1,  # browsers keep connections open for events; they are closed
            )
            server = uvicorn.Server(config)
            with swept(Path(folder)), stopping(lambda: setattr(server, "should_exit", True)):
                ready()
                server.run(sockets=[listener])
    except _TerminatedError:
        return
