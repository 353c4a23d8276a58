"""The server's errors, in the form that clients of the OpenAI API expect."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from adatp.errors import AdaTPError

_KINDS = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}


class RequestError(AdaTPError, ValueError):
    """A request that is answered with an error. The message is one line.

    Attributes:
        status: HTTP status.
        param: the field of the request that is wrong.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


class GoneError(Exception):
    """Nobody waits for the answer any more."""


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def error_response(status: int, message: str, param: str | None = None) -> Response:
    """The HTTP response of an error."""
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = json.dumps(error_body(status, message, param))
    return Response(content, status, headers, media_type="application/json")
