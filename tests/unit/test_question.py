"""Where the question stands, in prompts of every family's real shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

import chats
from adatp.layout import VideoLayout
from adatp.models import family_of
from adatp.question import ChatRoles, QuestionFinder, learn_roles, roles_of
from families import Gemma3, Glm4v, InternVL, LlavaOnevision, Qwen3VL, Qwen25VL, SmolVLM, VideoLlava

families = pytest.mark.parametrize("family", chats.CHATTY, ids=lambda family: family.name)

FIRST = "What is the man in the red jacket holding when he opens the door?"
SECOND = "Which colour is the ball, at 12:30 or later?"
ANSWER = "A cat jumps on the table."
SYSTEM = "You answer in two words."
FRAMES = 12  # one with two digits among the timestamps
VIDEO = object()


def message(role: str, *parts: Any, images: int = 0) -> dict[str, Any]:
    """A message; a video is several images where the processor knows no videos."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if part is VIDEO:
            content += [{"type": "image"}] * images if images else [{"type": "video"}]
        else:
            content.append({"type": "text", "text": part})
    return {"role": role, "content": content}


def read(
    family: Any, *turns: tuple[Any, ...], generation_prompt: bool = True, batch: int = 1
) -> tuple[Any, list[VideoLayout], Tensor]:
    """The processor, and the layouts and ids of conversations: of this one and of ones with a longer end."""
    processor = chats.processor(family)
    images = FRAMES if getattr(processor, "video_processor", None) is None else 0
    chat = [message(*turn, images=images) for turn in turns]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
    videos = sum(part is VIDEO for turn in turns for part in turn) * batch
    clip = np.random.default_rng(0).integers(0, 255, (FRAMES, 24, 40, 3), dtype=np.uint8)
    if images:
        given: dict[str, Any] = {"images": [list(clip)] * videos}
    else:
        noted = {"total_num_frames": FRAMES, "frames_indices": list(range(FRAMES)), "fps": 0.5}
        metadata = [{**noted, "duration": FRAMES / 0.5}] * videos
        given = {"videos": [clip] * videos, "do_sample_frames": False, "video_metadata": metadata}
    texts = [text + " so" * number for number in range(batch)]
    inputs = processor(text=texts, padding=True, return_tensors="pt", **given)
    ours, config = family_of(family.name), family.config()
    grids = ours.grids(config, inputs, None)
    layouts = ours.layouts(config, inputs, inputs["attention_mask"].bool(), grids)
    return processor, layouts, inputs["input_ids"]


def question(family: Any, *turns: tuple[Any, ...], **options: Any) -> str:
    """What is found, without the whitespace that tokenizers put anywhere."""
    processor, layouts, ids = read(family, *turns, **options)
    finder = QuestionFinder.of(processor, getattr(family_of(family.name), "video_intro", ""))
    assert finder is not None
    found = {said(processor, ids[b], finder.positions(layouts[b], ids[b])) for b in range(len(ids))}
    assert len(found) == 1
    return found.pop()


def said(processor: Any, ids: Tensor, positions: Tensor) -> str:
    return squeezed(processor.tokenizer.decode(ids[positions]))


def squeezed(*texts: str) -> str:
    return "".join("".join(texts).split())


@families
def test_the_question_follows_the_video(family: Any) -> None:
    assert question(family, ("user", VIDEO, FIRST)) == squeezed(FIRST)


@families
def test_the_question_precedes_the_video(family: Any) -> None:
    assert question(family, ("user", FIRST, VIDEO)) == squeezed(FIRST)


@families
def test_the_question_stands_around_the_video(family: Any) -> None:
    found = question(family, ("user", FIRST, VIDEO, SECOND))
    # What stands in front may be a system prompt: Gemma's template makes one text of the two.
    assert found == (squeezed(SECOND) if family is Gemma3 else squeezed(FIRST, SECOND))


@families
def test_a_system_prompt_does_not_count(family: Any) -> None:
    assert question(family, ("system", SYSTEM), ("user", VIDEO, FIRST)) == squeezed(FIRST)


@families
def test_a_system_prompt_does_not_count_before_a_question_in_front(family: Any) -> None:
    found = question(family, ("system", SYSTEM), ("user", FIRST, VIDEO))
    # Gemma's template makes one text of the two.
    assert found == (squeezed(SYSTEM, FIRST) if family is Gemma3 else squeezed(FIRST))


@families
def test_a_chat_sent_again_asks_its_last_question(family: Any) -> None:
    chat = ("user", VIDEO, FIRST), ("assistant", ANSWER), ("user", SECOND)
    assert question(family, *chat) == squeezed(SECOND)
    assert question(family, *chat, generation_prompt=False) == squeezed(SECOND)
    assert question(family, *chat, ("assistant", ANSWER), generation_prompt=False) == squeezed(SECOND)


@families
def test_a_video_that_comes_later(family: Any) -> None:
    chat = ("user", FIRST), ("assistant", ANSWER)
    assert question(family, *chat, ("user", VIDEO, SECOND)) == squeezed(SECOND)
    assert question(family, *chat, ("user", SECOND, VIDEO)) == squeezed(SECOND)
    assert question(family, *chat, ("user", VIDEO)) == squeezed(FIRST)  # the last one in words


@families
def test_two_videos_with_words_between(family: Any) -> None:
    if not family.several_videos:
        pytest.skip("frames are images: all images of a prompt are its one video")
    found = question(family, ("user", VIDEO, FIRST, VIDEO, SECOND))
    assert found == squeezed(FIRST, SECOND)


@families
def test_prompts_of_a_padded_batch(family: Any) -> None:
    assert question(family, ("user", VIDEO, FIRST), batch=3) == squeezed(FIRST)


@pytest.mark.parametrize("family", [Glm4v, Qwen3VL, InternVL, SmolVLM], ids=lambda family: family.name)
def test_without_a_template_timestamps_still_do_not_count(family: Any) -> None:
    processor, (layout,), ids = read(family, ("user", VIDEO, FIRST))
    finder = QuestionFinder(processor.tokenizer, None)
    assert said(processor, ids[0], finder.positions(layout, ids[0])) == squeezed(FIRST)


def test_roles_that_are_learnt() -> None:
    assert learn_roles(chats.processor(Qwen25VL)) == roles("<|im_start|>user", "<|im_end|>")
    assert learn_roles(chats.processor(Qwen25VL)) == learn_roles(chats.processor(LlavaOnevision))
    assert learn_roles(chats.processor(Glm4v)) == roles("<|user|>", "<|assistant|>")
    assert learn_roles(chats.processor(VideoLlava)) == roles("USER:", "ASSISTANT:")
    assert learn_roles(chats.processor(Gemma3)) == roles("<start_of_turn>user", "<end_of_turn>", holds=True)
    found = learn_roles(chats.processor(SmolVLM))
    assert found is not None
    assert set(found.opens) == {"<|im_start|>User:", "<end_of_utterance>User:"}


def roles(opens: str, close: str, *, holds: bool = False) -> ChatRoles:
    return ChatRoles((opens,), close, holds)


def test_a_tokenizer_alone_has_roles_too() -> None:
    """Of templates that take texts alone, as language models' do."""
    tokenizer = chats.processor(Qwen25VL).tokenizer
    assert learn_roles(tokenizer) is None
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert learn_roles(tokenizer) == roles("<|im_start|>user", "<|im_end|>")


def test_roles_are_learnt_once_for_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = chats.processor(Qwen25VL)
    calls: list[Any] = []
    monkeypatch.setattr("adatp.question.learn_roles", lambda each: calls.append(each))
    assert roles_of(processor) is roles_of(processor) is None
    assert len(calls) == 1
    processor.chat_template = chats.TEMPLATES[InternVL]
    roles_of(processor)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "always the same", "{{ messages[0].content[0].text }}"]
)
def test_templates_that_tell_nothing(template: str) -> None:
    processor = chats.processor(Qwen25VL)
    processor.chat_template = template
    assert learn_roles(processor) is None


def test_a_prompt_that_is_not_the_templates() -> None:
    processor, (layout,), ids = read(Qwen25VL, ("user", VIDEO, FIRST))
    finder = QuestionFinder(processor.tokenizer, roles("<|start|>human", "<|stop|>"))
    assert said(processor, ids[0], finder.positions(layout, ids[0])) == squeezed(FIRST)


def test_a_call_that_goes_on_with_a_cached_turn() -> None:
    """What opens the turn was read before; the first words are the user's."""
    found = ChatRoles(("<|user|>",), "<|end|>").turns("what?<|end|><|assistant|>")
    assert found == [(0, 5)]
    assert ChatRoles(("<|user|>",), "<|end|>").turns("what?") == []


def test_roles_without_tokens_of_their_own() -> None:
    """Mistral's and Vicuna's with an end of text: only the answer's end is a token."""
    processor = chats.processor(Qwen25VL)
    processor.chat_template = (
        "{% for m in messages %}{% set said = m.content[0].text %}{% if m.role == 'user' %}"
        "[INST] {{ said }} [/INST]{% else %}{{ said }}<|im_end|>{% endif %}{% endfor %}"
    )
    found = learn_roles(processor)
    assert found == ChatRoles(("[INST]", "<|im_end|>[INST]"), "[/INST]", holds_system=False)
    chat = "[INST]one[/INST]answer<|im_end|>[INST]two[/INST]"
    assert [chat[begin:end] for begin, end in found.turns(chat)] == ["one", "two"]
