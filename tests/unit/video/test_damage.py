import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adatp.video import VideoError, read_video
from clips import FPS, FRAMES, cut, decoded, indexes, write_clip, write_sound

DATA = Path(__file__).parents[2] / "data" / "videos"

BAD = {
    "empty.mp4": lambda _: b"",
    "garbage.mp4": lambda _: np.random.default_rng(0).bytes(50_000),
    "garbage": lambda _: np.random.default_rng(1).bytes(50_000),
    "zeros.mkv": lambda _: bytes(50_000),
    "page.mp4": lambda _: b"<html><body>404 Not Found</body></html>" * 20,
    "notes.txt": lambda _: b"words, not pictures\n" * 50,
    "list.m3u8": lambda _: b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/part.ts\n",
    "script.ffconcat": lambda clips: b"ffconcat version 1.0\nfile '%s'\n" % str(clips / "plain.mp4").encode(),
    "no-moov.mp4": lambda clips: cut(clips / "plain.mp4", 0.6),
    "half.mp4": lambda clips: cut(clips / "start.mp4", 0.8),
    "almost.mp4": lambda clips: cut(clips / "start.mp4", 0.9),
    "fragment.mp4": lambda clips: cut(clips / "fragments.mp4", 0.6),
    "half.mkv": lambda clips: cut(clips / "plain.mkv", 0.5),
    "most.mkv": lambda clips: cut(clips / "plain.mkv", 0.8),
    "half-sound.mkv": lambda clips: cut(clips / "sound.mkv", 0.6),
    "header.mkv": lambda clips: cut(clips / "plain.mkv", 0.05),
    "half.webm": lambda clips: cut(clips / "vp9.webm", 0.6),
    "half.avi": lambda clips: cut(clips / "mpeg4.avi", 0.8),
}


def refusal(path: Path, frames: int = 32) -> str:
    with pytest.raises(VideoError) as caught:
        read_video(path, frames)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(clips, tmp_path, capfd, name):
    path = tmp_path / name
    path.write_bytes(BAD[name](clips))
    expected = {"empty": "empty", "half": "cut short", "garbage": "not a video", "list": "not a video"}
    expected |= {"no-moov": "cut short", "most": "cut short", "script": "not a video", "notes": "not a video"}
    assert expected.get(path.stem, "") in refusal(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["sound.m4a", "sound.wav", "sound.mkv"])
def test_sound_alone_is_refused(tmp_path, name):
    assert "no video stream" in refusal(write_sound(tmp_path / name))


def test_cover_art_is_no_video(tmp_path):
    assert "no video stream" in refusal(write_sound(tmp_path / "song.mp4", cover=True))


def test_paths_that_are_no_files_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.mp4")
    assert "not a regular file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a regular file" in refusal(tmp_path / "pipe.mp4")  # opening it would wait for a writer
    with pytest.raises(VideoError, match="no such file"):
        read_video("http://127.0.0.1:9/clip.mp4")


def without(source: Path, path: Path, lost: list[int]) -> Path:
    """A copy with zeros for what the packets of frames `lost` (1/24 s) hold."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(video=0):
            if packet.size and round(packet.pts * packet.time_base * FPS) in lost:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    return path


def test_frames_lost_in_the_middle_are_refused(clips, tmp_path):
    path = without(clips / "start.mp4", tmp_path / "hollow.mp4", lost=list(range(12, 36)))
    assert "cut short or damaged" in refusal(path)


def test_a_single_lost_frame_is_left_out(clips, tmp_path):
    path = without(clips / "intra.mp4", tmp_path / "spot.mp4", lost=[20])
    assert indexes(read_video(path, 100).frames) == [i for i in range(FRAMES) if i != 20]


@given(
    keep=st.floats(0, 1),
    name=st.sampled_from(["plain.mp4", "start.mp4", "plain.mkv", "vp9.webm", "mpeg4.avi"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_file_is_refused_or_gives_nearly_all(clips, tmp_path, name, keep):
    path = tmp_path / name
    path.write_bytes(cut(clips / name, keep))
    try:
        read = read_video(path, 100)
    except VideoError:
        return
    assert (np.diff(indexes(read.frames)) > 0).all()
    assert len(read.frames) >= FRAMES - 8  # a pause of 0.15 s and the frames between it and the last stored


@given(
    name=st.sampled_from(
        ["start.mp4", "plain.mkv", "vp9.webm", "mpeg4.avi", "h264.avi", "plain.ts", "plain.gif"]
    ),
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20
    ),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_a_video_or_a_video_error(clips, tmp_path, name, flips):
    data = bytearray((clips / name).read_bytes())
    for at, bits in flips:
        data[int(at * len(data))] ^= bits
    path = tmp_path / name
    path.write_bytes(data)
    try:
        read = read_video(path, 8)
    except VideoError:
        return
    assert 1 <= len(read.frames) == len(read.timestamps) <= 8
    assert np.isfinite(read.timestamps).all()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_files_are_closed(clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(cut(clips / "start.mp4", 0.8))
    before = len(os.listdir("/proc/self/fd"))
    for name in ("plain.mp4", "h264.avi"):
        read_video(clips / name, 3)
    refusal(broken)
    assert len(os.listdir("/proc/self/fd")) == before


class TestLostPictures:
    """What counts as damage is the time that is missing."""

    def test_file(self):
        path = DATA / "one_lost_of_50_at_10fps.mp4"
        read = read_video(path, 100)
        images, seconds = decoded(path)
        assert (read.frames == images).all()
        np.testing.assert_allclose(read.timestamps, seconds, atol=1e-9)
        assert len(images) == 49

    @pytest.mark.parametrize("step", [1, 3, 24, 240])
    def test_one_lost_at_any_rate(self, tmp_path, step):
        source = write_clip(tmp_path / "a.mp4", 30, gop=1, pts=[n * step for n in range(30)])
        read = read_video(without(source, tmp_path / "b.mp4", [10 * step]), 100)
        assert indexes(read.frames) == [n for n in range(30) if n != 10]

    def test_many_lost_in_a_row_are_damage(self, tmp_path):
        source = write_clip(tmp_path / "a.mp4", 30, gop=1, pts=[n * 3 for n in range(30)])
        assert "cut short or damaged" in refusal(without(source, tmp_path / "b.mp4", [30, 33]))


class TestWholeOrCut:
    """A file is cut where bytes are missing, not where its header is too hopeful."""

    @pytest.mark.parametrize("name", ["plain.mp4", "start.mp4"])
    def test_an_edit_that_lasts_longer_than_its_media(self, clips, tmp_path, name):
        data = bytearray((clips / name).read_bytes())
        entry = data.index(b"elst") + 12
        duration, start = struct.unpack_from(">Ii", data, entry)
        assert duration == 2000
        struct.pack_into(">Ii", data, entry, duration, start + 24 * 512)  # two seconds from the middle on
        path = tmp_path / "edit.mp4"
        path.write_bytes(data)
        read = read_video(path, 100)
        assert indexes(read.frames) == list(range(24, FRAMES))
        assert read.duration == pytest.approx(1)

    @pytest.mark.parametrize("frames", [16, 48])
    @pytest.mark.parametrize("step", [1, 5, 24])
    @pytest.mark.parametrize("codec", ["libx264", "ffv1"])
    def test_a_cut_matroska_file(self, tmp_path, frames, step, codec):
        options = {"x264-params": "bframes=8:b-adapt=0"} if codec == "libx264" else {}
        pts = [n * step for n in range(frames)]
        source = write_clip(tmp_path / "a.mkv", frames, codec=codec, options=options, pts=pts)
        assert len(read_video(source, 100).frames) == frames
        path = tmp_path / "cut.mkv"
        for percent in range(20, 100, 4):
            path.write_bytes(cut(source, percent / 100))
            try:
                read = len(read_video(path, 100).frames)
            except VideoError:
                assert "cut short" in refusal(path)
            else:
                assert read * step >= min(frames - 1, frames * 0.98 - 1) * step - 0.15 * FPS

    def test_a_pause_at_the_end_of_a_complete_matroska_file(self, tmp_path):
        pts = [*range(20), 200]
        assert len(read_video(write_clip(tmp_path / "a.mkv", 21, pts=pts), 100).frames) == 21

    def test_a_matroska_file_whose_end_was_never_written(self, tmp_path):
        data = write_clip(tmp_path / "a.mkv").read_bytes()
        path = tmp_path / "zeros.mkv"
        path.write_bytes(data[: len(data) * 6 // 10] + bytes(len(data) - len(data) * 6 // 10))
        assert "cut short" in refusal(path)
