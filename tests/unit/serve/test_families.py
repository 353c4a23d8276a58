"""Models of the hub in the server: their processors, their shapes, their batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from adatp import Session
from adatp.methods import AdaTP
from adatp.serve.settings import Settings
from clips import write_clip
from families import InternVL, LlavaOnevision, Qwen3VL, Qwen25VL, SmolVLM
from serving import data_url, question, served


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "family", [LlavaOnevision, Qwen25VL, Qwen3VL, InternVL, SmolVLM], ids=lambda family: family.name
)
def test_a_model_of_the_hub_answers_as_its_session(hub: Path, tmp_path: Path, family: type) -> None:
    clips = [write_clip(tmp_path / f"{n}.mp4", 8 + n, size=(96, 64 + 16 * (n == 2))) for n in range(3)]
    session = Session(hub / family.name, device="cpu")
    method = AdaTP(flops=0.6)
    expected = [
        session.answer(session.prepare(clip, "what happens ?", frames=4), method, max_new_tokens=5)
        for clip in clips
    ]
    with served(session, Settings(name="m", method=method, frames=4, batch_wait=1.0)) as address:

        def ask(clip: Path) -> httpx.Response:
            body = question(data_url(clip), "what happens ?", max_tokens=5)
            return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120)

        with ThreadPoolExecutor(3) as pool:
            found = [each.json() for each in pool.map(ask, clips)]
    assert [each["choices"][0]["message"]["content"] for each in found] == [each.text for each in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["usage"]["completion_tokens"] == theirs.new_tokens
        assert mine["usage"]["visual_tokens_kept"] == theirs.report.visual_tokens[-1][0]
        assert mine["usage"]["flops_ratio"] == pytest.approx(theirs.report.flops_ratio)
