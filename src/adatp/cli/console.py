"""What the commands share: options, one-line errors, progress, files written whole or not at all."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from adatp.errors import AdaTPError, RefusedError

# torch and transformers take seconds to import: only the commands that need them do, when they run.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adatp.methods import Method

Number = TypeVar("Number", int, float)

EMBEDDED = "the small one that ships with adatp"


ModelOption = Annotated[
    str | None,
    typer.Option(help="A Video LLM: a folder, or an id on the Hugging Face hub.", show_default=EMBEDDED),
]
TargetsOption = Annotated[
    str, typer.Option("--flops", help="Fractions of vanilla's prefill FLOPs, separated by commas.")
]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: as the checkpoint is.")]
DeviceOption = Annotated[str, typer.Option(help="A torch device; auto: CUDA where there is one.")]


def numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    """The numbers of an option that takes several."""
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise RefusedError(f"{option} is numbers separated by commas, not {text!r}") from None


def fractions(text: str) -> list[float]:
    """FLOPs targets given by the user."""
    ratios = numbers("--flops", text, float)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise RefusedError(f"--flops are fractions of vanilla, in (0, 1], not {ratio}")
    return ratios


def check_dtype(name: str) -> None:
    """Refuse what --dtype does not know."""
    if name not in (kinds := ("auto", "float32", "bfloat16", "float16")):
        raise RefusedError(f"--dtype is one of {', '.join(kinds)}, not {name!r}")


def draw(path: Path, figure: Figure, option: str = "--plot") -> None:
    """Write a figure whole or not at all."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of other scripts: boxes in the picture
        figure.savefig(picture, format=path.suffix[1:], dpi=160)
    write(path, picture.getvalue(), option)


def method_named(name: str, flops: float | None) -> Method:
    """The method of that name, on that target; None: its own default."""
    from adatp.methods import METHODS

    if name not in METHODS:
        raise RefusedError(f"no method {name!r}; there are {', '.join(METHODS)}")
    chosen: Any = METHODS[name]
    if flops is None:
        return chosen()  # type: ignore[no-any-return]
    if "flops" not in {field.name for field in fields(chosen)}:
        raise RefusedError(f"method {name!r} has no FLOPs target: leave --flops out")
    return chosen(flops=flops)  # type: ignore[no-any-return]


@contextmanager
def importing() -> Iterator[None]:
    """Let an interrupt end the process at once: amid an import it gets lost, or breaks what is imported."""
    if threading.current_thread() is not threading.main_thread():  # which gets no interrupts
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what the library says of bad input into one line; all else is a bug and keeps its traceback."""
    import torch

    try:
        yield
    except RefusedError:
        raise
    except AdaTPError as error:
        raise RefusedError(str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RefusedError("out of memory: ask for fewer --frames, or use a smaller model") from error


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning of the library as one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        yield


@contextmanager
def quiet_libraries(downloads: bool) -> Iterator[None]:
    """Keep off stderr the libraries' logs, and their progress bars but for downloads on a terminal."""
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
    if not issubclass(category, (FutureWarning, DeprecationWarning)):  # of no use to who runs a command
        print("adatp: warning:", " ".join(str(message).split()), file=sys.stderr)


@contextmanager
def progress(doing: str, shown: bool = True) -> Iterator[None]:
    """A line on stderr that says what is going on and for how long, if that is a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        progress.add_task(doing, total=None)
        yield


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal; to be told how many are done, and of how many."""
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def check_writable(path: Path, option: str = "--json") -> Path:
    """Where a file given by the user really is; refused if it could not be written at the end."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise RefusedError(f"{option} {path}: not a regular file")
    try:
        if target.exists():
            target.open("r+b").close()
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    return target


def check_folder(path: Path, option: str) -> Path:
    """Where a folder given by the user really is; refused if no file could be written into it at the end."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise RefusedError(f"{option} {path}: not a folder")
    try:
        tempfile.TemporaryFile(dir=target if target.exists() else target.parent).close()
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    return target


def write(path: Path, data: str | bytes, option: str = "--json") -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".adatp-{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def table_of(first: str, *columns: str) -> Table:
    """An empty table with a column of words and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


PRESET = "fastvid"


def conventions(preset: str) -> str:
    """What the two kinds of FLOPs mean, for the foot of a table."""
    return (
        "FLOPs are real: two to a multiply-accumulate, of all tokens, scoring included. MACs follow the "
        "papers: multiply-accumulates of the prefill's visual tokens alone, by the formula of the "
        f"{preset} preset."
    )


CONVENTIONS = conventions(PRESET)
