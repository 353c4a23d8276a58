"""Time and memory of one request under each method, against the bare model in the same run."""

from __future__ import annotations

import inspect
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from adatp import AdaTP
from adatp.budget import BudgetError
from adatp.engine.attention import Probe
from adatp.methods import METHODS, FastV, Method
from adatp.pruning import Pruner, Run
from adatp.report import Report, Stopwatch
from shapes import Case

DECODED = 24
"""Tokens that each entrant decodes after its prompt; the first few warm up."""


@dataclass(frozen=True)
class FastVOfficial(FastV):
    """FastV's choice by the means of its official code: the scoring layer runs eager attention.

    It writes out the probabilities of all heads, queries and keys, and ranks by their mean over heads in the
    last query's row.
    """

    name: ClassVar[str] = "fastv_official"

    def __call__(self, model: Any, processor: Any = None, **options: Any) -> Pruner:
        return _EagerScores(self, model, processor, options.pop("question", None), **options)


class _EagerScores(Pruner):
    def __enter__(self) -> Run:
        run = super().__enter__()
        for module in self._model.modules():
            if isinstance(probe := getattr(getattr(module, "config", None), "adatp_tap", None), Probe):
                _score_eagerly(probe)
        return run


def _score_eagerly(probe: Probe) -> None:
    eager = sys.modules[type(probe.module).__module__].eager_attention_forward
    usual = probe.kernel()

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Any:
        present = probe._present
        if present.rows is None:
            return usual(module, query, key, value, mask, **kwargs)
        if mask is None:
            n, keys = query.shape[2], key.shape[2]
            mask = torch.full((n, keys), torch.finfo(query.dtype).min, dtype=query.dtype, device=query.device)
            mask = mask.triu(keys - n + 1)[None, None]
        output, weights = eager(module, query, key, value, mask, **kwargs)
        present.log_scores = weights.mean(1)[:, -1].double().log()
        present.rows = None
        return output, None

    probe.kernel = lambda: attend  # type: ignore[method-assign]
    probe.see = lambda *_: None  # type: ignore[method-assign]


@dataclass(frozen=True)
class Entrant:
    """A method on a FLOPs target; ``vanilla`` is the bare model, without a hook of ours."""

    name: str
    target: float | None

    @property
    def label(self) -> str:
        return self.name if self.target is None else f"{self.name} {100 * self.target:g}%"

    def method(self) -> Method | None:
        if self.name == "vanilla":
            return None
        if self.name == "keep_all":
            return AdaTP(flops=1.0)
        chosen: Any = FastVOfficial if self.name == FastVOfficial.name else METHODS[self.name]
        return chosen(flops=self.target)  # type: ignore[no-any-return]


NAMES = ("keep_all", FastVOfficial.name, *(name for name in METHODS if name != "vanilla"))


def entrants(names: Sequence[str], targets: Sequence[float]) -> list[Entrant]:
    """Vanilla first; then every name on every target."""
    made = [Entrant("vanilla", None)]
    for name in names:
        made += [Entrant(name, None)] if name == "keep_all" else [Entrant(name, t) for t in targets]
    return made


class Clock(BaseStreamer):  # type: ignore[misc]
    """Notes when ``generate`` hands out each token; on CUDA it has waited for it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:
        self.at.append(self.now())  # the prompt comes first

    def end(self) -> None:
        pass


@contextmanager
def timed(module: Any, watch: Stopwatch, stage: str) -> Iterator[None]:
    """Time the first call of a module, all of its hooks included."""

    calls: list[str] = []

    def start(*_: Any) -> None:
        if not calls:
            watch.start(stage)
        calls.append(stage)

    handles = [
        module.register_forward_pre_hook(start, prepend=True),
        module.register_forward_hook(lambda *_: watch.stop(stage)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def request(
    model: Any, inputs: dict[str, Any], method: Method | None, cpu_time: bool = False
) -> tuple[dict[str, float], Report | None, Any]:
    """A request up to its first token: milliseconds by stage and bytes of the KV cache, report, cache.

    ``cpu_time``: of the processor time that this process was given, not of the clock on the wall.
    """
    now = time.process_time if cpu_time else time.perf_counter
    watch, clock = Stopwatch(model.device), Clock(now)
    if cpu_time:
        Stopwatch._now = lambda _: now()  # type: ignore[method-assign]
    tower = getattr(model.base_model, "vision_tower", None) or model.base_model.visual
    with ExitStack() as stack:
        run = stack.enter_context(nullcontext() if method is None else method(model, strict=True))
        stack.enter_context(timed(tower, watch, "vision"))  # inside: the method's hooks are timed too
        stack.enter_context(timed(model.get_decoder(), watch, "prefill"))
        if watch.cuda:
            torch.cuda.synchronize()
        begun = now()
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=1,
            streamer=clock,
            return_dict_in_generate=True,
        )
    report = run.report if run is not None else None
    stages = report.milliseconds if report is not None else {}
    cache = output["cache" if "cache" in output else "past_key_values"]  # its name up to transformers 5.23
    return (
        {
            **watch.milliseconds(),
            "relevance": stages.get("relevance", 0.0),
            "overhead": stages.get("pruning", 0.0),
            "ttft": 1000 * (clock.at[1] - begun),
            "kv_cache": float(sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)),
        },
        report,
        cache,
    )


@torch.inference_mode()
def decode(
    model: Any, inputs: dict[str, Any], caches: dict[Entrant, Any], cpu_time: bool = False
) -> dict[Entrant, float]:
    """Milliseconds that each entrant takes for a token after its own prompt's cache: the median of many.

    Token by token in turns: what methods differ by is less than a machine does from one second to the next.
    """
    now = time.process_time if cpu_time else time.perf_counter
    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    competing = [*caches]
    spans: dict[Entrant, list[float]] = {entrant: [] for entrant in competing}
    word, mask = inputs["input_ids"][:, -1:], inputs["attention_mask"]
    for number in range(DECODED):
        mask = torch.cat([mask, mask[:, :1]], 1)
        turn = number % len(competing)
        for entrant in [*competing[turn:], *competing[:turn]]:
            method = entrant.method()
            with nullcontext() if method is None else method(model, strict=True):
                wait()
                begun = now()
                model(input_ids=word, attention_mask=mask, **{name: caches[entrant]})
                wait()
                spans[entrant].append(1000 * (now() - begun))
    return {entrant: median(times[DECODED // 6 :]) for entrant, times in spans.items()}


def peak_memory(case: Case, entrant: Entrant, built: Any = None) -> tuple[float, float]:
    """Bytes in use at the height of a request, and before it: allocated on CUDA, resident on a CPU.

    On a CPU a process of its own is needed, for memory freed by one method may stay with the process.
    """
    model, inputs = built or case.build()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        rest = float(torch.cuda.memory_allocated())
        request(model, inputs, entrant.method())
        return float(torch.cuda.max_memory_allocated()), rest
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident
    rest = _resident("VmRSS")
    request(model, inputs, entrant.method())
    return _resident("VmHWM"), rest


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split(f"{field}:")[1].split()[0])


def measure(
    case: Case,
    competing: Sequence[Entrant],
    repeats: int,
    progress: Callable[[str], None],
    *,
    warm_up: bool = True,
    memory: bool = True,
    cpu_time: bool = False,
) -> list[dict[str, Any]]:
    """A row for each entrant, against the first, which is vanilla.

    After a warm-up round that is not counted, rounds of all entrants follow, each begun by another one. An
    entrant that runs out of memory or can't reach its target has a row with the reason and without numbers.
    """
    model, inputs = case.build()
    runs: dict[Entrant, list[dict[str, float]]] = {entrant: [] for entrant in competing}
    reports: dict[Entrant, Report | None] = {}
    failed: dict[Entrant, str] = {}
    caches: dict[Entrant, Any] = {}
    rounds = repeats + warm_up
    for number in range(rounds):
        turn = number % len(competing)
        for entrant in [*competing[turn:], *competing[:turn]]:
            if entrant in failed:
                continue
            progress(
                f"round {number + 1} of {rounds}: {entrant.label}, {case.frames} frames, batch {case.batch}"
            )
            try:
                times, reports[entrant], cache = request(model, inputs, entrant.method(), cpu_time)
                runs[entrant].append(times)
                if number == rounds - 1:
                    caches[entrant] = cache
                del cache
            except torch.OutOfMemoryError:
                failed[entrant] = "out of memory"
                torch.cuda.empty_cache()
            except BudgetError as error:
                failed[entrant] = str(error)
    running = [entrant for entrant in competing if entrant not in failed]
    progress(f"decoding, {case.frames} frames, batch {case.batch}")
    decoded = decode(model, inputs, caches, cpu_time)
    caches.clear()
    peaks: dict[Entrant, tuple[float, float]] = {}
    if memory and case.device == "cpu":
        del model, inputs
    for entrant in running if memory else ():
        progress(f"memory: {entrant.label}, {case.frames} frames, batch {case.batch}")
        if case.device == "cpu":
            with get_context("spawn").Pool(1) as pool:
                peaks[entrant] = pool.apply(peak_memory, (case, entrant))
        else:
            peaks[entrant] = peak_memory(case, entrant, (model, inputs))
    rows: list[dict[str, Any]] = []
    for entrant in competing:
        if entrant in failed:
            rows.append({**_facts(case, entrant), "failed": failed[entrant]})
            continue
        counted = runs[entrant][warm_up:]
        values = {name: median(run[name] for run in counted) for name in counted[0]}
        if entrant in decoded:
            values["decode"] = decoded[entrant]
        if entrant in peaks:
            peak, rest = peaks[entrant]
            values |= {"peak_memory": peak, "peak_above_rest": peak - rest}
        base = values if not rows else rows[0]
        rows.append(_row(case, entrant, reports[entrant], values, base))
    return rows


def _facts(case: Case, entrant: Entrant) -> dict[str, Any]:
    settings = asdict(case)
    settings["real_tower"] = settings.pop("vision")  # `vision` is its time
    return {"method": entrant.name, "target": entrant.target, "model": settings.pop("shape"), **settings}


def _row(
    case: Case, entrant: Entrant, report: Report | None, values: dict[str, float], base: dict[str, Any]
) -> dict[str, Any]:
    """Milliseconds and bytes, with their ratios to vanilla's; overhead and relevance to its prefill."""
    flops = 1.0 if report is None else report.flops_ratio
    part = {"overhead": "prefill", "relevance": "prefill"}
    ratios = {
        f"{name}_ratio": value / vanilla
        for name, value in values.items()
        if (vanilla := base[part.get(name, name)])  # the smallest models' peak is not above the rest
    }
    return {
        **_facts(case, entrant),
        "signal": "none" if report is None else report.relevance,
        "visual_tokens": None if report is None else [sum(layer) for layer in report.visual_tokens],
        "flops_ratio": flops,
        **values,
        **ratios,
        "efficiency": flops / ratios["prefill_ratio"],
    }


def machine() -> str:
    """What the numbers were taken on."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        name = f"{models[0].split(':')[1].strip() if models else platform.machine()}, "
        name += f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"
