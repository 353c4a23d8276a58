"""Figures: what is drawn, where, and that names stay readable."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp.plots import plot_accuracy, plot_differences, plot_thirds
from adatp.plots.accuracy import spread
from adatp.plots.style import OURS
from adatp.tiny.world import THIRDS


def part(accuracy: float) -> dict[str, Any]:
    return {"n": 100, "accuracy": accuracy, "ci_low": accuracy - 0.05, "ci_high": accuracy + 0.04}


def row(method: str, frames: int, target: float | None, accuracy: float, **more: Any) -> dict[str, Any]:
    thirds = {third: part(accuracy - 0.1 * i) for i, third in enumerate(THIRDS)}
    spent = 1.0 if target is None else 0.99 * target
    named = {"method": method, "frames": frames, "flops_target": target, "flops_ratio": spent}
    return {**named, **part(accuracy), "by_third": thirds, **more}


ROWS = [
    row(method, frames, target, accuracy)
    for frames in (8, 16)
    for method, target, accuracy in [
        ("vanilla", None, 0.8),
        ("adatp", 0.5, 0.75),
        ("adatp", 0.2, 0.7),
        ("fastv", 0.5, 0.6),
        ("blind", None, 0.3),
    ]
]


def render(figure: Any) -> np.ndarray:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=60)
    from PIL import Image

    return np.asarray(Image.open(image).convert("RGB"))


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_accuracy_has_a_panel_a_length_and_a_named_line_a_method() -> None:
    figure = plot_accuracy(ROWS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "8 frames, 100 questions",
        "16 frames, 100 questions",
    ]
    for axes in figure.axes:
        assert sorted(texts(axes)) == ["adatp", "blind", "fastv", "vanilla"]
        ours = next(line for line in axes.lines if line.get_color() == OURS and len(line.get_xdata()) == 2)
        assert list(ours.get_xdata()) == pytest.approx([19.8, 49.5])
        assert list(ours.get_ydata()) == pytest.approx([70, 75])
        bars = next(
            bar
            for bar in axes.collections
            if np.allclose(bar.get_color()[0][:3], (0.835, 0.369, 0), atol=0.01)
        )
        assert bars.get_segments()[0][:, 1] == pytest.approx([65, 74])
    pixels = render(figure)
    assert (abs(pixels.astype(int) - (213, 94, 0)).sum(-1) < 30).any()


def test_thirds_have_a_panel_a_length_and_target() -> None:
    figure = plot_thirds(ROWS)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        f"{frames} frames, {percent} % of FLOPs" for frames in (8, 16) for percent in ("50", "20")
    ]
    first, second = figure.axes[:2]
    assert sorted(texts(first)) == ["adatp", "blind", "fastv", "vanilla"]
    assert sorted(texts(second)) == ["adatp", "blind", "vanilla"]
    assert [label.get_text() for label in first.get_xticklabels()] == list(THIRDS)
    ours = next(line for line in second.lines if line.get_color() == OURS)
    assert list(ours.get_ydata()) == pytest.approx([70, 60, 50])
    render(figure)


def test_differences_leave_out_the_full_method() -> None:
    nothing = dict.fromkeys(("delta", "delta_low", "delta_high"))
    rows = [
        row("adatp", 8, 0.3, 0.7, variant="full", **nothing),
        row("adatp", 8, 0.3, 0.66, variant="neither", delta=-0.04, delta_low=-0.06, delta_high=-0.01),
    ]
    figure = plot_differences(rows)
    [axes] = figure.axes
    assert axes.get_title(loc="left") == "8 frames, 30 % of FLOPs: full 70.0%"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["neither"]
    assert axes.collections[0].get_segments()[0][:, 0] == pytest.approx([-6, -1])
    render(figure)


@pytest.mark.parametrize("plot", [plot_accuracy, plot_thirds, plot_differences])
def test_rows_without_targets_or_none_at_all_are_drawn(plot: Any) -> None:
    render(plot([]))
    if plot is not plot_differences:
        render(plot([row("vanilla", 8, None, 0.5)]))
        render(plot([{**row("vanilla", 8, None, 0.5), "by_third": {}}]))


@pytest.mark.usefixtures("no_pyplot")
def test_no_global_state_is_touched() -> None:
    plot_accuracy(ROWS)


@given(st.lists(st.floats(0, 100), max_size=15), st.floats(0.5, 20))
def test_spread_keeps_order_and_distance(heights: list[float], step: float) -> None:
    placed = spread(heights, step)
    assert len(placed) == len(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    gaps = np.diff([placed[i] for i in order])
    assert (gaps >= step - 1e-6).all()
    if (np.diff(np.sort(heights)) >= step).all():
        assert placed == pytest.approx(heights)
    assert sum(placed) == pytest.approx(sum(heights), abs=1e-6)
