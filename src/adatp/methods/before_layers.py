"""AdaTP's rule for a decoder that can't be cut: each video is pruned by itself, before the first layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adatp.adatp_steps.before_layers import Thresholds, choose_before_layers, kept_tokens
from adatp.layout import VideoLayout
from adatp.methods.grouping import split_by_video, there_by_video
from adatp.methods.selection import split_in_proportion
from adatp.methods.token_plan import Cut


class BeforeLayers:
    """Chooses each video's tokens by itself, so that a video's choice does not depend on other videos.

    Args:
        thresholds: of the rule.
        keep: share of each video's tokens that stays; None: the schedule's number is split between videos in
            proportion to their tokens.
        layout: layout of the prompt.
        relevance: (frames,) relevance of the prompt's frames to the question, or None.
    """

    def __init__(
        self, thresholds: Thresholds, keep: float | None, layout: VideoLayout, relevance: Tensor | None
    ) -> None:
        self.thresholds, self.keep, self.layout, self.relevance = thresholds, keep, layout, relevance
        self.shares: list[int] = []

    def __call__(self, cut: Cut) -> Tensor:
        """Choose the visual tokens that stay, as rows of ``cut.token``."""
        layout, counts = self.layout, tokens_of_videos(self.layout)
        if self.keep is None:
            self.shares = split_in_proportion(cut.keep, counts)
        else:
            self.shares = shares_of_videos(layout, self.keep)
        videos = split_by_video(layout, cut.states)
        there = there_by_video(layout, cut.states.device)
        frames = [grid[0] for grid in layout.grids]
        relevance = None if self.relevance is None else torch.split(self.relevance, frames)
        kept, before = [], 0
        for number, tokens in enumerate(videos):
            chosen = choose_before_layers(
                tokens,
                self.shares[number],
                self.thresholds,
                None if relevance is None else relevance[number],
                None if layout.complete else there[number],
            )
            kept.append(chosen + before)
            before += counts[number]
        return torch.cat(kept)

    def notes(self) -> dict[str, Any]:
        """Number of tokens that each video keeps, and relevance of each frame."""
        relevance = None if self.relevance is None else self.relevance.tolist()
        return {"kept_by_video": list(self.shares), "frame_relevance": relevance, "early": True, "queries": 0}


def tokens_of_videos(layout: VideoLayout) -> list[int]:
    """Number of visual tokens of each video of a prompt."""
    frames = [grid[0] for grid in layout.grids]
    return [int(part.sum()) for part in torch.split(layout.tokens_by_frame, frames)]


def shares_of_videos(layout: VideoLayout, keep: float) -> list[int]:
    """Number of tokens that stay of each video if each keeps the share ``keep``."""
    return [kept_tokens(tokens, keep) for tokens in tokens_of_videos(layout)]
