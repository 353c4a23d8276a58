"""vLLM engines in this process, one at a time, and what can be seen of them."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.config import set_current_vllm_config
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager

VIDEO = {
    "llava_onevision": "<video>",
    "internvl": "<video>",
    "qwen3_vl": "<|video_pad|>",
    "qwen3_5": "<|video_pad|>",
}
IMAGE = {"llava_onevision": "<image>", "internvl": "<IMG_CONTEXT>"}
WITHOUT_TIMES = ("llava_onevision", "internvl")
"""Families whose processors take frames alone."""
QWEN_VIDEO, QWEN_IMAGE = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("video", "image"))
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 4,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.3,
    "limit_mm_per_prompt": {"image": 2, "video": 2},
    "max_logprobs": 128,
    "logprobs_mode": "raw_logits",
    "disable_log_stats": True,
    "seed": 0,
}


ALONE = {"enable_prefix_caching": False}
CAT = "what does the cat do ? " * 6
DOG = "which ball is red ? " * 6
BLOCK = 32
"""Tokens in a block of vLLM's cache, the fewest that it has on a CPU: fewer than what is left of a video."""


def clip(seed: int = 0, frames: int = 8, side: int = 16) -> np.ndarray[Any, Any]:
    """(frames, side, side, 3) uint8: a still background, two scenes, something that moves."""
    random = np.random.default_rng(seed)
    scenes = random.integers(0, 255, (2, side, side, 3))
    video = np.stack([scenes[frame * 2 // frames] for frame in range(frames)])
    for frame in range(frames):
        at = frame * 2 % (side - 4)
        video[frame, at : at + 4, at : at + 4] = random.integers(0, 255, (4, 4, 3))
    return video.astype(np.uint8)


def metadata(frames: int) -> dict[str, Any]:
    """Of a clip of two frames a second, none of which is left out."""
    return {
        "fps": 2.0,
        "duration": frames / 2,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }


def given(family: str, video: np.ndarray[Any, Any]) -> Any:
    """A clip as vLLM takes it."""
    return video if family in WITHOUT_TIMES else (video, metadata(len(video)))


def chat(family: str, *turns: str) -> str:
    """A conversation that the user began, ready for an answer. {video} and {image} stand for media."""
    media = {"video": VIDEO.get(family, QWEN_VIDEO), "image": IMAGE.get(family, QWEN_IMAGE)}
    roles = ["user", "assistant"] * len(turns)
    said = [
        f"<|im_start|>{role} {turn.format(**media)}<|im_end|>\n"
        for role, turn in zip(roles, turns, strict=False)
    ]
    return "".join(said) + "<|im_start|>assistant\n"


def scenes(seed: int) -> np.ndarray[Any, Any]:
    """The clip of most requests."""
    return clip(seed, frames=16, side=32)


def requests(family: str) -> list[Any]:
    """Prompts, videos, images: one video; two others; an image beside; the first again, in other chats."""
    turns = ("{video}\n" + CAT, "runs", "which ball is red ?")
    return [
        (chat(family, "{video}\n" + CAT), [scenes(0)], []),
        (chat(family, "{video}\n" + DOG), [scenes(0)], []),
        (chat(family, "{video}\n{video}\n" + CAT), [scenes(1), scenes(2)], []),
        (chat(family, "{image}\n{video}\n" + CAT), [scenes(3)], [clip(4, 1)[0]]),
        (chat(family, *turns), [scenes(0)], []),
    ]


@dataclass
class Answered:
    """What a request alone was answered, and what the model was given.

    Attributes:
        ids: of the prompt.
        logits: (vocabulary,) of the first token.
        tokens: of the answer.
        chosen: what stayed of each video that was not remembered.
        positions: (3, n) or (n,) of the prompt.
        model: the module of the model's class.
    """

    ids: list[int]
    logits: torch.Tensor
    tokens: list[int]
    chosen: list[list[int]]
    positions: torch.Tensor
    model: str


def answer_all(engine: Engine) -> list[Answered]:
    """Answer each request by itself."""
    found = []
    for prompt, videos, images in requests(engine.family):
        engine.seen.clear()
        ids, logits, tokens = engine.answer(prompt, videos, images)
        positions = engine.seen.positions[0][..., : len(ids)]
        found.append(
            Answered(ids, logits, tokens, engine.seen.chosen, positions, type(engine.model).__module__)
        )
    return found


@dataclass
class Seen:
    """What a model was given since it was cleared.

    Attributes:
        chosen: what stayed of each video.
        positions: (3, n) of each batch that was read.
        encoded: calls of the vision tower.
    """

    chosen: list[list[int]] = field(default_factory=list)
    positions: list[torch.Tensor] = field(default_factory=list)
    encoded: int = 0

    def clear(self) -> None:
        self.chosen, self.positions, self.encoded = [], [], 0


class Engine:
    """vLLM with a checkpoint of a family."""

    def __init__(self, family: str, folder: Path, **options: Any) -> None:
        self.family = family
        self.llm = LLM(str(folder), **{**OPTIONS, **options})
        self.seen = Seen()
        self.llm.apply_model(self._watch)

    @property
    def model(self) -> Any:
        return self.llm.apply_model(lambda model: model)[0]

    def _watch(self, model: Any) -> None:
        seen = self.seen
        if pruning := getattr(model, "pruning", None):
            choose = pruning.choose

            def watched(*args: Any) -> torch.Tensor:
                kept = choose(*args)
                seen.chosen.append(kept.tolist())
                return kept

            pruning.choose = watched
        tower = getattr(model, "visual", None) or model.vision_tower
        tower.register_forward_pre_hook(lambda *_: setattr(seen, "encoded", seen.encoded + 1))

        inner = model.language_model.model
        forward = inner.forward

        def read(*args: Any, **kwargs: Any) -> Any:
            seen.positions.append((kwargs["positions"] if "positions" in kwargs else args[1]).clone())
            return forward(*args, **kwargs)

        inner.forward = read  # what compiles the module goes past hooks

    def answer(
        self, prompt: str, videos: list[Any] = (), images: list[Any] = (), tokens: int = 4
    ) -> tuple[list[int], torch.Tensor, list[int]]:
        """Ids of the prompt, logits (vocabulary,) of the first token, and the tokens of a greedy answer."""
        return self.answers([(prompt, videos, images)], tokens)[0]

    def answers(self, asked: list[Any], tokens: int = 4) -> list[tuple[list[int], torch.Tensor, list[int]]]:
        """The same of several requests at once."""
        inputs = []
        for prompt, videos, images in asked:
            media: dict[str, Any] = {}
            if len(videos):
                media["video"] = [given(self.family, video) for video in videos]
            if len(images):
                media["image"] = list(images)
            inputs.append({"prompt": prompt, "multi_modal_data": media} if media else {"prompt": prompt})
        how = SamplingParams(temperature=0, max_tokens=tokens, logprobs=-1, ignore_eos=True)
        found = []
        for output in self.llm.generate(inputs, how, use_tqdm=False):
            first = output.outputs[0].logprobs[0]
            logits = torch.tensor([first[token].logprob for token in sorted(first)])
            found.append((list(output.prompt_token_ids), logits, list(output.outputs[0].token_ids)))
        return found

    def replay_graphs(self) -> list[str]:
        """Let vLLM replay graphs of the vision tower from now on.

        A CPU captures none, so in the place of replaying one the tower is run. All else is vLLM's own.

        Returns:
            The medium of each replay, "image" or "video", which grows as requests are answered.
        """
        replayed: list[str] = []

        class Replays(EncoderCudaGraphManager):
            def _run_budget_graph(self, mm_kwargs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
                replayed.append(self.model.get_input_modality(mm_kwargs))
                return self.model.encoder_eager_forward(mm_kwargs)

        def use(worker: Any) -> None:
            runner = worker.model_runner
            with set_current_vllm_config(runner.vllm_config):
                made = Replays(runner.vllm_config, runner.device, runner.dtype, runner.get_model())
            runner.encoder_cudagraph_manager = made

        self.llm.collective_rpc(use)
        return replayed

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()
        gc.collect()


def checkpoint(family: str, where: Path) -> Path:
    """A checkpoint of the family, written once a run."""
    folder = where / family
    return folder if folder.exists() else checkpoints.write(family, folder)


if __name__ == "__main__":
    import engines  # by its name, so that what is written can be read

    torch.save(engines.answer_all(engines.Engine(sys.argv[1], Path(sys.argv[2]), **ALONE)), sys.argv[3])
