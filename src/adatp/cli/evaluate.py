"""``adatp eval`` and ``adatp ablate``: methods, and variants of AdaTP, compared at equal FLOPs."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.console import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    TargetsOption,
    check_dtype,
    check_writable,
    counting,
    draw,
    fractions,
    importing,
    numbers,
    one_line_errors,
    progress,
    quiet_libraries,
    table_of,
    write,
)
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.evaluation import Entrant, Results


SplitOption = Annotated[str, typer.Option(help="A split of the embedded model's world.")]
FramesOption = Annotated[str, typer.Option(help="Frames of the clips; several numbers separated by commas.")]
LimitOption = Annotated[int, typer.Option(min=1, help="Questions for each number of frames.")]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Also write everything to this file; answers gather in a work file beside it, from which the "
        "same command, or one with more methods or targets, goes on.",
        show_default=False,
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw accuracy against FLOPs into this file (.png, .pdf, .svg), and accuracy by where the "
        "evidence is into one named -thirds beside it.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads to use.", show_default="as torch decides")
]


def evaluate(
    model: ModelOption = None,
    methods: Annotated[
        str, typer.Option(help="Methods and baselines, separated by commas; vanilla is always run.")
    ] = "all",
    targets: TargetsOption = "0.5,0.273,0.15,0.10",
    frames: FramesOption = "16,32",
    split: SplitOption = "test",
    limit: LimitOption = 200,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Compare methods at equal FLOPs on the questions of the embedded model's world."""
    ratios = fractions(targets)

    def entrants(_: int) -> list[Entrant]:
        from adatp import evaluation

        known = evaluation.names()
        wanted = known if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in wanted:
            if name not in known:
                raise RefusedError(f"no method {name!r}; there are {', '.join(known)}")
        return evaluation.entrants(wanted, ratios)

    _evaluate("eval", entrants, model, frames, split, limit, json_file, plot, threads, device, dtype)


def ablate(
    model: ModelOption = None,
    targets: TargetsOption = "0.273",
    frames: FramesOption = "16",
    split: SplitOption = "test",
    limit: LimitOption = 200,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Compare variants of AdaTP, each with one thing changed, with the full one."""
    ratios = fractions(targets)

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
    check_dtype(dtype)
    counts = list(dict.fromkeys(numbers("--frames", frames, int)))
    if json_file is not None:
        json_file = check_writable(json_file)
    if plot is not None:
        plot = _check_plot(plot)
    with importing():
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
        raise RefusedError(str(error)) from None
    source = model if model is not None else str(CHECKPOINT)
    threads_before = torch.get_num_threads()
    with (
        one_line_errors(),
        quiet_libraries(downloads=model is not None and not Path(model).is_dir()),
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
        with progress(f"loading {source}", shown=Path(source).is_dir()):
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
            write(json_file, json.dumps(facts, indent=1) + "\n")
        if plot is not None:
            from adatp import plots

            thirds = plot.with_name(f"{plot.stem}-thirds{plot.suffix}")
            compared = plots.plot_accuracy if command == "eval" else plots.plot_differences
            draw(plot, compared(rows))
            draw(thirds, plots.plot_thirds(rows))
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

    with counting("asking") as update:

        def told(skipped: str | None) -> None:
            if skipped is not None:
                print(f"adatp: skipped: {skipped}", file=sys.stderr)
            update(*state())

        yield told


def _check_plot(path: Path) -> Path:
    """Where a figure given by the user really goes; refused if it could not be drawn at the end."""
    if path.suffix not in (kinds := (".png", ".pdf", ".svg")):
        raise RefusedError(f"--plot {path}: the name ends in {', '.join(kinds)}")
    if find_spec("matplotlib") is None:
        raise RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
    check_writable(path.with_name(f"{path.stem}-thirds{path.suffix}"), "--plot")
    return check_writable(path, "--plot")


def _show_rows(rows: Sequence[dict[str, Any]], limit: int) -> None:
    """Print an evaluation: for each number of frames accuracy and what it took, then where it lies."""
    console = Console(width=None if sys.stdout.isatty() else 110)  # a file has no edge to wrap at
    reference = "full" if any("variant" in row for row in rows) else "vanilla"
    for frames, group in groupby(rows, lambda row: row["frames"]):
        chosen = list(group)
        console.print(Text(f"{chosen[0]['split']} split, {frames} frames, {limit} questions", "bold"))
        table = table_of("", "FLOPs", "tokens", "last", "accuracy", "difference", "changed", "p")
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
            table = table_of("", *columns)
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
