"""Draws kept tokens: the patches that each layer still reads, frame by frame, and a timeline of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adatp.layout import VideoLayout
from adatp.plots.style import INK, OURS, evenly_spaced
from adatp.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_FRAMES = 16
_SIDE = 128  # pixels of a frame's long side: more than a column is wide in print


def survival(layout: VideoLayout, report: Report) -> np.ndarray:
    """Number of decoder layers that process each visual token. Layer l has the tokens above l.

    Args:
        layout: layout of a prompt with one video.
        report: report of a run of that prompt alone.

    Returns:
        (frames, rows, columns) int64; 0 where there is no token.

    Raises:
        ValueError: there is more than one prompt or video.
    """
    if len(layout.grids) != 1 or len(report.kept[0]) != 1:
        raise ValueError("what is kept is shown of one prompt with one video")
    processed = [layout.on_grid(kept - report.past)[0] for (kept,) in report.kept]
    return torch.stack(processed).sum(0).cpu().numpy()


def first_frames(images: int, frames: int) -> np.ndarray:
    """For each of the model's ``frames``, the first of a video's ``images`` that it represents: (frames,)
    int64.
    """
    merged = -(-images // frames)
    return np.minimum(np.arange(frames) * merged, images - 1)


def shrink(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 scaled down until the long side has at most ``side`` pixels."""
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = min(1, side / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])


def changing_layers(report: Report, most: int = 5) -> list[int]:
    """Layers that process fewer visual tokens than the one before: at most ``most``, evenly spaced; else
    the last.
    """
    counts = [sum(report.prompt_visual_tokens), *map(sum, report.visual_tokens)]
    changed = [layer for layer in range(len(counts) - 1) if counts[layer + 1] < counts[layer]]
    changed = changed or [len(report.visual_tokens) - 1]
    return [changed[i] for i in evenly_spaced(len(changed), most)]


def plot_tokens(
    frames: np.ndarray, layout: VideoLayout, report: Report, layers: Sequence[int], title: str = ""
) -> Figure:
    """Draw kept patches clear and dropped ones grey, dark and hatched: a row per layer, and a timeline.

    Args:
        frames: (F, H, W, 3) uint8, as the model receives them (``Session.visible_part``). If the model merges
            frames, the first is shown.
        layout: layout of the prompt, with one video.
        report: report of its run.
        layers: the rows; decoder layers, from 0.
        title: title above the figure, in one line or several.

    Returns:
        A figure. The timeline has all frames, the rows at most 16, picked evenly.

    Raises:
        ValueError: there is no such layer, none at all, or more than one prompt or video.
    """
    from matplotlib.figure import Figure

    depth = survival(layout, report)
    if not layers or not all(0 <= layer < len(report.kept) for layer in layers):
        raise ValueError(f"layers are some of 0 to {len(report.kept) - 1}, not {list(layers)}")
    total, count = len(layout.index), len(depth)
    picked = evenly_spaced(count, _MOST_FRAMES)
    images = shrink(frames[first_frames(len(frames), count)[picked]], _SIDE)
    gap = max(1, images.shape[2] // 24)
    strips = [_strip(images, depth[picked] > layer, gap) for layer in layers]

    notes = report.notes[0] if report.notes else {}
    relevant = notes.get("frame_relevance") is not None
    width = float(np.clip(0.6 * len(picked) + 1, 7, 10.5))
    row = (width - 1) * strips[0].shape[0] / strips[0].shape[1]
    heights = [*([0.9] if relevant else []), 1.1, *[row] * len(layers)]
    figure = Figure(figsize=(width, sum(heights) + 0.3 * len(heights) + 1.2), layout="constrained")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    lines = [fill(line, round(11 * width)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, parse_math=False)

    if relevant:
        _draw_relevance(panels[0], notes)
    timeline = panels[len(heights) - len(layers) - 1]
    _draw_counts(timeline, depth, layers)
    for axes in panels[: len(heights) - len(layers)]:
        _mark_segments(axes, notes.get("segments", []))
        axes.set_xlim(0.5, count + 0.5)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    timeline.set_xticks(picked + 1, picked + 1)

    for axes, layer, strip in zip(panels[-len(layers) :], layers, strips, strict=True):
        kept = int((depth > layer).sum())
        axes.imshow(strip)
        axes.set_anchor("W")
        axes.set_title(f"layer {layer}: {kept:,} of {total:,} tokens", loc="left", fontsize=9, pad=3)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    centres = (np.arange(len(picked)) + 0.5) * (images.shape[2] + gap) - gap / 2
    axes.set_xticks(centres, picked + 1)
    axes.tick_params(length=0, pad=2, labelsize=8)
    gone = "dropped, or merged into kept ones" if report.merges else "dropped"
    gone += "" if layout.complete else ", or left out by the processor"
    axes.set_xlabel(f"Patches that are clear are kept; grey and hatched: {gone}.", fontsize=8, loc="left")
    return figure


def _strip(images: np.ndarray, kept: np.ndarray, gap: int) -> np.ndarray:
    """Frames side by side, with the patches that are not kept dimmed.

    Args:
        images: (F, H, W, 3) uint8.
        kept: (F, rows, columns) bool.
        gap: white pixels between frames.
    """
    height, width = images.shape[1:3]
    rows = np.arange(height) * kept.shape[1] // height
    columns = np.arange(width) * kept.shape[2] // width
    clear = kept[:, rows[:, None], columns]
    grey = images @ np.array([0.299, 0.587, 0.114])
    # Hatched too: darkening a dark image would not show.
    hatch = 45 * ((np.arange(height)[:, None] + np.arange(width)) % 8 < 2)
    dim = (25 + 0.3 * grey + hatch).astype(np.uint8)[..., None]
    frames = np.where(clear[..., None], images, dim)
    frames = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(frames), axis=1)[:, :-gap]


def _draw_relevance(axes: Axes, notes: dict[str, Any]) -> None:
    """Draw the question's relevance: a dot per frame, a line per segment."""
    by_frame = np.array(notes["frame_relevance"])
    by_segment = np.array(notes["segment_relevance"])[notes["segments"]]
    edges = np.arange(len(by_frame) + 1) + 0.5
    axes.stairs(by_segment, edges, baseline=None, color=OURS, linewidth=2, label="segment")
    axes.plot(edges[:-1] + 0.5, by_frame, "o", color=INK, markersize=2.5, label="frame")
    axes.set_ylabel("text\nrelevance", fontsize=8)
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, fontsize=8)


def _draw_counts(axes: Axes, depth: np.ndarray, layers: Sequence[int]) -> None:
    """Draw how many tokens of each frame the layers process: deeper layers are darker."""
    from matplotlib import colormaps

    edges = np.arange(len(depth) + 1) + 0.5
    for place, layer in enumerate(sorted(set(layers))):
        shade = colormaps["viridis_r"](0.1 + 0.9 * (place + 1) / len(set(layers)))
        axes.stairs((depth > layer).sum((1, 2)), edges, fill=True, color=shade, label=f"layer {layer}")
    axes.set_ylim(0, depth[0].size)
    axes.set_ylabel("tokens\na frame", fontsize=8)
    axes.legend(ncols=8, loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, fontsize=8)


def _mark_segments(axes: Axes, segments: Sequence[int]) -> None:
    for place in np.flatnonzero(np.diff(segments)):
        axes.axvline(place + 1.5, color="white", linewidth=2)
        axes.axvline(place + 1.5, color=INK, linewidth=1, linestyle=(0, (3, 2)))
