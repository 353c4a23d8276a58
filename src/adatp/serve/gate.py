"""Decides who may ask, before anything else happens to a request."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adatp.serve.errors import error_response
from adatp.serve.keys import is_known
from adatp.serve.settings import Settings

OPEN = ("/health",)
"""Paths that need no key, since a load balancer has none."""


class Gate:
    """Refuses requests without a key, or under another host name, before they are read.

    Without a key, a server that only listens on this machine accepts only this machine's names. Otherwise a
    web page in a browser could ask it, through a name of its own that resolves to this machine.
    """

    def __init__(self, app: ASGIApp, settings: Settings, answered: Callable[[int], object]) -> None:
        """A gate before an application. ``answered`` is called with the status of every answer."""
        self._app, self._settings, self._answered = app, settings, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(message["status"])
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        settings = self._settings
        host = headers.get(b"host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if settings.hosts is not None and name.lower() not in settings.hosts:
            await error_response(403, "this server does not answer by that Host")(scope, receive, counted)
        elif (
            settings.keys
            and scope["path"] not in OPEN
            and not is_known(headers.get(b"authorization"), settings.keys)
        ):
            await error_response(401, "no valid API key: send Authorization: Bearer KEY")(
                scope, receive, counted
            )
        else:
            await self._app(scope, receive, counted)
