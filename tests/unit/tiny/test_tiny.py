"""The embedded model: its world, processor, training parts and shipped checkpoint."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, SiglipModel

from adatp import tiny
from adatp.tiny import export, train, world
from adatp.tiny.model import TEXT_LENGTH, TOKENS_PER_FRAME, build_model, build_relevance, graft_tower
from adatp.tiny.processor import TinyProcessor, pixel_values

seeds = st.integers(0, 10_000)
lengths = st.sampled_from([1, 2, 3, 8, 16, 32])


@pytest.fixture(scope="module")
def processor():
    return TinyProcessor()


@pytest.fixture(scope="module")
def random_model(processor):
    torch.manual_seed(0)
    return build_model(processor.tokenizer).eval()


@pytest.fixture(scope="module")
def shipped():
    return tiny.load()


# --- world ---


@settings(max_examples=20, deadline=None)
@given(seed=seeds, n_frames=lengths)
def test_a_clip_is_its_seed(seed, n_frames):
    one, two = (world.make_clip(seed, n_frames) for _ in range(2))
    assert one.frames.shape == (n_frames, 96, 96, 3)
    assert one.frames.dtype == np.uint8
    assert np.array_equal(one.frames, two.frames)
    assert (one.things, one.cuts) == (two.things, two.cuts)


def test_splits_and_seeds_differ():
    clips = [world.make_clip(seed, 8, split) for split in world.SPLITS for seed in (0, 1)]
    assert len({clip.frames.tobytes() for clip in clips}) == len(clips)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n_frames=lengths)
def test_things_stay_in_the_frame_and_apart(seed, n_frames):
    clip = world.make_clip(seed, n_frames)
    assert clip.things
    assert len({(thing.colour, thing.shape) for thing in clip.things}) == len(clip.things)
    for thing in clip.things:
        assert 0 <= thing.start < thing.stop <= n_frames
        assert len(thing.path) <= 2 or not thing.flash
        path = np.array(thing.path)
        assert path.min() >= thing.radius
        assert path.max() <= 96 - thing.radius
        for t in range(thing.start, thing.stop):
            for other, centre in train.frame_things(clip, t):
                if other is not thing:
                    apart = np.abs(np.subtract(thing.path[t - thing.start], centre)).max()
                    assert apart >= thing.radius + other.radius


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_what_the_metadata_say_is_what_is_drawn(seed):
    clip = world.make_clip(seed, 8)
    for thing in clip.things:
        if thing.shape in ("circle", "square", "cross"):  # shapes that cover their centre
            for t, (row, column) in enumerate(thing.path, thing.start):
                seen = clip.frames[t, row - 1 : row + 1, column - 1 : column + 1].mean((0, 1))
                nearest = min(
                    world.COLOURS, key=lambda name: np.abs(seen - np.array(world.COLOURS[name])).sum()
                )
                assert nearest == thing.colour


def test_moving_things_move_as_they_say():
    clips = [world.make_clip(seed, 8) for seed in range(40)]
    moving = [thing for clip in clips for thing in clip.things if thing.direction]
    assert {thing.direction for thing in moving} == set(world.DIRECTIONS)
    for thing in moving:
        steps = np.diff(np.array(thing.path), axis=0)
        along = steps @ np.array(world.DIRECTIONS[thing.direction])
        assert along.min() >= 0
        assert along.sum() >= world.TRAVEL - 1
        assert along.max() <= 17
        assert np.array_equal(np.abs(steps).sum(1), along)
    still = [thing for clip in clips for thing in clip.things if not thing.direction]
    assert all(len(set(thing.path)) == 1 for thing in still)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, n_frames=st.sampled_from([2, 4, 16]))
def test_questions_have_known_answers_and_words(seed, n_frames):
    clip = world.make_clip(seed, n_frames)
    known = set(world.words())
    questions = world.ask(clip, seed, 30)
    assert questions == world.ask(clip, seed, 30)
    assert len(questions) == len({(question.text, question.answer) for question in questions})
    for question in questions:
        assert question.answer in world.ANSWERS[question.kind]
        assert set(question.text.split()) | {question.answer} <= known
        gone = question.kind == "exists" and question.answer == "no"
        assert world.evidence(clip, question.about).any() != gone


def test_a_question_has_one_answer():
    for seed in range(50):
        clip = world.make_clip(seed, 16)
        every = [question for make in world.QUESTION_TYPES.values() for question in make(clip)]
        assert len({question.text for question in every}) == len(every)


def test_answers_by_hand():
    def thing(colour, shape, start, path, direction=None, flash=False):
        return world.Thing(colour, shape, 8, start, path, direction, flash)

    things = (
        thing("red", "star", 0, ((20, 70),) * 2, flash=True),
        thing("red", "ring", 0, ((70, 20), (70, 36), (70, 52)), "right"),
        thing("blue", "star", 5, ((60, 60),), flash=True),
    )
    clip = world.Clip(8, things, (0, 5), (0,))
    answers = {q.text: q.answer for make in world.QUESTION_TYPES.values() for q in make(clip)}
    expected = {
        "what colour is the ring ?": "red",
        "what shape is the blue thing ?": "star",
        "is there a red star ?": "yes",
        "is there a red ring ?": "yes",
        "is there a blue star ?": "yes",
        "is there a blue ring ?": "no",
        "where is the red star ?": "northeast",
        "where is the blue thing ?": "southeast",
        "is the red star early or late ?": "early",
        "is the ring early or late ?": "early",
        "is the blue thing early or late ?": "late",
        "is the red star before or after the blue thing ?": "before",
        "is the ring before or after the blue thing ?": "before",
        "is the blue thing before or after the red star ?": "after",
        "is the blue thing before or after the ring ?": "after",
        "which way does the ring move ?": "right",
        "how many star things are there ?": "two",
        "how many blue things are there ?": "one",
        "where is the blue star ?": "southeast",
        "is the blue star early or late ?": "late",
        "is the red ring early or late ?": "early",
        "is there a green star ?": "no",
    }
    assert expected.items() <= answers.items()
    of_two = {text for text in answers if " before or after " in text or text.startswith("is there")}
    assert set(answers) - set(expected) - of_two == {"which way does the red ring move ?"}
    clip = world.Clip(8, (*things[1:2], thing("blue", "moon", 5, ((60, 60),))), (0, 5), (0,))
    answers = {q.text: q.answer for q in world.QUESTION_TYPES["first/last"](clip)}
    assert answers == {
        f"which is seen {end} , the {pair} ?": answer
        for end, answer in (("first", "ring"), ("last", "moon"))
        for pair in ("ring or the moon", "moon or the ring")
    }


def test_flashes_come_anywhere_alike():
    flashes = [
        (thing.start + len(thing.path) / 2) / 16
        for seed in range(400)
        for thing in world.make_clip(seed, 16).things
        if thing.flash
    ]
    thirds = np.histogram(flashes, bins=3, range=(0, 1))[0] / len(flashes)
    assert thirds.min() > 0.25


def test_shifted_is_outside_the_training_ranges():
    radii = {
        split: [thing.radius for seed in range(40) for thing in world.make_clip(seed, 16, split).things]
        for split in ("test", "shifted")
    }
    assert max(radii["test"]) <= 14
    assert min(radii["shifted"]) >= 11
    brightness = {
        split: np.median([np.median(world.make_clip(seed, 8, split).frames) for seed in range(20)])
        for split in ("test", "shifted")
    }
    assert brightness["shifted"] > brightness["test"] + 15


def test_benchmark_is_balanced():
    rows = list(world.benchmark("test", 16, 72))
    assert set(Counter(question.kind for _, question in rows).values()) == {8}
    for kind, answers in world.ANSWERS.items():
        counts = Counter(question.answer for _, question in rows if question.kind == kind)
        assert max(counts.values()) - min(counts[answer] for answer in answers) <= 1
    assert len({seed for seed, _ in rows}) == len(rows)
    for seed, question in rows[:8]:
        assert question in world.QUESTION_TYPES[question.kind](world.make_clip(seed, 16, "test"))


def test_world_refuses():
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        world.make_clip(0, 8, "tset")
    with pytest.raises(ValueError, match="at least one frame"):
        world.make_clip(0, 0)
    with pytest.raises(ValueError, match="3 frames"):
        next(world.benchmark("test", 3, 8))


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
    assert pixels[..., :40].max() == pytest.approx(-1)
    assert pixels[..., -40:].min() == pytest.approx(1)
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


# --- model and training ---


def test_the_tower_is_the_partner_without_its_last_layer(processor, random_model):
    torch.manual_seed(1)
    relevance = build_relevance(processor.tokenizer).eval()
    graft_tower(random_model, relevance)
    pixels = pixel_values(world.make_clip(0, 2).frames)
    with torch.no_grad():
        tower = random_model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        full = relevance.vision_model(pixels, output_hidden_states=True).hidden_states
    assert len(full) == len(tower) + 1
    assert torch.equal(tower[-1], full[-2])


def test_cell_labels():
    thing = world.Thing("green", "star", 8, 0, ((24, 40),), None, False)
    labels = train.cell_labels([(thing, (24, 40))]).reshape(3, 6, 6)
    names = [1 + list(world.COLOURS).index("green"), 1 + world.SHAPES.index("star"), 1]
    assert labels[:, 1, 2].tolist() == names
    assert np.count_nonzero(labels) == 3
    grazed = train.cell_labels([(thing, (26, 40))]).reshape(3, 6, 6)
    assert grazed[:, 1, 2].tolist() == names
    assert (grazed[:, 2, 2] == train.IGNORE).all()


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_labels_of_the_training_signals(seed):
    clip = world.make_clip(seed, 8)
    labels = train.motion_labels(clip)
    assert labels.shape == (8, 36)
    directions = [1 + list(world.DIRECTIONS).index(t.direction) if t.direction else 0 for t in clip.things]
    assert set(labels[labels != train.IGNORE].tolist()) <= set(directions)
    for thing, direction in zip(clip.things, directions, strict=True):
        for t in range(thing.start, thing.stop):
            shown = train.cell_labels([(thing, thing.path[t - thing.start])])[0] > 0
            others = [(x, centre) for x, centre in train.frame_things(clip, t) if x is not thing]
            shown &= train.cell_labels(others)[0] == 0
            first = direction > 0 and t == thing.start
            assert (labels[t, shown] == (train.IGNORE if first else direction)).all()
    for question in world.ask(clip, seed, 30):
        words = question.text.split()
        named = train.named_times(clip, question)
        for word, frame in named:
            assert words[word] in (*world.SHAPES, "thing")
            assert 0 <= frame <= 7
        if question.kind == "before/after":
            (_, one), (_, two) = named
            assert (one < two) == (question.answer == "before")
        counted = train.counted(clip, question)
        assert (counted is None) == (question.kind != "count")
        if counted is not None:
            word, members = counted
            assert words[word] == "things"
            # All share the colour or the shape that they are counted by, and differ in the other.
            assert sum(members) == 1 + 1 + world.NUMBERS.index(question.answer)


def test_thinning_keeps_what_shows_something():
    batch = train.clip_batch(0, train.Phase(1.0, 4, 3, 2))
    for share in (0.0, 0.5, 1.0):
        kept = train.thin(batch.shows, share, torch.Generator().manual_seed(0))
        assert kept.shape[1] >= share * 4 * TOKENS_PER_FRAME
        assert (kept.diff(dim=1) > 0).all()
        for i, shows in enumerate(batch.shows):
            assert set(shows.nonzero().flatten().tolist()) <= set(kept[i].tolist())
    assert kept.shape[1] == 4 * TOKENS_PER_FRAME


def test_a_thinned_prompt_keeps_its_positions(processor, random_model):
    """Leaving out tokens changes what is seen, not where the rest are: as if the mask had hidden them."""
    model = random_model
    batch = train.clip_batch(1, train.Phase(1.0, 2, 1, 1))
    kept = torch.arange(0, 2 * TOKENS_PER_FRAME, 3)[None]
    model.set_attn_implementation({"text_config": train.SHARED_PREFIX})
    with torch.no_grad():
        loss, _ = train.decoder_loss(batch, model, processor, kept=kept)
    model.set_attn_implementation("sdpa")
    (question,) = batch.questions[0]
    frames = ((batch.pixels[0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
    inputs = processor(text=train.prompt(processor, question.text) + question.answer, videos=frames)
    video = processor.tokenizer.convert_tokens_to_ids("<video>")
    slots = (inputs["input_ids"][0] == video).nonzero().flatten()[:-1]  # the last is the newline
    length = inputs["input_ids"].shape[1]
    hidden = torch.ones(length, dtype=torch.bool)
    hidden[slots] = False
    hidden[slots[kept[0]]] = True
    mask = torch.ones(length, length, dtype=torch.bool).tril() & (
        hidden | torch.eye(length, dtype=torch.bool)
    )
    positions = torch.arange(length)[None]
    with torch.no_grad():
        logits = model(**{**inputs, "attention_mask": mask[None, None]}, position_ids=positions).logits[
            0, -2:
        ]
    target = torch.tensor(processor.tokenizer.convert_tokens_to_ids([question.answer, "<|im_end|>"]))
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss, losses[0] + 0.1 * losses[1], rtol=1e-5, atol=1e-5)


def test_vision_batch_matches_texts_with_evidence():
    batch = train.vision_batch(0, n_clips=5, n_frames=4)
    assert batch.pixels.shape == (7, 3, 96, 96)
    assert batch.match.shape == (len(batch.texts), 7)
    assert batch.labels.shape == (3, 7, 36)
    assert 0 < batch.match.float().mean() < 0.7


def test_questions_of_a_pass_do_not_see_each_other(processor, random_model):
    """The shared pass scores as each question alone does, through the model's own forward."""
    model = random_model
    phase = train.Phase(1.0, 3, 2, 4)
    batch = train.clip_batch(0, phase)
    model.set_attn_implementation({"text_config": train.SHARED_PREFIX})
    with torch.no_grad():
        loss, scores = train.decoder_loss(batch, model, processor)
    model.set_attn_implementation("sdpa")
    answers, ends, weights, hits = [], [], [], 0
    for pixels, questions in zip(batch.pixels, batch.questions, strict=True):
        frames = ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
        for question in questions:
            text = train.prompt(processor, question.text) + question.answer
            with torch.no_grad():
                logits = model(**processor(text=text, videos=frames)).logits[0, -2:]
            for store, row, word in ((answers, 0, question.answer), (ends, 1, "<|im_end|>")):
                target = processor.tokenizer.convert_tokens_to_ids(word)
                store.append(torch.nn.functional.cross_entropy(logits[row], torch.tensor(target)))
            weights.append(train.LOSS_WEIGHT.get(question.kind, 1.0))
            word = processor.tokenizer.convert_ids_to_tokens(int(logits[0].argmax()))
            hits += word == question.answer
    weight = torch.tensor(weights)
    expected = (weight * torch.stack(answers)).sum() / weight.sum() + 0.1 * torch.stack(ends).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert sum(map(sum, scores.values())) == hits


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    def losses(run, steps):
        out = []
        for _ in range(steps):
            loss, _ = train.vision_loss(
                train.vision_batch(run.step, 5, 3), run.relevance, run.model, run.processor
            )
            run.update(loss, 0.0)
            out.append(loss.item())
        return out

    straight = losses(train.Run(tmp_path / "a", 0, "cpu"), 4)
    run = train.Run(tmp_path / "b", 0, "cpu")
    first = losses(run, 2)
    run.save()
    losses(run, 1)  # lost in the kill
    run = train.Run(tmp_path / "b", 0, "cpu")
    assert run.step == 2
    assert first + losses(run, 2) == straight


def test_steps_lower_the_loss(tmp_path):
    run = train.Run(tmp_path, 0, "cpu")
    batch, losses = train.vision_batch(0, 5, 3), []
    for _ in range(6):
        loss, _ = train.vision_loss(batch, run.relevance, run.model, run.processor)
        run.update(loss, 0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_run_goes_through_its_stages_and_ends(tmp_path):
    run = train.Run(tmp_path, 0, "cpu")
    run.train({"vision": 1e-3, "decoder": 1e-3}, validation=9)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert set(records[-1]["validation"]) == {"all", *world.QUESTION_TYPES}
    again = train.Run(tmp_path, 0, "cpu")
    assert again.stage == "done"
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    tower, full = again.model.model.vision_tower, again.relevance.vision_model
    assert torch.equal(tower.encoder.layers[-1].mlp.fc1.weight, full.encoder.layers[-2].mlp.fc1.weight)


def test_written_clip_is_the_clip(tmp_path):
    frames = world.make_clip(0, 5, "validation").frames
    export.write_clip(tmp_path / "clip.mp4", frames)
    again = export.read_clip(tmp_path / "clip.mp4")
    assert again.shape == (5, 192, 192, 3)
    error = (pixel_values(again) - pixel_values(frames)).abs() * 127.5
    assert error.mean() < 6
    swapped = (pixel_values(again[..., ::-1].copy()) - pixel_values(frames)).abs() * 127.5
    assert swapped.mean() > error.mean()


# --- the shipped checkpoint ---


def test_shipped_model_answers_the_quick_start(shipped):
    model, processor = shipped
    frames = export.read_clip(tiny.CLIP)
    assert len(frames) >= 16
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
