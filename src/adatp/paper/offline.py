"""Two small local tasks in the shape of MVBench's and VideoMME's documents, for the embedded model.

They need no network: clips of the embedded model's world, written without loss, and questions whose answers
are known.
"""

from __future__ import annotations

import json
import string
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from adatp.paper.plan import Model, Plan, Task
from adatp.tiny.world import ANSWERS, benchmark, make_clip

TASKS = ("adatp_mvbench", "adatp_videomme")
"""The names of the two tasks."""

METRICS = ("mvbench_accuracy", "videomme_perception_score")
"""Names of the metrics of the two tasks."""

FRAMES, DOCUMENTS = 8, 8
"""Size of the tasks of ``--offline-check``."""

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HOME": "{folder}/hub", "HF_DATASETS_CACHE": "{folder}/datasets"}
"""No hub, and no cache except one in the folder."""

SPLIT = "test"
"""The split of the world that the clips come from."""


def offline_plan(folder: Path) -> Plan:
    """A plan of vanilla and AdaTP on the embedded model.

    Args:
        folder: the tasks are written into it.
    """
    write_tasks(folder / "tasks", FRAMES, DOCUMENTS)
    tasks = (Task(name, metric, DOCUMENTS) for name, metric in zip(TASKS, METRICS, strict=True))
    return Plan(
        models=(Model("embedded", "embedded", 0.3),),
        tasks=tuple(tasks),
        frames=FRAMES,
        budgets=(0.273,),
        include_path=str(folder / "tasks"),
    )


def write_tasks(folder: Path, frames: int, documents: int) -> None:
    """Write the tasks with their clips, for lmms-eval's ``--include_path``.

    Args:
        folder: an empty or missing folder.
        frames: frames of every clip.
        documents: documents of each task. The first task asks the first questions of ``adatp eval``, the
            second the next ones.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True)
    documents_of: dict[str, list[dict[str, Any]]] = {"mvbench": [], "videomme": []}
    for number, (seed, question) in enumerate(benchmark(SPLIT, frames, 2 * documents)):
        write_lossless(videos / f"{number}.mp4", make_clip(seed, frames, SPLIT).frames)
        options = list(ANSWERS[question.kind])
        if number < documents:
            documents_of["mvbench"].append(
                {
                    "video": f"{number}.mp4",
                    "question": question.text,
                    "candidates": options,
                    "answer": question.answer,
                }
            )
            continue
        letters = dict(zip(options, string.ascii_uppercase, strict=False))
        documents_of["videomme"].append(
            {
                "video_id": str(number),
                "videoID": str(number),
                "question_id": f"{number}-1",
                "duration": "short",
                "domain": "Synthetic",
                "sub_category": "Shapes",
                "task_type": question.kind,
                "question": question.text,
                "options": [f"{letter}. {option}." for option, letter in letters.items()],
                "answer": letters[question.answer],
            }
        )
    for name, lines in documents_of.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    for file in files("adatp.paper").joinpath("local_tasks").iterdir():
        if file.name.endswith((".py", ".yaml")):
            text = file.read_text("utf-8").replace("@FOLDER@", json.dumps(str(folder))[1:-1])
            (folder / file.name).write_text(text)


def write_lossless(path: Path, frames: NDArray[np.uint8], fps: int = 2) -> None:
    """Write frames (F, H, W, 3), uint8, as a file that gives back the same pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.time_base = Fraction(1, fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
