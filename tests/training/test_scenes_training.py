"""Training of the second model: runs in seconds, goes on after a kill, answers as single prompts do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from adatp.scenes import make_clip, questions
from adatp.scenes.vocabulary import COLOURS, PLACES, SHAPES, words
from adatp.tiny import TinyProcessor
from training.scenes.attention import SHARED_PREFIX
from training.scenes.captions import JOINED, PLACE_TEMPLATES, TEMPLATES, caption, frame_content, held_out
from training.scenes.data import clip_batch, stream, token_labels, vision_batch
from training.scenes.losses import Probes, _sameness, decoder_loss, thumbnails_of
from training.scenes.model import LAYERS, build_model, build_partner, build_tokenizer
from training.scenes.optim import orthogonalise
from training.scenes.scores import Scores
from training.scenes.train import Run, Settings, decoder_job


def settings(**changes: object) -> Settings:
    plain = {
        "vision_steps": 2,
        "vision_frames": 4,
        "curriculum": ((2, 1), (4, 1)),
        "tokens": 400,
        "rates": {"vision": 1e-3, "decoder": 1e-3},
        "cooldown": 0.2,
        "workers": 0,
        "minutes": 10,
        "save_every": 10,
        "validate_every": 10,
        "validation": 2,
    }
    return Settings(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def processor() -> TinyProcessor:
    return TinyProcessor(build_tokenizer())


def test_a_run_stops_and_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    complete = Run(tmp_path / "whole", 0, "cpu", settings())
    complete.train()
    assert (complete.stage, complete.step) == ("done", 2)
    records = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == {"vision", "decoder"}
    assert all(math.isfinite(record["loss"]) for record in records if "loss" in record)
    assert "all" in records[-1]["validation"]

    for _ in range(8):  # no minutes: one step a sitting
        part = Run(tmp_path / "parts", 0, "cpu", settings(minutes=1e-9))
        part._train_stage(0.0)
        part.save()
        if part.stage == "done":
            break
    assert (part.stage, part.step) == ("done", 2)
    for one, other in zip(complete.model.parameters(), part.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_longer_curriculum_goes_on_from_a_finished_run(tmp_path: Path) -> None:
    Run(tmp_path, 0, "cpu", settings(vision_steps=1, curriculum=((2, 1),))).train()
    longer = Run(tmp_path, 0, "cpu", settings(vision_steps=1, curriculum=((2, 1), (4, 1))))
    assert (longer.stage, longer.step) == ("decoder", 1)
    (tmp_path / "light.pt").rename(tmp_path / "state.pt")
    light = Run(tmp_path, 0, "cpu", settings(vision_steps=1, curriculum=((2, 1), (4, 1))))
    assert (light.stage, light.step) == ("decoder", 1)
    torch.testing.assert_close(light.model.state_dict(), longer.model.state_dict(), rtol=0, atol=0)


def test_the_shared_pass_answers_as_single_prompts_do(processor: TinyProcessor) -> None:
    torch.manual_seed(0)
    model, probes = build_model(processor.tokenizer).eval(), Probes()
    batch = clip_batch(3, 1, 3, 6, {})
    model.set_attn_implementation(SHARED_PREFIX)
    with torch.no_grad():
        loss = decoder_loss(batch, model, processor, probes, Scores())
        model.set_attn_implementation("sdpa")
        single = []
        for _, text, answer in batch.questions[0]:
            content = [{"type": "video"}, {"type": "text", "text": text}]
            prompt = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            inputs = processor(text=prompt, videos=batch.pixels[0])
            logits = model(**inputs, logits_to_keep=1).logits[0, -1]
            single.append(-logits.log_softmax(-1)[processor.tokenizer.convert_tokens_to_ids(answer)])
        model.set_attn_implementation(SHARED_PREFIX)
        without = loss_of_answers(model, processor, probes, batch)
    assert torch.isfinite(loss)
    torch.testing.assert_close(without, torch.stack(single), rtol=1e-3, atol=1e-3)


def loss_of_answers(model, processor, probes, batch) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The cross-entropy of each answer in the shared pass, caught where it is computed."""
    caught: list[torch.Tensor] = []
    plain = torch.nn.functional.cross_entropy

    def catch(*args, **kwargs):  # type: ignore[no-untyped-def]
        losses = plain(*args, **kwargs)
        if kwargs.get("reduction") == "none" and losses.ndim == 1 and len(losses) == len(batch.questions[0]):
            caught.append(losses)
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", catch)
        decoder_loss(batch, model, processor, probes, Scores())
    return caught[0]


def test_the_model_fits_what_was_asked(processor: TinyProcessor) -> None:
    model, partner = build_model(processor.tokenizer), build_partner(processor.tokenizer)
    assert LAYERS >= 20
    parameters = sum(p.numel() for module in (model, partner) for p in module.parameters())
    assert 2 * parameters <= 40e6  # bytes in bf16
    assert processor.tokenizer.unk_token_id not in processor.tokenizer(" ".join(words())).input_ids


def test_batches_follow_from_their_number() -> None:
    one, again, other = vision_batch(1, 4), vision_batch(1, 4), vision_batch(2, 4)
    assert one.texts == again.texts != other.texts
    assert np.array_equal(one.pixels, again.pixels)
    job = decoder_job(settings(tokens=2000), 0, 1)
    assert job == decoder_job(settings(tokens=2000), 0, 1)
    assert clip_batch(*job).questions == clip_batch(*job).questions


def test_workers_keep_the_order() -> None:
    jobs = [(math.sqrt, (float(i),)) for i in range(20)]
    assert list(stream(iter(jobs), 0)) == list(stream(iter(jobs), 2)) == [math.sqrt(i) for i in range(20)]


def test_labels_say_what_the_evidence_says() -> None:
    """Where a question's evidence is a thing's colour, the token labels there have that colour."""
    right: list[bool] = []
    for seed in range(30):
        clip = make_clip(seed, 8)
        labels = token_labels(clip)
        for question in questions(clip, "colour"):
            thing = clip.things[question.names[0].thing]
            for t in clip.visible(thing):
                row, column = thing.path[t - thing.start]
                cell = min(row // 16, 5) * 6 + min(column // 16, 5)
                if labels.colour[t, cell] > 0:
                    right.append(list(COLOURS)[labels.colour[t, cell] - 1] == question.answer)
    assert len(right) > 60
    assert np.mean(right) > 0.95  # a token that two things share has the later one's colour


def test_thumbnails_are_of_their_token() -> None:
    pixels = torch.zeros(1, 3, 96, 96)
    pixels[0, 1, 16:32, 32:48] = 1  # second row, third column, green
    small = thumbnails_of(pixels).view(6, 6, 3, 4, 4)
    assert small[1, 2, 1].min() == 1
    assert small.sum() == 16


def test_captions_are_not_worded_like_the_questions() -> None:
    asked = {
        " ".join(q.text.split()[:3])
        for s in range(20)
        for k in ("colour", "where", "place", "detail", "count")
        for q in questions(make_clip(s, 16), k)
    }
    texts = [text for seed in range(12) for text in vision_batch(seed, 8).texts]
    assert not asked & {" ".join(text.split()[:3]) for text in texts}
    known = set(words())
    for template in (*TEMPLATES, *PLACE_TEMPLATES, *JOINED):
        assert set(template.replace("{}", "").split()) <= known


def test_held_out_pairs_are_never_named() -> None:
    out = {(c, s) for c in COLOURS for s in SHAPES if held_out(c, s)}
    assert 8 <= len(out) <= 10
    rng = Random(0)
    for seed in range(150):
        clip = make_clip(seed, 8)
        for t in range(8):
            made = caption(rng, *frame_content(clip, t))
            assert (made.colour, made.shape) not in out
            assert not any(f"{c} {s}" in made.text for c, s in out)


def test_captions_match_what_frames_show() -> None:
    clip = make_clip(2, 8)
    place, looks = frame_content(clip, 4)
    for seed in range(60):
        made = caption(Random(seed), place, looks)
        assert made.place in (None, *PLACES)
        if made.matches(place, looks):
            assert not made.matches("nowhere", []) or (made.place, made.colour, made.shape) == (None,) * 3
    wrong = caption(Random(1), "nowhere", [("red", "star", None)])
    assert not wrong.matches("nowhere", [("blue", "bar", None)])


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 24, 40), (2, 40, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_scores_are_means_over_what_the_masks_leave() -> None:
    scores = Scores()
    scores.add("a", torch.tensor([True, False]))
    scores.add("a", torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
    scores.add("empty", torch.ones(2), torch.zeros(2, dtype=torch.bool))
    assert scores.means() == {"a": round(2 / 3, 4)}


def test_background_tokens_may_be_the_same_only_where_their_pixels_are() -> None:
    torch.manual_seed(0)
    token, other = torch.nn.functional.rms_norm(torch.randn(2, 36, 192), (192,))
    image, where = torch.rand(36, 48), torch.ones(1, 36, dtype=torch.bool)
    same, changed = torch.stack([image, image]), torch.stack([image, -image])
    assert _sameness(torch.stack([token, token]), same, where, Scores()) < 1e-6
    assert _sameness(torch.stack([token, token]), changed, where, Scores()) > 0.8
    assert _sameness(torch.stack([token, other]), changed, where, Scores()) < 0.1
    assert _sameness(torch.stack([token, token]), changed, ~where, Scores()) == 0
