"""Kept tokens, rotary positions and first logits are those of the library on Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import checkpoints
import pytest
import torch
from engines import WITHOUT_TIMES, Engine, chat, clip, metadata

from adatp import AdaTP
from adatp.methods import before_layers

RATE = 0.6
KEPT = 1 - RATE
# Where a video is longer than wide, counted in positions, text after it goes on at other positions in
# transformers than in vLLM, pruned or not (`test_serving.py` asks for vLLM's own). Here they agree.
CLIP = clip(frames=4, side=40)
QUESTION = "{video}\nwhat does the cat do ?"


@dataclass
class Reference:
    """What Hugging Face makes of a prompt.

    Attributes:
        chosen: what stays, by video.
        positions: (3, n) of what is read; where Hugging Face counts by itself, (1, n).
        logits: (vocabulary,) of the first token.
        anew: the same where what stays is numbered as if nothing had been dropped.
    """

    chosen: list[list[int]]
    positions: torch.Tensor
    logits: torch.Tensor
    anew: torch.Tensor


def inputs_of(family: str, prompt: str, videos: list[Any]) -> Any:
    processor = checkpoints.FAMILIES[family][1]()
    media: dict[str, Any] = {"videos": list(videos)}
    if family not in WITHOUT_TIMES:
        known = [metadata(len(video)) for video in videos]
        media["video_metadata"] = [{k: v for k, v in one.items() if k != "do_sample_frames"} for one in known]
        media["do_sample_frames"] = False
        media["fps"] = 2.0
    return processor(text=[prompt], return_tensors="pt", **media)


@torch.no_grad()
def reference(
    family: str,
    prompt: str,
    videos: list[Any],
    relevance: str,
    dtype: str = "float32",
    chosen: list[int] | None = None,
) -> Reference:
    """The same on Hugging Face; ``chosen``: of the only video, what stays instead of what is chosen."""
    model, processor = checkpoints.model(family), checkpoints.FAMILIES[family][1]()
    model.to(getattr(torch, dtype))
    inputs = inputs_of(family, prompt, videos).to(model.dtype)
    read: list[dict[str, Any]] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given), with_kwargs=True
    )
    with pytest.MonkeyPatch.context() as patch:
        if chosen is not None:
            patch.setattr(before_layers, "choose_before_layers", lambda *_: torch.tensor(chosen))
        with AdaTP(early="only", keep=KEPT, relevance=relevance)(model, processor) as run:
            logits = model(**inputs).logits[0, -1]
    model(**inputs)
    hook.remove()
    layout = run.layouts[0]
    kept = run.report.kept[0][0]
    pruned, whole = read
    positions = pruned.get("position_ids")
    if positions is None:
        positions = torch.arange(inputs["input_ids"].shape[1])[None]
    positions = positions[-3:, 0] if positions.dim() == 3 else positions
    decoded = model.get_decoder()(inputs_embeds=whole["inputs_embeds"][:, kept]).last_hidden_state[0, -1]
    numbers = torch.isin(layout.index, kept).nonzero().squeeze(1)
    stays = [
        (numbers[layout.video[numbers] == video] - int((layout.video < video).sum())).tolist()
        for video in range(len(layout.grids))
    ]
    return Reference(stays, positions[:, kept], logits, model.get_output_embeddings()(decoded))


by_question = pytest.mark.parametrize("question", [False, True], ids=["question-free", "by question"])


@by_question
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_as_on_hugging_face(family: str, question: bool, engine: Callable[..., Engine]) -> None:
    made = engine(family, video_pruning_rate=RATE, additional_config={"adatp": {"question": question}})
    prompt = chat(family, QUESTION)
    expected = reference(family, prompt, [CLIP], "embedding" if question else "none")
    ids, found, _ = made.answer(prompt, [CLIP])
    assert made.seen.chosen == expected.chosen
    assert len(ids) == expected.positions.shape[1]
    assert torch.equal(made.seen.positions[0][:, : len(ids)], expected.positions)
    assert (found - expected.logits).abs().max() < 1e-4 * expected.logits.abs().max()


@by_question
@pytest.mark.parametrize("family", ["llava_onevision", "internvl"])
def test_the_same_tokens_numbered_anew(family: str, question: bool, engine: Callable[..., Engine]) -> None:
    """Where vLLM counts positions by itself, Hugging Face agrees if what stays is given to it alone."""
    made = engine(family, video_pruning_rate=RATE, additional_config={"adatp": {"question": question}})
    prompt = chat(family, QUESTION)
    expected = reference(family, prompt, [CLIP], "embedding" if question else "none")
    ids, found, _ = made.answer(prompt, [CLIP])
    assert made.seen.chosen == expected.chosen
    assert made.seen.positions[0][: len(ids)].tolist() == list(range(expected.positions.shape[1]))
    assert (found - expected.anew).abs().max() < 1e-4 * expected.anew.abs().max()
    assert (found - expected.logits).abs().max() > 1e-3 * expected.logits.abs().max()  # positions matter


def test_qwen3_5_as_on_hugging_face(engine: Callable[..., Engine]) -> None:
    """In bfloat16, the only type that vLLM takes for it on a CPU.

    From Hugging Face's logits in float32 vLLM's are about as far as Hugging Face's own in bfloat16. Tokens
    are picked one after the other, so rounding also decides which stay: most are those of float32. Logits are
    compared for the tokens that vLLM kept.
    """
    family, dtype = "qwen3_5", "bfloat16"
    made = engine(family, video_pruning_rate=RATE, additional_config={"adatp": {}}, dtype=dtype)
    prompt = chat(family, QUESTION)
    ids, found, _ = made.answer(prompt, [CLIP])
    [kept], [wanted] = made.seen.chosen, reference(family, prompt, [CLIP], "none").chosen
    assert len(kept) == len(wanted)
    assert len({*kept} & {*wanted}) > 0.6 * len(kept)  # by chance: 0.4
    rounded, exact = (reference(family, prompt, [CLIP], "none", each, kept) for each in (dtype, "float32"))
    assert torch.equal(made.seen.positions[0][:, : len(ids)], exact.positions)
    noise = (rounded.logits - exact.logits).abs().max()
    assert (found - exact.logits).abs().max() < 2 * noise
    assert (exact.anew - exact.logits).abs().max() > 3 * noise  # which other positions do not pass
