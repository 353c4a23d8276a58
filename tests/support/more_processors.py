"""The real processor classes of the families in ``more_families``, over a small tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import more_families as more
from families import END, IMAGE, PAD, START, VIDEO
from more_families import of_transformers
from processors import QWEN_WORDS, TEMPLATE, glm4v, qwen3_vl, qwen_template, tokenizer

SIZE = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64 * 64}
WRAPPED = "<|vision_start|><|video_pad|><|vision_end|>"
CHAT = {PAD: "[PAD]", START: "<|im_start|>", END: "<|im_end|>"}


def like_qwen(name: str, videos: str = "Qwen2VL", video: str = WRAPPED, **sizes: Any) -> Callable[[], Any]:
    """A processor with Qwen's words: patches of 4 x 4 pixels, merged two by two."""

    def make() -> Any:
        given = {"patch_size": 4, "size": SIZE, **sizes}
        return of_transformers(f"{name}Processor")(
            image_processor=of_transformers("Qwen2VLImageProcessorPil")(patch_size=4, size=SIZE),
            tokenizer=tokenizer(QWEN_WORDS),
            video_processor=of_transformers(f"{videos}VideoProcessor")(**given),
            chat_template=qwen_template(video),
        )

    return make


def cohere_compass() -> Any:
    """Qwen's, spelled in capitals."""
    words = {
        number: word.upper() if "_" in word and number > 80 else word for number, word in QWEN_WORDS.items()
    }
    words |= CHAT
    given = {"patch_size": 4, "size": SIZE}
    return of_transformers("CohereCompassProcessor")(
        image_processor=of_transformers("CohereCompassImageProcessorPil")(**given),
        tokenizer=tokenizer(words),
        video_processor=of_transformers("CohereCompassVideoProcessor")(**given),
        chat_template=TEMPLATE.replace("{{ video }}", "<|VIDEO_PAD|>").replace(
            "{{ image }}", "<|IMAGE_PAD|>"
        ),
    )


def gemma4(name: str = "Gemma4") -> Any:
    """At most 16 tokens a frame, of 2 x 2 patches of 4 x 4 pixels."""
    words = CHAT | {
        IMAGE: "<image_soft_token>",
        VIDEO: "<|video|>",
        94: "<start_of_image>",
        95: "<end_of_image>",
    }
    words |= {more.AUDIO: "<audio_soft_token>", 87: "<start_of_audio>", 88: "<end_of_audio>"}
    named = {"boi_token": words[94], "eoi_token": words[95], "image_token": words[IMAGE]}
    named |= {"audio_token": words[more.AUDIO], "boa_token": words[87], "eoa_token": words[88]}
    given = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    pil = of_transformers(f"{name}ImageProcessorPil") or of_transformers(f"{name}ImageProcessor")
    return of_transformers(f"{name}Processor")(
        feature_extractor=of_transformers(f"{name}AudioFeatureExtractor")(),
        image_processor=pil(**given),
        tokenizer=tokenizer(words, named),
        video_processor=of_transformers(f"{name}VideoProcessor")(**given),
        chat_template=TEMPLATE.replace("{{ video }}", "<|video|>").replace(
            "{{ image }}", "<image_soft_token>"
        ),
    )


def perception_lm() -> Any:
    """A frame of 16 x 16 pixels: 4 x 4 patches, pooled two by two."""
    words = CHAT | {IMAGE: "<|image|>", VIDEO: "<|video|>"}
    size = {"height": 16, "width": 16}
    return of_transformers("PerceptionLMProcessor")(
        video_processor=of_transformers("PerceptionLMVideoProcessor")(size=size),
        image_processor=of_transformers("PerceptionLMImageProcessor")(tile_size=16, max_num_tiles=1),
        tokenizer=tokenizer(words, {"image_token": "<|image|>", "video_token": "<|video|>"}),
        patch_size=4,
        pooling_ratio=2,
        chat_template=TEMPLATE.replace("{{ video }}", "<|video|>").replace("{{ image }}", "<|image|>"),
    )


def kimi() -> Any:
    """Patches of 4 x 4 pixels."""
    words = CHAT | {IMAGE: "<|media_pad|>", VIDEO: "<|kimi_k25_video_placeholder|>"}
    given = {"patch_size": 4}
    return of_transformers("Kimi_K25Processor")(
        image_processor=of_transformers("Kimi_K25ImageProcessor")(**given),
        tokenizer=tokenizer(words),
        video_processor=of_transformers("Kimi_K25VideoProcessor")(**given),
        chat_template=TEMPLATE.replace("{{ video }}", words[VIDEO]).replace("{{ image }}", words[IMAGE]),
    )


def minicpm(name: str) -> Callable[[], Any]:
    """Patches of 4 x 4 pixels, four by four of them a token; frames are not sliced."""

    def make() -> Any:
        words = CHAT | {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", 94: "<image>", 95: "</image>"}
        words |= {96: "<slice>", 97: "</slice>", 98: "<image_id>", 99: "</image_id>"}
        named = {"image_token": words[IMAGE], "video_token": words[VIDEO], "image_start_token": "<image>"}
        named |= {
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
        }
        named |= {"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}
        videos = "MiniCPMV4_6" if name == "MiniCPMV4_7" else name
        given = {"patch_size": 4, "scale_resolution": 64, "slice_mode": False, "downsample_mode": "16x"}
        return of_transformers(f"{name}Processor")(
            image_processor=of_transformers(f"{videos}ImageProcessor")(**given),
            video_processor=of_transformers(f"{videos}VideoProcessor")(**given),
            tokenizer=tokenizer(words, named),
            chat_template=TEMPLATE.replace("{{ video }}", "<|video_pad|>").replace(
                "{{ image }}", "<|image_pad|>"
            ),
        )

    return make


def nemotron() -> Any:
    """Frames of about 8 x 8 patches of 4 x 4 pixels, merged two by two, and pairs of frames."""
    words = CHAT | {IMAGE: "<image>", VIDEO: "<video>", 94: "<img>", 95: "</img>"}
    words |= {more.AUDIO: "<so_embedding>", 87: "<so_start>", 88: "<so_end>"}
    given = {"patch_size": 4, "norm_mean": [0.5] * 3, "norm_std": [0.5] * 3}
    name = "NemotronH_Omni_Reasoning_V3"
    return of_transformers(f"{name}Processor")(
        image_processor=of_transformers(f"{name}ImageProcessor")(**given),
        video_processor=of_transformers(f"{name}VideoProcessor")(video_target_num_patches=64, **given),
        feature_extractor=of_transformers("ParakeetFeatureExtractor")(),
        tokenizer=tokenizer(words),
        chat_template=TEMPLATE.replace("{{ video }}", "<video>").replace("{{ image }}", "<image>"),
    )


def qwen_omni(name: str) -> Callable[[], Any]:
    """Qwen's, and sounds of at most four seconds: 16 mel bins, a hundred steps a second."""

    def make() -> Any:
        words = QWEN_WORDS | {more.AUDIO: "<|AUDIO|>", 87: "<|audio_bos|>", 88: "<|audio_eos|>"}
        named = {"image_token": words[IMAGE], "video_token": words[VIDEO], "audio_token": words[more.AUDIO]}
        named |= {"vision_bos_token": words[94], "vision_eos_token": words[95]}
        named |= {"audio_bos_token": words[87], "audio_eos_token": words[88]}
        given = {"patch_size": 4, "size": SIZE}
        heard = "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\n{% else %}"
        made = of_transformers(f"{name}Processor")(
            image_processor=of_transformers("Qwen2VLImageProcessorPil")(**given),
            video_processor=of_transformers("Qwen2VLVideoProcessor")(**given),
            feature_extractor=of_transformers("WhisperFeatureExtractor")(feature_size=16, chunk_length=4),
            tokenizer=tokenizer(words, named),
            chat_template=qwen_template(WRAPPED).replace("{% else %}", heard),
        )
        made.videos_kwargs = {"size": SIZE}  # its own would make thousands of tokens
        return made

    return make


PROCESSORS: dict[Any, Callable[[], Any]] = {
    more.Qwen25OmniThinker: qwen_omni("Qwen2_5Omni"),
    more.Qwen3OmniMoeThinker: qwen_omni("Qwen3OmniMoe"),
    more.Cosmos3Omni: qwen3_vl,
    more.Exaone45: like_qwen("Exaone4_5_"),
    more.HyperClovaX: like_qwen("HyperCLOVAXVisionV2"),
    more.Glm4vMoe: glm4v,
    more.GlmOcr: lambda: glm4v("Glm46V"),
    more.Cosmos3Edge: like_qwen("Cosmos3Edge", "Cosmos3Edge", "<|video_pad|>"),
    more.Lfm3VL: like_qwen("Lfm3Vl", "Qwen3VL", "<|video_pad|>"),
    more.CohereCompass: cohere_compass,
    more.Gemma4: gemma4,
    more.PerceptionLM: perception_lm,
    more.KimiK25: kimi,
    more.NemotronHOmni: nemotron,
    more.MiniCPMV46: minicpm("MiniCPMV4_6"),
    more.MiniCPMV47: minicpm("MiniCPMV4_7"),
    more.MiniCPMOcr: minicpm("MiniCPMOcr"),
}
"""Of the others none can be built without files from the hub, or another test has it (LLaVA-Video)."""
