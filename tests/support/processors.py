"""The real processor classes of the families, built from configuration, over a small tokenizer."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from families import (
    END,
    IMAGE,
    PAD,
    START,
    VIDEO,
    Gemma3,
    Glm4v,
    Glm46V,
    InternVL,
    LlavaNextVideo,
    LlavaOnevision,
    Qwen2VL,
    Qwen3VL,
    Qwen3VLMoe,
    Qwen25VL,
    Qwen35,
    Qwen35Moe,
    SmolVLM,
    VideoLlama3,
    VideoLlava,
)

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


def tokenizer(special: dict[int, str], named: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """Splits into words; ids of special tokens as given, some of them known as attributes."""
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
        model_specific_special_tokens=named or {},
    )


def llava_onevision() -> Any:
    """A frame of 16 x 16 pixels: 4 x 4 patches."""
    from transformers import (
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    size = {"height": 16, "width": 16}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=[[16, 16]]),
        tokenizer=tokenizer(LLAVA_WORDS),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
    )


LLAVA_WORDS = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<image>", VIDEO: "<video>"}
LLAVA_TEMPLATE = TEMPLATE.replace("{{ video }}", "<video>").replace("{{ image }}", "<image>")
SQUARE: dict[str, Any] = {
    "size": {"shortest_edge": 16, "longest_edge": 16},
    "crop_size": {"height": 16, "width": 16},
}


def llava_next_video() -> Any:
    """A frame of 16 x 16 pixels: 4 x 4 patches."""
    from transformers import LlavaNextImageProcessorPil, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    return LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=[[16, 16]]),
        tokenizer=tokenizer(LLAVA_WORDS),
        video_processor=LlavaNextVideoVideoProcessor(**SQUARE),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def video_llava() -> Any:
    """A frame of 16 x 16 pixels: 4 x 4 patches."""
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    return VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**SQUARE),
        tokenizer=tokenizer(LLAVA_WORDS),
        video_processor=VideoLlavaVideoProcessor(**SQUARE),
        patch_size=4,
        chat_template=LLAVA_TEMPLATE,
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


def internvl() -> Any:
    """A frame of 32 x 32 pixels: 8 x 8 patches."""
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor, InternVLVideoProcessor

    words = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>"}
    named = {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    named |= {"start_image_token": "<img>", "end_image_token": "</img>"}
    size = {"height": 32, "width": 32}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size),
        tokenizer=tokenizer({**words, 94: "<img>", 95: "</img>"}, named),
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=16,
        chat_template=TEMPLATE.replace("{{ video }}", "<video>").replace("{{ image }}", "<IMG_CONTEXT>"),
    )


def smolvlm() -> Any:
    """A frame of 32 x 32 pixels: 8 x 8 patches."""
    from transformers import SmolVLMImageProcessorPil, SmolVLMProcessor, SmolVLMVideoProcessor

    words = {
        PAD: "[PAD]",
        START: "<|im_start|>",
        END: "<end_of_utterance>",
        IMAGE: "<image>",
        VIDEO: "<video>",
    }
    size = {"longest_edge": 32}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(size=size, max_image_size=size),
        tokenizer=tokenizer({**words, 94: "<fake_token_around_image>", 95: "<global-img>"}),
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=16,
    )


def gemma3() -> Any:
    """A frame of 32 x 32 pixels: 8 x 8 patches. It knows no videos; a prompt begins with its own token."""
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    words = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<image_soft_token>"}
    words |= {94: "<start_of_image>", 95: "<end_of_image>", 96: "<bos>"}
    named = {"boi_token": words[94], "eoi_token": words[95], "image_token": words[IMAGE]}
    made = tokenizer(words, named)
    made.bos_token = words[96]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[(words[96], 96)]
    )
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=made,
        image_seq_length=16,
        chat_template="{{ bos_token }}" + TEMPLATE.replace("{{ image }}", words[94]),
    )


def glm4v(name: str = "Glm4v") -> Any:
    """Patches of 4 x 4 pixels, frames of at most 64 x 64."""
    words = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>", IMAGE: "<|image|>", VIDEO: "<|video|>"}
    words |= {94: "<|begin_of_image|>", 95: "<|end_of_image|>"}
    words |= {96: "<|begin_of_video|>", 97: "<|end_of_video|>"}
    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 64}
    made: dict[str, Any] = {"patch_size": 4, "size": size}
    return getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{name}ImageProcessorPil")(**made),
        tokenizer=tokenizer(words),
        video_processor=getattr(transformers, f"{name}VideoProcessor")(**made),
        chat_template=TEMPLATE.replace("{{ video }}", "<|begin_of_video|><|video|><|end_of_video|>").replace(
            "{{ image }}", "<|begin_of_image|><|image|><|end_of_image|>"
        ),
    )


def glm46v() -> Any:
    return glm4v("Glm46V")


def video_llama_3() -> Any:
    """Patches of 4 x 4 pixels, frames of at most 64 x 64; an image's patches are not merged."""
    from transformers import (
        VideoLlama3ImageProcessorPil,
        VideoLlama3Processor,
        VideoLlama3VideoProcessor,
    )

    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 64}
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokenizer(QWEN_WORDS),
        video_processor=VideoLlama3VideoProcessor(patch_size=4, size=size),
        chat_template=qwen_template("<|video_pad|>"),
    )


PROCESSORS = {
    LlavaOnevision: llava_onevision,
    LlavaNextVideo: llava_next_video,
    VideoLlava: video_llava,
    Qwen2VL: qwen2_vl,
    Qwen25VL: qwen2_5_vl,
    Qwen3VL: qwen3_vl,
    Qwen3VLMoe: qwen3_vl,
    Qwen35: qwen3_vl,
    Qwen35Moe: qwen3_vl,
    InternVL: internvl,
    SmolVLM: smolvlm,
    Gemma3: gemma3,
    Glm4v: glm4v,
    Glm46V: glm46v,
    VideoLlama3: video_llama_3,
}
