"""Runs lmms-eval in this process on tasks of its own, and notes what its models are asked to generate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin

UTILS = """
import json
from PIL import Image


def doc_to_visual(doc):
    images = [Image.open(name).convert("RGB") for name in json.loads(doc["images"])]
    return [*images, *json.loads(doc["videos"])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return (lmms_eval_specific_kwargs or {}).get("pre_prompt", "") + doc["question"]


def process_results(doc, results):
    return {"said": {"answer": results[0], "score": 0}}


def aggregate(results):
    return 0.0
"""

YAML = """
task: asked
dataset_path: json
dataset_kwargs:
  data_files:
    test: "{folder}/asked.jsonl"
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: ""
generation_kwargs: {generation}
process_results: !function utils.process_results
metric_list:
  - metric: said
    aggregation: !function utils.aggregate
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
  qwen2_5_vl:
    pre_prompt: "the red ball ? "
"""

GENERATION = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@dataclass(frozen=True)
class Question:
    """One document."""

    question: str
    videos: Sequence[str] = ()
    images: Sequence[str] = ()


def write_task(folder: Path, questions: Sequence[Question], generation: dict[str, Any] | None = None) -> Path:
    """A task ``asked`` for ``include_path``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "question": each.question,
                "videos": json.dumps(list(each.videos)),
                "images": json.dumps(list(each.images)),
            }
        )
        for each in questions
    ]
    (folder / "asked.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "utils.py").write_text(UTILS)
    text = YAML.format(folder=folder, generation=json.dumps(generation or GENERATION))
    (folder / "asked.yaml").write_text(text)
    return folder


@dataclass
class Asked:
    """Calls of ``generate``, in order: inputs, settings, and what was generated."""

    inputs: list[dict[str, torch.Tensor]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def noted() -> Iterator[Asked]:
    """Note what is generated inside."""
    asked, generate = Asked(), GenerationMixin.generate

    def noting(model: Any, *args: Any, **given: Any) -> Any:
        tensors = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
        output = generate(model, *args, **given)
        asked.inputs.append(tensors)
        asked.settings.append({name: value for name, value in given.items() if name not in tensors})
        asked.outputs.append(output)
        return output

    GenerationMixin.generate = noting
    try:
        yield asked
    finally:
        GenerationMixin.generate = generate


def evaluate(
    model: str, arguments: dict[str, Any], tasks: Path, names: Sequence[str] = ("asked",), **options: Any
) -> dict[str, Any]:
    """lmms-eval's results, with samples."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False, model_name=model)
    found: dict[str, Any] = simple_evaluate(
        model=model,
        model_args=",".join(f"{name}={value}" for name, value in arguments.items()),
        tasks=list(names),
        task_manager=manager,
        device="cpu",
        log_samples=True,
        cli_args=None,
        **{"batch_size": 1, **options},
    )
    return found


def said(results: dict[str, Any], task: str = "asked") -> list[str]:
    """The answers, by document."""
    samples = sorted(results["samples"][task], key=lambda each: each["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def write_clip(path: Path, frames: int, size: int = 64, seed: int = 0) -> str:
    """A clip of noise that changes from frame to frame; returns its path."""
    from adatp.paper.offline import write_lossless

    pixels = np.random.default_rng(seed).integers(0, 256, (frames, size // 8, size // 8, 3), dtype=np.uint8)
    write_lossless(path, pixels.repeat(8, axis=1).repeat(8, axis=2), fps=8)
    return str(path)
