"""Records where the visual tokens of a prompt are, and which frame and spatial position each one shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from adatp.errors import AdaTPError

Grid = tuple[int, int, int]
"""Frames, rows and columns of one video's visual tokens, as the language model receives them."""


NO_CELL = -1
"""Marks a placeholder that shows no grid cell, such as a newline."""


class LayoutError(AdaTPError, ValueError):
    """The prompt and its videos do not fit together."""


@dataclass(frozen=True)
class PromptCounts:
    """Number of tokens of each kind in a prompt. Pads are not counted.

    Attributes:
        visual: visual tokens, the only ones that may be dropped.
        other: all other tokens.
        question: those of the other tokens that follow the last visual token.
        past: tokens that the cache holds from before this prompt.
        held: how many of these each decoder layer's cache still has, one count per layer, if an earlier video
            was pruned. Empty: every layer has them all.
    """

    visual: int
    other: int
    question: int = 0
    past: int = 0
    held: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Total number of tokens of the prompt."""
        return self.visual + self.other

    def held_by(self, layers: int) -> tuple[int, ...]:
        """How many earlier tokens each decoder layer's cache still holds."""
        return self.held or (self.past,) * layers


@dataclass(frozen=True, eq=False)
class VideoLayout:
    """One sample's prompt. All positions are columns of the sample's row of ``input_ids``, pads counted.

    Attributes:
        index: (n,) int64, ascending: position of each visual token. Newlines, separators and timestamps that
            a model family puts among them are not visual tokens.
        cell: (n,) int64, ascending: the grid cell that the token shows, counted row by row, frame by frame,
            video by video. Cells may be missing: some processors drop tokens of what stands still.
        video: (n,) int64: index of the token's video among the sample's videos.
        frame: (n,) int64: its frame, counted over all the sample's videos. For families that merge frames
            (Qwen2.5-VL: two) this is the merged frame.
        row: (n,) int64: row in the frame's token grid.
        column: (n,) int64: column in the frame's token grid.
        question: (q,) int64, ascending: the text tokens after the last visual token, template included.
        real: (r,) int64, ascending: every token that is not padding.
        tokens_by_frame: (frames,) int64, always on the CPU: number of visual tokens of each frame.
        videos: indices of these videos in the batch.
        grids: frames, rows and columns of each of them.
        past: tokens that the cache holds from before this prompt, pads excluded.
        held: see `PromptCounts.held`.
    """

    index: Tensor
    cell: Tensor
    video: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor
    question: Tensor
    real: Tensor
    tokens_by_frame: Tensor
    videos: tuple[int, ...]
    grids: tuple[Grid, ...]
    past: int = 0
    held: tuple[int, ...] = ()

    @property
    def counts(self) -> PromptCounts:
        """Number of tokens of each kind in the sample."""
        visual = len(self.index)
        other = len(self.real) - visual
        return PromptCounts(visual, other, len(self.question), self.past, self.held)

    @property
    def frames(self) -> int:
        """Number of frames over all the sample's videos."""
        return sum(grid[0] for grid in self.grids)

    @property
    def position(self) -> Tensor:
        """(n,) int64: the spatial position of each token, unique within its video's grid."""
        columns = torch.tensor([grid[2] for grid in self.grids], device=self.index.device)
        return self.row * columns[self.video] + self.column

    @property
    def cells(self) -> int:
        """Number of cells of all the grids."""
        return sum(map(math.prod, self.grids))

    @property
    def complete(self) -> bool:
        """Whether every cell has its token."""
        return len(self.index) == self.cells

    @property
    def positions_by_frame(self) -> list[int]:
        """Number of cells of each frame."""
        return [rows * columns for frames, rows, columns in self.grids for _ in range(frames)]

    def by_cell(self, values: Tensor) -> Tensor:
        """Values (n, ...) of the visual tokens as (cells, ...), zeros where a cell has no token."""
        if self.complete:
            return values
        spread = values.new_zeros(self.cells, *values.shape[1:])
        spread[self.cell.to(values.device)] = values
        return spread

    def on_grid(self, positions: Tensor) -> list[Tensor]:
        """For each video, the cells whose tokens are among ``positions``: (frames, rows, columns) bool."""
        among = self.by_cell(torch.isin(self.index, positions.to(self.index.device)))
        videos = torch.split(among, list(map(math.prod, self.grids)))
        return [part.view(grid) for part, grid in zip(videos, self.grids, strict=True)]


def build_layouts(
    input_ids: Tensor,
    real: Tensor,
    grids: Sequence[Grid],
    *,
    video_token_id: int,
    not_text: Sequence[int] = (),
    cells: Sequence[Tensor] | None = None,
) -> list[VideoLayout]:
    """Find every sample's visual tokens.

    Args:
        input_ids: (B, L) int64.
        real: (B, L) bool, False on padding.
        grids: the grid of every video of the batch, in the order of the prompts.
        video_token_id: the placeholder of a visual token.
        not_text: placeholders that are neither text nor a video's visual token (an image's).
        cells: for each video, the grid cell (counted row by row, frame by frame) that each of its
            placeholders shows, (placeholders,) int64 ascending, NO_CELL for those that are no visual tokens
            (newlines). A cell may lack a placeholder. None: every cell has its placeholder, and there are no
            others. Tokens between them, such as timestamps, are text.

    Returns:
        One layout per sample, in order. If the batch's rows are ``k`` copies of each prompt (beam search,
        several return sequences), the grids of the prompts alone are enough.

    Raises:
        LayoutError: the prompts hold another number of placeholders than the grids require.
    """
    # On the CPU, where no step waits for a GPU. Each result goes back to the device in one piece.
    device = input_ids.device
    input_ids, real = torch.stack([input_ids, real.to(device, input_ids.dtype)]).cpu()
    real = real.bool()
    placeholder = (input_ids == video_token_id) & real
    text = real & ~placeholder
    for token in not_text:
        text &= input_ids != token
    if cells is None:
        cells = [torch.arange(math.prod(grid)) for grid in grids]
    sizes = [len(video) for video in cells]
    owned = videos_by_sample(placeholder.sum(1).tolist(), sizes)
    return [
        _layout(placeholder[b], text[b], real[b], owned[b], grids, cells, device)
        for b in range(input_ids.shape[0])
    ]


def runs(input_ids: Tensor, token: int) -> list[list[int]]:
    """Lengths of the runs of one token in each row of ``input_ids`` (B, L), in order."""
    return [[len(list(run)) for found, run in groupby(row) if found == token] for row in input_ids.tolist()]


def videos_by_sample(tokens: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Assign the videos of a batch to its prompts.

    Args:
        tokens: placeholders in each prompt (B,).
        sizes: placeholders that each video needs (V,), in the order of the prompts. If the batch is ``k``
            copies of each prompt, side by side, those of the prompts alone are enough.

    Returns:
        For each prompt the indices of its videos.

    Raises:
        LayoutError: no such assignment exists.
    """
    total, needed = sum(tokens), sum(sizes)
    copies = total // needed if needed and total % needed == 0 else 0
    if copies == 0 or len(tokens) % copies:
        raise LayoutError(
            f"the prompts hold {total} video placeholder tokens, their videos need {needed}: "
            "build both with the same processor call"
        )
    ends = [0, *accumulate(sizes)]
    owned, begin = [], 0
    for count in tokens[::copies]:
        if begin + count not in ends:
            raise LayoutError(f"a prompt's {count} video placeholder tokens do not make up whole videos")
        owned.append([v for v in range(len(sizes)) if begin <= ends[v] < begin + count])
        begin += count
    return [videos for videos in owned for _ in range(copies)]


def _layout(
    placeholder: Tensor,
    text: Tensor,
    real: Tensor,
    videos: list[int],
    grids: Sequence[Grid],
    cells: Sequence[Tensor],
    device: torch.device,
) -> VideoLayout:
    where = placeholder.nonzero().squeeze(1)
    index, number_of_cell, video, frame, row, column = [], [], [], [], [], []
    offset = first_frame = first_cell = 0
    for number, v in enumerate(videos):
        frames, rows, columns = grids[v]
        every = cells[v].cpu()
        cell = every[every != NO_CELL]
        index.append(where[offset : offset + len(every)][every != NO_CELL])
        number_of_cell.append(cell + first_cell)
        video.append(torch.full_like(cell, number))
        frame.append(cell // (rows * columns) + first_frame)
        row.append(cell // columns % rows)
        column.append(cell % columns)
        offset += len(every)
        first_frame += frames
        first_cell += frames * rows * columns
    empty = torch.zeros(0, dtype=torch.int64)
    after = torch.zeros_like(text)
    after[int(where[-1]) + 1 if len(where) else 0 :] = True

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat([empty, *parts]).to(device, non_blocking=True)

    return VideoLayout(
        index=joined(index),
        cell=joined(number_of_cell),
        video=joined(video),
        frame=joined(frame),
        row=joined(row),
        column=joined(column),
        question=joined([(text & after).nonzero().squeeze(1)]),
        real=joined([real.nonzero().squeeze(1)]),
        tokens_by_frame=torch.cat([empty, *frame]).bincount(minlength=first_frame),
        videos=tuple(videos),
        grids=tuple(grids[v] for v in videos),
    )
