"""Parts of the server by themselves: drawing tokens, stops, bodies, keys, JSON shapes, gates."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from adatp.errors import RefusedError
from adatp.serve import media
from adatp.serve.bodies import MOST_DEPTH, MOST_OUTSIDE, Allowance, Body, check_shape
from adatp.serve.desk import check, longest_answer, method_of
from adatp.serve.errors import RequestError
from adatp.serve.keys import is_known, read_keys
from adatp.serve.media import MediaReader
from adatp.serve.memory import trimmer
from adatp.serve.protocol import parse
from adatp.serve.rows import Row, RowKeeper, RowSampler, Sampling, cut_at, without_begun
from adatp.serve.settings import Settings
from adatp.tiny import CLIP
from serving import data_url, question

# Rows.


class Letters:
    """A processor whose tokens are letters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(token) for token in tokens if token)


def written(
    text: str, stops: tuple[str, ...] = (), *, streamed: bool, most: int = 100
) -> tuple[Row, list[str]]:
    """A row that is given a text and its end, and what was sent of it meanwhile."""
    sent: list[str] = []
    row = Row(
        Letters(), Sampling(), most, stops, streamed=streamed, changed=lambda row: sent.append(row.text)
    )
    for letter in (*map(ord, text), 0):
        if row.finish is None:
            row.take(letter, frozenset({0}))
    return row, sent


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("text", "stops", "most", "found", "finish"),
    [
        ("a star", (), 100, "a star", "stop"),
        ("a star", (), 3, "a s", "length"),
        ("a star is", ("st",), 100, "a", "stop"),
        ("a star is", ("is", "ar"), 100, "a st", "stop"),
        ("aab aac", ("aac",), 100, "aab", "stop"),
        ("ababac", ("abac",), 100, "ab", "stop"),
        ("a star", ("star!",), 100, "a star", "stop"),
        ("two\nlines", ("\n",), 100, "two", "stop"),
        ("x", ("x",), 100, "", "stop"),
    ],
)
def test_stops_and_lengths_end_an_answer(
    text: str, stops: tuple[str, ...], most: int, found: str, finish: str, streamed: bool
) -> None:
    row, sent = written(text, stops, streamed=streamed, most=most)
    assert (row.text, row.finish) == (found, finish)
    assert sent[-1] == found
    assert all(found.startswith(piece) for piece in sent)  # nothing is sent that is taken back
    assert streamed or len(sent) == 1


def test_text_that_may_begin_a_stop_waits() -> None:
    assert without_begun("a star", ("art",)) == "a st"
    assert without_begun("a star", ("r", "tarp", "x")) == "a s"
    assert without_begun("a star", ("stork",)) == "a star"
    assert cut_at("a b c", ("c", "b")) == ("a", True)
    assert cut_at("a b c", ()) == ("a b c", False)


def test_draws_follow_the_softmax() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    expected = scores.softmax(-1)
    row = Row(Letters(), Sampling(temperature=1.0, seed=3), 10)
    drawn = Counter(int(row.draw(scores, frozenset()).argmax()) for _ in range(20_000))
    surprise = sum((drawn[i] - 20_000 * p) ** 2 / (20_000 * p) for i, p in enumerate(expected.tolist()))
    assert surprise < 16.3  # chi squared of three degrees: 99.9 %


def test_temperature_and_top_p_narrow_the_draw() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])  # shares 0.09, 0.24, 0.64, 0.03

    def drawn(**settings: float) -> set[int]:
        row = Row(Letters(), Sampling(seed=1, **settings), 10)  # type: ignore[arg-type]
        return {int(row.draw(scores, frozenset()).argmax()) for _ in range(2000)}

    assert drawn(temperature=1.0) == {0, 1, 2, 3}
    assert drawn(temperature=1.0, top_p=0.9) == {0, 1, 2}
    assert drawn(temperature=1.0, top_p=0.7) == {1, 2}
    assert drawn(temperature=1.0, top_p=0.01) == {2}
    assert drawn(temperature=0.05) == {2}


def test_a_model_without_an_end_ignores_none() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0])
    assert torch.equal(Row(Letters(), Sampling(ignore_eos=True), 4).draw(scores, frozenset()), scores)


def test_a_row_draws_the_same_in_any_batch_and_ends_alone() -> None:
    def rows() -> list[Row]:
        return [
            Row(Letters(), Sampling(temperature=1.0, seed=7), 3),
            Row(Letters(), Sampling(), 5),
            Row(Letters(), Sampling(temperature=2.0, seed=1, ignore_eos=True), 9),
        ]

    scores = torch.randn(9, 3, 50, generator=torch.Generator().manual_seed(0))
    ends = frozenset({4, 5})

    def write(chosen: list[int]) -> list[list[int]]:
        batch = [row for number, row in enumerate(rows()) if number in chosen]
        sampler, keeper = RowSampler(batch, ends), RowKeeper(batch, ends)
        ids = torch.zeros(len(batch), 1, dtype=torch.long)
        for step in scores:
            best = sampler(ids, step[chosen]).argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], 1)
            done = keeper(ids, None)
            assert done.tolist() == [row.finish is not None for row in batch]
        assert done.all()
        return [row.tokens for row in batch]

    together = write([0, 1, 2])
    assert [write([number])[0] for number in range(3)] == together
    assert len(together[0]) <= 3
    assert len(together[2]) == 9
    assert not ends & set(together[2])


# Bodies.


def test_long_strings_pass_and_structures_do_not() -> None:
    check_shape(b'{"a": "' + b"[" * 10_000_000 + b'"}')
    check_shape(json.dumps({"a": '"' * 1000, "b": "\\" * 1001, 'c"': "\\\\"}).encode())
    check_shape(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH)
    for body, words in [
        (b"[" * (MOST_DEPTH + 1), "levels deep"),
        (b'{"a"' + b"[" * (MOST_DEPTH + 1), "levels deep"),
        (b" " * (MOST_OUTSIDE + 1), "outside of strings"),
        (b'"' + b"\\" * 3 + b'"', "does not end"),
        (b'"' + b'\\"' * 400_000 + b'"', "quotation marks"),
    ]:
        with pytest.raises(RequestError, match=words):
            check_shape(body)


def test_shapes_are_checked_in_no_time() -> None:
    begun = time.monotonic()
    for body in (
        b'{"a": "' + b"x" * 50_000_000 + b'"}',
        b'"' + b"\\" * 20_000_001 + b'"',
        b'""' * 10_000_000,
    ):
        with suppress(RequestError):
            check_shape(body)
    assert time.monotonic() - begun < 20


def read(body: Body, chunks: list[bytes], most: int = 100, wait: float = 0.0, **headers: str) -> None:
    async def coming() -> AsyncIterator[bytes]:
        for chunk in chunks:
            await asyncio.sleep(wait)
            yield chunk

    given = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
    asyncio.run(body.read(given, coming(), most, 0.2))


def test_bodies_are_read_within_limits_and_given_back() -> None:
    allowance = Allowance(150)
    body = Body(allowance)
    read(body, [b"x" * 60, b"y" * 40])
    assert (len(body.data), allowance.left) == (100, 50)
    second = Body(allowance)
    with pytest.raises(RequestError, match="too many large requests") as caught:
        read(second, [b"x" * 30, b"y" * 30])
    assert caught.value.status == 429
    for each in (body, second, body):
        each.free()
    assert allowance.left == 150


@pytest.mark.parametrize(
    ("chunks", "wait", "headers", "status"),
    [
        ([b"x" * 60, b"y" * 41], 0.0, {}, 413),
        ([], 0.0, {"content_length": "101"}, 413),
        ([b"x"] * 50, 0.05, {}, 408),
        ([b"x"], 0.0, {"content_type": "text/plain"}, 415),
        ([b"x"], 0.0, {"content_encoding": "br"}, 415),
    ],
)
def test_bodies_beyond_a_limit_are_refused(
    chunks: list[bytes], wait: float, headers: dict[str, str], status: int
) -> None:
    allowance = Allowance(150)
    body = Body(allowance)
    with pytest.raises(RequestError) as caught:
        read(body, chunks, wait=wait, **headers)
    assert caught.value.status == status
    body.free()
    assert allowance.left == 150


# What requests say.


def call(**fields: Any) -> Any:
    return parse(json.dumps(question("data:", **fields)).encode())


def test_the_method_is_that_of_the_request_then_of_the_server() -> None:
    from adatp import AdaTP
    from adatp.methods import FastV, Vanilla

    server = Settings(name="m", method=AdaTP(flops=0.5, tau_s=0.9))
    assert method_of(call(), server) == server.method
    assert method_of(call(flops=0.2), server) == AdaTP(flops=0.2, tau_s=0.9)
    assert method_of(call(method="adatp"), server) == server.method
    assert method_of(call(method="fastv", flops=0.6), server) == FastV(flops=0.6)
    assert method_of(call(method="vanilla"), server) == Vanilla()
    assert method_of(call(method="adatp-paper"), server) == AdaTP.paper()
    assert method_of(call(method="adatp-paper", flops=0.3), server) == AdaTP.paper(flops=0.3)
    with pytest.raises(RequestError, match="has no FLOPs target"):
        method_of(call(flops=0.5), replace(server, method=Vanilla()))


def test_lengths_have_two_names() -> None:
    settings = Settings(name="m", max_new_tokens=9)
    found = [
        longest_answer(call(**f), settings) for f in ({}, {"max_tokens": 3}, {"max_completion_tokens": 4})
    ]
    assert found == [9, 3, 4]


def test_what_other_clients_say_without_meaning_it_passes() -> None:
    check(
        call(
            **{"user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "tools": []},
            **{"tool_choice": "none", "response_format": {"type": "text"}, "metadata": {"a": "b"}},
            **{"logit_bias": {}, "stream": False, "store": False, "parallel_tool_calls": True, "seed": None},
        ),
        Settings(name="m"),
    )
    for name, value in [
        ("presence_penalty", 0.5),
        ("logprobs", True),
        ("logit_bias", {"1": 1.0}),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
    ]:
        with pytest.raises(RequestError, match=name):
            call(**{name: value})


# Keys.


def test_keys_are_those_of_the_shell_and_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_keys(file, {}) == ("one", "two")
    assert read_keys(None, {}) == ()
    assert read_keys(file, {"ADATP_API_KEY": "three"}) == ("three", "one", "two")
    for environment in ({"ADATP_API_KEY": ""}, {"ADATP_API_KEY": "ä"}, {"ADATP_API_KEY": "a b"}):
        with pytest.raises(RefusedError, match="printable ASCII"):
            read_keys(None, environment)


def test_keys_are_compared_completely() -> None:
    keys = ("one", "two")
    assert is_known("Bearer one", keys)
    assert is_known("bearer two", keys)
    wrong = [None, "", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Bearer ONE", "one", "Basic one"]
    assert not any(is_known(given, keys) for given in [*wrong, "Bearer one two", "Bearer \udcff"])


# Media.


def reader(tmp_path: Path, **settings: Any) -> MediaReader:
    return MediaReader(Settings(name="m", **settings), tmp_path, lambda: None)


def test_frames_of_a_request_share_their_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MOST_FRAME_BYTES", 7 * 192 * 192 * 3)
    shared = reader(tmp_path)
    assert shared.video(data_url(CLIP), 4).frames.nbytes == 4 * 192 * 192 * 3
    with pytest.raises(RequestError, match="pixels a frame, the limit is"):
        shared.video(data_url(CLIP), 4)
    shared.video(data_url(CLIP), 3)
    assert list(tmp_path.iterdir()) == []


def test_images_are_read(tmp_path: Path) -> None:
    from PIL import Image

    for name, kind in (("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp")):
        Image.new("RGB", (8, 6), (200, 10, 10)).save(tmp_path / name)
        pixels = reader(tmp_path).image(data_url(tmp_path / name, kind))
        assert pixels.shape == (6, 8, 3)
        assert math.isclose(pixels[..., 0].mean(), 200, abs_tol=8)


def test_a_link_that_changes_after_it_was_judged_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the judgement of a path and its opening a folder on the way becomes a link."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "sub" / "a.mp4").write_bytes(CLIP.read_bytes())
    (tmp_path / "out" / "a.mp4").write_bytes(CLIP.read_bytes())
    opening = media.os.open

    def swapped(path: str, *rest: Any) -> int:
        if path.endswith("a.mp4"):
            (tmp_path / "in" / "sub").rename(tmp_path / "in" / "old")
            (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
        return opening(path, *rest)

    monkeypatch.setattr(media.os, "open", swapped)
    with pytest.raises(RequestError, match="not in the folder"):
        reader(tmp_path, local_media=tmp_path / "in").video((tmp_path / "in" / "sub" / "a.mp4").as_uri(), 4)


@pytest.mark.enable_socket
def test_a_slow_head_and_a_slow_body_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from adatp import Session
    from adatp.serve import server
    from serving import served

    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with served(Session(device="cpu"), Settings(name="m", body_seconds=0.5)) as address:
        where = ("127.0.0.1", int(address.rpartition(":")[2]))
        with socket.create_connection(where, timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
            assert connection.recv(100) == b""
        with socket.create_connection(where, timeout=10) as connection:  # the head of a second request
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
            while connection.recv(1000):
                pass
        with socket.create_connection(where, timeout=10) as connection:
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert httpx.get(f"{address}/health").status_code == 200


# Memory.


def resident() -> float:
    """Megabytes of this process."""
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc; other systems have no malloc_trim")
def test_free_memory_between_what_is_used_is_given_back_now_and_then() -> None:
    blocks = [np.ones(1 << 16, np.uint8) for _ in range(1600)]  # 100 MB
    del blocks[::2]
    before = resident()
    trimmer(3600)()
    assert resident() > before - 10
    trimmer(0)()
    assert resident() < before - 30
    assert all(block.all() for block in blocks)
