"""Processors whose tokenizers split words and digits as real ones do, with chat templates of the real shapes.

The templates write what the published ones write; they were compared with copies in public repositories:

- LLaVA-OneVision, LLaVA-NeXT-Video, Gemma 3, SmolVLM: transformers, tests/models/*/test_process*.py
  (LLaVA-NeXT-Video's Vicuna form: PKU-Alignment/align-anything, align_anything/models/gemma3.py)
- Qwen2-VL, Qwen2.5-VL: shell-nlp/gpt_server, tests/test_chat_template.py
- Qwen3-VL, InternVL, GLM-4.1V: copies of the checkpoints' files in several repositories

Of VideoLLaMA3 and Video-LLaVA none was found. They have the shape that their model cards show.
"""

from __future__ import annotations

import json
from functools import cache, partial
from typing import Any
from unittest import mock

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import processors
from families import (
    END,
    PAD,
    Gemma3,
    Glm4v,
    Glm46V,
    InternVL,
    LlavaNextVideo,
    LlavaOnevision,
    Qwen2VL,
    Qwen3VL,
    Qwen25VL,
    SmolVLM,
    VideoLlama3,
    VideoLlava,
)

VOCABULARY = 700
"""More than any of the tokenizers has."""

TEXT = """You are a helpful assistant. What is the man in the red jacket holding when he opens the door?
Which colour is the ball that the dog carries across the lawn in 2024, and who threw it? The user describes
the video: a cat jumps on the table, the assistant answers. Time and frame from seconds to minutes. USER and
ASSISTANT talk about the model, the system and its images. Here the second scene begins: how many people are
standing near the yellow car at 12:30? Nobody moves, because the traffic light is green."""

_CHATML = (
    "{% for m in messages %}SYSTEM<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}"
    "VIDEO{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _chatml(video: str, image: str, system: str = "") -> str:
    default = (
        "{% if loop.first and m.role != 'system' %}<|im_start|>system\n" + system + "<|im_end|>\n{% endif %}"
    )
    template = _CHATML.replace("SYSTEM", default if system else "")
    return template.replace("VIDEO", video).replace("IMAGE", image)


_QWEN_IMAGE, _QWEN_VIDEO = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))

_LLAVA = (  # all that is shown comes first
    "{% for m in messages %}OPEN{% for part in m.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in m.content if part.type == 'video' %}<video>{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}SAID{% endfor %}CLOSE{% endfor %}"
    "{% if add_generation_prompt %}PROMPT{% endif %}"
)


def _llava(**parts: str) -> str:
    template = _LLAVA
    for name, part in parts.items():
        template = template.replace(name, part)
    return template


_VICUNA = _llava(
    OPEN="{% if m.role != 'system' %}{{ m.role.upper() }}: {% endif %}",
    SAID="{{ '\n' if m.role == 'user' and loop.first else '' }}{{ part.text }} ",
    CLOSE="",
    PROMPT="ASSISTANT:",
)
_GLM = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'system' %}<|system|>\n"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% elif m.role == 'user' %}<|user|>\n"
    "{% for part in m.content %}{% if part.type == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif part.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% else %}\n<|assistant|>\n{% for part in m.content %}{{ part.text }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}\n<|assistant|>\n{% endif %}"
)
_GEMMA = (  # its roles have to alternate; a system prompt is the first user turn's beginning
    "{{ bos_token }}{% set first = messages[0] %}"
    "{% set told = first.content[0].text + '\n\n' if first.role == 'system' else '' %}"
    "{% for m in (messages[1:] if told else messages) %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ told if loop.first else '' }}{% for part in m.content %}{% if part.type == 'image' %}"
    "<start_of_image>{% else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

TEMPLATES: dict[Any, str | None] = {
    LlavaOnevision: _llava(
        OPEN="<|im_start|>{{ m.role }} ",
        SAID="{{ '\n' }}{{ part.text }}",
        CLOSE="<|im_end|>",
        PROMPT="<|im_start|>assistant\n",
    ),
    Qwen2VL: _chatml(_QWEN_VIDEO, _QWEN_IMAGE, "You are a helpful assistant."),
    Qwen25VL: _chatml(_QWEN_VIDEO, _QWEN_IMAGE, "You are a helpful assistant."),
    Qwen3VL: _chatml("<|video_pad|>", _QWEN_IMAGE),  # the processor brackets the frames of this one
    InternVL: _chatml("<video>\n", "<IMG_CONTEXT>\n"),
    SmolVLM: None,  # the processor class has its own
    Glm4v: _GLM,
    Glm46V: _GLM,
    Gemma3: _GEMMA,
    VideoLlama3: _chatml("<|video_pad|>\n", _QWEN_IMAGE, "You are VideoLLaMA3, a helpful assistant."),
    VideoLlava: _VICUNA,
    LlavaNextVideo: _VICUNA,
}
CHATTY = list(TEMPLATES)

ROLES = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", "[gMASK]", "<sop>"]
ROLES += ["<start_of_turn>", "<end_of_turn>"]


@cache
def _trained(spaces: bool) -> Tokenizer:
    """Byte pairs of a text, of characters and marks of spaces as in Llama's, or of bytes as in Qwen's."""
    core = Tokenizer(models.BPE(byte_fallback=spaces))
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    if spaces:
        mark = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        core.pre_tokenizer = pre_tokenizers.Sequence([digits, mark])
        alphabet = [chr(number) for number in range(33, 127)]
    else:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [f"<0x{byte:02X}>" for byte in range(256)] if spaces else []
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 350, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    core.train_from_iterator([TEXT], trainer)
    return core


def tokenizer(
    special: dict[int, str], named: dict[str, str] | None = None, spaces: bool = False
) -> PreTrainedTokenizerFast:
    """In place of `processors.tokenizer`: several tokens make a word, a digit is a token."""
    state = json.loads(_trained(spaces).to_str())["model"]
    numbers = (number for number in range(1, VOCABULARY) if number not in special)
    vocabulary = {token: number for number, token in special.items()}
    roles = [token for token in ROLES if token not in vocabulary]
    vocabulary |= {token: next(numbers) for token in [*roles, *state["vocab"]]}
    merges = [tuple(pair) for pair in state["merges"]]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=spaces))
    core.pre_tokenizer = _trained(spaces).pre_tokenizer
    if spaces:
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        core.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    else:
        core.decoder = decoders.ByteLevel()
    more = [token for number, token in special.items() if number not in (PAD, END)]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[PAD],
        bos_token=None,
        eos_token=special[END],
        padding_side="left",
        additional_special_tokens=[*more, *roles],
        model_specific_special_tokens=named or {},
    )


def processor(family: Any) -> Any:
    """The family's processor, with such a tokenizer and its real kind of template."""
    spaces = family in (VideoLlava, LlavaNextVideo)
    with mock.patch.object(processors, "tokenizer", partial(tokenizer, spaces=spaces)):
        made = processors.PROCESSORS[family]()
    if (template := TEMPLATES[family]) is not None:
        made.chat_template = template
    return made
