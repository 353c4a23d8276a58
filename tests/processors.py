"""The real processor classes of the families, built from configuration, over a small tokenizer."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from families import END, IMAGE, PAD, START, VIDEO, LlavaOnevision, Qwen2VL, Qwen3VL, Qwen3VLMoe, Qwen25VL

WORDS = (
    "what which who is was the a of in on does do cat dog ball red blue green moves runs jumps first last ?"
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ video }}\n"
    "{% elif part['type'] == 'image' %}{{ image }}\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(special: dict[int, str]) -> PreTrainedTokenizerFast:
    """Splits into words; ids of special tokens as given."""
    vocabulary = {token: number for number, token in special.items()}
    free = (number for number in range(1, 100) if number not in special)
    vocabulary |= {"[UNK]": next(free), "user": next(free), "assistant": next(free), "\n": next(free)}
    vocabulary |= {word: next(free) for word in WORDS.split()}
    vocabulary |= {f"<{number}>": number for number in free}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" "), "removed")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            core.pre_tokenizer,
            pre_tokenizers.Split(Regex(r"\?"), "isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[PAD],
        bos_token=None,
        eos_token=special[END],
        unk_token="[UNK]",
        padding_side="left",
        additional_special_tokens=[token for number, token in special.items() if number not in (PAD, END)],
    )


def llava_onevision() -> Any:
    """A frame of 16 x 16 pixels: 4 x 4 patches."""
    from transformers import (
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    size = {"height": 16, "width": 16}
    words = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<image>", VIDEO: "<video>"}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=[[16, 16]]),
        tokenizer=tokenizer(words),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("{{ video }}", "<video>").replace("{{ image }}", "<image>"),
    )


QWEN_WORDS = {
    PAD: "[PAD]",
    START: "<|im_start|>",
    END: "<|im_end|>",
    IMAGE: "<|image_pad|>",
    VIDEO: "<|video_pad|>",
    94: "<|vision_start|>",
    95: "<|vision_end|>",
}


def qwen_template(video: str) -> str:
    return TEMPLATE.replace("{{ video }}", video).replace(
        "{{ image }}", "<|vision_start|><|image_pad|><|vision_end|>"
    )


def qwen2_vl(name: str = "Qwen2VLProcessor") -> Any:
    """Patches of 4 x 4 pixels, frames of at most 64 x 64."""
    from transformers import Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor

    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 64}
    return getattr(transformers, name)(
        image_processor=Qwen2VLImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokenizer(QWEN_WORDS),
        video_processor=Qwen2VLVideoProcessor(patch_size=4, size=size),
        chat_template=qwen_template("<|vision_start|><|video_pad|><|vision_end|>"),
    )


def qwen2_5_vl() -> Any:
    return qwen2_vl("Qwen2_5_VLProcessor")


def qwen3_vl() -> Any:
    """Timestamps before the temporal steps."""
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLProcessor, Qwen3VLVideoProcessor

    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 64}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokenizer(QWEN_WORDS),
        video_processor=Qwen3VLVideoProcessor(patch_size=4, size=size),
        chat_template=qwen_template("<|video_pad|>"),
    )


PROCESSORS = {
    LlavaOnevision: llava_onevision,
    Qwen2VL: qwen2_vl,
    Qwen25VL: qwen2_5_vl,
    Qwen3VL: qwen3_vl,
    Qwen3VLMoe: qwen3_vl,
}
