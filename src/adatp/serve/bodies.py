"""Reads the bytes of a request within limits, and checks them before they are parsed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from adatp.serve.errors import RequestError

MOST_OUTSIDE = 1 << 16
"""Bytes outside of strings: lists and objects take many times their bytes once they are parsed."""

MOST_QUOTES = 1 << 18
"""Most quotation marks in a body."""

MOST_DEPTH = 32
"""Most nested lists and objects."""

_QUOTE, _BACKSLASH = 0x22, 0x5C


class Allowance:
    """Bytes of all requests that are in memory at once.

    Attributes:
        left: how many more fit.
    """

    def __init__(self, total: int) -> None:
        self.left = total


class Body:
    """The body of one request, and its share of the allowance."""

    def __init__(self, allowance: Allowance) -> None:
        self.data = bytearray()
        self._allowance, self._held = allowance, 0

    async def read(
        self, headers: Mapping[str, str], chunks: AsyncIterator[bytes], most: int, seconds: float
    ) -> None:
        """Read the body of a request.

        Args:
            headers: headers of the request.
            chunks: its pieces.
            most: largest size in bytes.
            seconds: time for all pieces to arrive.

        Raises:
            RequestError: it is no JSON, too large or too slow, or others take up all the room.
        """
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "the body has to be JSON: send Content-Type: application/json")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "the body may not be compressed: leave Content-Encoding out")
        too_large = RequestError(413, f"the body has more than {most} bytes, the limit of this server")
        announced = headers.get("content-length", "")
        if re.fullmatch(r"[0-9]+", announced) and int(announced) > most:
            raise too_large
        try:
            async with asyncio.timeout(seconds):
                async for chunk in chunks:
                    if len(self.data) + len(chunk) > most:
                        raise too_large
                    if len(chunk) > self._allowance.left:
                        raise RequestError(429, "too many large requests at once: try again")
                    self._allowance.left -= len(chunk)
                    self._held += len(chunk)
                    self.data += chunk
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {seconds:g} s") from None

    def free(self) -> None:
        """Free the bytes of the body."""
        self._allowance.left += self._held
        self._held = 0
        with suppress(BufferError):
            self.data.clear()


def check_shape(body: bytes | bytearray) -> None:
    """Refuse JSON that would take up far more memory than its bytes once it is parsed.

    Long strings are fine: they hold videos. The check only looks at quotation marks, so it is fast. A body
    that passes may still be invalid JSON.

    Raises:
        RequestError: too much stands outside of strings, too deep, or there are too many strings.
    """
    outside = bytearray()
    at = quotes = 0
    while True:
        begin = body.find(_QUOTE, at)
        outside += body[at : begin if begin >= 0 else len(body)][: MOST_OUTSIDE + 1]
        if len(outside) > MOST_OUTSIDE:
            raise RequestError(400, f"the JSON has more than {MOST_OUTSIDE} bytes outside of strings")
        if begin < 0:
            break
        end = body.find(_QUOTE, begin + 1)
        while end >= 0 and _is_escaped(body, end):
            quotes += 1
            end = body.find(_QUOTE, end + 1) if quotes <= MOST_QUOTES else -1
        quotes += 2
        if quotes > MOST_QUOTES:
            raise RequestError(400, f"the JSON has more than {MOST_QUOTES} quotation marks")
        if end < 0:
            raise RequestError(400, "the body is not valid JSON: a string does not end")
        at = end + 1
    depth = deepest = 0
    for byte in outside:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    if deepest > MOST_DEPTH:
        raise RequestError(400, f"the JSON is more than {MOST_DEPTH} levels deep")


def _is_escaped(body: bytes | bytearray, at: int) -> bool:
    """Whether the quotation mark at ``at`` has an odd number of backslashes before it."""
    before = at
    while body[before - 1] == _BACKSLASH:
        before -= 1
    return (at - before) % 2 == 1
