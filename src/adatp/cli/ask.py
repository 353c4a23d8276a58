"""``adatp ask``: a question about a video, vanilla beside it if wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.console import (
    CONVENTIONS,
    PRESET,
    DeviceOption,
    DtypeOption,
    ModelOption,
    check_dtype,
    check_writable,
    importing,
    method_named,
    one_line_errors,
    quiet_libraries,
    table_of,
    write,
)
from adatp.cli.request import (
    FramesOption,
    MethodOption,
    NewTokensOption,
    QuestionArgument,
    Request,
    TargetOption,
    VideoArgument,
    check_question,
    prepare,
    show_answers,
)
from adatp.units import amount, milliseconds

if TYPE_CHECKING:
    from adatp.ask import Answer


def ask(
    video: VideoArgument = None,
    question: QuestionArgument = None,
    model: ModelOption = None,
    flops: TargetOption = None,
    frames: FramesOption = 32,
    method: MethodOption = "adatp",
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the model unpruned too, and show both side by side.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.", show_default=False)
    ] = None,
    max_new_tokens: NewTokensOption = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Ask a Video LLM a question about a video.

    Without arguments a small model that ships with adatp answers a question about a clip that does too.
    """
    check_question("ask", video, question)
    if json_file is not None:
        json_file = check_writable(json_file)
    check_dtype(dtype)
    with importing():
        from adatp import ask as asking
        from adatp.methods import Vanilla
    with one_line_errors(), quiet_libraries(downloads=model is not None and not Path(model).is_dir()):
        chosen = method_named(method, flops)
        device = asking.pick_device(device)
        request = prepare(video, question, model, frames, max_new_tokens)
        chosen = request.within_reach(chosen, flops)
        llm = request.load(device, dtype)
        vanilla = None
        if compare:
            request.warm_up(llm, Vanilla())
            request.warm_up(llm, chosen)
            vanilla = request.answer(llm, Vanilla())
        result = request.answer(llm, chosen)
        facts = {
            "version": version("adatp"),
            "model": request.source,
            "device": str(llm.device),
            "dtype": str(llm.dtype).removeprefix("torch."),
            "video": request.path,
            "question": request.question,
            "frames": len(request.clip.frames),
            "timestamps": request.clip.timestamps.tolist(),
            "video_milliseconds": request.milliseconds["video"],
            "preprocess_milliseconds": request.milliseconds["preprocess"],
            "paper_preset": PRESET,
            **result.to_dict(),
        }
        if vanilla is not None:
            facts |= {"vanilla": vanilla.to_dict(), "same_answer": vanilla.text == result.text}
        if json_file is not None:
            write(json_file, json.dumps(facts) + "\n")
        _show(Console(), request, result, vanilla)


def _show(console: Console, request: Request, result: Answer, vanilla: Answer | None) -> None:
    """Print an answer and what it took; beside it vanilla's, where that was run."""
    runs = [result] if vanilla is None else [vanilla, result]
    show_answers(console, request, runs)
    if vanilla is not None:
        same = result.text == vanilla.text
        console.print(
            Text("Both answers agree." if same else "The answers differ.", "bold" if same else "bold red")
        )

    names = [each.report.method for each in runs]
    table = table_of("", *names, "of vanilla")

    def compare(label: str, values: Sequence[float], show: Callable[[float], str], base: float = 0) -> None:
        base = values[0] if vanilla is not None else base
        table.add_row(label, *map(show, values), f"{values[-1] / base:.1%}" if base else "")

    reports, cost = [each.report for each in runs], [each.report.flops for each in runs]
    visual = [f"{sum(r.prompt_visual_tokens)} → {sum(r.visual_tokens[-1])}" for r in reports]
    table.add_row("Visual tokens, prompt → last layer", *visual, end_section=True)
    compare("FLOPs: decoder's prefill", [c.decoder for c in cost], amount, cost[0].decoder_vanilla)
    compare("FLOPs: whole request", [c.request for c in cost], amount, cost[0].request_vanilla)
    compare(f"MACs as in papers ({PRESET})", [c.paper for c in cost], amount, cost[0].paper_vanilla)
    table.add_section()
    times = [report.milliseconds for report in reports]
    steps = [max(1, report.decode_steps) for report in reports]
    for label, stage in (("decode of the video", "video"), ("preprocessing", "preprocess")):
        table.add_row(f"Time: {label}", *[milliseconds(request.milliseconds[stage])] * len(runs), "")
    compare("Time: vision", [ms.get("vision", 0) for ms in times], milliseconds)
    signals = f"Time: relevance ({result.report.relevance})"
    table.add_row(signals, *(milliseconds(ms.get("relevance", 0)) for ms in times), "")
    compare("Time: prefill", [ms.get("prefill", 0) for ms in times], milliseconds)
    compare("Time: decode", [ms.get("decode", 0) for ms in times], milliseconds)
    per_token = [ms.get("decode", 0) / n for ms, n in zip(times, steps, strict=True)]
    compare("Time: decode, per token", per_token, milliseconds)
    compare("Time: all of generate", [each.milliseconds for each in runs], milliseconds)
    console.print(table)
    timed = "after a short warm-up of each" if vanilla is not None else "with what a first run costs"
    console.print(f"{CONVENTIONS} Times of one run, {timed}.", style="dim", highlight=False)
