"""The vision tower's partner: what it makes of hidden states is what the complete SigLIP makes of the
pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from adatp import AdaTP
from adatp.encoders import EncoderError, load_partner, partner_of
from agreement import Agree
from families import END, PAD, START, VIDEO, Gemma3, LlavaOnevision, Prompt, batch, build
from flop_counting import flop_counter
from processors import llava_onevision, tokenizer
from prompts import frames, prompt


@pytest.fixture
def siglip(tmp_path: Path) -> SiglipModel:
    """A SigLIP of one vision layer more than the Video LLM's tower, beside its checkpoint."""
    vision = LlavaOnevision.config().vision_config.to_dict() | {
        "num_hidden_layers": 3,
        "vision_use_head": True,
    }
    text = {
        "hidden_size": 24,
        "projection_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 12,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path / "relevance")
    words = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", VIDEO: "<video>"}
    tokenizer(words).save_pretrained(tmp_path / "relevance")
    return model


@pytest.fixture
def model(siglip: SiglipModel, tmp_path: Path) -> Any:
    video_llm = build(LlavaOnevision)
    complete, tower = siglip.vision_model, video_llm.model.vision_tower
    tower = getattr(tower, "vision_model", tower)  # transformers 5.5
    tower.embeddings.load_state_dict(complete.embeddings.state_dict())
    tower.encoder.layers.load_state_dict(complete.encoder.layers[:2].state_dict())
    video_llm.config._name_or_path = str(tmp_path)
    return video_llm


@torch.no_grad()
def test_an_offloaded_towers_partner_is_where_the_tower_computes(model: Any, tmp_path: Path) -> None:
    """Between calls accelerate leaves weights on ``meta``."""
    accelerate = pytest.importorskip("accelerate")
    inputs = batch(LlavaOnevision, [Prompt(frames=6)])
    processor, question = llava_onevision(), "what is the red ball ?"
    with AdaTP(flops=0.5, relevance="siglip")(model, processor, question=question) as run:
        model(**inputs)
    accelerate.cpu_offload(model.model.vision_tower, execution_device=inputs["input_ids"].device)
    assert next(model.model.vision_tower.parameters()).is_meta
    with AdaTP(flops=0.5, relevance="siglip")(model, processor, question=question) as offloaded:
        model(**inputs)
    assert [layer[0].tolist() for layer in offloaded.report.kept] == [
        layer[0].tolist() for layer in run.report.kept
    ]


@pytest.mark.parametrize("layer", [-1, -2, 1, [0, -2]], ids=str)
@torch.no_grad()
def test_frames_are_not_encoded_twice_and_come_out_the_same(
    siglip: SiglipModel, model: Any, layer: int | list[int], agree: Agree
) -> None:
    pixels = torch.randn(5, 3, 16, 16)
    model.config.vision_feature_layer = layer
    number = layer if isinstance(layer, int) else layer[-1]
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[number]
    partner = load_partner(model, model.model.vision_tower, download=False)
    expected = siglip.get_image_features(pixels)
    expected = getattr(expected, "pooler_output", expected)
    with flop_counter() as observed:
        embedded = partner.embed_frames(states)
    agree(embedded, expected, within=1e-5)
    with flop_counter() as read:
        text = partner.embed_text("what is the red ball ?")
    ids = partner.tokenizer(
        ["what is the red ball ?"], padding="max_length", max_length=12, return_tensors="pt"
    )["input_ids"]
    expected = siglip.get_text_features(ids)
    agree(text, getattr(expected, "pooler_output", expected)[0], within=1e-5)
    assert partner.frame_flops(5) == pytest.approx(observed.get_total_flops(), rel=0.01)
    assert partner.text_flops() == pytest.approx(read.get_total_flops(), rel=0.01)


@torch.no_grad()
def test_the_relevant_segment_is_the_one_that_siglip_names(
    siglip: SiglipModel, model: Any, agree: Agree
) -> None:
    processor = llava_onevision()
    inputs = processor(
        text=[prompt(processor, "video", "what is the red ball ?")],
        videos=[frames(12)],
        return_tensors="pt",
        do_sample_frames=False,
    )
    with AdaTP(flops=0.5, tau_s=1.0)(model, processor) as run:
        model(**inputs)
    assert run.report.relevance == "siglip"
    ids = processor.tokenizer(
        ["what is the red ball ?"], padding="max_length", max_length=12, return_tensors="pt"
    )["input_ids"]
    scores = siglip(input_ids=ids, pixel_values=inputs["pixel_values_videos"][0])
    cosine = torch.nn.functional.cosine_similarity(scores.text_embeds, scores.image_embeds)
    agree(torch.tensor(run.report.notes[0]["segment_relevance"]), cosine, within=1e-5)
    assert run.report.flops.relevance > 0
    with AdaTP(flops=1.0)(model, processor) as complete:
        model(**inputs)
    assert (complete.report.relevance, complete.report.flops.relevance) == ("none", 0)  # it did not run
    with AdaTP(flops=0.5, tau_s=1.0)(model, question="which dog runs ?") as other:
        model(**inputs)
    assert other.report.notes[0]["segment_relevance"] != run.report.notes[0]["segment_relevance"]


def test_one_question_a_sample_also_for_copies(model: Any) -> None:
    inputs = batch(LlavaOnevision, [Prompt(seed=1), Prompt(seed=2)])
    method = AdaTP(flops=0.6, tau_s=1.0)
    with method(model, question=["what is the red ball ?", "which dog runs ?"]) as run:
        model.generate(**inputs, max_new_tokens=2, num_return_sequences=2, do_sample=True)
    noted = [note["segment_relevance"] for note in run.report.notes]
    assert len(noted) == 4
    assert noted[0] == pytest.approx(noted[1], abs=1e-5)
    assert noted[2] == pytest.approx(noted[3], abs=1e-5)
    assert noted[0] != pytest.approx(noted[2], abs=1e-3)


def test_a_folder_beside_a_family_without_a_selected_layer_is_not_used(model: Any) -> None:
    """What Gemma 3's projector reads has gone through the tower's last norm already."""
    other = build(Gemma3)
    other.config._name_or_path = model.config._name_or_path
    with pytest.raises(EncoderError, match="no SigLIP text encoder is known"):
        load_partner(other, other.model.vision_tower, download=False)


def test_partners_that_can_not_be_had(model: Any, tmp_path: Path) -> None:
    tower = model.model.vision_tower
    (tmp_path / "relevance" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="can't be loaded"):
        load_partner(model, tower, download=False)
    model.config._name_or_path = "somewhere/else"
    assert partner_of(model) is None
    with pytest.raises(EncoderError, match="no SigLIP text encoder is known"):
        load_partner(model, tower, download=True)
    model.config.vision_config.hidden_size = 1152
    model.config.vision_config.image_size = 384
    model.config.vision_config.patch_size = 14
    assert partner_of(model) == "google/siglip-so400m-patch14-384"
    with pytest.raises(EncoderError, match="is not on this machine: relevance='siglip' fetches it"):
        load_partner(model, tower, download=False)
