"""The embedded model: its processor and its shipped checkpoint."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, SiglipModel

from adatp import tiny
from adatp.tiny import world
from adatp.tiny.processor import TinyProcessor, pixel_values
from adatp.tiny.sizes import TEXT_LENGTH, TOKENS_PER_FRAME
from adatp.video import read_video


@pytest.fixture(scope="module")
def processor():
    return TinyProcessor()


@pytest.fixture(scope="module")
def shipped():
    return tiny.load()


# --- processor ---


def chat(processor, question):
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_chat_template(processor):
    text = chat(processor, "where is the star ?")
    assert text == "<|im_start|>user <video>\nwhere is the star ?<|im_end|>\n<|im_start|>assistant\n"
    message = [{"role": "user", "content": "where"}]
    assert processor.apply_chat_template([message] * 2) == ["<|im_start|>user where<|im_end|>\n"] * 2
    with pytest.raises(ValueError, match="image"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ValueError, match="tokenize"):
        processor.apply_chat_template(message, tokenize=True)


def test_every_word_has_a_token_and_the_rest_is_unknown(processor):
    ids = processor.tokenizer(" ".join(world.words())).input_ids
    assert len(ids) == len(world.words())
    assert processor.tokenizer.unk_token_id not in ids
    assert (
        processor.tokenizer("Where WHERE where zebra").input_ids[:3]
        == ids[1:1] + [processor.tokenizer.convert_tokens_to_ids("where")] * 3
    )
    assert processor.tokenizer("zebra").input_ids == [processor.tokenizer.unk_token_id]


def test_processor_batches(processor):
    clips = [world.make_clip(seed, 3).frames for seed in (0, 1)]
    texts = [chat(processor, "where is the star ?"), chat(processor, "how many red things are there ?")]
    inputs = processor(text=texts, videos=clips)
    video = processor.tokenizer.convert_tokens_to_ids("<video>")
    assert (inputs["input_ids"] == video).sum(1).tolist() == [3 * TOKENS_PER_FRAME + 1] * 2
    assert inputs["pixel_values_videos"].shape == (2, 3, 3, 96, 96)
    assert inputs["attention_mask"][0, 0] == 0  # the shorter is padded, on the left
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    end = [processor.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>", "assistant")]
    assert inputs["input_ids"][:, -3:].tolist() == [end] * 2
    one = processor(text=texts[0], videos=clips[0])
    as_list = processor(text=texts[:1], videos=[list(clips[0])])
    frames = processor(text=texts[:1], videos=list(clips[0]))
    for other in (as_list, frames):
        assert torch.equal(one["pixel_values_videos"], other["pixel_values_videos"])
    assert set(processor(text="where")) == {"input_ids", "attention_mask"}


def test_frames_are_resized_and_scaled():
    frames = np.zeros((2, 48, 200, 3), np.uint8)
    frames[:, :, 100:] = 255
    pixels = pixel_values(frames)
    assert pixels.shape == (2, 3, 96, 96)
    assert pixels[..., :40].max() == pytest.approx(-1, abs=1e-5)
    assert pixels[..., -40:].min() == pytest.approx(1, abs=1e-5)
    exact = world.make_clip(0, 2).frames
    torch.testing.assert_close(pixel_values(exact), torch.from_numpy(exact).permute(0, 3, 1, 2) / 127.5 - 1)


def test_processor_refuses(processor):
    clips = [world.make_clip(0, n).frames for n in (2, 3)]
    texts = [chat(processor, "where is the star ?")] * 2
    with pytest.raises(ValueError, match=r"equally many frames, not \[2, 3\]"):
        processor(text=texts, videos=clips)
    with pytest.raises(ValueError, match="2 <video> but 1 videos"):
        processor(text=texts, videos=clips[:1])
    with pytest.raises(ValueError, match="uint8 frames of shape"):
        processor(text=texts[:1], videos=[clips[0].astype(np.float32)])
    with pytest.raises(ValueError, match="uint8 frames of shape"):
        processor(text=texts[:1], videos=[clips[0][..., 0]])
    with pytest.raises(ValueError, match="only 'pt' is"):
        processor(text=texts[:1], videos=clips[:1], return_tensors="np")


def test_processor_takes_the_keywords_of_hugging_face(processor):
    clip, text = world.make_clip(0, 2).frames, chat(processor, "where is the star ?")
    plain = processor(text=[text], videos=[clip])
    metadata = [{"fps": 1.0, "frames_indices": [0, 1], "total_num_frames": 2}]
    named = {"do_sample_frames": False, "video_metadata": metadata, "add_special_tokens": False}
    for inputs in (
        processor(images=None, text=[text], videos=[clip], return_tensors="pt", **named),
        processor(None, text, clip),
    ):
        assert inputs.keys() == plain.keys()
        assert all(torch.equal(inputs[key], value) for key, value in plain.items())
    pixels = processor.video_processor([clip], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(pixels, plain["pixel_values_videos"])
    with pytest.raises(ValueError, match="images are not supported"):
        processor(images=[clip[0]], text=[text], videos=[clip])
    with pytest.raises(ValueError, match="sample frames before"):
        processor(text=[text], videos=[clip], do_sample_frames=True)


def test_processor_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = TinyProcessor.from_pretrained(tmp_path)
    text = chat(processor, "what colour is the star ? zebra")
    clip = world.make_clip(0, 2).frames
    for key, value in processor(text=text, videos=clip).items():
        assert torch.equal(again(text=text, videos=clip)[key], value)
    assert again.tokenizer.padding_side == "left"
    assert again.batch_decode([again.tokenizer("red star").input_ids]) == ["red star"]
    (tmp_path / "processor_config.json").write_text('{"processor_class": "OtherProcessor"}')
    with pytest.raises(ValueError, match="OtherProcessor"):
        TinyProcessor.from_pretrained(tmp_path)


# --- the shipped checkpoint ---


def test_shipped_model_answers_the_quick_start(shipped):
    model, processor = shipped
    frames = read_video(tiny.CLIP, 1000).frames
    assert len(frames) == 16
    assert next(model.parameters()).dtype == torch.float32
    assert not model.training
    inputs = processor(text=chat(processor, tiny.QUESTION), videos=[frames])
    ids = model.generate(**inputs, max_new_tokens=4)
    answer = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert answer in world.COLOURS


def test_shipped_partner_matches_the_shipped_tower(shipped):
    model, _ = shipped
    relevance = SiglipModel.from_pretrained(tiny.CHECKPOINT / "relevance").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny.CHECKPOINT / "relevance")
    texts = tokenizer(["a red star", tiny.QUESTION], padding="max_length", return_tensors="pt")
    assert texts["input_ids"].shape == (2, TEXT_LENGTH)
    pixels = pixel_values(world.make_clip(0, 2).frames)
    with torch.no_grad():
        tower = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        full = relevance.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
        assert relevance.get_text_features(texts["input_ids"]).pooler_output.shape == (2, 128)
    assert torch.equal(tower, full)


def test_shipped_files_are_small():
    files = [path for path in tiny.CHECKPOINT.rglob("*") if path.is_file()]
    names = {path.relative_to(tiny.CHECKPOINT).as_posix() for path in files}
    assert {"README.md", "config.json", "model.safetensors", "relevance/model.safetensors"} <= names
    assert sum(path.stat().st_size for path in files) < 25e6


def test_no_torchvision():
    code = "import sys, adatp.tiny; sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
