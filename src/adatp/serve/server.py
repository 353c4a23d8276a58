"""Runs the server of the application."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from adatp.serve.app import build_app
from adatp.serve.desk import Desk
from adatp.serve.memory import share_heaps
from adatp.serve.settings import Settings
from adatp.session import Session
from adatp.signals import stopping

HEAD_SECONDS = 20.0
"""Seconds that a connection has to send its request's head."""

MOST_CONNECTIONS = 1024
"""Most connections at once; a request beyond gets 503."""

_LAST_WORDS = 5.0
"""Seconds to answer the clients whose answers take too long when the server is stopped."""


def serve(session: Session, settings: Settings, listener: socket.socket, ready: Callable[[], object]) -> None:
    """Serve until SIGINT or SIGTERM, then finish running answers, clean up and return.

    Args:
        session: holds the model, with its weights loaded.
        settings: settings of the server.
        listener: a listening socket.
        ready: called once requests are accepted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    share_heaps()
    try:
        server = build_server(session, settings)
        with stopping(lambda: setattr(server, "should_exit", True)):
            ready()
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        return


def build_server(session: Session, settings: Settings) -> uvicorn.Server:
    """A server that does nothing until its ``run``."""
    desk = Desk(session, settings)
    config = uvicorn.Config(
        build_app(desk),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=round(settings.shutdown_seconds + _LAST_WORDS),
    )
    return _Server(config, desk)


class _Server(uvicorn.Server):
    """A server that answers the clients that it gives up."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish running answers, as far as there is time."""
        late = asyncio.get_running_loop().call_later(self._desk.settings.shutdown_seconds, self._desk.stop)
        await super().shutdown(sockets)
        late.cancel()


class _Protocol(H11Protocol):
    """HTTP that closes connections which send no request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the head of a request."""
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        """Start waiting for the head of the next request."""
        answered = self.cycle
        super().on_response_complete()
        self._await_head(answered)

    def _await_head(self, last: Any = None) -> None:
        """Close the connection later if no request has begun after the last one; None: there was none."""

        def check() -> None:
            if self.cycle is last:
                self.transport.close()

        self.loop.call_later(HEAD_SECONDS, check)
