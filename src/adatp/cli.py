"""The command ``adatp``. Answers go to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar, cast

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
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
from rich.text import Text

# torch and transformers take seconds to import: only the commands that need them do, when they run.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adatp.ask import Answer
    from adatp.evaluation import Entrant, Results
    from adatp.methods import Method
    from adatp.video import Video

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

# Typer raises click's exceptions, or those of its own copy of click from 0.20 on: take what it has.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = typer.BadParameter.__mro__[2]

_Number = TypeVar("_Number", int, float)

_EMBEDDED = "the small one that ships with adatp"


class _RefusedError(Exception):
    """Input that can't be used, in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``adatp``.

    Args:
        argv: arguments, without the program's name; None: the process's own.

    Returns:
        The exit code: 0; 2 on bad input, told in one line on stderr; 130 if interrupted.
    """
    command: Any = typer.main.get_command(app)
    try:
        return command.main(args=argv, prog_name="adatp", standalone_mode=False) or 0
    except _RefusedError as error:
        message = str(error)
    except _ClickError as error:
        command_path = error.ctx.command_path if getattr(error, "ctx", None) else "adatp"
        hint = f" (see {command_path} --help)" if isinstance(error, _UsageError) else ""
        message = f"{error.format_message()}{hint}"
    except typer.Abort:  # what Typer makes of an interrupt, or else it exits with 130 itself
        return 130
    print("adatp:", " ".join(message.split()), file=sys.stderr)
    return 2


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"adatp {version('adatp')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _adatp(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask Video LLMs about videos for a fraction of the compute, by pruning visual tokens."""
    if context.invoked_subcommand is None:
        print(context.get_help())


_Model = Annotated[
    str | None,
    typer.Option(help="A Video LLM: a folder, or an id on the Hugging Face hub.", show_default=_EMBEDDED),
]
_Split = Annotated[str, typer.Option(help="A split of the embedded model's world.")]
_Frames = Annotated[str, typer.Option(help="Frames of the clips; several numbers separated by commas.")]
_Targets = Annotated[
    str, typer.Option("--flops", help="Fractions of vanilla's prefill FLOPs, separated by commas.")
]
_Limit = Annotated[int, typer.Option(min=1, help="Questions for each number of frames.")]
_Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Also write everything to this file; answers gather in a work file beside it, from which the "
        "same command, or one with more methods or targets, goes on.",
        show_default=False,
    ),
]
_Plot = Annotated[
    Path | None,
    typer.Option(
        help="Also draw accuracy against FLOPs into this file (.png, .pdf, .svg), and accuracy by where the "
        "evidence is into one named -thirds beside it.",
        show_default=False,
    ),
]
_Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads to use.", show_default="as torch decides")
]
_Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: as the checkpoint is.")]
_Device = Annotated[str, typer.Option(help="A torch device; auto: CUDA where there is one.")]


@app.command()
def ask(
    video: Annotated[str | None, typer.Argument(help="A video file.", show_default="a clip of ours")] = None,
    question: Annotated[
        str | None, typer.Argument(help="What to ask about it.", show_default="the clip's own")
    ] = None,
    model: _Model = None,
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
    device: _Device = "auto",
    dtype: _Dtype = "auto",
) -> None:
    """Ask a Video LLM a question about a video.

    Without arguments a small model that ships with adatp answers a question about a clip that does too.
    """
    if video is not None and question is None:
        raise _RefusedError('a question is missing: adatp ask VIDEO "QUESTION"')
    if question is not None and not question.strip():
        raise _RefusedError("the question is empty")
    if json_file is not None:
        json_file = _check_writable(json_file)
    _check_dtype(dtype)
    with _importing():
        from adatp import ask as asking
        from adatp.budget import BudgetError
        from adatp.methods import Vanilla
        from adatp.tiny import CHECKPOINT, CLIP, QUESTION
        from adatp.video import read_video
    with _one_line_errors(), _quiet_libraries(downloads=model is not None and not Path(model).is_dir()):
        chosen = _method(method, flops)
        source = model if model is not None else str(CHECKPOINT)
        path, question = video if video is not None else str(CLIP), question or QUESTION
        device = asking.pick_device(device)
        with _progress(f"looking up {source}"):
            config = asking.load_config(source)
            processor = asking.load_processor(source)
        with _progress("reading the video"):
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
        with _progress(f"loading {source}", shown=Path(source).is_dir()):
            llm = asking.load_model(source, device, dtype)

        def run(how: Method, tokens: int, doing: str) -> Answer:
            with _progress(doing):
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
            "paper_preset": _PRESET,
            **result.to_dict(),
        }
        if vanilla is not None:
            facts |= {"vanilla": vanilla.to_dict(), "same_answer": vanilla.text == result.text}
        if json_file is not None:
            _write(json_file, json.dumps(facts) + "\n")
        _show(Console(), question, clip, shared, result, vanilla)


@app.command()
def flops(
    model: _Model = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the video.")] = 32,
    targets: _Targets = "0.5,0.273,0.15,0.10",
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt that are not visual.")] = 30,
    size: Annotated[
        str, typer.Option(help="Width x height of a frame, where the number of tokens depends on it.")
    ] = "448x448",
) -> None:
    """Show budgets and schedules of a model, from its config alone."""
    ratios = _targets(targets)
    with _importing():
        from adatp import ask as asking
        from adatp.budget import BudgetError
        from adatp.flops import DecoderShape, paper_macs
        from adatp.methods import AdaTP
        from adatp.tiny import CHECKPOINT
    with _one_line_errors(), _quiet_libraries(downloads=model is not None and not Path(model).is_dir()):
        methods = [AdaTP(flops=1.0), *(AdaTP(flops=ratio) for ratio in ratios)]
        source = model if model is not None else str(CHECKPOINT)
        with _progress(f"looking up {source}"):
            config = asking.load_config(source)
        shape = DecoderShape.from_config(config.get_text_config())
        visual = _visual_tokens(config, frames, size)
        table = _table("Target", "reached", "FLOPs", f"MACs ({_PRESET})", "visual tokens by layer")
        for method in methods:
            target = Text(f"{method.flops:.1%}" if method.flops < 1 else "vanilla")
            try:
                plan = method.schedule(shape, visual=visual, other=text_tokens, question=text_tokens)
            except BudgetError as error:
                if error.lowest is None:
                    raise
                table.add_row(target, Text("no", "red"), "", "", f"the lowest is {error.lowest:.2%}")
                continue
            macs = _amount(paper_macs(shape, plan.visual))
            table.add_row(target, f"{plan.ratio:.2%}", _amount(plan.flops), macs, _runs(plan.visual))
        console = Console()
        console.print(
            Text(
                f"{config.model_type}, {shape.layers} layers, {frames} frames: {visual} visual and "
                f"{text_tokens} other tokens"
            )
        )
        console.print(table)
        console.print(_CONVENTIONS, style="dim", highlight=False)


@app.command("eval")
def evaluate(
    model: _Model = None,
    methods: Annotated[
        str, typer.Option(help="Methods and baselines, separated by commas; vanilla is always run.")
    ] = "all",
    targets: _Targets = "0.5,0.273,0.15,0.10",
    frames: _Frames = "16,32",
    split: _Split = "test",
    limit: _Limit = 200,
    json_file: _Json = None,
    plot: _Plot = None,
    threads: _Threads = None,
    device: _Device = "auto",
    dtype: _Dtype = "auto",
) -> None:
    """Compare methods at equal FLOPs on the questions of the embedded model's world."""
    ratios = _targets(targets)

    def entrants(_: int) -> list[Entrant]:
        from adatp import evaluation

        known = evaluation.names()
        wanted = known if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in wanted:
            if name not in known:
                raise _RefusedError(f"no method {name!r}; there are {', '.join(known)}")
        return evaluation.entrants(wanted, ratios)

    _evaluate("eval", entrants, model, frames, split, limit, json_file, plot, threads, device, dtype)


@app.command()
def ablate(
    model: _Model = None,
    targets: _Targets = "0.273",
    frames: _Frames = "16",
    split: _Split = "test",
    limit: _Limit = 200,
    json_file: _Json = None,
    plot: _Plot = None,
    threads: _Threads = None,
    device: _Device = "auto",
    dtype: _Dtype = "auto",
) -> None:
    """Compare variants of AdaTP, each with one thing changed, with the full one."""
    ratios = _targets(targets)

    def entrants(layers: int) -> list[Entrant]:
        from adatp import evaluation

        return evaluation.ablations(ratios, layers)

    _evaluate("ablate", entrants, model, frames, split, limit, json_file, plot, threads, device, dtype)


def _evaluate(
    command: str,
    entrants: Callable[[int], list[Entrant]],
    model: str | None,
    frames: str,
    split: str,
    limit: int,
    json_file: Path | None,
    plot: Path | None,
    threads: int | None,
    device: str,
    dtype: str,
) -> None:
    """Run, resume and show an evaluation; ``entrants`` makes them for a decoder of so many layers."""
    _check_dtype(dtype)
    counts = list(dict.fromkeys(_numbers("--frames", frames, int)))
    if json_file is not None:
        json_file = _check_writable(json_file)
    if plot is not None:
        plot = _check_plot(plot)
    with _importing():
        import torch

        from adatp import ask as asking
        from adatp.evaluation import Results, summarise
        from adatp.evaluation import evaluate as run
        from adatp.tiny import CHECKPOINT
        from adatp.tiny.world import benchmark
    try:
        for count in counts:
            next(benchmark(split, count, 1))
    except ValueError as error:
        raise _RefusedError(str(error)) from None
    source = model if model is not None else str(CHECKPOINT)
    threads_before = torch.get_num_threads()
    with (
        _one_line_errors(),
        _quiet_libraries(downloads=model is not None and not Path(model).is_dir()),
        ExitStack() as stack,
    ):
        stack.callback(torch.set_num_threads, threads_before)
        torch.set_num_threads(threads or threads_before)
        config = asking.load_config(source)
        competing = entrants(config.get_text_config().num_hidden_layers)
        if json_file is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "work.jsonl"
        else:
            work = json_file.with_name(f"{json_file.stem}.work.jsonl")
        results = stack.enter_context(Results(work))
        results.pin("command", command)
        with _progress(f"loading {source}", shown=Path(source).is_dir()):
            processor = asking.load_processor(source)
            llm = asking.load_model(source, device, dtype)
        try:
            with _asking(results, competing, counts, limit) as told:
                run(llm, processor, competing, counts, split, limit, results, told)
        except KeyboardInterrupt:
            hint = "give --json next time, and it can go on" if json_file is None else "run it again to go on"
            print(f"adatp: interrupted; {hint}", file=sys.stderr)
            raise
        rows, skipped = summarise(results)
        if json_file is not None:
            facts = {
                "version": version("adatp"),
                "command": command,
                "model": model or "embedded",
                **{name: value for name, value in results.pins.items() if not name.startswith("run ")},
                "rows": rows,
                "skipped": skipped,
            }
            _write(json_file, json.dumps(facts, indent=1) + "\n")
        if plot is not None:
            from adatp import plots

            thirds = plot.with_name(f"{plot.stem}-thirds{plot.suffix}")
            compared = plots.plot_accuracy if command == "eval" else plots.plot_differences
            _draw(plot, compared(rows))
            _draw(thirds, plots.plot_thirds(rows))
        _show_rows(rows, limit)


@contextmanager
def _asking(
    results: Results, competing: Sequence[Entrant], counts: Sequence[int], limit: int
) -> Iterator[Callable[[str | None], None]]:
    """A bar on stderr, if that is a terminal; and who is skipped, in any case."""
    runs = [(entrant.key, frames) for entrant in competing for frames in counts]

    def state() -> tuple[int, int]:
        going = [run for run in runs if run not in results.skips]
        return sum(len(results.answers[run]) for run in going), limit * len(going)

    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("")

        def told(skipped: str | None) -> None:
            if skipped is not None:
                print(f"adatp: skipped: {skipped}", file=sys.stderr)
            done, total = state()
            progress.update(bar, completed=done, total=total)

        yield told


def _numbers(option: str, text: str, kind: type[_Number]) -> list[_Number]:
    """The numbers of an option that takes several."""
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise _RefusedError(f"{option} is numbers separated by commas, not {text!r}") from None


def _targets(text: str) -> list[float]:
    """FLOPs targets given by the user."""
    ratios = _numbers("--flops", text, float)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise _RefusedError(f"--flops are fractions of vanilla, in (0, 1], not {ratio}")
    return ratios


def _check_dtype(name: str) -> None:
    if name not in (kinds := ("auto", "float32", "bfloat16", "float16")):
        raise _RefusedError(f"--dtype is one of {', '.join(kinds)}, not {name!r}")


def _check_plot(path: Path) -> Path:
    """Where a figure given by the user really goes; refused if it could not be drawn at the end."""
    if path.suffix not in (kinds := (".png", ".pdf", ".svg")):
        raise _RefusedError(f"--plot {path}: the name ends in {', '.join(kinds)}")
    if find_spec("matplotlib") is None:
        raise _RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
    _check_writable(path.with_name(f"{path.stem}-thirds{path.suffix}"), "--plot")
    return _check_writable(path, "--plot")


def _draw(path: Path, figure: Figure) -> None:
    """Write a figure whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=160)
    _write(path, picture.getvalue(), "--plot")


def _visual_tokens(config: Any, frames: int, size: str) -> int:
    """Visual tokens of a video, by a config alone."""
    from adatp.models import family_of

    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise _RefusedError(f"--size is WIDTHxHEIGHT in pixels, not {size!r}")
    steps, rows, columns = family_of(config.model_type).grid(config, frames, int(height), int(width))
    return steps * rows * columns


def _method(name: str, flops: float | None) -> Method:
    """The method of that name, on that target; None: its own default."""
    from adatp.methods import METHODS

    if name not in METHODS:
        raise _RefusedError(f"no method {name!r}; there are {', '.join(METHODS)}")
    chosen: Any = METHODS[name]
    if flops is None:
        return chosen()  # type: ignore[no-any-return]
    if "flops" not in {field.name for field in fields(chosen)}:
        raise _RefusedError(f"method {name!r} has no FLOPs target: leave --flops out")
    return chosen(flops=flops)  # type: ignore[no-any-return]


@contextmanager
def _importing() -> Iterator[None]:
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
def _one_line_errors() -> Iterator[None]:
    """Turn what the library says of bad input into one line; all else is a bug and keeps its traceback."""
    import torch

    from adatp.ask import LoadError, PromptError
    from adatp.budget import BudgetError
    from adatp.encoders import EncoderError
    from adatp.evaluation import ResultsError
    from adatp.models import UnsupportedModelError
    from adatp.pruner import PruningError
    from adatp.video import VideoError

    refusals = (
        BudgetError,
        EncoderError,
        LoadError,
        PromptError,
        PruningError,
        ResultsError,
        UnsupportedModelError,
        VideoError,
    )
    try:
        yield
    except refusals as error:
        raise _RefusedError(str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _RefusedError("out of memory: ask for fewer --frames, or use a smaller model") from error


@contextmanager
def _quiet_libraries(downloads: bool) -> Iterator[None]:
    """Keep off stderr the libraries' logs, and their progress bars but for downloads on a terminal."""
    from logging import ERROR

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    levels, bars = (logging.get_verbosity(), hub.get_verbosity()), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity(ERROR)
    if not (downloads and sys.stderr.isatty()):
        logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.showwarning = _warn
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
def _progress(doing: str, shown: bool = True) -> Iterator[None]:
    """A line on stderr that says what is going on and for how long, if that is a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        progress.add_task(doing, total=None)
        yield


def _check_writable(path: Path, option: str = "--json") -> Path:
    """Where a file given by the user really is; refused if it could not be written at the end."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise _RefusedError(f"{option} {path}: not a regular file")
    try:
        if target.exists():
            target.open("r+b").close()
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise _RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    return target


def _write(path: Path, data: str | bytes, option: str = "--json") -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".adatp-{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    except OSError as error:
        raise _RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


_PRESET = "fastvid"
_CONVENTIONS = (
    "FLOPs are real: two to a multiply-accumulate, of all tokens, scoring included. MACs follow the papers: "
    f"multiply-accumulates of the prefill's visual tokens alone, by the formula of the {_PRESET} preset."
)


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
    table = _table("", *names, "of vanilla")

    def compare(label: str, values: Sequence[float], show: Callable[[float], str], base: float = 0) -> None:
        base = values[0] if vanilla is not None else base
        table.add_row(label, *map(show, values), f"{values[-1] / base:.1%}" if base else "")

    reports, cost = [each.report for each in runs], [each.report.flops for each in runs]
    visual = [f"{sum(r.prompt_visual_tokens)} → {sum(r.visual_tokens[-1])}" for r in reports]
    table.add_row("Visual tokens, prompt → last layer", *visual, end_section=True)
    compare("FLOPs: decoder's prefill", [c.decoder for c in cost], _amount, cost[0].decoder_vanilla)
    compare("FLOPs: whole request", [c.request for c in cost], _amount, cost[0].request_vanilla)
    compare(f"MACs as in papers ({_PRESET})", [c.paper for c in cost], _amount, cost[0].paper_vanilla)
    table.add_section()
    times = [report.milliseconds for report in reports]
    steps = [max(1, report.decode_steps) for report in reports]
    for label, stage in (("decode of the video", "video"), ("preprocessing", "preprocess")):
        table.add_row(f"Time: {label}", *[_milliseconds(shared[stage])] * len(runs), "")
    compare("Time: vision", [ms.get("vision", 0) for ms in times], _milliseconds)
    signals = f"Time: relevance ({result.report.relevance})"
    table.add_row(signals, *(_milliseconds(ms.get("relevance", 0)) for ms in times), "")
    compare("Time: prefill", [ms.get("prefill", 0) for ms in times], _milliseconds)
    compare("Time: decode", [ms.get("decode", 0) for ms in times], _milliseconds)
    per_token = [ms.get("decode", 0) / n for ms, n in zip(times, steps, strict=True)]
    compare("Time: decode, per token", per_token, _milliseconds)
    compare("Time: all of generate", [each.milliseconds for each in runs], _milliseconds)
    console.print(table)
    timed = "after a short warm-up of each" if vanilla is not None else "with what a first run costs"
    console.print(f"{_CONVENTIONS} Times of one run, {timed}.", style="dim", highlight=False)


def _show_rows(rows: Sequence[dict[str, Any]], limit: int) -> None:
    """Print an evaluation: for each number of frames accuracy and what it took, then where it lies."""
    console = Console(width=None if sys.stdout.isatty() else 110)  # a file has no edge to wrap at
    reference = "full" if any("variant" in row for row in rows) else "vanilla"
    for frames, group in groupby(rows, lambda row: row["frames"]):
        chosen = list(group)
        console.print(Text(f"{chosen[0]['split']} split, {frames} frames, {limit} questions", "bold"))
        table = _table("", "FLOPs", "tokens", "last", "accuracy", "difference", "changed", "p")
        for row in chosen:
            table.add_row(
                _row_name(row),
                f"{row['flops_ratio']:.1%}",
                f"{row['visual_mean']:.0f}",
                f"{row['visual_last']:.0f}",
                f"{row['accuracy']:.1%}  {100 * row['ci_low']:3.0f}-{100 * row['ci_high']:.0f}",
                *_compared(row),
            )
        console.print(table)
        for by in ("by_type", "by_third"):
            columns = list(dict.fromkeys(name for row in chosen for name in row[by]))
            table = _table("", *columns)
            for row in chosen:
                table.add_row(
                    _row_name(row),
                    *(f"{row[by][name]['accuracy']:.0%}" if name in row[by] else "" for name in columns),
                )
            console.print(table)
    notes = (
        "FLOPs: real ones of the decoder's prefill, scoring included, of vanilla's. Tokens: visual ones, "
        "mean of the layers, and in the last. Accuracy: with its 95 % bootstrap interval. Difference, "
        f"changed (answers that differ) and p (exact McNemar test): against {reference}, question by "
        "question. By third: only questions whose evidence lies in one third of the clip."
    )
    console.print(notes, style="dim", highlight=False)


def _row_name(row: dict[str, Any]) -> str:
    label = str(row.get("variant", row["method"]))
    return label if row["flops_target"] is None else f"{label} {100 * row['flops_target']:.3g}%"


def _compared(row: dict[str, Any]) -> list[str]:
    """A row's comparison with its reference; nothing where it is that itself."""
    if row["delta"] is None:
        return ["", "", ""]
    p = "<0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}"
    return [f"{100 * row['delta']:+.1f}", f"{row['changed']:.0%}", p]


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _amount(count: float) -> str:
    """FLOPs or MACs with a unit."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f}"


def _milliseconds(time: float) -> str:
    return f"{time:.1f} ms" if time < 100 else f"{time:.0f} ms"


def _runs(counts: Sequence[int]) -> str:
    """Counts of layers, equal ones that follow each other as one."""
    groups = [(count, len(list(group))) for count, group in groupby(counts)]
    return " ".join(str(count) if times == 1 else f"{count}×{times}" for count, times in groups)
