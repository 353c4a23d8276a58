"""The session: loading, prompts of every kind, answers one by one, in batches and piece by piece."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, GenerationConfig, TextIteratorStreamer

import adatp
from adatp import AdaTP, AdaTPError, BudgetError, LoadError, PromptError, Session, UnsupportedModelError
from adatp.methods import METHODS, DyCoke, FastV, GridError, Vanilla
from adatp.pruning import PruningError
from adatp.session import Stream, loading
from adatp.session.answer import until_end
from adatp.session.media import sound_of
from adatp.tiny import CHECKPOINT, CLIP, QUESTION, TinyProcessor, load
from adatp.video import VideoError, read_video
from families import FAMILIES, Gemma3, LlavaOnevision, Qwen25VL, VideoLlama3

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
QUESTIONS = ("what is the cat ?", "who runs first in the red ball ?", "does the blue dog do ?")


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture(scope="module")
def of_hub(hub: Path) -> Any:
    """A session of each family's random model, made once."""
    made: dict[str, Session] = {}

    def get(family: Any) -> Session:
        if family.name not in made:
            made[family.name] = Session(hub / family.name, device="cpu")
        return made[family.name]

    return get


def noise(frames: int, seed: int = 0, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


# Loading.


def test_three_lines_answer_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    held = adatp.Session()
    assert held.embedded
    assert held.ask(CLIP, QUESTION).text == "yellow"


def test_weights_are_loaded_once_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *given: (loaded.append(given), real(*given))[1])
    held = Session(CHECKPOINT, device="cpu", dtype=torch.float64)
    prompt = held.prepare(CLIP, QUESTION, frames=4)
    held.check(prompt, AdaTP(), max_new_tokens=4)
    assert not loaded
    held.answer(prompt, max_new_tokens=2)
    held.ask(CLIP, QUESTION, frames=4, max_new_tokens=2)
    assert [given[:3] for given in loaded] == [(str(CHECKPOINT), "cpu", "float64")]
    assert held.model.dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "nothing/at/all"}, "no such model folder"),
        ({"source": ""}, "the model's name is empty"),
        ({"source": str(CLIP)}, "a file, not a model folder"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"dtype": "float1"}, "no dtype 'float1'"),
        ({"dtype": "nn"}, "no dtype 'nn'"),
    ],
)
def test_what_can_not_be_loaded_is_refused_at_once(given: dict[str, str], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        Session(**given)  # type: ignore[arg-type]


def test_unsupported_and_broken_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UnsupportedModelError, match="'qwen2' is not supported"):
        Session(tmp_path)
    broken = shutil.copytree(CHECKPOINT, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match=r"tokenizer\.json is broken"):
        Session(broken)


def test_a_model_that_is_loaded_already_is_used(session: Session) -> None:
    model, processor = load()
    mine = Session.of(model, processor)
    assert mine.model is model
    assert mine.processor is processor
    assert mine.device == "cpu"
    prompt = mine.prepare(CLIP, QUESTION, frames=8)
    assert mine.answer(prompt).text == session.answer(prompt).text


def test_auto_processor_finds_the_embedded_one_and_takes_it_for_no_other(hub: Path) -> None:
    assert type(AutoProcessor.from_pretrained(CHECKPOINT)) is TinyProcessor
    for family in FAMILIES:
        found = type(AutoProcessor.from_pretrained(hub / family.name))
        assert found.__module__.startswith("transformers."), family.name
    name = type(AutoProcessor.from_pretrained(hub / LlavaOnevision.name)).__name__
    assert name == "LlavaOnevisionProcessor"


def test_without_torchvision_and_pillow_the_embedded_model_answers_and_others_say_why(hub: Path) -> None:
    """In a process of its own, where importing either fails."""
    program = f"""
import sys
import importlib.util

class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torchvision", "PIL"):
            raise ModuleNotFoundError(name, name=name)

found = importlib.util.find_spec
lacking = lambda name, *more: None if name.split(".")[0] in ("torchvision", "PIL") else found(name, *more)
importlib.util.find_spec = lacking
sys.meta_path.insert(0, Missing())
from adatp import LoadError, Session
from adatp.tiny import CLIP, QUESTION
print(Session().ask(CLIP, QUESTION, frames=16).text)
for name in {[Qwen25VL.name, Gemma3.name]!r}:
    try:
        Session({str(hub)!r} + "/" + name)
    except LoadError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:1] == ["yellow"], done.stderr
    for line in lines[1:]:
        assert line.endswith('its video processor needs torchvision: pip install "adatp[hub]"')
    assert len(lines) == 3


# Prompts.


def test_frames_are_taken_in_every_form(session: Session) -> None:
    video = read_video(CLIP, 6)
    given: list[Any] = [video.frames, torch.from_numpy(video.frames), list(video.frames), [video.frames]]
    first = session.prepare(video, QUESTION)
    assert first.question == QUESTION
    assert first.videos == (video,)
    for each in given:
        prompt = session.prepare(each, QUESTION)
        assert prompt.inputs.keys() == first.inputs.keys()
        assert all(torch.equal(prompt.inputs[name], value) for name, value in first.inputs.items())
        assert (prompt.videos[0].duration, prompt.videos[0].fps) == (6, 1)
    file = session.prepare(str(CLIP), QUESTION, frames=6)
    assert torch.equal(file.inputs["pixel_values_videos"], first.inputs["pixel_values_videos"])
    assert file.milliseconds.keys() == {"video", "preprocess"}


@pytest.mark.parametrize(
    ("videos", "question", "said"),
    [
        (CLIP, " ", "the question is empty"),
        (CLIP, "what is <video> ?", "the question contains the token"),
        (None, "what ?", "no video in the prompt"),
        ([], "what ?", "no video in the prompt"),
        (np.zeros((4, 8, 8), np.uint8), "what ?", r"uint8 of shape \(F, H, W, 3\), not uint8"),
        (np.zeros((4, 8, 8, 3)), "what ?", "not float64"),
        (np.zeros((0, 8, 8, 3), np.uint8), "what ?", "of shape"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "what ?", "don't make a video"),
        ([noise(3), noise(4)], "what ?", "the processor refuses .*equally many frames"),
        (CLIP, [], "a chat ends with a message of the user"),
        (CLIP, [{"role": "assistant", "content": "red"}], "a chat ends with a message of the user"),
        (CLIP, None, "a question is a text, or a chat"),
        (5, "what ?", "a video is a file, a folder, an address or frames, not 5"),
        (CLIP, [None], "has a role and a content"),
        (CLIP, [{"role": "user"}], "has a role and a content"),
        (CLIP, [{"role": "bot", "content": "what ?"}], "role is one of system, .*, not 'bot'"),
        (CLIP, [{"role": "user", "content": 5}], "content is a text, or a list of parts"),
        (CLIP, [{"role": "user", "content": ["what ?"]}], "content is a text, or a list of parts"),
        (CLIP, [{"role": "user", "content": [{"type": "smell"}]}], "content of type 'smell'"),
        (CLIP, [{"role": "user", "content": [{"type": "text"}]}], "has its text under 'text'"),
        (
            [CLIP, CLIP],
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what ?"}]}],
            "places for 1 videos, but 2 were given",
        ),
        (
            CLIP,
            [{"role": "system", "content": "<video>"}, {"role": "user", "content": "what ?"}],
            "the chat contains the token",
        ),
    ],
)
def test_what_makes_no_prompt_is_refused(session: Session, videos: Any, question: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        session.prepare(videos, question)


def test_tensors_that_numpy_does_not_know(session: Session) -> None:
    for odd, kind in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        frames = torch.zeros(2, 8, 8, 3, dtype=odd, requires_grad=True)
        with pytest.raises(PromptError, match=f"not {kind} of shape"):
            session.prepare(frames, "what ?")
    assert sound_of(torch.ones(3, dtype=torch.bfloat16, requires_grad=True)).tolist() == [1, 1, 1]


def test_files_that_are_no_media_are_refused(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(VideoError, match="not a video"):
        session.prepare(tmp_path / "x.mp4", "what ?")
    with pytest.raises(PromptError, match="can't be read as an image"):
        session.prepare(CLIP, "what ?", images=[tmp_path / "x.mp4"])
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for odd in (tmp_path / "x.png", "x\0.png"):  # pixels beyond pillow's limit
        with pytest.raises(PromptError, match="can't be read as an image"):
            session.prepare(CLIP, "what ?", images=[odd])
    for images in ([noise(1)[0]], noise(1)[0]):
        with pytest.raises(PromptError, match="only video and text are known"):
            session.prepare(CLIP, "what ?", images=images)
    with pytest.raises(PromptError, match="x\\.mp4: can't be read as an image"):
        session.prepare(CLIP, "what ?", images=str(tmp_path / "x.mp4"))


@pytest.mark.parametrize("frames", ["16", 1.5, math.nan, None, True, 0])
def test_a_number_of_frames_is_whole(session: Session, frames: Any) -> None:
    with pytest.raises(VideoError, match="ask for a whole number, at least 1"):
        session.prepare(CLIP, "what ?", frames=frames)


def test_a_limit_is_a_number() -> None:
    with pytest.raises(VideoError, match="limits nothing"):
        read_video(CLIP, 4, most_seconds=math.nan)


def test_a_prompt_is_checked_without_weights(
    session: Session, of_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("weights were loaded"))
    held = Session(device="cpu")
    prompt = held.prepare(CLIP, QUESTION, frames=4)
    with pytest.raises(BudgetError, match="out of reach"):
        held.answer(prompt, AdaTP(flops=0.001), strict=True)
    with pytest.raises(PromptError, match="ask for fewer frames"):
        held.answer(prompt, max_new_tokens=4060)
    with pytest.raises(PromptError, match="ask for a shorter answer"):
        held.answer(prompt, max_new_tokens=4096)
    still = of_hub(VideoLlama3).prepare(np.repeat(noise(1), 4, 0), QUESTION)
    with pytest.raises(GridError, match="dycoke needs every token"):
        of_hub(VideoLlama3).check(still, DyCoke(flops=0.9))
    complete = of_hub(VideoLlama3).prepare(np.repeat(noise(1), 4, 0), QUESTION, every_token=True)
    of_hub(VideoLlama3).check(complete, DyCoke(flops=0.9))


@families
def test_a_chat_with_its_media_is_the_prompt_of_the_question(of_hub: Any, family: Any) -> None:
    held = of_hub(family)
    content = [{"type": "video", "video": noise(4)}, {"type": "text", "text": QUESTIONS[0]}]
    prompts = [
        held.prepare(noise(4), QUESTIONS[0]),
        held.prepare(None, [{"role": "user", "content": content}]),
        held.prepare(noise(4), [{"role": "user", "content": QUESTIONS[0]}]),
        held.prepare(noise(4), [{"role": "user", "content": [{"type": "video"}, content[1]]}]),
    ]
    first, *others = prompts
    for prompt in others:
        assert (prompt.text, prompt.question) == (first.text, first.question)
        assert prompt.inputs.keys() == first.inputs.keys()
        assert all(torch.equal(prompt.inputs[name], value) for name, value in first.inputs.items())


@families
def test_a_chat_with_an_earlier_answer_goes_on(of_hub: Any, family: Any) -> None:
    held = of_hub(family)
    chat = [
        {
            "role": "user",
            "content": [{"type": "video", "video": noise(4)}, {"type": "text", "text": "who ?"}],
        },
        {"role": "assistant", "content": "the cat"},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    prompt = held.prepare(None, chat)
    assert prompt.question == QUESTIONS[1]
    assert prompt.text.index("who ?") < prompt.text.index("the cat") < prompt.text.index(QUESTIONS[1])
    alone = held.prepare(noise(4), QUESTIONS[1])
    assert prompt.inputs["input_ids"].shape[1] > alone.inputs["input_ids"].shape[1]
    answer = held.chat(chat, AdaTP(flops=0.8), max_new_tokens=3)
    assert answer.token_ids == held.answer(prompt, AdaTP(flops=0.8), max_new_tokens=3).token_ids
    assert answer.report.flops_ratio <= 0.8


def test_the_question_of_a_chat_is_what_relevance_is_measured_by(session: Session) -> None:
    """The same last question about the same clip: the same relevance of its frames."""
    chat = [
        {"role": "user", "content": "what is the first thing ?"},
        {"role": "assistant", "content": "moon"},
        {"role": "user", "content": QUESTION},
    ]
    in_chat, alone = (session.ask(CLIP, each, frames=8) for each in (chat, QUESTION))
    first, second = (answer.report.notes[0]["frame_relevance"] for answer in (in_chat, alone))
    assert in_chat.report.relevance == "siglip"
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    "family", [each for each in FAMILIES if each.several_videos], ids=lambda family: family.name
)
def test_several_videos_stand_in_one_prompt(of_hub: Any, family: Any) -> None:
    held = of_hub(family)
    prompt = held.prepare([noise(4), noise(4, 1)], QUESTIONS[0])
    assert len(prompt.videos) == 2
    answer = held.answer(prompt, AdaTP(flops=0.8), max_new_tokens=3)
    assert len(answer.layout.grids) == 2
    ids = held.model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False)
    complete = held.answer(prompt, Vanilla(), max_new_tokens=3)
    assert complete.token_ids == tuple(ids[0, prompt.inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize(
    "family", [each for each in FAMILIES if each.images_beside], ids=lambda family: family.name
)
def test_images_beside_a_video(of_hub: Any, family: Any, tmp_path: Path) -> None:
    held, image = of_hub(family), noise(1, 5, 16)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    prompts = [
        held.prepare(noise(4), QUESTIONS[0], images=[given])
        for given in (image, torch.from_numpy(image), tmp_path / "image.png", Image.fromarray(image))
    ]
    first = prompts[0]
    for prompt in prompts[1:]:
        assert all(torch.equal(prompt.inputs[name], value) for name, value in first.inputs.items())
    answer = held.answer(first, AdaTP(flops=0.8), max_new_tokens=3)
    alone = held.answer(held.prepare(noise(4), QUESTIONS[0]), AdaTP(flops=0.8), max_new_tokens=3)
    assert answer.report.prompt_visual_tokens == alone.report.prompt_visual_tokens
    assert answer.report.prompt_tokens[0] > alone.report.prompt_tokens[0]
    assert answer.report.visual_tokens[-1][0] < answer.report.prompt_visual_tokens[0]


# Answers.


@families
def test_rows_of_a_batch_are_their_single_answers(of_hub: Any, family: Any) -> None:
    held, method = of_hub(family), FastV(flops=0.8)
    prompts = [held.prepare(noise(4, seed), each) for seed, each in enumerate(QUESTIONS)]
    lengths = [prompt.inputs["input_ids"].shape[1] for prompt in prompts]
    assert len(set(lengths)) > 1
    together = held.answer_batch(prompts, method, max_new_tokens=4)
    assert [answer.row for answer in together] == [0, 1, 2]
    for prompt, length, answer in zip(prompts, lengths, together, strict=True):
        alone = held.answer(prompt, method, max_new_tokens=4)
        assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
        pads = max(lengths) - length
        for kept, [single] in zip(answer.report.kept, alone.report.kept, strict=True):
            assert torch.equal(kept[answer.row] - pads, single)
        assert torch.equal(answer.layout.index - pads, alone.layout.index)
    assert answer.report is together[0].report


def test_what_fits_no_batch_is_answered_in_several(session: Session) -> None:
    prompts = [
        session.prepare(CLIP, QUESTION, frames=16),
        session.prepare(CLIP, "where is the star ?", frames=8),
        session.prepare(CLIP, "what is the last thing ?", frames=16),
    ]
    answers = session.answer_batch(prompts)
    assert [answer.row for answer in answers] == [0, 0, 1]
    assert answers[0].report is answers[2].report is not answers[1].report
    assert [each.text for each in answers] == [session.answer(prompt).text for prompt in prompts]
    assert session.answer_batch([]) == []


def test_a_row_ends_where_its_turn_does(session: Session) -> None:
    """In a batch, padding follows the turn's end."""
    assert until_end([5, 3, 0, 0], 3) == [5, 3]
    assert until_end([5, 4, 3], [3, 4]) == [5, 4]
    assert until_end([5, 6], None) == [5, 6]
    first = session.prepare(CLIP, QUESTION, frames=8)
    answer, other = session.answer_batch([first, session.prepare(CLIP, "why ?", frames=8)], max_new_tokens=6)
    end = session.config.text_config.eos_token_id
    for each in (answer, other):
        assert end not in each.token_ids[:-1]
    assert answer.new_tokens == len(answer.token_ids) == 2
    assert set(answer.to_dict()) == {"answer", "new_tokens", "generate_milliseconds", "report"}


@families
def test_a_stream_is_the_answer_in_pieces(of_hub: Any, family: Any) -> None:
    held, method = of_hub(family), AdaTP(flops=0.8)
    prompt = held.prepare(noise(4), QUESTIONS[0])
    answer = held.answer(prompt, method, max_new_tokens=12)
    stream = held.stream(prompt, method, max_new_tokens=12)
    pieces = list(stream)
    assert "".join(pieces) == answer.text
    assert all(pieces)
    assert stream.answer.token_ids == answer.token_ids
    assert stream.answer.report.flops_ratio == answer.report.flops_ratio


def test_frames_are_reused_in_a_stream_as_in_an_answer(session: Session) -> None:
    frames = np.repeat(read_video(CLIP, 2).frames, 4, axis=0)
    prompt = session.prepare(frames, QUESTION)
    answer = session.answer(prompt, max_new_tokens=2, reuse_frames=0.0)
    stream = session.stream(prompt, max_new_tokens=2, reuse_frames=0.0)
    assert stream.answer.report.flops.vision_saved == answer.report.flops.vision_saved > 0


class Slow:
    """In place of a model's streamed run: hands over tokens one by one."""

    def __init__(self, tokens: list[int], text: str) -> None:
        self.tokens, self.text, self.sent = tokens, text, 0
        self.go = threading.Semaphore(0)

    def __call__(self, streamer: Any) -> Any:
        streamer.put(torch.tensor([[1, 2, 3]]))
        for token in self.tokens:
            assert self.go.acquire(timeout=10)
            streamer.put(torch.tensor([token]))
            self.sent += 1
        streamer.end()
        return adatp.Answer(self.text, tuple(self.tokens), 0.0, None, None)  # type: ignore[arg-type]


class Letters:
    """A processor whose tokens are bytes of UTF-8."""

    clean_up_tokenization_spaces = False

    @staticmethod
    def decode(tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(tokens).decode(errors="replace")


def test_pieces_come_as_soon_as_they_are_settled() -> None:
    text = "Ça va, 你好  \n bien"
    work = Slow(list(f" {text} ".encode()), text)
    stream = Stream(Letters, work)
    work.go.release(3)  # a space and both bytes of the first letter
    assert next(stream) == "Ç"
    assert work.sent <= 3
    work.go.release(100)
    assert "Ç" + "".join(stream) == text
    assert stream.answer.text == text


def test_words_that_decoding_may_still_join_are_held_back() -> None:
    class Joining(Letters):
        clean_up_tokenization_spaces = True

        @staticmethod
        def decode(tokens: list[int], *, skip_special_tokens: bool) -> str:
            return Letters.decode(tokens, skip_special_tokens=skip_special_tokens).replace(" 'm", "'m")

    work = Slow(list(b"well I 'm"), "well I'm")
    work.go.release(100)
    assert "".join(Stream(Joining, work)) == "well I'm"


def test_a_stream_that_is_left_stops_the_model() -> None:
    for leave in (Stream.close, lambda stream: setattr(stream, "_pieces", None)):
        work = Slow(list(b"abcdefgh"), "abcdefgh")
        stream = Stream(Letters, work)
        work.go.release(2)
        assert next(stream) == "a"
        threading.Timer(0.05, work.go.release, [100]).start()
        leave(stream)
        assert work.sent <= 3
        assert not [thread for thread in threading.enumerate() if thread.name == "adatp-stream"]
    work = Slow([97], "a")
    work.go.release(2)
    stream = Stream(Letters, work)
    stream.close()
    with pytest.raises(RuntimeError, match="closed before its end"):
        _ = stream.answer


def test_what_fails_in_a_stream_is_raised_to_its_reader(session: Session) -> None:
    prompt = session.prepare(CLIP, QUESTION, frames=8)
    with pytest.raises(ValueError, match="beam"):
        list(session.stream(prompt, num_beams=2))
    assert session.answer(prompt).text  # the model is free again


def test_transformers_own_streamer_says_the_same(session: Session) -> None:
    prompt = session.prepare(CLIP, QUESTION, frames=8)
    streamer = TextIteratorStreamer(session.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    session.answer(prompt, streamer=streamer)
    assert "".join(streamer).strip() == "".join(session.stream(prompt))


def test_generation_settings_are_passed_on(session: Session) -> None:
    prompt = session.prepare(CLIP, QUESTION, frames=8)
    assert session.answer(prompt, min_new_tokens=5, max_new_tokens=7).new_tokens >= 5
    assert session.answer(prompt, num_beams=2).text == "yellow"
    with pytest.raises(PromptError, match="one answer to a prompt"):
        session.answer(prompt, do_sample=True, num_return_sequences=2)
    with pytest.raises(PromptError, match="one answer to a prompt"):
        session.answer(prompt, return_dict_in_generate=True)
    with pytest.raises(PromptError, match="in chunks can't be pruned"):
        session.answer(prompt, prefill_chunk_size=16)
    with pytest.raises(PromptError, match="does not generate with these settings"):
        session.answer(prompt, num_beams=0)


def test_a_generation_config_counts_as_its_settings_do(session: Session) -> None:
    prompts = [session.prepare(CLIP, question, frames=8) for question in (QUESTION, "what moves ?")]
    free = [session.answer(prompt, max_new_tokens=6) for prompt in prompts]
    assert free[0].token_ids[0] not in free[1].token_ids
    given = GenerationConfig(eos_token_id=free[0].token_ids[0], pad_token_id=0)
    alone = [session.answer(prompt, max_new_tokens=6, generation_config=given) for prompt in prompts]
    together = session.answer_batch(prompts, max_new_tokens=6, generation_config=given)
    assert alone[0].token_ids == free[0].token_ids[:1]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    for setting, said in (
        ({"return_dict_in_generate": True}, "one answer to a prompt"),
        ({"num_return_sequences": 2, "do_sample": True}, "one answer to a prompt"),
        ({"prefill_chunk_size": 16}, "in chunks can't be pruned"),
    ):
        with pytest.raises(PromptError, match=said):
            session.answer(prompts[0], generation_config=GenerationConfig(pad_token_id=0, **setting))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "fastv"}, "a method is an object such as AdaTP\\(\\), not 'fastv'"),
        ({"method": AdaTP}, "a method is an object such as AdaTP"),
        ({"max_new_tokens": math.nan}, "max_new_tokens is a whole number"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is a whole number"),
        ({"max_new_tokens": -1}, "max_new_tokens is a whole number"),
        ({"max_new_tokens": 0}, "does not generate with these settings"),
        ({"reuse_frames": math.nan}, "reuse_frames is a difference of pixels"),
    ],
)
def test_what_answers_nothing_is_refused(session: Session, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(AdaTPError, match=said):
        session.answer(session.prepare(CLIP, "what moves ?", frames=4), **arguments)


def test_a_prompt_of_another_model_is_refused(session: Session) -> None:
    prompt = session.prepare(CLIP, "what moves ?", frames=4)
    with pytest.raises(PromptError, match="made for another model"):
        Session("scenes").answer(prompt)


def test_a_target_out_of_reach_is_met_as_far_as_the_method_goes(session: Session) -> None:
    prompt = session.prepare(CLIP, "what moves " * 9 + "?", frames=1)
    with pytest.warns(UserWarning, match="the least that adatp can do, not the 27.3% asked for"):
        answer = session.answer(prompt, max_new_tokens=2)
    assert answer.report.method == "adatp"
    assert 0.273 < answer.report.flops_ratio <= 1
    with pytest.raises(BudgetError):
        session.answer(prompt, AdaTP(), max_new_tokens=2, strict=True)
    with pytest.raises(BudgetError):
        session.stream(prompt, AdaTP(), max_new_tokens=2, strict=True)
    with pytest.warns(UserWarning, match="the least that adatp can do"):
        assert session.stream(prompt, max_new_tokens=2).answer.token_ids == answer.token_ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert session.ask(CLIP, QUESTION, frames=8).report.settings["flops"] == AdaTP().flops


def test_reading_answers_nothing(session: Session) -> None:
    prompt = session.prepare(CLIP, QUESTION, frames=8)
    got = session.read(prompt, AdaTP())
    assert (got.text, got.token_ids) == ("", ())
    assert got.report.visual_tokens == session.answer(prompt, AdaTP()).report.visual_tokens
    assert got.report.decode_steps == 0


def test_a_model_that_is_being_pruned_refuses(session: Session) -> None:
    prompt = session.prepare(CLIP, QUESTION, frames=4)
    with AdaTP()(session.model), pytest.raises(PruningError, match="being pruned already"):
        session.answer(prompt)


def test_a_held_model_answers_as_a_new_one(session: Session) -> None:
    """Questions leave nothing in it: neither hooks nor numbers."""
    first = session.ask(CLIP, QUESTION, FastV(flops=0.5), frames=8)
    for method in METHODS.values():
        session.ask(CLIP, "where is the moon ?", method(), frames=8, max_new_tokens=2)
    again = session.ask(CLIP, QUESTION, FastV(flops=0.5), frames=8)
    assert again.token_ids == first.token_ids
    assert all(
        torch.equal(*pair)
        for mine, theirs in zip(again.report.kept, first.report.kept, strict=True)
        for pair in zip(mine, theirs, strict=True)
    )


# Targets.


def test_every_method_but_vanilla_has_a_target() -> None:
    assert {name for name, method in METHODS.items() if method.flops is None} == {"vanilla"}
    for name, method in METHODS.items():
        if name != "vanilla":
            assert method(flops=0.4).flops == 0.4
    with pytest.raises(TypeError):
        Vanilla(flops=0.4)  # type: ignore[call-arg]
