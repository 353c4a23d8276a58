"""Runs a stranger's chat template and tokenizer on a text, in a child process that may be lost.

A template is a program: ``{{ 'a' * 10 ** 10 }}`` takes all memory in one step, and three loops never end. A
tokenizer's patterns may try so many ways that the library gives up with a panic. Neither can be stopped from
inside its own process.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from adatp.checkpoint.errors import CheckpointError
from adatp.errors import is_out_of_memory

MOST_SECONDS = 10
"""Processor time for one text; usual ones take milliseconds."""

MOST_BYTES = 1 << 30
"""Memory for one text, in addition to what the process uses already."""

_PATIENCE = 30
"""How many times longer a trial may last on a busy machine."""

_WELL, _MEMORY, _PANIC = b"w", b"m", b"p"


def try_out(work: Callable[[], object]) -> None:
    """Try something in a copy of this process with little time and memory, before it is done here.

    Without ``os.fork``, on Windows, nothing is tried.

    Args:
        work: makes the text. An ordinary exception counts as success: it is raised here too.

    Raises:
        CheckpointError: it took too much time or memory, or ended the copy.
    """
    if not hasattr(os, "fork"):
        return
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # of threads, which the copy does not use
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        _run(work, writing)
    os.close(writing)
    began, said = time.monotonic(), b""
    try:
        ready, _, _ = select.select([reading], [], [], MOST_SECONDS * _PATIENCE)
        said = os.read(reading, 1) if ready else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if said == _WELL:
        return
    late = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) and not said
    if late or time.monotonic() - began > MOST_SECONDS * _PATIENCE:
        raise CheckpointError(f"its chat template or tokenizer takes more than {MOST_SECONDS} s for one text")
    if said == _PANIC:
        raise CheckpointError("its tokenizer gives up on this text")
    raise CheckpointError(
        f"its chat template or tokenizer takes more than {MOST_BYTES >> 20} MB for one text"
    )


def _run(work: Callable[[], object], writing: int) -> None:
    """The part that runs in the copy. It never returns."""
    said = _WELL
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)  # a panic writes here
        _limit()
        work()
    except Exception as error:
        said = _MEMORY if is_out_of_memory(error) else _WELL
    except BaseException:  # a panic of a library in Rust
        said = _PANIC
    finally:
        os.write(writing, said)
        os._exit(0)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)  # none in a copy; some systems count otherwise
    resource.setrlimit(resource.RLIMIT_CPU, (spent + MOST_SECONDS, spent + MOST_SECONDS + 1))
    sizes = Path("/proc/self/statm")
    if sizes.exists():  # Linux: what is mapped already
        most = int(sizes.read_text().split()[0]) * resource.getpagesize() + MOST_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
