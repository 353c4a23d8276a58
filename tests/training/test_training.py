"""Training of the embedded model: its architecture, labels, losses, and runs that survive a kill."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp.tiny import world
from adatp.tiny.processor import TinyProcessor, pixel_values
from adatp.tiny.sizes import TOKENS_PER_FRAME
from training.clips import Phase, clip_batch, thin
from training.decoder import LOSS_WEIGHT, decoder_loss
from training.labels import IGNORE, cell_labels, counted, frame_things, motion_labels, named_times
from training.model import build_model, build_relevance
from training.run import Run
from training.shared_prefix import SHARED_PREFIX
from training.towers import graft_tower
from training.validation import prompt
from training.vision import vision_batch, vision_loss

seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def processor():
    return TinyProcessor()


@pytest.fixture(scope="module")
def random_model(processor):
    torch.manual_seed(0)
    return build_model(processor.tokenizer).eval()


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
    labels = cell_labels([(thing, (24, 40))]).reshape(3, 6, 6)
    names = [1 + list(world.COLOURS).index("green"), 1 + world.SHAPES.index("star"), 1]
    assert labels[:, 1, 2].tolist() == names
    assert np.count_nonzero(labels) == 3
    grazed = cell_labels([(thing, (26, 40))]).reshape(3, 6, 6)
    assert grazed[:, 1, 2].tolist() == names
    assert (grazed[:, 2, 2] == IGNORE).all()


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_labels_of_the_training_signals(seed):
    clip = world.make_clip(seed, 8)
    labels = motion_labels(clip)
    assert labels.shape == (8, 36)
    directions = [1 + list(world.DIRECTIONS).index(t.direction) if t.direction else 0 for t in clip.things]
    assert set(labels[labels != IGNORE].tolist()) <= set(directions)
    for thing, direction in zip(clip.things, directions, strict=True):
        for t in range(thing.start, thing.stop):
            shown = cell_labels([(thing, thing.path[t - thing.start])])[0] > 0
            others = [(x, centre) for x, centre in frame_things(clip, t) if x is not thing]
            shown &= cell_labels(others)[0] == 0
            first = direction > 0 and t == thing.start
            assert (labels[t, shown] == (IGNORE if first else direction)).all()
    for question in world.ask(clip, seed, 30):
        words = question.text.split()
        named = named_times(clip, question)
        for word, frame in named:
            assert words[word] in (*world.SHAPES, "thing")
            assert 0 <= frame <= 7
        if question.kind == "before/after":
            (_, one), (_, two) = named
            assert (one < two) == (question.answer == "before")
        count = counted(clip, question)
        assert (count is None) == (question.kind != "count")
        if count is not None:
            word, members = count
            assert words[word] == "things"
            # All share the colour or the shape that they are counted by, and differ in the other.
            assert sum(members) == 1 + 1 + world.NUMBERS.index(question.answer)


def test_thinning_keeps_what_shows_something():
    batch = clip_batch(0, Phase(1.0, 4, 3, 2))
    for share in (0.0, 0.5, 1.0):
        kept = thin(batch.shows, share, torch.Generator().manual_seed(0))
        assert kept.shape[1] >= share * 4 * TOKENS_PER_FRAME
        assert (kept.diff(dim=1) > 0).all()
        for i, shows in enumerate(batch.shows):
            assert set(shows.nonzero().flatten().tolist()) <= set(kept[i].tolist())
    assert kept.shape[1] == 4 * TOKENS_PER_FRAME


def test_a_thinned_prompt_keeps_its_positions(processor, random_model):
    """Leaving out tokens changes what is visible, not where the rest are: as if the mask had hidden them."""
    model = random_model
    batch = clip_batch(1, Phase(1.0, 2, 1, 1))
    kept = torch.arange(0, 2 * TOKENS_PER_FRAME, 3)[None]
    model.set_attn_implementation({"text_config": SHARED_PREFIX})
    with torch.no_grad():
        loss, _ = decoder_loss(batch, model, processor, kept=kept)
    model.set_attn_implementation("sdpa")
    (question,) = batch.questions[0]
    frames = ((batch.pixels[0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
    inputs = processor(text=prompt(processor, question.text) + question.answer, videos=frames)
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
    batch = vision_batch(0, n_clips=5, n_frames=4)
    assert batch.pixels.shape == (7, 3, 96, 96)
    assert batch.match.shape == (len(batch.texts), 7)
    assert batch.labels.shape == (3, 7, 36)
    assert 0 < batch.match.float().mean() < 0.7


def test_questions_of_a_pass_do_not_see_each_other(processor, random_model):
    """The shared pass scores as each question alone does, through the model's own forward."""
    model = random_model
    phase = Phase(1.0, 3, 2, 4)
    batch = clip_batch(0, phase)
    model.set_attn_implementation({"text_config": SHARED_PREFIX})
    with torch.no_grad():
        loss, scores = decoder_loss(batch, model, processor)
    model.set_attn_implementation("sdpa")
    answers, ends, weights, hits = [], [], [], 0
    for pixels, questions in zip(batch.pixels, batch.questions, strict=True):
        frames = ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
        for question in questions:
            text = prompt(processor, question.text) + question.answer
            with torch.no_grad():
                logits = model(**processor(text=text, videos=frames)).logits[0, -2:]
            for store, row, word in ((answers, 0, question.answer), (ends, 1, "<|im_end|>")):
                target = processor.tokenizer.convert_tokens_to_ids(word)
                store.append(torch.nn.functional.cross_entropy(logits[row], torch.tensor(target)))
            weights.append(LOSS_WEIGHT.get(question.kind, 1.0))
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
            loss, _ = vision_loss(vision_batch(run.step, 5, 3), run.relevance, run.model, run.processor)
            run.update(loss, 0.0)
            out.append(loss.item())
        return out

    straight = losses(Run(tmp_path / "a", 0, "cpu"), 4)
    run = Run(tmp_path / "b", 0, "cpu")
    first = losses(run, 2)
    run.save()
    losses(run, 1)  # lost in the kill
    run = Run(tmp_path / "b", 0, "cpu")
    assert run.step == 2
    assert first + losses(run, 2) == straight


def test_steps_lower_the_loss(tmp_path):
    run = Run(tmp_path, 0, "cpu")
    batch, losses = vision_batch(0, 5, 3), []
    for _ in range(6):
        loss, _ = vision_loss(batch, run.relevance, run.model, run.processor)
        run.update(loss, 0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_run_goes_through_its_stages_and_ends(tmp_path):
    run = Run(tmp_path, 0, "cpu")
    run.train({"vision": 1e-3, "decoder": 1e-3}, validation=9)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert set(records[-1]["validation"]) == {"all", *world.QUESTION_TYPES}
    again = Run(tmp_path, 0, "cpu")
    assert again.stage == "done"
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    tower, full = again.model.model.vision_tower, again.relevance.vision_model
    assert torch.equal(tower.encoder.layers[-1].mlp.fc1.weight, full.encoder.layers[-2].mlp.fc1.weight)
