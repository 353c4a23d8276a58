"""Omni models in a session, with their real processors: sounds beside a video, or between its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adatp import AdaTP, Session
from adatp.methods import Vanilla
from adatp.models import family_of
from adatp.session import PromptError
from families import VIDEO, LlavaOnevision, build
from more_families import AUDIO, Qwen3OmniMoeThinker, Qwen25OmniThinker, of_transformers
from more_processors import PROCESSORS, SIZE
from processors import PROCESSORS as FIRST_PROCESSORS
from prompts import frames
from suite import VERSION

THINKERS = {
    Qwen25OmniThinker: "Qwen2_5Omni",
    Qwen3OmniMoeThinker: "Qwen3OmniMoe",
}
pytestmark = pytest.mark.skipif(VERSION < (5, 23), reason="older code of omni models differs: adatp says so")
thinkers = pytest.mark.parametrize("family", THINKERS, ids=lambda family: family.name)

CLIP = frames(8, 16, 16)
DEBIASED = AdaTP(flops=0.75)
FEW = {"max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [AUDIO, VIDEO, 90, 94, 95]}


def sound(seed: int = 0, seconds: float = 0.5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def heard(question: str, *sounds: NDArray[np.float32], before: bool = False) -> list[dict[str, Any]]:
    """A chat about the clip and sounds."""
    audio = [{"type": "audio", "audio": each} for each in sounds]
    video = [{"type": "video", "video": CLIP}]
    text = [{"type": "text", "text": question}]
    return [{"role": "user", "content": (audio + video if before else video + audio) + text}]


def session_of(family: Any) -> Session:
    return Session.of(build(family), PROCESSORS[family]())


def keeps_sounds(run: Any, prompt: Any, row: int = 0) -> bool:
    """Every layer kept all of the prompt's audio tokens, and some dropped visual ones."""
    report, pad = run.report, run.layout.index[0] - (prompt.inputs["input_ids"][0] == VIDEO).nonzero()[0]
    places = (prompt.inputs["input_ids"][0] == AUDIO).nonzero().squeeze(1) + pad
    assert len(places)
    assert report.visual_tokens[-1][row] < report.prompt_visual_tokens[row]
    return all(bool(torch.isin(places, layer[row]).all()) for layer in report.kept)


@thinkers
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_sound_beside_a_video_is_kept(family: Any, before: bool) -> None:
    session = session_of(family)
    prompt = session.prepare(None, heard("what is the red ball ?", sound(), before=before))
    assert (prompt.inputs["input_ids"] == AUDIO).sum() > 4
    pruned = session.answer(prompt, DEBIASED, **FEW)
    assert keeps_sounds(pruned, prompt)
    vanilla = session.answer(prompt, Vanilla(), **FEW)
    expected = session.model.generate(**prompt.inputs, do_sample=False, **FEW)
    assert list(vanilla.token_ids) == expected[0, prompt.inputs["input_ids"].shape[1] :].tolist()


@thinkers
def test_several_questions_about_one_video_and_its_sounds(family: Any) -> None:
    """In a batch, padded, and one with another sound: each answer is that of its single run."""
    session = session_of(family)
    chats = [
        heard("what is the red ball ?", sound()),
        heard("who runs ?", sound()),
        heard("which dog jumps first ?", sound(1)),
    ]
    prompts = [session.prepare(None, chat) for chat in chats]
    together = session.answer_batch(prompts, DEBIASED, **FEW)
    assert together[0].report is together[2].report
    for row, (prompt, answer) in enumerate(zip(prompts, together, strict=True)):
        alone = session.answer(prompt, DEBIASED, **FEW)
        assert answer.token_ids == alone.token_ids
        assert answer.flops_ratio == alone.flops_ratio
        assert keeps_sounds(answer, prompt, row)


@thinkers
def test_prompts_with_and_without_a_sound_are_answered_apart(family: Any) -> None:
    session = session_of(family)
    prompts = [
        session.prepare(CLIP, "what is the red ball ?"),
        session.prepare(None, heard("who runs ?", sound())),
    ]
    for prompt, answer in zip(prompts, session.answer_batch(prompts, DEBIASED, **FEW), strict=True):
        assert answer.token_ids == session.answer(prompt, DEBIASED, **FEW).token_ids


@thinkers
@pytest.mark.skipif(
    VERSION < (5, 24), reason="before, the processor itself has to read the sound from a file"
)
def test_a_sound_between_the_tokens_of_its_video_is_kept(family: Any) -> None:
    """As the processor interleaves them, and the model places them in time."""
    model, processor = build(family), PROCESSORS[family]()
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "who runs ?"}]}]
    inputs = processor(
        text=[processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)],
        videos=[CLIP],
        audio=[sound(seconds=3.5)],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
        do_sample_frames=False,
        return_tensors="pt",
    )
    ids = inputs["input_ids"][0]
    places, visual = ((ids == token).nonzero().squeeze(1) for token in (AUDIO, VIDEO))
    assert visual[0] < places[0] < visual[-1]  # it is interleaved
    given = {**inputs, **FEW, "do_sample": False, "use_audio_in_video": True}
    expected = model.generate(**given)
    with Vanilla()(model):
        assert torch.equal(model.generate(**given), expected)
    with DEBIASED(model) as run:
        model.generate(**given)
    assert torch.equal(run.layouts[0].index, visual)
    assert run.report.visual_tokens[-1][0] < len(visual)
    assert all(torch.isin(places, layer[0]).all() for layer in run.report.kept)


@thinkers
def test_of_a_checkpoint_the_thinker_is_loaded(family: Any, tmp_path: Path) -> None:
    """As they are published: with a talker in the config, under the omni model's own type."""
    name = THINKERS[family]
    thinker = build(family)
    config = of_transformers(f"{name}Config")(
        thinker_config=thinker.config.to_dict(), enable_audio_output=False
    )
    omni = of_transformers(f"{name}ForConditionalGeneration")(config)
    omni.thinker.load_state_dict(thinker.state_dict())
    omni.save_pretrained(tmp_path)
    PROCESSORS[family]().save_pretrained(tmp_path)
    session = Session(tmp_path)
    session.processor.videos_kwargs = {"size": SIZE}
    assert session.config.model_type == family.name
    assert type(family_of(config.model_type)) is type(family_of(family.name))
    assert all(
        torch.equal(value, thinker.state_dict()[key]) for key, value in session.model.state_dict().items()
    )
    expected = session_of(family).ask(CLIP, "who runs ?", DEBIASED, **FEW)
    assert session.ask(CLIP, "who runs ?", DEBIASED, **FEW).token_ids == expected.token_ids


def test_what_is_no_sound_is_refused() -> None:
    session = session_of(Qwen25OmniThinker)
    for wrong in (np.zeros((2, 9), np.float32), np.zeros(9, np.int16), np.zeros(0), np.array([np.nan]), None):
        with pytest.raises(PromptError, match="a sound is finite floats of shape"):
            session.prepare(None, heard("who runs ?", wrong))  # type: ignore[arg-type]
    deaf = Session.of(build(LlavaOnevision), FIRST_PROCESSORS[LlavaOnevision]())
    with pytest.raises(PromptError, match="this model's processor takes none"):
        deaf.prepare(None, heard("who runs ?", sound()))


def test_text_that_would_be_read_as_a_sound_is_refused() -> None:
    with pytest.raises(PromptError, match="the question contains the token"):
        session_of(Qwen25OmniThinker).prepare(CLIP, "who runs <|AUDIO|> ?")
