"""Decides which requests reach the page: only those that the page itself makes, of bounded size.

Gradio serves more than the page needs (other ways to call its functions, a schema, streams without end). It
checks neither the host name of a request nor its origin. The gate runs before it and does.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adatp.demo.refusal import RefusalError
from adatp.demo.uploads import OneFile, stored_bytes
from adatp.demo.visitors import Visitors

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BODY = 64 << 10
"""Bytes of a question with all its settings."""

MOST_STORED = 4 << 30
"""Bytes of all clips that are kept at a time."""

READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(?:assets|static)/[^?]+"
    r"|/gradio_api/(?:queue/data|upload_progress|file=(?!\w+:)[^?]+)"
)
"""Paths that the page reads from."""

ASK, PICK, UPLOAD = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/upload"
"""Paths that the page writes to: to ask the model, to pick an example, to upload a clip."""

QUERY = re.compile(rb"(?:session_hash|upload_id)=\w{1,64}")
"""The only queries that are passed on."""

HEADERS = [
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
"""Sent with every answer: no other site may show the page in a frame, or read what it serves."""


@dataclass(frozen=True)
class Rules:
    """The gate's rules for requests.

    Attributes:
        names: host names that the page may have in a Host header, besides any IP address. They must not
            include a name that someone else can point at this machine.
        folder: clients may only name files in it.
        asking: the number of the function that asks the model.
        is_question: whether its arguments can be those of the page.
        picking: the numbers of the functions that fill in an example, with how many examples each has.
        most_bytes: largest size of an upload.
    """

    names: frozenset[str]
    folder: Path
    asking: int
    is_question: Callable[[list[Any]], bool]
    picking: dict[int, int]
    most_bytes: int


@dataclass
class Gate:
    """An ASGI application that protects another one.

    Attributes:
        app: the protected application.
        rules: decide which requests it gets.
        visitors: questions that wait for the model.
    """

    app: App
    rules: Rules
    visitors: Visitors = field(default_factory=Visitors)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request (see ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, _Answer(send))
        else:  # the page uses no web socket
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Message, receive: Receive, answer: _Answer) -> None:
        try:
            headers = _headers(scope)
            check_host(headers, self.rules.names)
            check_origin(scope, headers)
            path, writes = scope["path"], scope["method"] == "POST"
            if scope["method"] not in ("GET", "HEAD", "POST"):
                raise RefusalError(405, "this page is read and asked, nothing else")
            if not (path in (ASK, PICK, UPLOAD) if writes else READ.fullmatch(path)):
                raise RefusalError(404, "there is no such page")
            if not QUERY.fullmatch(scope["query_string"]):
                scope = {**scope, "query_string": b""}
            if not writes:
                await self._read(scope, receive, answer)
            elif path == UPLOAD:
                await self._upload(scope, headers, receive, answer)
            else:
                await self._call(scope, receive, answer)
        except RefusalError as refusal:
            await answer.refuse(refusal)
        except Exception as error:  # a client that left, or a bug of the page: one line, not a traceback
            if answer.status is None and type(error).__name__ not in ("ClientDisconnect", "HTTPException"):
                print(f"adatp: a request failed ({type(error).__name__})", file=sys.stderr)
            await answer.refuse(RefusalError(500, "something went wrong here"))

    async def _read(self, scope: Message, receive: Receive, answer: _Answer) -> None:
        query = scope["query_string"].decode()
        if scope["path"].endswith(("/queue/data", "/upload_progress")) and not query:
            raise RefusalError(400, "bad request")
        try:
            await self.app(scope, receive, answer)
        finally:
            if scope["path"].endswith("/queue/data"):  # nobody listens for the answer any more
                self.visitors.leave(query.partition("=")[2])

    async def _upload(
        self, scope: Message, headers: dict[str, str], receive: Receive, answer: _Answer
    ) -> None:
        if stored_bytes(self.rules.folder) > MOST_STORED:
            raise RefusalError(503, "too many clips are kept here: try again later")
        inspected = OneFile(receive, headers, self.rules.most_bytes)
        answer.refused = lambda: inspected.refusal
        try:
            await self.app(scope, inspected, answer)
        except Exception:
            if inspected.refusal is None:
                raise
        if inspected.refusal is not None:
            raise inspected.refusal

    async def _call(self, scope: Message, receive: Receive, answer: _Answer) -> None:
        body = await _body(receive)
        session = check_call(body, scope["path"], self.rules)
        if scope["path"] == ASK:
            self.visitors.enter((scope.get("client") or ("",))[0], session)
        try:
            await self.app(scope, _again(body, receive), answer)
        finally:
            if scope["path"] == ASK and answer.status != 200:
                self.visitors.leave(session)


class _Answer:
    """The response to the client: the application's with our headers, or a refusal instead.

    Attributes:
        status: of the answer, once it has begun.
        refused: why nothing of the application's own answer may be sent, if so.
    """

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status: int | None = None
        self.refused: Callable[[], RefusalError | None] = lambda: None

    async def __call__(self, message: Message) -> None:
        if self.refused() is not None:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = {name for name, _ in HEADERS}
            kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in ours]
            message = {**message, "headers": [*kept, *HEADERS]}
        await self.send(message)

    async def refuse(self, refusal: RefusalError) -> None:
        """Send the reason why there is no answer, unless an answer has begun."""
        if self.status is not None:
            return
        self.status = refusal.status
        body = json.dumps({"detail": str(refusal)}).encode()
        kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers = [*kind, (b"connection", b"close"), *HEADERS]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _headers(scope: Message) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "content-type", "content-length"):
            raise RefusalError(400, f"there are two headers {key}")
        headers[key] = value.decode("latin-1")
    return headers


def check_host(headers: dict[str, str], names: frozenset[str]) -> None:
    """Refuse a request for a foreign host name: some site may have pointed its name at this machine.

    Raises:
        RefusalError: the Host header names another host.
    """
    try:
        host = urlsplit(f"//{headers['host']}").hostname or ""
    except (KeyError, ValueError):
        raise RefusalError(400, "there is no Host header") from None
    if host.lower() in names:
        return
    try:
        ip_address(host)
    except ValueError:
        raise RefusalError(
            403, "this page is not known by that name: adatp demo --allow-host NAME makes it so"
        ) from None


def check_origin(scope: Message, headers: dict[str, str]) -> None:
    """Refuse a request that another site makes a browser send, except a link to the page.

    Raises:
        RefusalError: the browser declares another origin.
    """
    whence, how = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    link = how == "navigate" and headers.get("sec-fetch-dest") == "document" and scope["method"] == "GET"
    if whence not in ("none", "same-origin") and not link:
        raise RefusalError(403, "another site asks for this")
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != headers["host"].lower():
        raise RefusalError(403, "another site asks for this")


def check_call(body: bytes, path: str, rules: Rules) -> str:
    """Refuse a call that the page would not make, and files that were not uploaded.

    Args:
        body: body of the request.
        path: `ASK` or `PICK`.
        rules: the gate's rules.

    Returns:
        The session that calls.

    Raises:
        RefusalError: it is another function, its arguments are of other kinds, or it names another file.
    """

    def check(item: dict[str, Any]) -> dict[str, Any]:
        if "path" in item:
            if not _is_inside(item["path"], rules.folder):
                raise RefusalError(403, "a clip has to be uploaded, not named")
            if not Path(item["path"]).is_file():
                raise RefusalError(410, "the clip is gone: upload it again")
        return item

    try:
        call = json.loads(body, object_hook=check)
        data, function, session = call["data"], call["fn_index"], call["session_hash"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusalError(400, "bad request") from None
    known = {"data", "fn_index", "session_hash", "trigger_id", "event_data"}
    sound = isinstance(session, str) and re.fullmatch(r"\w{1,64}", session) and set(call) <= known
    sound = sound and call.get("event_data") is None and isinstance(call.get("trigger_id"), int | None)
    if not sound or type(function) is not int or not isinstance(data, list):
        raise RefusalError(400, "bad request")
    if path == ASK:
        fits = function == rules.asking and rules.is_question(data)
    else:
        fits = function in rules.picking and len(data) == 1 and type(data[0]) is int
        fits = fits and 0 <= data[0] < rules.picking[function]
    if not fits:
        raise RefusalError(400, "bad request")
    return str(session)


def _is_inside(path: Any, folder: Path) -> bool:
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError):  # it contains a zero, or is far too long
        return False


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusalError(400, "bad request")
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BODY:
            raise RefusalError(413, f"a question has {MOST_BODY >> 10} KB at most")
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Replays a body, then continues with what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give
