"""Makes terminal output safe: one line per message, no control characters, only characters it can show."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

LONGEST_MESSAGE = 1000
"""Most characters of a message. The middle of a longer one is left out."""

LEAST_COLUMNS = 20
"""Characters of the narrowest terminal."""

_TURNS_TEXT = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_OBEYED = ("Cc", "Cs", "Zl", "Zp")

_PLAIN = {"→": "->", "×": "x", "±": "+-", "…": "...", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"'}

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""Errors of a full disk."""


def plain(text: str, keep: str = "") -> str:
    """A text with everything escaped that a terminal would interpret instead of showing it.

    Args:
        text: such as a file's name, a question, or a model's answer.
        keep: control characters that may stay, such as a newline.
    """
    return "".join(
        character if character in keep or not _is_obeyed(character) else _escaped(character)
        for character in text
    )


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED or character in _TURNS_TEXT


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8, as Python reads it from outside
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def say(message: str) -> None:
    """Print a message on stderr as one line."""
    line = plain(" ".join(message.split()))
    if len(line) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        line = f"{line[:half]} ... {line[-half:]}"
    print("adatp:", line, file=sys.stderr)


def _as_plain(error: UnicodeError) -> tuple[str, int]:
    """Plain characters for those that an encoding lacks (see ``codecs.register_error``)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for character in error.object[error.start : error.end]:
        base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        found.append(_PLAIN.get(character) or base or "?")
    return "".join(found), error.end


codecs.register_error("adatp-plain", _as_plain)


@contextmanager
def any_encoding() -> Iterator[None]:
    """Print plain characters where stdout or stderr can't encode the right ones."""
    changed: list[tuple[io.TextIOWrapper, str]] = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (errors := stream.errors) == "strict":
            changed.append((stream, errors))
            stream.reconfigure(errors="adatp-plain")
    try:
        yield
    finally:
        for stream, errors in changed:
            with suppress(OSError, ValueError):  # full, or closed already
                stream.reconfigure(errors=errors)


@contextmanager
def wide_enough() -> Iterator[None]:
    """Forget a width in COLUMNS that no terminal has. With 0, tables would have no characters at all."""
    said = os.environ.get("COLUMNS", "")
    odd = said.isdecimal() and int(said[:9]) < LEAST_COLUMNS
    if odd:
        del os.environ["COLUMNS"]
    try:
        yield
    finally:
        if odd:
            os.environ["COLUMNS"] = said


def open_closed_streams() -> None:
    """Open stdin, stdout and stderr on /dev/null where the process was started without them.

    A file that is opened later would get their number, and a library in C that writes a message would write
    it into that file. Python prints what is for a missing stderr on stdout.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def flush() -> None:
    """Write the buffer of stdout.

    Raises:
        OSError: it can't be written.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def give_up_stdout() -> None:
    """Discard everything in stdout from now on, so that the process does not fail again at its end."""
    stream: TextIO = sys.stdout
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def has_working_folder() -> bool:
    """Whether the folder that the process works in is there. If not, no relative path leads anywhere."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def reader_has_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more, such as that to ``head``."""
    if not hasattr(select, "poll"):  # Windows
        return False
    pipes = select.poll()
    try:
        pipes.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError, AttributeError):
        return False
    return any(event & select.POLLERR for _, event in pipes.poll(0))


class Interrupts:
    """Records Ctrl-C. Some libraries swallow the exception: then the run ends at the next step.

    Attributes:
        pressed: whether it was pressed since the command began.
    """

    pressed = False

    @classmethod
    def check(cls) -> None:
        """Raise the interrupt again if a library swallowed it."""
        if cls.pressed:
            raise KeyboardInterrupt

    @classmethod
    @contextmanager
    def noted(cls) -> Iterator[None]:
        """Record interrupts while a command runs."""
        cls.pressed = False
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield  # a program that calls the command handles it itself
            return

        def note(number: int, frame: FrameType | None) -> Any:
            cls.pressed = True
            signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
