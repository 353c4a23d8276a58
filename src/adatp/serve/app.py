"""The web application: its paths and their answers."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.types import ASGIApp

from adatp.serve.bodies import Allowance, Body
from adatp.serve.desk import Desk
from adatp.serve.errors import GoneError, RequestError, error_response
from adatp.serve.gate import Gate
from adatp.serve.page import page_of
from adatp.serve.protocol import ChatCompletion, ChatRequest, ErrorReply
from adatp.serve.replies import HeldResponse, completion, events
from adatp.serve.settings import Settings

T = TypeVar("T")

_BODIES = 4
"""How many bodies of the largest allowed size may be in memory at once."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 401, 404, 408, 413, 415, 429, 500, 503)
}


def build_app(desk: Desk) -> ASGIApp:
    """The application that passes requests to a desk."""
    settings = desk.settings
    places = _Places(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        await asyncio.to_thread(desk.close)

    app = FastAPI(
        title="adatp",
        version=version("adatp"),
        description="Video LLMs for a fraction of the compute, by pruning visual tokens.",
        docs_url=None,  # it loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_chat(app, desk, places)
    _add_others(app, desk, places)
    return Gate(app, settings, lambda status: desk.metrics.answered.labels(status).inc())


class _Place:
    """The place of one request among those that are handled at once."""

    def __init__(self, places: _Places) -> None:
        self._places = places
        self.body = Body(places.allowance)
        self._held = True

    def release(self) -> None:
        """Free the place, at the first call."""
        if self._held:
            self._held = False
            self.body.free()
            self._places.taken -= 1


class _Places:
    """The places of all requests.

    Attributes:
        taken: how many are taken.
        allowance: bytes of bodies that are in memory at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._most, self.taken = settings.max_requests, 0
        self.allowance = Allowance(_BODIES * settings.most_body)

    def take(self) -> _Place:
        """Take a place for a request.

        Raises:
            RequestError: all are taken.
        """
        if self.taken >= self._most:
            raise RequestError(429, f"{self._most} requests are being answered, the limit: try again")
        self.taken += 1
        return _Place(self)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled once the client hangs up.

    Args:
        request: a request whose body was read.
        work: the work for it.

    Raises:
        GoneError: the client hung up.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_chat(app: FastAPI, desk: Desk, places: _Places) -> None:
    settings = desk.settings
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}}

    @app.post(
        "/v1/chat/completions",
        summary="Answer the last message of a chat about videos",
        response_model=None,
        responses={200: {"model": ChatCompletion}, **_ERRORS},
        openapi_extra={"requestBody": {"required": True, **body}},
    )
    async def chat(request: Request) -> Response:
        place = places.take()
        handed_on = False
        try:
            with desk.expecting():
                await place.body.read(
                    request.headers, request.stream(), settings.most_body, settings.body_seconds
                )
                call = await unless_gone(request, desk.parse(place.body))
                conversation = await unless_gone(request, desk.begin(call))
            if call.stream:

                def let_go() -> None:
                    conversation.close()
                    place.release()

                handed_on = True
                return HeldResponse(events(conversation, settings.name), let_go)
            try:
                answers = await unless_gone(request, completion(conversation, settings.name))
            finally:
                conversation.close()
            return JSONResponse(answers.model_dump())
        finally:
            if not handed_on:
                place.release()


def _add_others(app: FastAPI, desk: Desk, places: _Places) -> None:
    name = desk.settings.name

    @app.get("/v1/models", summary="The model that answers")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name)]}

    @app.get("/v1/models/{model:path}", summary="The same, by its name", responses=_ERRORS)
    async def model(model: str) -> dict[str, Any]:
        if model != name:
            raise RequestError(404, f"no model {model[:100]!r} here; there is {name!r}", "model")
        return _model(name)

    @app.get("/health", summary="Whether requests are taken")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", summary="This page", response_class=HTMLResponse)
    async def docs() -> Response:
        return HTMLResponse(page_of(app.openapi()))

    desk.metrics.show("adatp_requests_taken", "Requests that are read or answered.", lambda: places.taken)
    _add_schema(app)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "adatp"}


def _add_schema(app: FastAPI) -> None:
    """Describe the body of a chat, which this server reads and checks itself."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            template = "#/components/schemas/{model}"
            schema = ChatRequest.model_json_schema(ref_template=template)
            parts = schema.pop("$defs")
            made()["components"]["schemas"].update({"ChatRequest": schema, **parts})
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(error.status, str(error), error.param)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        answer = error_response(error.status_code, message)
        answer.headers.update(error.headers or {})  # which methods there are, for one
        return answer

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody is there to read it

    app.add_exception_handler(GoneError, gone)
    app.add_exception_handler(ClientDisconnect, gone)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        traceback.print_exception(error)
        return error_response(500, "something went wrong here; the server's log says what")
