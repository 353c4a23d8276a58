import math
import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adatp.video import VideoError, decoding, read_video, reading
from adatp.video.decoding import UntrueError, collect, decode_to
from adatp.video.opening import demux
from adatp.video.scanning import scan
from adatp.video.upright import Orientation
from clips import CLIPS, COMPLETE, FPS, FRAMES, LATE, decoded, index_of, indexes, picked, write_clip


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("frames", [1, 7, 32, 100])
def test_frames_are_those_of_a_full_decode(clips, name, frames):
    images, seconds = decoded(clips / name)
    read = read_video(clips / name, frames)
    expected = picked(FRAMES, frames)
    assert indexes(read.frames) == expected
    assert (read.frames == images[expected]).all()
    assert read.frames.dtype == np.uint8
    np.testing.assert_allclose(read.timestamps, seconds[expected], atol=1e-9)
    assert read.timestamps.dtype == np.float64


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.usefixtures("no_decoding_through")
def test_well_formed_files_are_read_by_seeking(clips, name):
    assert indexes(read_video(clips / name, 9).frames) == picked(FRAMES, 9)


@pytest.mark.parametrize("name", COMPLETE)
def test_seeking_and_decoding_through_agree(clips, name, monkeypatch):
    sought = read_video(clips / name, 11)
    monkeypatch.setattr(reading, "by_seeking", lambda *_: None)
    through = read_video(clips / name, 11)
    assert (sought.frames == through.frames).all()
    np.testing.assert_allclose(sought.timestamps, through.timestamps, atol=1e-9)
    assert (sought.duration, sought.fps) == (through.duration, through.fps)


@given(
    frames=st.integers(1, 60), name=st.sampled_from(["open-gop.mp4", "late.mkv", "plain.ts", "one-gop.mp4"])
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_of_frames(clips, name, frames):
    read = read_video(clips / name, frames)
    assert indexes(read.frames) == picked(FRAMES, frames)
    assert (np.diff(read.timestamps) > 0).all()
    assert read.timestamps[0] == 0


def test_only_the_stretches_to_the_picks_are_decoded(tmp_path):
    clip = write_clip(tmp_path / "long.mp4", 480)
    packets = scan(str(clip))
    frames = list(decode_to(str(clip), packets, packets.shown[[30, 400]].tolist(), math.inf))
    assert {30, 400} <= {index_of(frame.to_ndarray(format="rgb24")) for frame in frames}
    assert len(frames) <= 2 * 14  # two GOPs of twelve, and a frame or two that are stored ahead of the pick


def test_a_seek_that_lands_too_late_is_noticed(clips, monkeypatch):
    packets = scan(str(clips / "plain.mp4"))
    late = replace(packets, seeks=packets.seeks + 100_000)
    assert reading.by_seeking(str(clips / "plain.mp4"), late, 7) is None
    monkeypatch.setattr(reading, "scan", lambda _: late)
    assert indexes(read_video(clips / "plain.mp4", 7).frames) == picked(FRAMES, 7)


def test_packets_that_are_others_after_a_seek_are_noticed(clips):
    path = clips / "plain.mp4"
    packets = scan(str(path))
    other = replace(packets, sizes=packets.sizes + (np.arange(FRAMES) == 30))
    assert reading.by_seeking(str(path), packets, 7) is not None
    assert reading.by_seeking(str(path), other, 7) is None


def test_a_packet_without_a_frame_is_noticed(clips, monkeypatch):
    path = clips / "plain.mp4"
    packets, stretch = scan(str(path)), decoding._decode_stretch
    pick = int(packets.shown[47])
    stored_before = packets.pts[pick - 1]

    def without_one(*arguments):
        return (frame for frame in stretch(*arguments) if frame.pts != stored_before)

    assert reading.by_seeking(str(path), packets, 2) is not None
    monkeypatch.setattr(decoding, "_decode_stretch", without_one)
    with pytest.raises(UntrueError):
        list(decode_to(str(path), packets, [pick], math.inf))


def test_duration_and_frame_rate(clips):
    plain, late = read_video(clips / "plain.mp4", 2), read_video(clips / "late.mp4", 2)
    assert plain.duration == pytest.approx(FRAMES / FPS)
    assert plain.fps == pytest.approx(FPS)
    assert late.duration == pytest.approx((LATE[-1] + 1) / FPS)
    assert late.fps == pytest.approx((FRAMES - 1) / LATE[-1] * FPS)


def test_variable_frame_rate_keeps_its_timestamps(clips):
    read = read_video(clips / "late.mkv", FRAMES)
    np.testing.assert_allclose(
        read.timestamps, np.array(LATE) / FPS, atol=1e-3
    )  # Matroska counts milliseconds


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_one_frame(tmp_path, suffix):
    read = read_video(write_clip(tmp_path / f"one.{suffix}", 1), 8)
    assert indexes(read.frames) == [0]
    assert read.timestamps.tolist() == [0.0]
    assert read.duration == pytest.approx(1 / FPS, abs=1e-3)
    assert read.fps == pytest.approx(FPS)


# The display matrix of ISO 14496-12: x' = a x + c y, y' = b x + d y, y pointing down.
MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("clockwise", MATRICES)
def test_rotated_by_metadata_comes_out_upright(clips, tmp_path, clockwise):
    a, b, c, d = MATRICES[clockwise]
    data = (clips / "plain.mp4").read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    read = read_video(path, 5)
    stored = read_video(clips / "plain.mp4", 5).frames
    assert read.frames.shape == ((5, 48, 64, 3) if clockwise % 180 == 0 else (5, 64, 48, 3))
    assert (read.frames == np.rot90(stored, -clockwise // 90, axes=(1, 2))).all()


@pytest.mark.usefixtures("no_decoding_through")
def test_edit_list_hides_frames(clips, tmp_path):
    data = bytearray((clips / "plain.mp4").read_bytes())
    entry = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, entry)
    assert duration == 2000
    struct.pack_into(">Ii", data, entry, 1000, start + 10 * 512)  # show one second, from the tenth frame
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    assert indexes(read_video(path, 100).frames) == list(range(10, 34))
    read = read_video(path, 5)
    assert indexes(read.frames) == [10, 15, 21, 27, 33]
    assert read.timestamps[[0, -1]].tolist() == pytest.approx([0, 23 / FPS])
    assert read.duration == pytest.approx(1.0)


def test_a_change_of_orientation_on_the_way(clips, monkeypatch):
    images, _ = decoded(clips / "plain.mp4")
    frames = [av.VideoFrame.from_ndarray(image) for image in images[:2]]
    turned = {id(frames[0]): Orientation(), id(frames[1]): Orientation(transposed=True)}
    monkeypatch.setattr("adatp.video.decoding.orientation", lambda frame: turned[id(frame)])
    read = collect(enumerate(frames), [0, 1])
    assert read.shape == (2, 48, 64, 3)
    scaled = frames[1].reformat(48, 64, format="rgb24").to_ndarray()
    assert (read[1] == scaled.swapaxes(0, 1)).all()


def test_a_change_of_size_on_the_way(clips, tmp_path):
    first, second = write_clip(tmp_path / "a.ts"), write_clip(tmp_path / "b.ts", size=(96, 64))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_video(joined, 8).frames.shape == (8, 48, 64, 3)


def test_colours_follow_the_tagged_matrix(tmp_path):
    pixels = {}
    for name in ("bt709", "smpte170m"):
        path = tmp_path / f"{name}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"qp": "1", "colormatrix": name})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.codec_context.colorspace = {"bt709": 1, "smpte170m": 6}[name]
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane, level in zip(frame.planes, (100, 90, 200), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        pixels[name] = read_video(path, 1).frames[0, 16, 16].astype(float)
    y, cb, cr = 255 / 219 * (100 - 16), 255 / 224 * (90 - 128), 255 / 224 * (200 - 128)
    for name, (kr, kb) in {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}.items():
        red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
        green = (y - kr * red - kb * blue) / (1 - kr - kb)
        np.testing.assert_allclose(pixels[name], [red, green, blue], atol=4)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory through /proc")
def test_ten_thousand_frames_in_flat_memory(tmp_path, monkeypatch):
    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    short = write_clip(tmp_path / "short.mkv", 100, options={"preset": "ultrafast"})
    long = write_clip(tmp_path / "long.mkv", 10_000, options={"preset": "ultrafast"})
    for way in ("seeking", "decoding through"):
        if way == "decoding through":
            monkeypatch.setattr(reading, "by_seeking", lambda *_: None)
        read_video(short)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak()
        assert indexes(read_video(long).frames) == picked(10_000, 32)
        assert peak() - before < 20  # MiB; all 10,000 frames would be 88


def test_a_stream_that_appears_late():
    class Late:
        def demux(self, *_):
            yield "packet"
            raise IndexError("list index out of range")  # what PyAV does then

    assert list(demux(Late())) == ["packet"]


def test_times_out_of_order_are_not_trusted(clips):
    images, _ = decoded(clips / "plain.mp4")
    frames = [av.VideoFrame.from_ndarray(image) for image in images[:2]]
    assert (collect([(1, frames[0]), (2, frames[1])], [1, 2]) == images[:2]).all()
    with pytest.raises(UntrueError):
        collect([(2, frames[0]), (1, frames[1])], [1, 2])
    assert not len(scan(str(clips / "h264.avi")).shown)


@pytest.mark.parametrize("name", ["a:b.mp4", "100%03d.mp4", "no suffix", "日本 ü.mp4", "wrong.avi"])
def test_a_name_is_only_a_name(clips, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes((clips / "plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(read_video(name, 3).frames) == 3


@pytest.mark.parametrize("frames", [0, -3])
def test_fewer_than_one_frame_is_refused(clips, frames):
    with pytest.raises(VideoError, match=f"frames is {frames}"):
        read_video(clips / "plain.mp4", frames)
