"""Runs several requests up to the point where each calls the model, and answers these calls as one batch.

lmms-eval's own models prepare a prompt, call ``generate`` and read the answer in one long function, and some
take one request at a time only. Each request runs that function in its own thread, which waits in
``generate`` until all others wait there too. The model itself runs in the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

Call = TypeVar("Call")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


class Together(Generic[Call, Reply, Result]):
    """Answers requests that call a model several times, so that their calls run in batches.

    Args:
        answer: replies to several calls; the reply to a call that fails is the exception.
    """

    def __init__(self, answer: Callable[[Sequence[Call]], Sequence[Reply | Exception]]) -> None:
        self._answer = answer
        self._events: SimpleQueue[tuple[int, Call, Future[Reply]] | int] = SimpleQueue()

    def run(
        self, requests: Sequence[Callable[[Callable[[Call], Reply]], Result]]
    ) -> list[Result | Exception]:
        """Run all requests to their ends.

        Args:
            requests: each receives the function that calls the model, and may use it any number of times.

        Returns:
            The return value or error of each, in their order.
        """
        going = set(range(len(requests)))
        waiting: dict[int, tuple[Call, Future[Reply]]] = {}
        with ThreadPoolExecutor(max(1, len(requests))) as pool:
            started = [pool.submit(self._run_one, *each) for each in enumerate(requests)]
            while going:
                event = self._events.get()
                if isinstance(event, int):
                    going.discard(event)
                else:
                    number, call, reply = event
                    waiting[number] = (call, reply)
                if waiting and waiting.keys() == going:
                    self._reply([waiting.pop(number) for number in sorted(going)])
            return [each.result() for each in started]

    def _run_one(
        self, number: int, request: Callable[[Callable[[Call], Reply]], Result]
    ) -> Result | Exception:
        def call_model(call: Call) -> Reply:
            reply: Future[Reply] = Future()
            self._events.put((number, call, reply))
            return reply.result()

        try:
            return request(call_model)
        except Exception as error:  # any kind: it belongs to this request alone
            return error
        finally:
            self._events.put(number)

    def _reply(self, waiting: Sequence[tuple[Call, Future[Reply]]]) -> None:
        try:
            replies = self._answer([call for call, _ in waiting])
        except BaseException as error:  # otherwise the threads would wait for ever
            for _, reply in waiting:
                reply.set_exception(error)
            raise
        for (_, future), given in zip(waiting, replies, strict=True):
            if isinstance(given, Exception):
                future.set_exception(given)
            else:
                future.set_result(given)
