"""Draws the image and the page of ``adatp show``, and the figures of ``adatp bias``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp.cli.asking import Request
from adatp.cli.console import importing
from adatp.cli.files import drawn, write_set

if TYPE_CHECKING:
    from adatp import Answer

FILES = ("show.png", "show.svg", "show.html")
"""The files that ``adatp show`` writes into its folder."""

BIAS_FIGURES = tuple(
    f"bias-{name}.{kind}" for name in ("frames", "positions", "controls") for kind in ("png", "svg")
)
"""The files that ``adatp bias --plot`` writes into its folder."""


def draw_kept(out: Path, request: Request, answers: Sequence[Answer], layers: list[int] | None) -> None:
    """Write an image of the tokens that the first answer's method keeps, and the page of all answers.

    Args:
        out: a folder, made if missing.
        request: the question and its video.
        answers: one per method.
        layers: rows of the image; None: some of those that drop tokens.
    """
    from adatp.kept_page import render_html
    from adatp.plots.tokens import changing_layers, plot_tokens

    first, question = answers[0], request.prompt.question
    clip = request.session.visible_part(request.clip)
    page = render_html(clip, question, answers)
    spent = f"{first.report.flops_ratio:.1%} of vanilla's prefill FLOPs"
    title = f"{question}\n{first.report.method}, {spent}: {first.text or '(no words)'}"
    rows = changing_layers(first.report) if layers is None else layers
    figure = plot_tokens(clip.frames, first.layout, first.report, rows, title)
    png, svg, html = FILES
    write_set(out, {png: drawn(figure, "png"), svg: drawn(figure, "svg"), html: page}, "--out")


def bias_figures(facts: dict[str, Any]) -> dict[str, bytes]:
    """The files of ``adatp bias --plot``: name -> content.

    Args:
        facts: results of the measurement.
    """
    with importing():
        from adatp import plots
    return {
        f"bias-{name}.{kind}": drawn(figure, kind)
        for name, figure in plots.plot_bias(facts).items()
        for kind in ("png", "svg")
    }
