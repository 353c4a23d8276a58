"""The text of an answer, piece by piece while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from adatp.session.answer import Answer, words_of


class Stream(Iterator[str]):
    """An iterator of the pieces of an answer's text; joined, they are the answer.

    From the first piece on, the model answers in its own thread. Leaving the stream before its end
    (``close``, or dropping it) stops the model.
    """

    def __init__(self, processor: Any, generate: Callable[[Any], Answer]) -> None:
        """Made by ``Session.stream``; ``generate`` takes a streamer of ``model.generate``."""
        self._processor = processor
        self._generate = generate
        self._answer: Answer | None = None
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the model before its end."""
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        """The answer; waits for the rest of the stream.

        Raises:
            RuntimeError: the stream was closed before its end.
        """
        for _ in self:
            pass
        if self._answer is None:
            raise RuntimeError("this stream was closed before its end, so that there is no answer")
        return self._answer

    def _run(self) -> Generator[str, None, None]:
        queue: SimpleQueue[int | Answer | BaseException] = SimpleQueue()
        feed = _Feed(queue)

        def work() -> None:
            try:
                queue.put(self._generate(feed))
            except _AbandonedError:
                pass
            except BaseException as error:  # passed on to the reader of the stream
                queue.put(error)

        thread = Thread(target=work, name="adatp-stream", daemon=True)
        thread.start()
        tokens: list[int] = []
        sent = ""
        try:
            while isinstance(item := queue.get(), int):
                tokens.append(item)
                text = settled_words(self._processor, tokens)
                if len(text) > len(sent) and text.startswith(sent):
                    yield text[len(sent) :]
                    sent = text
            if isinstance(item, BaseException):
                raise item
            self._answer = item
            if rest := item.text[len(sent) :]:
                yield rest
        finally:
            feed.left = True
            thread.join()


def settled_words(processor: Any, tokens: Sequence[int]) -> str:
    """The text of an answer's tokens so far, without the part that the next token may change."""
    text = words_of(processor, tokens).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):  # moves the end of the last word
        text = text[: -len(text.split()[-1])].rstrip() if text else ""
    return text


class _AbandonedError(Exception):
    """Nobody reads the stream any more."""


class _Feed:
    """A streamer for ``model.generate`` that passes on every new token, but not the prompt's."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self.queue = queue
        self.left = False
        self._prompt = True

    def put(self, value: Any) -> None:
        """Take tokens. The first ones are the prompt."""
        if self.left:
            raise _AbandonedError
        if not self._prompt:
            for token in value.flatten().tolist():
                self.queue.put(token)
        self._prompt = False

    def end(self) -> None:
        """Mark the end of the tokens."""
