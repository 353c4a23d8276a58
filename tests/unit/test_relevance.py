"""What relevance is measured against: questions in prompts, questions given, and under autocast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chats
from adatp import AdaTP
from adatp.adatp_steps.novelty import representatives
from adatp.encoders import EncoderError
from adatp.errors import AdaTPError
from adatp.methods import METHODS
from adatp.relevance import PromptRelevance, QuestionError
from families import ENGINE, Glm4v, LlavaOnevision, Prompt, Qwen3VL, Qwen25VL, VideoLlama3, batch, build

FIRST, SECOND, ANSWER = "What is the red ball?", "Who opens the yellow door?", "Nobody moves."
FRAMES = 12
EMBEDDING = AdaTP(flops=0.6, relevance="embedding", tau_s=1.0)

real = pytest.mark.parametrize(
    "family", [LlavaOnevision, Qwen25VL, Qwen3VL, Glm4v, VideoLlama3], ids=lambda family: family.name
)


def model_of(family: Any) -> Any:
    """A small one that has an embedding for every token of the chats."""

    class Wordy(family):
        @staticmethod
        def config() -> Any:
            config = family.config()
            config.text_config.vocab_size = chats.VOCABULARY
            return config

    return build(Wordy)


def inputs_of(processor: Any, *turns: tuple[Any, ...], seed: int = 0) -> dict[str, Tensor]:
    """Of a conversation that begins with a video."""
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    chat[0]["content"].insert(0, {"type": "video"})
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    clip = np.random.default_rng(seed).integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)
    noted = {"total_num_frames": FRAMES, "frames_indices": list(range(FRAMES)), "fps": 0.5, "duration": 24.0}
    inputs = processor(
        text=[text], videos=[clip], do_sample_frames=False, video_metadata=[noted], return_tensors="pt"
    )
    return dict(inputs)


def frame_relevance(model: Any, processor: Any, inputs: dict[str, Tensor], **options: Any) -> list[float]:
    with EMBEDDING(model, processor, **options) as run, torch.no_grad():
        model(**inputs)
    found: list[float] = run.report.notes[0]["frame_relevance"]
    return found


@real
def test_the_prompts_question_counts_as_if_it_were_given(family: Any) -> None:
    model, processor = model_of(family), chats.processor(family)
    inputs = inputs_of(processor, ("user", FIRST))
    found = frame_relevance(model, processor, inputs)
    assert found == pytest.approx(frame_relevance(model, processor, inputs, question=FIRST), abs=1e-6)
    assert found != pytest.approx(frame_relevance(model, processor, inputs, question=SECOND), abs=1e-3)


@real
def test_a_chat_sent_again_is_measured_by_its_last_question(family: Any) -> None:
    model, processor = model_of(family), chats.processor(family)
    inputs = inputs_of(processor, ("user", FIRST), ("assistant", ANSWER), ("user", SECOND))
    found = frame_relevance(model, processor, inputs)
    assert found == pytest.approx(frame_relevance(model, processor, inputs, question=SECOND), abs=1e-6)
    assert found != pytest.approx(frame_relevance(model, processor, inputs, question=FIRST), abs=1e-3)


def test_a_given_question_needs_a_tokenizer_where_its_tokens_count() -> None:
    model = build(LlavaOnevision)
    for relevance in ("auto", "embedding"):
        with pytest.raises(EncoderError, match=r"^question= has to be split into tokens: pass the processor"):
            AdaTP(relevance=relevance)(model, question="what?").__enter__()
    with AdaTP(relevance="none", flops=0.6)(model, question="what?") as run, torch.no_grad():
        model(**batch(LlavaOnevision, [Prompt()]))
    assert run.report.flops_ratio < 0.6


@pytest.mark.parametrize(
    ("questions", "prompts", "needed"),
    [
        ([], [Prompt()], 1),
        ([FIRST, SECOND], [Prompt()], 1),
        ([FIRST, SECOND], [Prompt(seed=seed) for seed in range(3)], 3),
        ([FIRST, SECOND], [Prompt(seed=seed) for seed in range(4)], 4),
        ([FIRST], [Prompt(seed=seed) for seed in range(2)], 2),
        ([FIRST] * 5, [Prompt(seed=seed) for seed in range(2)], 2),
    ],
)
def test_as_many_questions_as_prompts(questions: list[str], prompts: list[Prompt], needed: int) -> None:
    model, processor = model_of(LlavaOnevision), chats.processor(LlavaOnevision)
    noted = (
        rf"question= is a list of {len(questions)}, and there are {needed} prompts: give a list of {needed}"
    )
    for method in (EMBEDDING, AdaTP(flops=0.6, relevance="none")):
        with (
            method(model, processor, question=questions),
            pytest.raises(QuestionError, match=noted) as refused,
        ):
            model.generate(**batch(LlavaOnevision, prompts), max_new_tokens=2)
        assert isinstance(refused.value, AdaTPError)
        assert isinstance(refused.value, ValueError)
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "question",
    ["", " \n", [FIRST, ""], [FIRST, None], 5, b"what?", {FIRST: 1}, {FIRST}, iter([FIRST])],
    ids=["empty", "blank", "one empty", "one lacking", "number", "bytes", "mapping", "set", "iterator"],
)
def test_questions_that_are_no_words(question: Any) -> None:
    model = build(LlavaOnevision)
    noted = "^question= is a text, or a list of texts, one for each prompt; none may be empty$"
    for method in (EMBEDDING, AdaTP(flops=0.6, relevance="none")):
        with pytest.raises(QuestionError, match=noted):
            method(model, chats.processor(LlavaOnevision), question=question).__enter__()
        with method(model):  # nothing stays in place
            pass


def test_the_same_words_about_two_videos_are_two_prompts() -> None:
    """And not copies, which the ids alone would say."""
    model, processor = model_of(LlavaOnevision), chats.processor(LlavaOnevision)
    inputs = batch(LlavaOnevision, [Prompt(seed=1)] * 4)
    inputs["pixel_values_videos"] = batch(LlavaOnevision, [Prompt(seed=seed) for seed in range(4)])[
        "pixel_values_videos"
    ]
    with (
        EMBEDDING(model, processor, question=[FIRST, SECOND]),
        pytest.raises(QuestionError, match="there are 4 prompts"),
        torch.no_grad(),
    ):
        model(**inputs)


@pytest.mark.parametrize("family", ENGINE, ids=lambda family: family.name)
@pytest.mark.parametrize("copies", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_copies_of_a_prompt_share_its_question(family: Any, copies: dict[str, Any]) -> None:
    if "beams" in family.lacks():
        pytest.skip(family.unfound)
    model, processor = model_of(family), chats.processor(family)
    inputs = batch(family, [Prompt(seed=1), Prompt(seed=2)])
    with EMBEDDING(model, processor, question=[FIRST, SECOND]) as run:
        model.generate(**inputs, max_new_tokens=2, **copies)
    noted = [note["frame_relevance"] for note in run.report.notes]
    assert len(noted) == 4
    with EMBEDDING(model, processor, question=[FIRST, SECOND]) as alone, torch.no_grad():
        model(**inputs)
    first, second = (note["frame_relevance"] for note in alone.report.notes)
    for found, expected in zip(noted, [first, first, second, second], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)


def test_one_text_is_for_all_prompts() -> None:
    model, processor = model_of(LlavaOnevision), chats.processor(LlavaOnevision)
    inputs = batch(LlavaOnevision, [Prompt(seed=seed) for seed in range(3)])
    noted = []
    for question in (FIRST, [FIRST] * 3):
        with EMBEDDING(model, processor, question=question) as run, torch.no_grad():
            model(**inputs)
        noted.append(run.report.notes)
    assert noted[0] == noted[1]


# --- autocast ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENGINE, ids=lambda family: family.name)
@pytest.mark.parametrize("early", ["on", "off"])
def test_autocast_changes_no_relevance(family: Any, early: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the decoder reads, in the types that autocast gave it, relevance is as exact as without."""
    model, inputs, noted = build(family), batch(family, [Prompt(seed=1), Prompt(seed=2)]), []
    measure = PromptRelevance.__call__

    def record(self: PromptRelevance, sample: int) -> Tensor | None:
        found = measure(self, sample)
        noted.append((self, sample, found))
        return found

    monkeypatch.setattr(PromptRelevance, "__call__", record)
    method = AdaTP(flops=0.6, relevance="embedding", early=early, tau_s=1.0)
    with method(model) as run, torch.autocast("cpu", dtype=torch.bfloat16):
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert run.report.flops_ratio <= 0.6
    assert len(noted) == 2
    for relevance, sample, found in noted:
        expected = measure(relevance, sample)
        assert found is not None
        assert expected is not None
        assert torch.equal(found, expected)


def test_autocast_rounds_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, observed = build(LlavaOnevision), []

    def look(*arguments: Any) -> Tensor:
        observed.append(torch.is_autocast_enabled("cpu"))
        return representatives(*arguments)

    monkeypatch.setattr("adatp.methods.debiasing.representatives", look)
    with AdaTP(flops=0.5, early="on")(model), torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        model(**batch(LlavaOnevision, [Prompt()]))
        assert torch.is_autocast_enabled("cpu")
    assert observed
    assert not any(observed)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_under_autocast(name: str) -> None:
    model, kind = build(LlavaOnevision), METHODS[name]
    inputs = batch(LlavaOnevision, [Prompt(seed=1), Prompt(seed=2, question=9)])
    method = kind() if name == "vanilla" else kind(flops=0.6)
    with method(model) as run, torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3
    assert run.report.flops_ratio <= (1 if name == "vanilla" else 0.6)
