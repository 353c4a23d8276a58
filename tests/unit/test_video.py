import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adatp import video
from adatp.video import Video, VideoError, read_video
from clips import FPS, index_of, write_clip, write_sound

FRAMES = 48
LATE = [i + 4 * (i // 5) for i in range(FRAMES)]  # a pause after every fifth frame
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:keyint=12:scenecut=0"}
CLIPS = {
    "plain.mp4": {},
    "sound.mp4": {"audio": True},
    "cover.mp4": {"cover": True},
    "start.mp4": {"muxing": {"movflags": "faststart"}},
    "fragments.mp4": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "open-gop.mp4": {"options": OPEN_GOP},
    "one-gop.mp4": {"gop": 1000},
    "intra.mp4": {"gop": 1},
    "late.mp4": {"pts": LATE},
    "plain.mov": {},
    "plain.mkv": {},
    "sound.mkv": {"audio": True},
    "open-gop.mkv": {"options": OPEN_GOP},
    "late.mkv": {"pts": LATE},
    "live.mkv": {"muxing": {"live": "1"}},  # no duration, no index
    "odd.mkv": {"size": (127, 93), "pix_fmt": "yuv444p"},
    "vp9.webm": {"codec": "libvpx-vp9", "size": (127, 93), "options": {"cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {},  # reordered frames in a container that cannot say so
    "plain.ts": {},
    "plain.flv": {},
    "plain.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "bare.h264": {},  # no times at all
}
WHOLE = [name for name in CLIPS if name not in ("b-frames.avi", "h264.avi", "bare.h264")]


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, options in CLIPS.items():
        write_clip(folder / name, FRAMES, **options)
    return folder


@pytest.fixture
def no_decoding_through(monkeypatch):
    monkeypatch.setattr(video, "_by_decoding", None)


def oracle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames and their seconds from the first, by decoding everything in one go."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if s.width != 200)
        tick = float(stream.time_base)
        decoded = list(container.decode(stream))
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    ticks = sorted(frame.pts for frame in decoded) if decoded[0].pts is not None else None
    seconds = [(t - ticks[0]) * tick for t in ticks] if ticks else np.arange(FRAMES) / 25  # FFmpeg's guess
    return images, np.array(seconds)


def picked(total: int, frames: int) -> list[int]:
    return np.linspace(0, total - 1, min(total, frames)).astype(int).tolist()


def indexes(read: Video) -> list[int]:
    return [index_of(image) for image in read.frames]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("frames", [1, 7, 32, 100])
def test_frames_are_those_of_a_full_decode(clips, name, frames):
    images, seconds = oracle(clips / name)
    read = read_video(clips / name, frames)
    expected = picked(FRAMES, frames)
    assert indexes(read) == expected
    assert (read.frames == images[expected]).all()
    assert read.frames.dtype == np.uint8
    np.testing.assert_allclose(read.timestamps, seconds[expected], atol=1e-9)
    assert read.timestamps.dtype == np.float64


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.usefixtures("no_decoding_through")
def test_well_formed_files_are_read_by_seeking(clips, name):
    assert indexes(read_video(clips / name, 9)) == picked(FRAMES, 9)


@pytest.mark.parametrize("name", WHOLE)
def test_seeking_and_decoding_through_agree(clips, name, monkeypatch):
    sought = read_video(clips / name, 11)
    monkeypatch.setattr(video, "_by_seeking", lambda *_: None)
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
    assert indexes(read) == picked(FRAMES, frames)
    assert (np.diff(read.timestamps) > 0).all()
    assert read.timestamps[0] == 0


def test_only_the_stretches_to_the_picks_are_decoded(tmp_path):
    clip = write_clip(tmp_path / "long.mp4", 480)
    packets = video._scan(str(clip))
    decoded = list(video._decode_to(str(clip), packets, packets.shown[[30, 400]].tolist()))
    assert {30, 400} <= {index_of(frame.to_ndarray(format="rgb24")) for frame in decoded}
    assert len(decoded) <= 2 * 14  # two GOPs of twelve, and a frame or two that are stored ahead of the pick


def test_a_seek_that_lands_too_late_is_noticed(clips, monkeypatch):
    packets = video._scan(str(clips / "plain.mp4"))
    late = video._Packets(**{**vars(packets), "seeks": packets.seeks + 100_000})
    assert video._by_seeking(str(clips / "plain.mp4"), late, 7) is None
    monkeypatch.setattr(video, "_scan", lambda _: late)
    assert indexes(read_video(clips / "plain.mp4", 7)) == picked(FRAMES, 7)


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
    assert indexes(read) == [0]
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
    assert indexes(read_video(path, 100)) == list(range(10, 34))
    read = read_video(path, 5)
    assert indexes(read) == [10, 15, 21, 27, 33]
    assert read.timestamps[[0, -1]].tolist() == pytest.approx([0, 23 / FPS])
    assert read.duration == pytest.approx(1.0)


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
            monkeypatch.setattr(video, "_by_seeking", lambda *_: None)
        read_video(short)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak()
        assert indexes(read_video(long)) == picked(10_000, 32)
        assert peak() - before < 20  # MiB; all 10,000 frames would be 88


def cut(path: Path, keep: float) -> bytes:
    data = path.read_bytes()
    return data[: int(keep * len(data))]


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


@pytest.mark.parametrize("frames", [0, -3])
def test_fewer_than_one_frame_is_refused(clips, frames):
    with pytest.raises(VideoError, match=f"frames is {frames}"):
        read_video(clips / "plain.mp4", frames)


@pytest.mark.parametrize("name", ["a:b.mp4", "100%03d.mp4", "no suffix", "日本 ü.mp4", "wrong.avi"])
def test_a_name_is_only_a_name(clips, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes((clips / "plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(read_video(name, 3).frames) == 3


def without(source: Path, path: Path, lost: list[int]) -> Path:
    """A copy with zeros for what the packets of frames `lost` (1/24 s) hold."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(video=0):
            if packet.size and round(packet.pts * packet.time_base * FPS) in lost:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    return path


def test_pictures_lost_in_the_middle_are_refused(clips, tmp_path):
    path = without(clips / "start.mp4", tmp_path / "hollow.mp4", lost=list(range(12, 36)))
    assert "cut short or damaged" in refusal(path)


def test_a_single_lost_frame_is_left_out(clips, tmp_path):
    path = without(clips / "intra.mp4", tmp_path / "spot.mp4", lost=[20])
    assert indexes(read_video(path, 100)) == [i for i in range(FRAMES) if i != 20]


def test_a_stream_that_appears_late():
    class Late:
        def demux(self, *_):
            yield "packet"
            raise IndexError("list index out of range")  # what PyAV does then

    assert list(video._demux(Late())) == ["packet"]


def test_times_out_of_order_are_not_trusted(clips):
    images, _ = oracle(clips / "plain.mp4")
    frames = [av.VideoFrame.from_ndarray(image) for image in images[:2]]
    assert video._collect([(1, frames[0]), (2, frames[1])], [1, 2]) is not None
    assert video._collect([(2, frames[0]), (1, frames[1])], [1, 2]) is None
    assert not len(video._scan(str(clips / "h264.avi")).shown)


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
    assert (np.diff(indexes(read)) > 0).all()
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
