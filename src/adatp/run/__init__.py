"""Answers many questions about many videos: read ahead, in batches, written so that nothing is lost.

- `rows`: the rows of an input file, cut into parts and shards.
- `preparing`, `workers`, `worker`, `channel`: videos are read and prompts made in other processes.
- `answering`: batches of similar prompts.
- `folder`, `sizes`, `runner`: what is answered already, and what is still to be asked.
"""

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from adatp.run.answering import TIMES, Answering, Outcome
from adatp.run.folder import Folder, FolderError
from adatp.run.rows import Row, RowsError, Settings
from adatp.run.runner import Job, Summary, run
from adatp.run.workers import WorkerError
from adatp.shard import Shard

__all__ = [
    "TIMES",
    "Answering",
    "Folder",
    "FolderError",
    "Job",
    "Outcome",
    "Row",
    "RowsError",
    "Settings",
    "Shard",
    "Summary",
    "WorkerError",
    "run",
]
