"""Terminal helpers of the commands: one-line errors, quiet libraries, progress, tables."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from adatp.cli.terminal import Interrupts, plain, say
from adatp.errors import AdaTPError, RefusedError, is_out_of_memory


@contextmanager
def importing() -> Iterator[None]:
    """Let an interrupt end the process at once. During an import it would be lost, or break the import."""
    if threading.current_thread() is not threading.main_thread():  # which gets no interrupts
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def working_on(model: str | None) -> Iterator[None]:
    """Wraps all that a command does with a model: errors are one line, and libraries are quiet.

    Args:
        model: value of --model.
    """
    with importing():
        import_module("adatp.session")  # and with it torch and transformers
    with one_line_errors(), quiet_libraries(downloads=model is not None and not os.path.isdir(model)):
        yield


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the library's errors about bad input into one line. Other errors are bugs and keep their
    traceback.
    """
    try:
        yield
    except RefusedError:
        raise
    except AdaTPError as error:
        raise RefusedError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RefusedError("out of memory: ask for fewer --frames, or use a smaller model") from error


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning of the library as one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        yield


@contextmanager
def quiet_libraries(downloads: bool) -> Iterator[None]:
    """Keep the libraries' logs off stderr, and their progress bars except downloads on a terminal."""
    from logging import ERROR

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    levels, bars = (logging.get_verbosity(), hub.get_verbosity()), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity(ERROR)
    if not (downloads and sys.stderr.isatty()):
        logging.disable_progress_bar()
    with one_line_warnings():
        try:
            yield
        finally:
            logging.set_verbosity(levels[0])
            hub.set_verbosity(levels[1])
            if bars:
                logging.enable_progress_bar()


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line (see ``warnings.showwarning``)."""
    if not issubclass(category, (FutureWarning, DeprecationWarning)):  # useless for users of the command
        say(f"warning: {message}")


@contextmanager
def progress(doing: str, shown: bool = True) -> Iterator[None]:
    """A line on stderr with the current work and its duration, if stderr is a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        progress.add_task(plain(doing), total=None)
        yield


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal. Call the function with the number done and the total."""
    with progress_bar(doing) as update:
        yield lambda done, total: update(done, total, "")


@contextmanager
def progress_bar(doing: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar like `counting`'s. The function also takes a note for the bar's end, such as a rate."""
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("", total=None, note="")

        def update(done: int, total: int, note: str) -> None:
            Interrupts.check()
            bars.update(bar, completed=done, total=total, note=note)

        yield update


@contextmanager
def downloading(source: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr while a video is downloaded, if that is a terminal.

    Args:
        source: the address of the video.

    Returns:
        A function to call with the number of bytes received, and the total if known.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    bar = bars.add_task(plain(f"downloading {source}"), total=None)

    def update(done: int, total: int | None) -> None:
        Interrupts.check()
        if not bars.live.is_started and not bars.disable:  # a file on this machine has no bar
            bars.start()
        bars.update(bar, completed=done, total=total)
        if done == total:
            bars.stop()

    try:
        yield update
    finally:
        bars.stop()


def wide_console() -> Console:
    """Stdout, 110 columns wide if it is not a terminal: a file has no edge to wrap at."""
    return Console(width=None if sys.stdout.isatty() else 110)


def table_of(first: str, *columns: str) -> Table:
    """An empty table with a column of words and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


PRESET = "fastvid"


def conventions(preset: str) -> str:
    """Explains the two kinds of FLOPs, below a table."""
    return (
        "FLOPs are real: two to a multiply-accumulate, of all tokens, scoring included. MACs follow the "
        "papers: multiply-accumulates of the prefill's visual tokens alone, by the formula of the "
        f"{preset} preset."
    )


CONVENTIONS = conventions(PRESET)
