"""``adatp ask``: a question about a video, vanilla beside it if wanted."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from adatp.cli.console import (
    CONVENTIONS,
    PRESET,
    DeviceOption,
    DtypeOption,
    ModelOption,
    RefusedError,
    amount,
    check_dtype,
    check_writable,
    importing,
    method_named,
    milliseconds,
    one_line_errors,
    progress,
    quiet_libraries,
    table_of,
    write,
)

if TYPE_CHECKING:
    from adatp.ask import Answer
    from adatp.methods import Method
    from adatp.video import Video


def ask(
    video: Annotated[str | None, typer.Argument(help="A video file.", show_default="a clip of ours")] = None,
    question: Annotated[
        str | None, typer.Argument(help="What to ask about it.", show_default="the clip's own")
    ] = None,
    model: ModelOption = None,
    flops: Annotated[
        float | None,
        typer.Option(
            help="Real FLOPs of the decoder's prefill, as a fraction of vanilla, in (0, 1].",
            show_default="0.273",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to sample, uniformly.")] = 32,
    method: Annotated[str, typer.Option(help="The pruning method.")] = "adatp",
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the model unpruned too, and show both side by side.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Ask a Video LLM a question about a video.

    Without arguments a small model that ships with adatp answers a question about a clip that does too.
    """
    if video is not None and question is None:
        raise RefusedError('a question is missing: adatp ask VIDEO "QUESTION"')
    if question is not None and not question.strip():
        raise RefusedError("the question is empty")
    if json_file is not None:
        json_file = check_writable(json_file)
    check_dtype(dtype)
    with importing():
        from adatp import ask as asking
        from adatp.budget import BudgetError
        from adatp.methods import Vanilla
        from adatp.tiny import CHECKPOINT, CLIP, QUESTION
        from adatp.video import read_video
    with one_line_errors(), quiet_libraries(downloads=model is not None and not Path(model).is_dir()):
        chosen = method_named(method, flops)
        source = model if model is not None else str(CHECKPOINT)
        path, question = video if video is not None else str(CLIP), question or QUESTION
        device = asking.pick_device(device)
        with progress(f"looking up {source}"):
            config = asking.load_config(source)
            processor = asking.load_processor(source)
        with progress("reading the video"):
            began = time.perf_counter()
            clip = read_video(path, frames)
            read = time.perf_counter()
            inputs = asking.build_inputs(processor, config, clip, question)
            shared = {"video": 1000 * (read - began), "preprocess": 1000 * (time.perf_counter() - read)}
        try:
            asking.check_prompt(config, inputs, chosen, max_new_tokens)
        except BudgetError as error:
            if flops is not None:
                raise
            warnings.warn(f"nothing is pruned, this prompt is too short: {error}", stacklevel=1)
            chosen = replace(cast(Any, chosen), flops=1.0)
        with progress(f"loading {source}", shown=Path(source).is_dir()):
            llm = asking.load_model(source, device, dtype)

        def run(how: Method, tokens: int, doing: str) -> Answer:
            with progress(doing):
                return asking.answer(llm, processor, inputs, question, how, tokens)

        vanilla = None
        if compare:
            run(Vanilla(), 2, "warming up: vanilla")
            run(chosen, 2, f"warming up: {chosen.name}")
            vanilla = run(Vanilla(), max_new_tokens, "answering: vanilla")
        result = run(chosen, max_new_tokens, f"answering: {chosen.name}")
        facts = {
            "version": version("adatp"),
            "model": source,
            "device": str(llm.device),
            "dtype": str(llm.dtype).removeprefix("torch."),
            "video": path,
            "question": question,
            "frames": len(clip.frames),
            "timestamps": clip.timestamps.tolist(),
            "video_milliseconds": shared["video"],
            "preprocess_milliseconds": shared["preprocess"],
            "paper_preset": PRESET,
            **result.to_dict(),
        }
        if vanilla is not None:
            facts |= {"vanilla": vanilla.to_dict(), "same_answer": vanilla.text == result.text}
        if json_file is not None:
            write(json_file, json.dumps(facts) + "\n")
        _show(Console(), question, clip, shared, result, vanilla)


def _show(
    console: Console,
    question: str,
    clip: Video,
    shared: dict[str, float],
    result: Answer,
    vanilla: Answer | None,
) -> None:
    """Print an answer and what it took; beside it vanilla's, where that was run."""
    runs = [result] if vanilla is None else [vanilla, result]
    count = len(clip.frames)
    video = f"{count} frame{'s' if count > 1 else ''} of {clip.duration:.1f} s of video"
    console.print(Text(f"{question} ({video})", "bold"))
    for each in runs:
        text = Text(each.text or "(no words)", "bold green")
        console.print(Panel(text, title=each.report.method, title_align="left", box=box.ROUNDED))
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
        table.add_row(f"Time: {label}", *[milliseconds(shared[stage])] * len(runs), "")
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
