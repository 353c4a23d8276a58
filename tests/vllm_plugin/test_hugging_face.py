"""Kept tokens, rotary positions and first logits are those of the library on Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import checkpoints
import pytest
import torch
from engines import Engine, chat, clip, metadata

from adatp import AdaTP

RATE = 0.6
KEPT = 1 - RATE
# Where a video is longer than wide, counted in positions, text after it goes on at other positions in
# transformers than in vLLM, pruned or not (`test_serving.py` asks for vLLM's own). Here they agree.
CLIP = clip(frames=4, side=40)
QUESTION = "{video}\nwhat does the cat do ?"


def reference(
    family: str, prompt: str, videos: list[Any], relevance: str, images: list[Any] = ()
) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
    """Kept tokens by video, positions (3, n) of what is read, logits (vocabulary,) of the first token."""
    model, processor = checkpoints.model(family), checkpoints.FAMILIES[family][1]()
    media: dict[str, Any] = {"videos": list(videos)} if videos else {}
    if videos and family != "llava_onevision":
        known = [metadata(len(video)) for video in videos]
        media["video_metadata"] = [{k: v for k, v in one.items() if k != "do_sample_frames"} for one in known]
        media["do_sample_frames"] = False
        media["fps"] = 2.0
    if len(images):
        media["images"] = list(images)
    inputs = processor(text=[prompt], return_tensors="pt", **media)
    method = AdaTP(early="only", keep=KEPT, relevance=relevance)
    positions: list[torch.Tensor] = []

    def read(_: Any, args: Any, kwargs: Any) -> None:
        positions.append(kwargs["position_ids"])

    text = model.get_decoder()
    hook = text.register_forward_pre_hook(read, with_kwargs=True)
    with method(model, processor) as run, torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    hook.remove()
    layout = run.layouts[0]
    kept = run.report.kept[0][0]
    numbers = [torch.isin(layout.index, kept).nonzero().squeeze(1)]
    by_video = [
        (numbers[0][layout.video[numbers[0]] == video] - int((layout.video < video).sum())).tolist()
        for video in range(len(layout.grids))
    ]
    return by_video, positions[0][-3:, 0][:, kept], logits


@pytest.mark.parametrize("question", [False, True], ids=["question-free", "by question"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_as_on_hugging_face(family: str, question: bool, engine: Callable[..., Engine]) -> None:
    made = engine(family, video_pruning_rate=RATE, additional_config={"adatp": {"question": question}})
    prompt = chat(family, QUESTION)
    kept, positions, logits = reference(family, prompt, [CLIP], "embedding" if question else "none")
    ids, found, _ = made.answer(prompt, [CLIP])
    assert made.seen.chosen == kept
    assert len(ids) == positions.shape[1]
    assert torch.equal(made.seen.positions[0][:, : len(ids)], positions)
    assert (found - logits).abs().max() < 1e-4 * logits.abs().max()
