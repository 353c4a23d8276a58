"""Shipping a training run: what is written, and the card that says what it is."""

import json
import re

import torch
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from adatp import tiny
from adatp.tiny.processor import TinyProcessor
from training.card import CARD, training_facts
from training.export import pick_clip, relevance_auc, save_checkpoint
from training.run import Run


def test_what_is_measured_is_what_is_shipped(tmp_path):
    run = Run(tmp_path / "run", 0, "cpu")
    before = run.model.lm_head.weight.clone()
    save_checkpoint(run, tmp_path / "checkpoint")
    assert not torch.equal(before, run.model.lm_head.weight)  # rounded to bf16
    for cls, kept, folder in (
        (LlavaOnevisionForConditionalGeneration, run.model, "checkpoint"),
        (SiglipModel, run.relevance, "checkpoint/relevance"),
    ):
        shipped = cls.from_pretrained(tmp_path / folder, dtype=torch.float32).state_dict()
        assert shipped.keys() == kept.state_dict().keys()
        for name, weight in kept.state_dict().items():
            assert torch.equal(shipped[name], weight), name
    processor = TinyProcessor.from_pretrained(tmp_path / "checkpoint")
    assert processor.tokenizer.get_vocab() == run.processor.tokenizer.get_vocab()


def test_the_shipped_clip_is_the_one_that_would_be_picked(tmp_path):
    model, processor = tiny.load()
    assert pick_clip(model, processor, tmp_path / "clip.mp4", 16) == (1, 0)
    assert "`clip.mp4` is clip 1 of" in (tiny.CHECKPOINT / "README.md").read_text()


def test_the_partner_finds_frames_with_evidence():
    relevance = SiglipModel.from_pretrained(tiny.CHECKPOINT / "relevance").eval()
    assert relevance_auc(relevance, TinyProcessor(), 16, 9) > 0.75


def test_the_card_is_the_template_filled_in():
    card = (tiny.CHECKPOINT / "README.md").read_text()
    assert re.fullmatch(re.sub(r"\\\{.*?\\\}", ".*?", re.escape(CARD)), card, re.DOTALL)


def test_a_log_fills_the_card(tmp_path):
    minutes = {"vision": 1.0, "decoder": 0.0}
    named = {"name colour": 0.5, "name shape": 0.25, "name corner": 1.0}
    records = [{"stage": "vision", "step": 30, "minutes": minutes, "frames": 1, "train": named}]
    for step, frames, colour in ((10, 2, 0.1), (20, 4, 0.9)):
        minutes = {"vision": 1.0, "decoder": float(step)}
        record = {"stage": "decoder", "step": step, "minutes": minutes, "frames": frames}
        records += [{**record, "train": {"colour": colour}}, {**record, "validation": {"all": 0.5}}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    facts = training_facts(tmp_path / "log.jsonl")
    assert (facts["vision_steps"], facts["decoder_steps"], facts["lengths"]) == (30, 20, "2, 4")
    assert facts["names"] == "50 %, 25 %, 100 %"
    first, last = str(facts["curve"]).splitlines()[2:]
    assert first.startswith("| 10 | 2 | 10 | - |")
    assert last.startswith("| 20 | 4 | 90 | - |")
