"""Ray Data: answers a dataset of questions about videos, with one model per actor.

>>> import ray
>>> from adatp.integrations.ray import answer
>>> answer(ray.data.read_json("rows.jsonl"), actors=4, num_gpus=1).write_json("answers")

Ray restarts an actor that died, and gives its block to another one.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adatp.errors import AdaTPError, first_line
from adatp.run import Answering, Folder, Job, Row, Settings
from adatp.run.answering import ANSWERED, failure
from adatp.run.preparing import units
from adatp.run.rows import Part, Scanned
from adatp.run.runner import Summary, Update, ask_parts, summarise
from adatp.session import Session
from adatp.session.loading import source_of

BLOCK = 64
"""Default number of rows that an actor gets at once."""

MOST_BLOCKS = 10_000
"""Most blocks of a run, since Ray keeps a few kilobytes of each."""


class RayError(AdaTPError, RuntimeError):
    """Ray is missing, or did not do the work. The message is one line."""


@dataclass(frozen=True)
class Model:
    """The model of an actor and its settings.

    Attributes:
        source: a folder or an id on the hub, the same on every machine; None: the embedded model.
        batch: most prompts in a batch.
        workers: processes of each actor that read the next videos.
        device: a torch device, or "auto".
        dtype: name of a dtype, or "auto".
        trust_remote_code: whether the checkpoint's code may run.
    """

    source: str | None = None
    batch: int = 8
    workers: int = 1
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    def open(self) -> Answering:
        """The model, ready to answer."""
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # Ray sets it to the actor's CPUs
        session = Session(
            self.source, device=self.device, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        answering = Answering(session, self.batch, self.workers).__enter__()  # ends with the actor
        _ = session.model
        return answering


class Answerer:
    """An actor that answers blocks of rows.

    Args:
        model: the model that it loads.
        defaults: settings of rows that name none themselves.
        root: the folder that relative paths of videos start from.
    """

    def __init__(self, model: Model, defaults: Settings, root: str) -> None:
        self._answering = model.open()
        self._defaults, self._root = defaults, Path(root)

    def __call__(self, block: Any) -> Any:
        """Answer the rows of a block.

        Args:
            block: a table of pyarrow with the columns ``video`` and ``question``.

        Returns:
            The same rows in the same order, with further columns for their answers.
        """
        records = block.to_pylist()
        found: list[Mapping[str, Any]] = [{}] * len(records)
        rows = []
        for number, record in enumerate(records):
            try:
                rows.append(Row.of(number, record, self._defaults))
            except ValueError as error:
                nothing = Row(number, number, "", "", self._defaults)
                found[number] = failure(nothing, str(error))
        for outcome in self._answering.answer(units(rows, self._root)):
            found[outcome.row.number] = outcome.facts
        return _beside(block, found)


def _beside(block: Any, found: list[Mapping[str, Any]]) -> Any:
    """A table with the columns of answers, of the same types whatever failed."""
    import pyarrow as pa

    texts = ("answer", "error", "method", "out_of_reach", "relevance")
    counts = ("prompt_tokens", "visual_tokens", "video_bytes")
    ints = (*counts, "visual_tokens_last", "new_tokens", "batch")
    for name in ANSWERED:
        kind = pa.string() if name in texts else pa.int64() if name in ints else pa.float64()
        column = pa.array([facts[name] for facts in found], kind)
        if name in block.column_names:  # a setting of the rows
            block = block.set_column(block.column_names.index(name), name, column)
        else:
            block = block.append_column(name, column)
    return block


def answer(
    dataset: Any,
    model: str | os.PathLike[str] | None = None,
    *,
    actors: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    rows_per_block: int = BLOCK,
    root: str | os.PathLike[str] = "",
    method: str = "adatp",
    flops: float | None = None,
    frames: int = 32,
    max_new_tokens: int = 64,
    strict: bool = False,
    **loading: Any,
) -> Any:
    """Answer every row of a dataset. Nothing runs before the result is read or written.

    Args:
        dataset: a `ray.data.Dataset` with the columns ``video`` and ``question``; ``method``, ``flops``,
            ``frames``, ``max_new_tokens`` and ``strict`` may be columns too, where rows differ. Others stay
            as they are, but for those with the name of a column of the output, which are replaced.
        model: a folder or an id on the hub, the same on every machine; None: the embedded model.
        actors: how many models there are.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each.
        rows_per_block: how many rows an actor is given at once; the next videos are read ahead within them.
        root: the folder that relative paths of videos start from; without it, the actor's own.
        method: name of the pruning method.
        flops: its target, a fraction of vanilla's prefill; None: the method's default.
        frames: how many to sample.
        max_new_tokens: longest answer, in tokens.
        strict: whether a target out of reach is an error. If not, the least that the method can do is run.
        loading: more of `Model`: batch, workers, device, dtype, trust_remote_code.

    Returns:
        The dataset with the columns of `adatp run` in addition to its own. A row that can't be answered has
        the reason under ``error``.

    Raises:
        RayError: Ray is not installed.
        ValueError: a setting is out of range.
    """
    ray = _ray()
    source = None if model is None else os.fspath(model)
    settings: dict[str, Any] = {"method": method, "flops": flops, "frames": frames}
    settings |= {"max_new_tokens": max_new_tokens, "strict": strict}
    start = os.path.abspath(root) if os.fspath(root) else ""
    return dataset.map_batches(
        Answerer,
        fn_constructor_args=(Model(source, **loading), Settings().changed(settings), start),
        compute=ray.data.ActorPoolStrategy(size=actors),
        batch_format="pyarrow",
        batch_size=rows_per_block,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


class PartAnswerer:
    """An actor that answers parts of an input and writes them into the folder of the run.

    Args:
        model: the model that it loads.
        job: the job of the parts.
        folder: on a file system that all machines share.
        facts: facts that the folder is bound to.
    """

    def __init__(self, model: Model, job: Job, folder: str, facts: Mapping[str, Any]) -> None:
        self._answering = model.open()
        self._job, self._folder = job, Folder(Path(folder), facts)

    def __call__(self, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Answer the parts of a block. Each is written when it is complete.

        Args:
            block: pickled parts under ``part``.

        Yields:
            For every part: how many rows were already done, and how many were asked.
        """
        for pickled in block["part"]:
            part = pickle.loads(pickled)
            before = self._answering.videos
            steps = list(ask_parts(self._job, [part], self._folder, self._answering))
            encoded, shared = (now - then for now, then in zip(self._answering.videos, before, strict=True))
            yield {
                "rows": [len(part.rows)],
                "asked": [sum(new for _, new in steps)],
                "videos": [encoded],
                "shared": [shared],
            }


@dataclass(frozen=True)
class Cluster:
    """The resources that a run uses of a cluster.

    Attributes:
        actors: number of models.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each.
    """

    actors: int = 1
    num_cpus: float = 1
    num_gpus: float = 0


def run(
    job: Job,
    scanned: Scanned,
    path: Path,
    model: Model,
    cluster: Cluster,
    update: Update,
) -> Summary:
    """Do what `adatp.run.run` does on the actors of a cluster, which write the same files.

    Args:
        job: the rows and their settings.
        scanned: the scanned input of the job.
        path: the folder of the answers, on a file system that all machines share.
        model: the model that each actor loads.
        cluster: how many actors there are.
        update: called after every part.

    Raises:
        RayError: Ray is not installed, or did not do the work.
        FolderError: see `Job.folder`.
    """
    began = time.monotonic()
    ray = _ray()
    folder = job.folder(path, scanned, source_of(model.source), model.dtype)
    start()
    ray.data.DataContext.get_current().enable_progress_bars = False
    left = [part for part in job.parts() if job.again or not folder.done(part.number).exists()]
    done, total = (
        sum(scanned.parts.values()) - sum(len(part.rows) for part in left),
        sum(scanned.parts.values()),
    )
    update(done, total)
    asked = videos = shared = 0
    if left:
        absolute = replace(job, path=job.path.resolve(), root=job.root.resolve())
        for row in _answered(ray, left, absolute, folder, model, cluster):
            done, asked = done + row["rows"], asked + row["asked"]
            videos, shared = videos + row["videos"], shared + row["shared"]
            update(done, total)
    summary = summarise(folder, scanned)
    summary.asked, summary.seconds = asked, time.monotonic() - began
    summary.videos, summary.videos_shared = videos, shared
    return summary


def start() -> None:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one on this machine; nothing if connected.

    A cluster that is started here sends no usage statistics and has no dashboard.

    Raises:
        RayError: Ray is not installed, or there is no such cluster.
    """
    ray = _ray()
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"address": "local", "include_dashboard": False}
    where = {"address": os.environ["RAY_ADDRESS"]} if os.environ.get("RAY_ADDRESS") else own
    try:
        ray.init(log_to_driver=False, logging_level="error", **where)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayError(f"no Ray cluster ({first_line(error)})") from error


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise RayError('Ray is not installed: pip install "adatp[ray]"') from None
    return ray


def _answered(
    ray: Any,
    left: Sequence[Part],
    job: Job,
    folder: Folder,
    model: Model,
    cluster: Cluster,
) -> Iterator[dict[str, int]]:
    """Let the actors answer parts. Yields the result of `PartAnswerer` for each."""
    items = [{"part": pickle.dumps(part)} for part in left]
    asked = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS)).map_batches(
        PartAnswerer,
        fn_constructor_args=(model, job, str(folder.path.resolve()), dict(folder.facts)),
        compute=ray.data.ActorPoolStrategy(size=cluster.actors),
        batch_size=1,
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
    )
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the one-line errors' tracebacks; Ray's own files have them
    try:
        yield from asked.iter_rows()
    except ray.exceptions.RayError as error:
        raise RayError(f"the work on Ray failed: {_reason(error)}") from error
    finally:
        log.setLevel(level)


def _reason(error: BaseException) -> str:
    """The error of an actor in one line. Ray gives it as the text of one or several tracebacks."""
    text = str(error)
    ours = re.findall(r"^(?:\x1b\[\d+m)*adatp[\w.]*Error: (.+)$", text, re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (ours or lines or [type(error).__name__])[-1]
