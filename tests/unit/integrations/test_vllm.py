"""The parts of the vLLM plugin that need no vLLM. `tests/vllm_plugin` runs the rest in a real one."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adatp
from adatp.integrations.vllm.asking import question_words
from adatp.integrations.vllm.choosing import VideoPruning, put_text_between
from adatp.integrations.vllm.embeddings import EmbeddingCache
from adatp.integrations.vllm.positions import CHANNELS, Offsets, attach, detach
from adatp.integrations.vllm.settings import MEDIUM, QUESTION, Settings, SettingsError
from families import IMAGE, VIDEO
from pretend_gpu import PretendedGPU
from processors import llava_onevision


def test_the_entry_point_is_there() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["adatp"].split(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("config", [{}, None, {"other": {}}, "hashable"])
def test_no_settings(config: object) -> None:
    assert Settings.read(config) is None


def test_settings() -> None:
    assert Settings.read({"adatp": {}}) == Settings()
    assert Settings.read({"adatp": {"question": True, "tau_s": 0.9}, "more": 1}) == Settings(True, 0.9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"qestion": True}, "adatp: no setting 'qestion'; there are question, tau_s"),
        ([], "settings are an object"),
        ({"question": "yes"}, "question is true or false, not 'yes'"),
        ({"tau_s": 2}, r"tau_s is a cosine, in \[-1, 1\], not 2"),
        ({"tau_d": "0.9"}, "tau_d is a number"),
        ({"tau_r": 0}, "tau_r must be above 0"),
        ({"cache_mib": -1}, "cache_mib is a number of MiB"),
        ({"cache_mib": 1.5}, "cache_mib is a number of MiB"),
    ],
)
def test_bad_settings(given: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        Settings.read({"adatp": given})
    assert "\n" not in str(error.value)


def test_a_digest_names_all_that_decides() -> None:
    free, asked = Settings(), Settings(question=True)
    digests = [
        free.digest(0.5, ()),
        free.digest(0.75, ()),
        asked.digest(0.5, (1, 2)),
        asked.digest(0.5, (2, 1)),
        Settings(tau_d=0.8).digest(0.5, ()),
    ]
    assert len({*digests}) == len(digests)
    assert free.digest(0.5, (1, 2)) == free.digest(0.5, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_offsets_are_exact_in_every_type(dtype: torch.dtype) -> None:
    rows = torch.randn(5, 8).to(dtype)
    offsets = torch.tensor([[0, 1, 2], [255, 256, 257], [1023, 5, 511], [40_000, 0, 65_535], [7, 7, 7]])
    carried = attach(rows, offsets)
    assert carried.shape == (5, 8 + CHANNELS)
    alone, found = detach(carried, 8)
    assert torch.equal(alone, rows)
    assert torch.equal(found, offsets)


def test_offsets_of_a_batch() -> None:
    """A part of a video, an image without offsets, text between them, padding after them."""
    video, image = attach(torch.zeros(2, 4), torch.tensor([[0, 1, 0], [300, 1, 1]])), torch.ones(1, 4)
    is_media = torch.tensor([False, True, True, False, True])
    positions = torch.arange(6).expand(3, -1).clone()
    offsets = Offsets()
    alone = offsets.take([video, image], is_media, 4)
    assert alone is not None
    assert [part.shape[1] for part in alone] == [4, 4]
    where = positions.data_ptr()
    offsets.add_to(positions)
    assert positions.tolist() == [[0, 1, 302, 3, 4, 5], [0, 2, 3, 3, 4, 5], [0, 1, 3, 3, 4, 5]]
    assert positions.data_ptr() == where
    offsets.add_to(positions)  # once
    assert positions[0, 2] == 302


def test_a_batch_without_media_adds_nothing_of_the_one_before() -> None:
    offsets, positions = Offsets(), torch.zeros(3, 2, dtype=torch.int64)
    offsets.take([attach(torch.zeros(1, 4), torch.tensor([[1, 1, 1]]))], torch.tensor([True, False]), 4)
    offsets.take([], None, 4)
    offsets.add_to(positions)
    assert not positions.any()


def test_embeddings_used_last_are_kept() -> None:
    cache, video = EmbeddingCache(3 * 64), torch.zeros(4, 4)
    for name in (b"a", b"b", b"c"):
        cache.put(name, video + 1)
    assert cache.get(b"a") is not None
    cache.put(b"d", video)
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.held == 3 * 64
    cache.put(b"large", torch.zeros(64))
    assert cache.get(b"large") is None
    assert cache.held == 3 * 64


def test_embeddings_are_no_view_of_a_batch() -> None:
    cache, batch = EmbeddingCache(1 << 20), torch.zeros(8, 4)
    cache.put(b"a", batch[:4])
    batch += 1
    assert not cache.get(b"a").any()  # type: ignore[union-attr]


def test_the_question_is_the_last_user_turn() -> None:
    processor = llava_onevision()
    said = "<|im_start|>user <video>\nwhat does the cat do ?<|im_end|>\n<|im_start|>assistant\n"
    more = said + "runs<|im_end|>\n<|im_start|>user which ball is red ?<|im_end|>\n<|im_start|>assistant\n"
    for prompt, words in ((said, "what does the cat do ?"), (more, "which ball is red ?")):
        ids = processor.tokenizer(prompt)["input_ids"]
        found = question_words(processor, ids, VIDEO, IMAGE)
        assert processor.tokenizer.decode(found) == words


def test_without_a_video_there_is_no_question() -> None:
    assert question_words(llava_onevision(), [1, 2, 3], VIDEO, IMAGE) == []


def pruned(settings: Settings, rows: Tensor, vocabulary: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """From the tower's embeddings of a video of six frames to what the decoder reads, as models do it."""
    pruning = VideoPruning(settings, 0.6, lambda ids: vocabulary[ids])
    inputs = {QUESTION: [torch.tensor([3, 5, 7])], MEDIUM: [torch.zeros(16, dtype=torch.uint8)]}
    with pruning.asked(inputs if settings.question else {}):
        (whole,) = pruning.whole(lambda: [rows])
        kept = pruning.choose(0, whole, 6)
    text, shown = torch.arange(0, 60, 10), torch.tensor([at for at in range(60) if at % 10])
    text, shown, offsets = (
        each.to(rows.device, non_blocking=True) for each in (text, shown, torch.arange(180).view(60, 3))
    )
    left, places = put_text_between(pruning.embed(text), rows[kept], text, shown[kept])
    read = Offsets()
    alone = read.take([attach(left, offsets[places])], torch.ones(len(positions.T), dtype=torch.bool), 8)
    assert alone is not None
    read.add_to(positions)
    return alone[0], positions


@pytest.mark.parametrize("question", [False, True])
def test_no_step_waits_for_a_gpu(question: bool) -> None:
    """A GPU has the next batch queued while one is chosen for, so that a load does not slow it down."""
    torch.manual_seed(0)
    settings = Settings(question=question, tau_s=1.0, tau_r=0.2)
    given = torch.randn(54, 8), torch.randn(60, 8), torch.zeros(3, 21 + 6, dtype=torch.int64)
    expected = pruned(settings, *(each.clone() for each in given))
    with PretendedGPU(watched=str(Path(adatp.__file__).parent)) as gpu:
        found = pruned(settings, *gpu.put(given))
        waits = list(gpu.waits)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.cpu(), other)
    assert waits == []
    assert gpu.launches
    assert expected[1].any()
