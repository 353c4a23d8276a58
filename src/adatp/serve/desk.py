"""Takes requests: makes prompts of them, lets them wait for the model, and returns the answers."""

from __future__ import annotations

import asyncio
import copy
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from adatp.errors import AdaTPError, is_out_of_memory
from adatp.methods import NAMES, VARIANTS, Method, make_method, method_class
from adatp.serve.batching import STOPPED, Batcher, Job
from adatp.serve.bodies import Body
from adatp.serve.errors import GoneError, RequestError
from adatp.serve.media import MediaReader
from adatp.serve.metrics import Metrics
from adatp.serve.protocol import ChatRequest, ImagePart, TextPart, Usage, parse
from adatp.serve.rows import Finish, Row, Sampling
from adatp.serve.settings import MOST_IMAGES, MOST_VIDEOS, Settings
from adatp.session import Prompt, Session

_READERS = 4
"""Requests whose videos are read at once; each may take `MOST_FRAME_BYTES`."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer's text.

    Attributes:
        index: index of the answer.
        text: the new text; it may be empty where the answer ends.
        finish: why it ended; None: it continues.
    """

    index: int
    text: str
    finish: Finish | None = None


class Conversation:
    """One request whose prompt is ready, and its answers while they are generated."""

    def __init__(self, desk: Desk, call: ChatRequest, begun: float) -> None:
        self.call = call
        self.count = call.n or 1
        self._desk, self._begun = desk, begun
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._sent: list[str] = []
        self._open = 0
        self.job: Job | None = None

    def wait(self, prompt: Prompt, method: Method, let_go: Callable[[], None]) -> None:
        """Ask the model. ``let_go`` is called in the loop when that begins, or when it never will."""
        call, settings = self.call, self._desk.settings
        sampling = Sampling(call.temperature or 0.0, call.top_p or 1.0, call.seed, call.ignore_eos)
        # Greedy answers to one prompt are equal, so one is generated.
        self._sent = [""] * (self.count if sampling.temperature else 1)
        self._open = len(self._sent)
        rows = []
        for index in range(self._open):
            seed = None if call.seed is None else call.seed + index
            rows.append(
                Row(
                    self._desk.session.processor,
                    replace(sampling, seed=seed),
                    longest_answer(call, settings),
                    call.stops,
                    streamed=bool(call.stream),
                    changed=partial(self._tell, index),
                )
            )
        release = _once(partial(self._loop.call_soon_threadsafe, let_go))

        def failed(error: Exception | None) -> None:
            release()
            self._put(error or GoneError())

        self.job = Job(prompt, method, rows, started=release, failed=failed)
        self._desk.batcher.submit(self.job)

    def _tell(self, index: int, row: Row) -> None:
        """In the model's thread: report that an answer grew."""
        new, self._sent[index] = row.text[len(self._sent[index]) :], row.text
        self._put(Piece(index, new, row.finish))

    def _put(self, event: Piece | Exception) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces of all answers as they come.

        Raises:
            RequestError, GoneError: there will be no more.
        """
        first = True
        while self._open:
            event = await self._events.get()
            if not isinstance(event, Piece):
                self._open = 0  # the job has ended: `close` has nothing to cancel
                raise event or GoneError()
            if first:
                self._desk.metrics.first_token.observe(time.monotonic() - self._begun)
                first = False
            if event.finish == "cancelled":  # the reason comes after it
                continue
            if event.finish is not None:
                self._open -= 1
            copies = range(self.count) if len(self._sent) < self.count else (event.index,)
            for index in copies:
                yield replace(event, index=index)
        self._desk.metrics.note(self.usage(), time.monotonic() - self._begun)

    def usage(self) -> Usage:
        """Costs of the request, once all answers are finished."""
        assert self.job is not None
        assert self.job.report is not None
        report, row = self.job.report
        prompt, visual = report.prompt_tokens[row], report.prompt_visual_tokens[row]
        kept = report.visual_tokens[-1][row]
        written = sum(len(each.tokens) for each in self.job.rows) * self.count // len(self.job.rows)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=written,
            total_tokens=prompt + written,
            kept_tokens=prompt - visual + kept,
            visual_tokens=visual,
            visual_tokens_kept=kept,
            flops_ratio=report.flops_ratios[row],
            method=report.method,
            out_of_reach=report.out_of_reach(row),
        )

    def close(self) -> None:
        """Release the job, and the model if the answers are not finished."""
        if self.job is not None and self._open:
            self._open = 0
            self._desk.metrics.cancelled.inc()
            self._desk.batcher.cancel(self.job)
        self.job = None  # it references this conversation: a cycle would hold the model's inputs for long


class Desk:
    """State that all requests share.

    Attributes:
        settings: settings of the server.
        session: holds the model.
        metrics: counters of the server.
        batcher: the model's thread.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        self.settings, self.session, self.metrics = settings, session, Metrics()
        self._expected, self._stopped = 0, False
        self.batcher = Batcher(
            session,
            settings.max_batch,
            settings.batch_wait,
            expected=lambda: self._expected,
            batches=self.metrics.batch_rows.observe,
        )
        # Prompts are made in other threads than the model's, with a processor of their own.
        self._maker = copy.copy(session)
        self._maker.processor = copy.deepcopy(session.processor)
        self._making = threading.Lock()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="adatp-reader")
        self._folder = tempfile.TemporaryDirectory(prefix="adatp-serve-")
        self._prepared = asyncio.Semaphore(2 * settings.max_batch)  # prompts hold the model's inputs
        self.metrics.show("adatp_requests_waiting", "Requests that wait for the model.", self._waiting)
        self.metrics.show("adatp_answers_running", "Answers that are written.", self._running)

    def _waiting(self) -> float:
        return self.batcher.waiting + self._expected

    def _running(self) -> float:
        return self.batcher.running

    def open(self) -> None:
        """Start the thread that answers."""
        self.batcher.start()

    def stop(self) -> None:
        """Answer 503 to requests that are still being read or answered."""
        self._stopped = True
        self.batcher.stop()

    def close(self) -> None:
        """Stop, and clean up all files."""
        self.stop()
        self.batcher.close()
        self._readers.shutdown(cancel_futures=True)
        self._folder.cleanup()

    async def parse(self, body: Body) -> ChatRequest:
        """Parse a body and free its bytes.

        Raises:
            RequestError: it can't be answered.
        """
        try:
            call: ChatRequest = await self._in_reader(lambda: parse(body.data))
        finally:
            body.free()
        check(call, self.settings)
        return call

    async def begin(self, call: ChatRequest) -> Conversation:
        """Read the videos of a request and let it wait for the model.

        Raises:
            RequestError: it can't be answered.
        """
        conversation = Conversation(self, call, time.monotonic())
        gone = threading.Event()
        try:
            await self._prepared.acquire()
            try:
                prompt, method = await self._in_reader(lambda: self._prompt(call, gone))
                conversation.wait(prompt, method, self._prepared.release)
            except BaseException:
                self._prepared.release()
                raise
        finally:
            gone.set()
        return conversation

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a request is read, requests that wait already may wait for it, to share a batch."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    async def _in_reader(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _prompt(self, call: ChatRequest, gone: threading.Event) -> tuple[Prompt, Method]:
        """The prompt of a request and its method, in a reader's thread."""
        settings = self.settings
        deadline = time.monotonic() + settings.media_seconds
        late = RequestError(408, f"the videos were not read within {settings.media_seconds:g} s")

        def still_wanted() -> None:
            if gone.is_set():
                raise GoneError
            if self._stopped:
                raise RequestError(503, STOPPED)
            if time.monotonic() > deadline:
                raise late

        method, most = method_of(call, settings), longest_answer(call, settings)
        try:
            reader = MediaReader(settings, Path(self._folder.name), still_wanted)
            chat = messages_of(call, reader, call.frames or settings.frames)
            with self._making:
                still_wanted()
                prompt = self._maker.prepare(None, chat)
            self._maker.check(prompt, method, max_new_tokens=most, strict=call.strict)
        except RequestError:
            raise
        except AdaTPError as error:
            raise RequestError(400, str(error)) from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise RequestError(503, "out of memory: ask for fewer frames") from error
        return replace(prompt, videos=()), method  # the frames are in the inputs


def _once(action: Callable[[], object]) -> Callable[[], None]:
    """An action that happens only at the first call. Calls must not overlap."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


def check(call: ChatRequest, settings: Settings) -> None:
    """Refuse unsupported requests before anything is read.

    Raises:
        RequestError: it names the unsupported part.
    """
    if call.model is not None and call.model != settings.name:
        raise RequestError(404, f"no model {call.model[:100]!r} here; there is {settings.name!r}", "model")
    for name, value, most in (
        ("frames", call.frames or 1, settings.most_frames),
        ("max_tokens", longest_answer(call, settings), settings.most_new_tokens),
        ("n", call.n or 1, settings.max_batch),
    ):
        if value > most:
            raise RequestError(400, f"{name} is {value}, the limit of this server is {most}", name)
    parts = [
        part for message in call.messages if not isinstance(message.content, str) for part in message.content
    ]
    images = sum(isinstance(part, ImagePart) for part in parts)
    videos = len(parts) - images - sum(isinstance(part, TextPart) for part in parts)
    if videos > MOST_VIDEOS or images > MOST_IMAGES:
        raise RequestError(400, f"up to {MOST_VIDEOS} videos and {MOST_IMAGES} images a request", "messages")
    if not videos:
        raise RequestError(
            400, "there is no video in the messages: send a part of type video_url", "messages"
        )
    method_of(call, settings)


def longest_answer(call: ChatRequest, settings: Settings) -> int:
    """Most tokens that an answer may have."""
    return call.max_completion_tokens or call.max_tokens or settings.max_new_tokens


def method_of(call: ChatRequest, settings: Settings) -> Method:
    """The method that a request asks for.

    Raises:
        RequestError: there is no such method, or it has no FLOPs target.
    """
    if call.method is None:
        method = settings.method
        if call.flops is None:
            return method
        if type(method).flops is None:
            raise RequestError(400, f"method {method.name!r} has no FLOPs target: leave flops out", "flops")
        return replace(method, flops=call.flops)
    if call.method not in NAMES:
        raise RequestError(400, f"no method {call.method!r}; there are {', '.join(NAMES)}", "method")
    kind = method_class(call.method)
    if call.flops is None:
        same = call.method not in VARIANTS and type(settings.method) is kind
        return settings.method if same else make_method(call.method)
    if kind.flops is None:
        raise RequestError(400, f"method {call.method!r} has no FLOPs target: leave flops out", "flops")
    return make_method(call.method, call.flops)


def messages_of(call: ChatRequest, reader: MediaReader, frames: int) -> list[dict[str, Any]]:
    """The chat in the form of a session, with its videos read.

    Raises:
        RequestError: a video or an image is not allowed, or is none.
    """
    chat: list[dict[str, Any]] = []
    for message in call.messages:
        content: list[dict[str, Any]] = []
        parts = [] if isinstance(message.content, str) else message.content
        if isinstance(message.content, str):
            content.append({"type": "text", "text": message.content})
        for part in parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            elif isinstance(part, ImagePart):
                content.append({"type": "image", "image": reader.image(part.image_url.url)})
            else:
                content.append({"type": "video", "video": reader.video(part.video_url.url, frames)})
        chat.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    return chat
