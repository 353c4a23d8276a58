"""Tokens, FLOPs, time and memory of the documents, for the results that lmms-eval writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from lmms_eval.api.instance import TokenCounts

from adatp.machine import peak_resident
from adatp.session import Answer


@dataclass
class PrunedCounts(TokenCounts):  # type: ignore[misc]
    """lmms-eval's counts of one document, and adatp's figures. All of them are in the samples file.

    ``input_tokens`` are the tokens of the prompt that the decoder processes after pruning: the mean of its
    layers, rounded.

    Attributes:
        figures: adatp's figures, see `figures_of`.
    """

    figures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The counts in lmms-eval's form."""
        return {**super().to_dict(), **self.figures}


def figures_of(answer: Answer, together: int) -> dict[str, float]:
    """The figures of one document.

    Args:
        answer: answer to a prompt with a video.
        together: how many documents were answered in its batch. Time, and the FLOPs of all but the prefill,
            are only known per batch. Each document gets its share.

    Returns:
        A dictionary with:

        - ``prompt_tokens`` and ``prompt_visual_tokens``;
        - ``visual_tokens``, mean of the layers after pruning, and ``visual_tokens_last``, in the last layer;
        - ``flops_ratio``, real FLOPs of the decoder's prefill over vanilla's;
        - ``prefill_tflops``, ``prefill_tflops_vanilla``, ``vision_tflops``, ``request_tflops``: real FLOPs,
          in units of 10^12;
        - ``milliseconds`` of ``generate``.
    """
    report, row, flops = answer.report, answer.row, answer.report.flops
    visual = [layer[row] for layer in report.visual_tokens]
    pruned, vanilla = report.prompt_flops[row]
    return {
        "prompt_tokens": report.prompt_tokens[row],
        "prompt_visual_tokens": report.prompt_visual_tokens[row],
        "visual_tokens": fmean(visual),
        "visual_tokens_last": visual[-1],
        "flops_ratio": pruned / vanilla,
        "prefill_tflops": pruned / 1e12,
        "prefill_tflops_vanilla": vanilla / 1e12,
        "vision_tflops": flops.vision / together / 1e12,
        "request_tflops": flops.request / together / 1e12,
        "milliseconds": answer.milliseconds / together,
    }


def counts_of(answer: Answer, together: int) -> PrunedCounts:
    """The counts of one document (see `figures_of`)."""
    report = answer.report
    layers = [len(layer[answer.row]) for layer in report.kept]
    return PrunedCounts(
        input_tokens=round(fmean(layers)),
        output_tokens=answer.new_tokens,
        figures=figures_of(answer, together),
    )


@dataclass
class Tally:
    """The totals of one process.

    Attributes:
        documents: number of documents.
        failed: number of documents without an answer.
        new_tokens: number of generated tokens.
        seconds: time of ``generate``.
        figures: figures of the documents with a video, by task.
    """

    documents: int = 0
    failed: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, task: str, counts: TokenCounts | None, milliseconds: float) -> None:
        """Count one document; without counts it has failed."""
        self.documents += 1
        if counts is None:
            self.failed += 1
            return
        self.new_tokens += counts.output_tokens or 0
        self.seconds += milliseconds / 1000
        if isinstance(counts, PrunedCounts):
            self.figures.setdefault(task, []).append(counts.figures)


def log_tallies(tallies: Sequence[Tally]) -> None:
    """Write the figures of all processes into lmms-eval's results, as ``throughput``.

    Each figure is a mean over the documents. With several tasks, each task also has its own, as
    ``task/figure``.
    """
    from lmms_eval.models.model_utils.gen_metrics import log_metrics

    by_task: dict[str, list[dict[str, float]]] = {}
    for tally in tallies:
        for task, figures in tally.figures.items():
            by_task.setdefault(task, []).extend(figures)
    more: dict[str, float] = {
        "documents": sum(tally.documents for tally in tallies),
        "failed_documents": sum(tally.failed for tally in tallies),
        "peak_memory_gb": peak_memory(),
        **_means([each for figures in by_task.values() for each in figures]),
    }
    if len(by_task) > 1:
        for task, figures in by_task.items():
            more |= {f"{task}/{name}": value for name, value in _means(figures).items()}
    tokens, seconds = sum(tally.new_tokens for tally in tallies), sum(tally.seconds for tally in tallies)
    log_metrics(
        total_elapsed_time=seconds,
        total_gen_tokens=tokens,
        avg_speed=tokens / seconds if seconds else 0.0,
        additional_metrics=more,
    )


def _means(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in figures) for name in figures[0]} if figures else {}


def peak_memory() -> float:
    """The peak memory of this process in GB: of its GPU, if it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_resident() / 1e9
