"""Videos that are no file: folders of frame images, and addresses on the web."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from adatp import Session
from adatp.tiny import CLIP
from adatp.video import VideoError, read_source, read_video
from adatp.video import addresses as addresses_module
from adatp.video import sources as sources_module
from adatp.video.addresses import is_address, is_public, locate
from adatp.video.download import Limits, download
from adatp.video.folder import natural
from adatp.video.sources import cache_folder
from clips import image_of, index_of
from evil_web import evil_web
from running import Run

# Folders.


def images(folder: Path, count: int, suffix: str = ".png", **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        Image.fromarray(image_of(index)).save(folder / f"frame-{index}{suffix}", **options)  # type: ignore[arg-type]
    return folder


def test_frames_come_in_natural_order(tmp_path: Path) -> None:
    video = read_source(images(tmp_path / "f", 12), 12)
    assert [index_of(frame) for frame in video.frames] == list(range(12))
    assert video.timestamps.tolist() == list(range(12))
    assert (video.duration, video.fps) == (12, 1)


def test_names_are_sorted_as_a_reader_would() -> None:
    names = [
        "f2.png",
        "f10.png",
        "f1.png",
        "F3.png",
        "f02b.png",
        "a-9-10.png",
        "a-9-9.png",
        "7.png",
        "10.png",
    ]
    ordered = [
        "7.png",
        "10.png",
        "a-9-9.png",
        "a-9-10.png",
        "f1.png",
        "f2.png",
        "f02b.png",
        "F3.png",
        "f10.png",
    ]
    assert sorted(names, key=natural) == ordered
    assert sorted(["²1", "2"], key=natural)  # a digit that is no number


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".webp"])
def test_images_of_each_kind_are_read(tmp_path: Path, suffix: str) -> None:
    video = read_source(images(tmp_path / "f", 3, suffix), 3)
    assert [index_of(frame) for frame in video.frames] == [0, 1, 2]


def test_picks_are_those_of_a_file_and_rates_give_times(tmp_path: Path) -> None:
    video = read_source(images(tmp_path / "f", 30), 4, rate=10)
    assert [index_of(frame) for frame in video.frames] == np.linspace(0, 29, 4).astype(int).tolist()
    assert video.timestamps == pytest.approx([0, 0.9, 1.9, 2.9])
    assert (video.duration, video.fps) == (3, 10)


def test_other_files_are_left_out_and_sizes_follow_the_first(tmp_path: Path) -> None:
    folder = images(tmp_path / "f", 3)
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_text("no frame")
    (folder / "folder.png").mkdir()
    Image.fromarray(image_of(3, 128, 96)).save(folder / "frame-3.png")
    video = read_source(folder, 8)
    assert video.frames.shape == (4, 48, 64, 3)
    assert index_of(video.frames[3]) == 3


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_photographs_are_turned_as_they_ask(tmp_path: Path, turned: int) -> None:
    image = Image.fromarray(image_of(0b1011, 80, 40))
    exif = image.getexif()
    exif[0x112] = turned
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    found = read_source(tmp_path, 1).frames[0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_modes_of_images_become_rgb(tmp_path: Path) -> None:
    for number, mode in enumerate(("RGB", "L", "P", "RGBA", "LA", "1")):
        Image.fromarray(image_of(5)).convert(mode, dither=Image.Dither.NONE).save(tmp_path / f"{number}.png")
    assert {index_of(frame) for frame in read_source(tmp_path, 6).frames} == {5}


def test_a_folder_asks_as_the_file_that_it_was_made_of(tmp_path: Path) -> None:
    for number, frame in enumerate(read_video(CLIP, 16).frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    session = Session(device="cpu")
    question = "what colour is the star ?"
    assert session.ask(tmp_path, question, frames=16).text == session.ask(CLIP, question, frames=16).text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no such file"),
        ("empty", "a folder without frame images"),
        ("damaged", "b.png: not an image, or damaged"),
        ("words", "a.png: not an image, or damaged"),
        ("video", "a.png: not an image, or damaged"),
    ],
)
def test_folders_that_can_not_be_read_are_one_line(tmp_path: Path, name: str, words: str) -> None:
    for folder in ("empty", "damaged", "words", "video"):
        (tmp_path / folder).mkdir()
    Image.fromarray(image_of(0)).save(tmp_path / "damaged" / "a.png")
    (tmp_path / "damaged" / "b.png").write_bytes((tmp_path / "damaged" / "a.png").read_bytes()[:60])
    (tmp_path / "words" / "a.png").write_text("hello")
    shutil.copy(CLIP, tmp_path / "video" / "a.png")
    with pytest.raises(VideoError, match=words):
        read_source(tmp_path / name, 4)


def test_limits_hold_for_folders(tmp_path: Path) -> None:
    folder = images(tmp_path / "f", 3)
    with pytest.raises(VideoError, match="64x48 pixels a frame, the limit is"):
        read_source(folder, 3, most_pixels=3071)
    assert len(read_source(folder, 3, most_pixels=3072).frames) == 3
    with pytest.raises(VideoError, match="ask for a whole number, at least 1"):
        read_source(folder, 0)


def test_a_check_ends_the_reading_of_files_and_folders(tmp_path: Path) -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise InterruptedError("enough")

    for source in (CLIP, images(tmp_path / "f", 9)):
        calls.clear()
        with pytest.raises(InterruptedError, match="enough"):
            read_source(source, 9, check=stop)
        assert len(calls) == 3
    assert len(read_source(CLIP, 9).frames) == 9  # nothing is left of it


# Addresses.

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"]
PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "fec0::1"),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "::127.0.0.1",
        "no address",
    ),
]


def test_addresses_of_the_public_internet_are_known() -> None:
    assert [machine for machine in PUBLIC if not is_public(machine)] == []
    assert [machine for machine in PRIVATE if is_public(machine)] == []


def test_addresses_are_distinguished_from_paths() -> None:
    assert is_address("https://x.org/a.mp4")
    assert is_address("HTTP://x.org")
    assert not any(
        map(is_address, ["a.mp4", "/https://x", "file:///a", "https:/x", "", None, Path("http://x")])
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://", "not an address"),
        ("https://x.org:99999/", "not an address"),
        ("https://x.org:0/", "not an address"),
        ("https://a b/", "it has blanks"),
        ("https://x.org/\r\nHost: y", "it has blanks"),
        ("https://user@x.org/", "a user or a password"),
        ("https://x.org/" + "a" * 9000, "too long"),
        ("gopher://x.org/", "not an address of http"),
        ("https://" + "a" * 300 + ".org/", "not an address"),
        ("http://[::1/", "not an address"),
    ],
)
def test_addresses_that_are_none_are_one_line(address: str, words: str) -> None:
    with pytest.raises(VideoError, match=words) as caught:
        locate(address)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_without_a_home_folder_a_download_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(VideoError, match=r"can't be kept in ~/\.cache \(there is no home folder\)"):
        read_source("http://127.0.0.1:9/clip.mp4", 8)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server, and where downloads are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with evil_web("127.0.0.1") as (port, asked):
        yield f"http://127.0.0.1:{port}", asked


pytest_socket = pytest.mark.enable_socket


@pytest_socket
def test_an_address_is_downloaded_once_and_read(web: tuple[str, list[str]]) -> None:
    address, asked = f"{web[0]}/clip.mp4", web[1]
    said: list[tuple[int, int | None]] = []
    video = read_source(address, 8, progress=lambda done, total: said.append((done, total)))
    assert (video.frames == read_video(CLIP, 8).frames).all()
    assert said[-1] == (CLIP.stat().st_size, CLIP.stat().st_size)
    [kept] = cache_folder().iterdir()
    assert kept.suffix == ".mp4"
    assert (read_source(address, 8).frames == video.frames).all()
    assert asked == ["/clip.mp4"]
    read_source(f"{web[0]}/to?url=/clip.mp4", 4)
    assert asked == ["/clip.mp4", "/to?url=/clip.mp4", "/clip.mp4"]


@pytest_socket
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone", "the server answers 404"),
        ("loop", "more than 5 redirects"),
        ("nowhere", "redirects nowhere"),
        ("packed", "compresses the file"),
        ("cut", "cut short on the way"),
        ("empty", "cut short on the way"),
        ("announces", "larger than 1 MB, the limit"),
        ("endless", "larger than 1 MB, the limit"),
        ("drips", "not there after 0.5 s, the limit"),
        ("heads", "not there after 0.5 s|can't be downloaded"),
        ("continues", "not there after 0.5 s, the limit"),
        ("rubbish", "can't be downloaded"),
        ("html", "not a video"),
        ("to?url=file:///etc/passwd", "not an address of http or https"),
    ],
)
def test_what_can_not_be_had_is_one_line_and_not_kept(
    web: tuple[str, list[str]], path: str, words: str
) -> None:
    address = f"{web[0]}/{path}"
    slow = path in ("drips", "heads", "continues")
    begun = time.monotonic()
    with pytest.raises(VideoError, match=words) as caught:
        read_source(address, 4, limits=Limits(1 << 20, 0.5 if slow else 60))
    assert not slow or time.monotonic() - begun < 5
    assert str(caught.value).startswith(address) or "file://" in str(caught.value)
    assert list(cache_folder().iterdir()) == []


@pytest_socket
def test_a_check_ends_a_download(web: tuple[str, list[str]]) -> None:
    begun = time.monotonic()

    def stop() -> None:
        if time.monotonic() > begun + 0.3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        download(f"{web[0]}/drips", io.BytesIO(), Limits(), check=stop)
    assert time.monotonic() - begun < 2


@pytest_socket
def test_public_addresses_only_means_every_hop_and_the_machine_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that resolves to another machine the second time is still connected to the first one."""
    resolve, answers = socket.getaddrinfo, {"public.test": ["127.0.0.2", "127.0.0.1"]}

    def rebinding(host: str, *rest: object, **more: object) -> object:
        if host in answers:
            host = answers[host].pop(0)
        return resolve(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(addresses_module, "is_public", lambda machine: machine == "127.0.0.2")
    strict = Limits(1 << 22, 5, public_only=True)
    with evil_web("127.0.0.2") as (port, asked), evil_web("127.0.0.1") as (inside, secret):
        file = io.BytesIO()
        download(f"http://public.test:{port}/clip.mp4", file, strict)
        assert file.getvalue() == CLIP.read_bytes()
        with pytest.raises(VideoError, match="not of the public internet"):  # it resolves to this machine now
            download(f"http://public.test:{port}/clip.mp4", file, strict)
        for limits in (strict, Limits()):  # a public machine never redirects inside
            with pytest.raises(VideoError, match="not of the public internet"):
                download(f"http://127.0.0.2:{port}/to?url=http://127.0.0.1:{inside}/clip.mp4", file, limits)
        assert secret == []
        assert len(asked) == 3
        download(f"http://127.0.0.1:{inside}/clip.mp4", file, Limits())  # the user's own network is theirs


@pytest_socket
def test_the_oldest_downloads_make_room(web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "MOST_CACHED", int(2.5 * CLIP.stat().st_size))
    for number in range(3):
        read_source(f"{web[0]}/clip.mp4?{number}", 2)
        for age, path in enumerate(sorted(cache_folder().iterdir(), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (1000 + age, 1000 + age))
    assert len(list(cache_folder().iterdir())) == 2
    read_source(f"{web[0]}/clip.mp4?2", 2)
    assert len(web[1]) == 3  # the newest is there


@pytest_socket
def test_two_downloads_of_one_address_at_once_are_both_complete(web: tuple[str, list[str]]) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(read_source(f"{web[0]}/clip.mp4", 4).frames)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [4] * 4
    assert len(list(cache_folder().iterdir())) == 1


# The command line.


@pytest_socket
def test_ask_and_show_take_addresses_and_folders(
    run: Run, web: tuple[str, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(read_video(CLIP, 16).frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    question = "what colour is the star ?"
    _, theirs, _ = run("ask", CLIP, question, "--frames", 16)
    for source in (f"{web[0]}/clip.mp4", folder):
        file = tmp_path / "out.json"
        code, out, err = run("ask", source, question, "--frames", 16, "--json", file)
        assert (code, err) == (0, "")
        assert json.loads(file.read_text())["video"] == str(source)
        assert json.loads(file.read_text())["answer"] == "yellow"
        assert out.splitlines()[1:4] == theirs.splitlines()[1:4]
    code, _, err = run("show", folder, question, "--frames", 8, "--out", tmp_path / "shown")
    assert (code, err) == (0, "")


def test_an_image_of_the_folder_is_no_output(run: Run, tmp_path: Path) -> None:
    folder = images(tmp_path / "f", 3)
    code, _, err = run("ask", folder, "what ?", "--json", folder / "frame-1.png")
    assert code == 2
    assert "that is an image of the video, which would be lost" in err


@pytest_socket
def test_addresses_that_fail_are_one_line(run: Run, web: tuple[str, list[str]]) -> None:
    for path, words in (("gone", "the server answers 404"), ("html", "not a video")):
        code, out, err = run("ask", f"{web[0]}/{path}", "what ?")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
        assert web[0] in err
