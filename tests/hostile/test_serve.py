"""Requests that no server should do: each a clean 4xx, nothing read, memory bounded."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from adatp.tiny import CLIP
from clips import write_clip
from evil_web import evil_web
from opened import Watched
from serving import Command, data_url, question, settle, text_part, video_part

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.skipif(sys.platform != "linux", reason="asks inotify, /proc"),
]

# 127.0.0.2 counts as a machine of the public internet. Names resolve as a stranger likes.
CODE = """
import socket, sys
from adatp.video import addresses
known, resolve = addresses.is_public, socket.getaddrinfo
NAMES = {"public.test": ["127.0.0.2"], "inside.test": ["127.0.0.1"], "metadata.test": ["169.254.169.254"],
         "both.test": ["127.0.0.2", "127.0.0.1"], "lan.test": ["10.0.0.1"], "six.test": ["::1"]}
addresses.is_public = lambda machine: machine == "127.0.0.2" or known(machine)
def resolved(host, *rest, **more):
    return [entry for name in NAMES.get(host, [host]) for entry in resolve(name, *rest, **more)]
socket.getaddrinfo = resolved
from adatp.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class World:
    """A server, and what it must not touch."""

    address: str
    command: Command
    folder: Path
    port: int
    inside_port: int
    inside: list[str]
    watched: Watched


def _png_bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a megabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(3751 * 30_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _files(folder: Path) -> None:
    """What is inside and outside of the folder that requests may name."""
    inside = folder / "in"
    inside.mkdir()
    secret = folder / "secret.mp4"
    secret.write_bytes(CLIP.read_bytes())
    (folder / "in-secret").mkdir()
    (folder / "in-secret" / "clip.mp4").write_bytes(CLIP.read_bytes())
    write_clip(inside / "clip.mp4", 8, size=(96, 96))
    (inside / "link.mp4").symlink_to(secret)
    (inside / "up").symlink_to(folder)
    (inside / "far.mp4").symlink_to("link.mp4")
    (inside / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(inside / "pipe.mp4")
    (inside / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n"
    )
    (inside / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    (inside / "words.mp4").write_text("no video at all\n" * 100)
    (inside / "empty.mp4").touch()
    (inside / "cut.mp4").write_bytes(CLIP.read_bytes()[:20_000])
    (inside / "archive.mp4").write_bytes(b"PK\x03\x04" + bytes(1000))
    (inside / "script.mp4").write_text("#!/bin/sh\ntouch /tmp/owned\n")
    (inside / "vector.mp4").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{secret}"/></svg>'
    )
    Image.new("RGB", (96, 96)).save(inside / "image.png")
    (inside / "bomb.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\x00\x00\x00;")
    write_clip(inside / "large.mp4", 2, size=(4096, 2306), options={"preset": "ultrafast"})
    write_clip(inside / "long.mkv", 20, pts=[n * 24 * 400 for n in range(20)])
    (inside / "bomb.png").write_bytes(_png_bomb())
    (inside / "drawn.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\nshowpage\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("served")
    _files(folder)
    options = [
        *("--allowed-local-media-path", str(folder / "in"), "--allow-remote-media", "--max-body-mb", "8"),
        *("--max-requests", "16", "--max-media-mb", "8", "--media-seconds", "2", "--frames", "4"),
    ]
    with evil_web("127.0.0.2") as (port, _), evil_web("127.0.0.1") as (inside_port, inside):
        command = Command(options, code=CODE)
        watched = Watched([folder / "secret.mp4", folder / "in-secret" / "clip.mp4"])
        try:
            yield World(command.address, command, folder, port, inside_port, inside, watched)
        finally:
            watched.close()
            code, err = command.stop()
            assert (code, err) == (0, "")


Make = Callable[[World], Any]


def local(name: str, host: str = "") -> Make:
    """A request that names a file beside the folder, or in it."""
    return lambda world: question(f"file://{host}{world.folder}/{name}")


def web(path: str, host: str = "public.test", scheme: str = "http") -> Make:
    """A request that names what a hostile server does."""
    return lambda world: question(f"{scheme}://{host}:{world.port}/{path}")


def redirect(to: str) -> Make:
    """A request that names an address which redirects."""
    return lambda world: question(
        f"http://public.test:{world.port}/to?url={to.format(port=world.inside_port)}"
    )


def inside(host: str) -> Make:
    """A request that names this machine, by some name."""
    return lambda world: question(f"http://{host}:{world.inside_port}/clip.mp4")


def url(text: str) -> Make:
    return lambda world: question(text)


def fields(**more: Any) -> Make:
    """A request that would be answered, but for some of its fields."""
    return lambda world: {**question((world.folder / "in" / "clip.mp4").as_uri()), **more}


def raw(text: str | bytes) -> Make:
    """Bytes that are no request."""
    return lambda world: text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def shown(kind: str, name: str) -> Make:
    """A request with an image of the folder."""

    def make(world: World) -> Any:
        image = {"type": "image_url", "image_url": {"url": f"file://{world.folder}/in/{name}"}}
        part = video_part((world.folder / "in" / "clip.mp4").as_uri())
        return {"messages": [{"role": "user", "content": [part, image, text_part(kind)]}]}

    return make


OUTSIDE = "not in the folder that this server may read"
NOT_PUBLIC = "not of the public internet"
NO_VIDEO = "not a video"
DEEP = 100_000

HOSTILE: dict[str, tuple[Make, int, str]] = {
    # Paths outside of the folder.
    "beside it": (local("secret.mp4"), 400, OUTSIDE),
    "dots": (local("in/../secret.mp4"), 400, OUTSIDE),
    "coded dots": (local("in/%2e%2e/secret.mp4"), 400, OUTSIDE),
    "coded slashes": (local("in/..%2fsecret.mp4"), 400, OUTSIDE),
    "a folder whose name begins the same": (local("in-secret/clip.mp4"), 400, OUTSIDE),
    "of the system": (url("file:///etc/passwd"), 400, OUTSIDE),
    "of the system, not there": (url("file:///etc/no-such-file"), 400, OUTSIDE),
    "a process": (url("file:///proc/self/environ"), 400, OUTSIDE),
    "an open file": (url("file:///proc/self/fd/0"), 400, OUTSIDE),
    "a device": (url("file:///dev/zero"), 400, OUTSIDE),
    "another host": (local("in/clip.mp4", host="evil.test"), 400, OUTSIDE),
    "a relative path": (url("file:secret.mp4"), 400, OUTSIDE),
    "a zero byte": (local("in/clip.mp4%00.mp4"), 400, OUTSIDE),
    "a query": (local("in/clip.mp4?x"), 400, OUTSIDE),
    "a link out": (local("in/link.mp4"), 400, OUTSIDE),
    "a link to a link out": (local("in/far.mp4"), 400, OUTSIDE),
    "a folder that is a link out": (local("in/up/secret.mp4"), 400, OUTSIDE),
    "a link to itself": (local("in/loop.mp4"), 400, "no such file"),
    "the folder itself": (local("in"), 400, "not a regular file"),
    "a pipe": (local("in/pipe.mp4"), 400, "not a regular file"),
    # No videos.
    "a playlist": (local("in/list.m3u8"), 400, NO_VIDEO),
    "a list of files": (local("in/list.mp4"), 400, NO_VIDEO),
    "words": (local("in/words.mp4"), 400, NO_VIDEO),
    "nothing": (local("in/empty.mp4"), 400, "the file is empty"),
    "half a video": (local("in/cut.mp4"), 400, "cut short"),
    "an archive": (local("in/archive.mp4"), 400, NO_VIDEO),
    "a script": (local("in/script.mp4"), 400, NO_VIDEO),
    "a drawing": (local("in/vector.mp4"), 400, NO_VIDEO),
    "an image": (local("in/image.png"), 400, NO_VIDEO),
    "base64 of words": (url("data:video/mp4;base64,aGVsbG8gd29ybGQh"), 400, NO_VIDEO),
    # Bombs.
    "a huge animation": (local("in/bomb.gif"), 400, ""),
    "huge frames": (local("in/large.mp4"), 400, "the limit is 9.4 million"),
    "a video of hours": (local("in/long.mkv"), 400, "the limit is 3600"),
    "a huge image": (shown("?", "bomb.png"), 400, "bomb.png: can't be read as an image"),
    "PostScript": (shown("?", "drawn.eps"), 400, "can't be read as an image"),
    "a video as an image": (shown("?", "clip.mp4"), 400, "can't be read as an image"),
    # Addresses that lead inside.
    "localhost": (inside("localhost"), 400, NOT_PUBLIC),
    "an address of this machine": (inside("127.0.0.1"), 400, NOT_PUBLIC),
    "one as a number": (inside("2130706433"), 400, NOT_PUBLIC),
    "one in hexadecimal": (inside("0x7f.1"), 400, NOT_PUBLIC),
    "one in short": (inside("127.1"), 400, NOT_PUBLIC),
    "none": (inside("0.0.0.0"), 400, NOT_PUBLIC),
    "of IPv6": (inside("[::1]"), 400, NOT_PUBLIC),
    "IPv4 in IPv6": (inside("[::ffff:127.0.0.1]"), 400, NOT_PUBLIC),
    "a name that is this machine": (inside("inside.test"), 400, NOT_PUBLIC),
    "a name that is also this machine": (inside("both.test"), 400, NOT_PUBLIC),
    "a name of IPv6": (inside("six.test"), 400, NOT_PUBLIC),
    "a cloud's secrets": (url("http://metadata.test/latest/meta-data/"), 400, NOT_PUBLIC),
    "the same by number": (url("http://169.254.169.254/latest/meta-data/"), 400, NOT_PUBLIC),
    "a machine of the network": (url("http://lan.test/clip.mp4"), 400, NOT_PUBLIC),
    "many machines": (url("http://224.0.0.1/clip.mp4"), 400, NOT_PUBLIC),
    "a redirect inside": (redirect("http://127.0.0.1:{port}/clip.mp4"), 400, NOT_PUBLIC),
    "a redirect to a name inside": (redirect("http://inside.test:{port}/clip.mp4"), 400, NOT_PUBLIC),
    "a redirect to a file": (redirect("file:///etc/passwd"), 400, "not an address of http or https"),
    "a redirect to data": (redirect("data:video/mp4;base64,AAAA"), 400, "not an address of http or https"),
    "redirects without end": (web("loop"), 400, "more than 5 redirects"),
    "a redirect nowhere": (web("nowhere"), 400, "redirects nowhere"),
    "a user in an address": (url("http://user:secret@public.test/clip.mp4"), 400, "a user or a password"),
    "no TLS where it should be": (web("clip.mp4", scheme="https"), 400, "can't be downloaded"),
    "no such host": (url("http://no-such-host.invalid/x.mp4"), 400, "no such host"),
    "a new line in an address": (url("http://public.test/\r\nx: y"), 400, "not an address"),
    # What a hostile server gives.
    "4 GB announced": (web("announces"), 400, "larger than 8 MB"),
    "without end": (web("endless"), 400, "larger than 8 MB"),
    "a byte now and then": (web("drips"), 400, "not there after 2 s"),
    "a header now and then": (web("heads"), 400, ""),
    "always about to begin": (web("continues"), 400, "not there after 2 s"),
    "compressed": (web("packed"), 400, "compresses the file"),
    "a page": (web("html"), 400, NO_VIDEO),
    "no bytes": (web("empty"), 400, "cut short on the way"),
    "fewer bytes than announced": (web("cut"), 400, "cut short on the way"),
    "not found": (web("gone"), 400, "the server answers 404"),
    "no HTTP": (web("rubbish"), 400, "can't be downloaded"),
    # Other URLs.
    "another scheme": (url("ftp://public.test/clip.mp4"), 400, "none of data:"),
    "FFmpeg's own": (url("concat:/etc/passwd|/etc/passwd"), 400, "none of data:"),
    "a subfile": (url("subfile,,start,0,end,9,,:/etc/passwd"), 400, "none of data:"),
    "a bare path": (url("/etc/passwd"), 400, "none of data:"),
    "no URL": (url(""), 400, "none of data:"),
    "no base64": (url("data:video/mp4;base64,!!!!"), 400, "no base64"),
    "data of another kind": (url("data:video/mp4,hello"), 400, "a data: URL begins with"),
    # Deep and wrong.
    "deep lists": (raw("[" * DEEP + "]" * DEEP), 400, "outside of strings"),
    "deep enough": (raw('{"messages":' + "[" * 1000 + "]" * 1000 + "}"), 400, "levels deep"),
    "many lists": (raw("[" + "[]," * 2_000_000 + "[]]"), 400, "outside of strings"),
    "many strings": (raw("[" + '"",' * 2_000_000 + '""]'), 400, ""),
    "a string without end": (raw('{"messages": "' + "x" * 5_000_000), 400, "a string does not end"),
    "backslashes": (raw('{"messages": "' + "\\" * 5_000_001 + '"}'), 400, "a string does not end"),
    "no JSON": (raw("hello"), 400, "JSON"),
    "no UTF-8": (raw(b'{"messages": "\xff\xfe"}'), 400, ""),
    "nothing at all": (raw(b""), 400, "JSON"),
    "half a character": (raw('{"messages": [{"role": "user", "content": "\\ud800"}]}'), 400, ""),
    "a list": (raw("[]"), 400, "should be an object"),
    "no messages": (fields(messages=[]), 400, "messages"),
    "messages of numbers": (fields(messages=[1]), 400, "messages.0"),
    "a wrong role": (fields(messages=[{"role": "root", "content": "?"}]), 400, "role"),
    "an unknown part": (
        fields(messages=[{"role": "user", "content": [{"type": "audio_url"}]}]),
        400,
        "messages.0.content.0: ",
    ),
    "thousands of messages": (fields(messages=[{"role": "user", "content": "?"}] * 1000), 400, "messages"),
    "many videos": (
        fields(messages=[{"role": "user", "content": [video_part("file:///x")] * 9}]),
        400,
        "up to 8 videos",
    ),
    "no video": (fields(messages=[{"role": "user", "content": "hello ?"}]), 400, "there is no video"),
    "the model's own token": (
        lambda world: question(data_url(CLIP), "what is <video> ?"),
        400,
        "stands for a video",
    ),
    "a question that is too long": (
        lambda world: question(data_url(CLIP), "what " * 9000),
        400,
        "the model takes",
    ),
    "a text for a number": (fields(temperature="hot"), 400, "temperature"),
    "a number for a text": (fields(model=3), 400, "model"),
    "true for a number": (fields(max_tokens=True), 400, "max_tokens"),
    "a negative length": (fields(max_tokens=-1), 400, "max_tokens"),
    "a length without end": (fields(max_tokens=10**9), 400, "the limit of this server is 1024"),
    "a length beyond all": (raw('{"messages": [], "max_tokens": 1' + "0" * 400 + "}"), 400, ""),
    "infinite heat": (raw('{"messages": [], "temperature": 1e999}'), 400, ""),
    "no number": (raw('{"messages": [], "temperature": NaN}'), 400, ""),
    "too much heat": (fields(temperature=5), 400, "temperature"),
    "no probability": (fields(top_p=0), 400, "top_p"),
    "many answers": (fields(n=100), 400, "n is 100, the limit"),
    "many frames": (fields(frames=100_000), 400, "frames is 100000, the limit"),
    "no FLOPs": (fields(flops=0), 400, "flops"),
    "FLOPs beyond vanilla": (fields(flops=1.5), 400, "flops"),
    "FLOPs out of reach": (fields(flops=1e-9, strict=True), 400, "out of reach"),
    "a method of Python": (fields(method="__class__"), 400, "no method"),
    "many stops": (fields(stop=["x"] * 100), 400, "stop"),
    "an empty stop": (fields(stop=""), 400, "stop"),
    "a field of ours misspelt": (fields(flop=0.1), 400, "does not know the field"),
    "another model": (fields(model="../../etc/passwd"), 404, "no model"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_a_clean_refusal(world: World, name: str) -> None:
    make, status, words = HOSTILE[name]
    content = make(world)
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    world.watched.opened()
    begun = time.monotonic()
    answer = httpx.post(
        f"{world.address}/v1/chat/completions",
        content=content,
        headers={"Content-Type": "application/json"},
        timeout=300,
    )
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert words in message
    assert "\n" not in message
    assert len(message) < 1000
    assert "adatp-serve-" not in message  # the server's own folder
    assert "Traceback" not in message
    assert world.watched.opened() == []
    assert world.inside == []
    assert time.monotonic() - begun < 120


def test_the_table_is_long_enough_and_its_world_is_there(world: World) -> None:
    assert len(HOSTILE) >= 40
    good = question((world.folder / "in" / "clip.mp4").as_uri())
    assert httpx.post(f"{world.address}/v1/chat/completions", json=good, timeout=300).status_code == 200
    fetched = question(f"http://public.test:{world.port}/clip.mp4")
    assert httpx.post(f"{world.address}/v1/chat/completions", json=fetched, timeout=300).status_code == 200
    world.watched.opened()
    (world.folder / "secret.mp4").read_bytes()
    assert world.watched.opened()  # so that nobody opened it above


HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + f"Content-Length: {4 << 30}\r\n\r\n" + "{", 413),
        (HEAD + "Content-Length: -1\r\n\r\n", 400),
        (HEAD + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", 400),
        (HEAD + "Content-Length: " + "9" * 400 + "\r\n\r\n", 400),
        (HEAD + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415),
        (HEAD + "x: " + "y" * 100_000 + "\r\n\r\n", 400),
        (HEAD + "".join(f"x-{n}: y\r\n" for n in range(9000)) + "\r\n", 400),
        (HEAD.replace("application/json", "text/plain") + "Content-Length: 2\r\n\r\n{}", 415),
        (HEAD.replace("localhost", "evil.test") + "Content-Length: 2\r\n\r\n{}", 403),
        (HEAD.replace("POST", "DELETE") + "\r\n", 405),
        (HEAD.replace("POST", "GET") + "\r\n", 405),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET " + "/x" * 200_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00 hello TLS\r\n\r\n", 400),
        ("hello\r\n\r\n", 400),
    ],
)
def test_hostile_http_is_a_clean_refusal(world: World, request_: str, status: int) -> None:
    port = int(world.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(request_.encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer and (data := connection.recv(1 << 16)):
            answer += data
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]


def test_a_body_that_never_ends_is_cut_off(world: World) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"messages": "'
        for _ in range(4096):
            yield b"x" * (1 << 20)

    sent = {"Content-Type": "application/json"}
    try:
        answer = httpx.post(
            f"{world.address}/v1/chat/completions", content=chunks(), headers=sent, timeout=300
        )
        assert answer.status_code == 413
    except httpx.WriteError:  # the server closed before all was written
        pass


def test_floods_leave_memory_and_the_server_as_they_were(world: World) -> None:
    good = question((world.folder / "in" / "clip.mp4").as_uri(), max_tokens=2)
    large = {**good, "user": "x" * (7 << 20)}
    before = world.command.memory()
    idle = [
        socket.create_connection(("127.0.0.1", int(world.address.rpartition(":")[2]))) for _ in range(200)
    ]
    bodies = [json.dumps(body).encode() for body in (good, large)]

    def post(number: int) -> int:
        try:
            return httpx.post(
                f"{world.address}/v1/chat/completions",
                content=bodies[number % 4 == 0],
                headers={"Content-Type": "application/json"},
                timeout=600,
            ).status_code
        except httpx.WriteError:  # refused while it was still writing
            return 429

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(post, range(96)))
    assert set(found) <= {200, 429}
    assert found.count(200) >= 16
    assert 429 in found
    for connection in idle:
        connection.close()
    assert httpx.get(f"{world.address}/health", timeout=60).status_code == 200
    assert httpx.post(f"{world.address}/v1/chat/completions", json=good, timeout=300).status_code == 200
    assert settle(world.address, 60) < 60
    assert world.command.memory("VmHWM") - before < 400


def test_an_upload_is_gone_when_it_is_answered(world: World) -> None:
    url = data_url(CLIP, "application/octet-stream")
    httpx.post(f"{world.address}/v1/chat/completions", json=question(url), timeout=300)
    open_files = []
    for path in Path(f"/proc/{world.command.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            open_files.append(os.readlink(path))
    assert not [name for name in open_files if "adatp-serve-" in name or str(world.folder) in name]
