"""Files of kinds that went wrong, and what is right: each right value was red before it was mended.

The files in `tests/data/videos` are made after public bug reports. The others, of the same kinds, are made
here.
"""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from adatp.video import VideoError, errors, read_video
from adatp.video.upright import Orientation
from clips import FPS, FRAMES, decoded, image_of, indexes, picked, write_clip

DATA = Path(__file__).parents[2] / "data" / "videos"


def refusal(path: Path, **limits: float) -> str:
    with pytest.raises(VideoError) as caught:
        read_video(path, **limits)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def same_as_decoded(path: Path) -> None:
    """Whatever is asked for, the frames are those of a full decode."""
    images, seconds = decoded(path)
    for frames in (2, 3, 6, 17):
        read, expected = read_video(path, frames), picked(len(images), frames)
        assert (read.frames == images[expected]).all()
        np.testing.assert_allclose(read.timestamps, seconds[expected], atol=1e-9)


class TestKeyframeFlags:
    """A container may call any packet a keyframe, or none."""

    def test_intra_refresh(self):
        same_as_decoded(DATA / "intra_refresh.mp4")

    def test_intra_refresh_of_one_second(self, tmp_path):
        params = {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0"}
        same_as_decoded(write_clip(tmp_path / "refresh.mkv", 96, options=params))

    @pytest.mark.parametrize("bframes", ["0", "2"])
    def test_mpeg4_without_a_table_of_keyframes(self, tmp_path, bframes):
        path = write_clip(tmp_path / "a.mp4", codec="mpeg4", options={"bf": bframes})
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
        same_as_decoded(path)

    @pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "flv", "h263"])
    def test_avi_without_an_index(self, tmp_path, codec):
        size = (128, 96) if codec == "h263" else (64, 48)
        path = write_clip(tmp_path / "a.avi", codec=codec, size=size)
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex(b"idx1")])
        same_as_decoded(path)

    def test_h263_in_avi(self, tmp_path):
        same_as_decoded(write_clip(tmp_path / "a.avi", codec="h263", size=(128, 96)))

    @pytest.mark.parametrize("suffix", ["mpg", "vob"])
    def test_program_stream_with_a_time_a_packet(self, tmp_path, suffix):
        for bframes in ("0", "2"):
            path = write_clip(
                tmp_path / f"{bframes}.{suffix}", codec="mpeg2video", options={"bf": bframes}, size=(352, 288)
            )
            same_as_decoded(path)
        same_as_decoded(write_clip(tmp_path / f"b.{suffix}", 50, codec="mpeg2video"))


def with_matrix(source: Path, path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """A copy of an MP4 with another display matrix: a, b, c, d of ISO 14496-12."""
    data = source.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(number * (1 << 16)) for number in matrix)
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    return path


# x' = a x + c y, y' = b x + d y, with y pointing down.
MIRRORS = {
    "left to right": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "top to bottom": ((1, 0, 0, -1), lambda image: image[::-1]),
    "over the diagonal": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "over the other diagonal": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
    "all zero": ((0, 0, 0, 0), lambda image: image),
    "a point": ((-1, 0, 0, 0), lambda image: image),
    "twice as large": ((-2, 0, 0, 1), lambda image: image[:, ::-1]),
    "nearly upright": ((0.99, 0.1, -0.1, 0.99), lambda image: image),
    "nearly mirrored": ((-0.99, 0.1, 0.1, 0.99), lambda image: image[:, ::-1]),
}


class TestMirrored:
    """A display matrix may mirror as well as turn."""

    @pytest.mark.parametrize("name", MIRRORS)
    def test_mirrored_as_players_do(self, clips, tmp_path, name):
        matrix, mirrored = MIRRORS[name]
        read = read_video(with_matrix(clips / "plain.mp4", tmp_path / "mirror.mp4", matrix), 3)
        stored = read_video(clips / "plain.mp4", 3)
        assert all(np.array_equal(a, mirrored(b)) for a, b in zip(read.frames, stored.frames, strict=True))

    @pytest.mark.parametrize(("name", "axis"), [("mirror_hflip.mp4", 2), ("mirror_vflip.mp4", 1)])
    def test_files(self, name, axis):
        images, _ = decoded(DATA / name)
        assert (read_video(DATA / name, 100).frames == np.flip(images, axis)).all()


def write_tracks(path: Path, tracks: list[dict], **muxing: str) -> Path:
    """Writes streams of `frames` images that spell `first` and on."""
    with av.open(str(path), "w", container_options=muxing) as container:
        streams = []
        for track in tracks:
            stream = container.add_stream(track.get("codec", "libx264"), rate=FPS)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = track.get("pix_fmt", "yuv420p")
            stream.codec_context.time_base = Fraction(1, FPS)
            stream.disposition = track.get("disposition", Disposition(0)).value
            streams.append(stream)
        container.start_encoding()
        for stream, track in zip(streams, tracks, strict=True):
            for index in range(track["frames"]):
                frame = av.VideoFrame.from_ndarray(image_of(track.get("first", 0) + index))
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


STILL = {"frames": 1, "first": 5000}
OTHER = {"frames": 20, "first": 3000}
MAIN = {"frames": 20}
DEFAULT = {"disposition": Disposition.default}
GREY = {"codec": "ffv1", "pix_fmt": "gray"}
TRACKS = {
    "a still first": [STILL, MAIN],
    "a still that is the default": [STILL | DEFAULT, MAIN],
    "not the default first": [OTHER, MAIN | DEFAULT],
    "a mask first": [OTHER | GREY, MAIN | {"codec": "ffv1"}],
    "the default is shorter": [OTHER | DEFAULT | {"frames": 19}, MAIN],
}
NO_MP4 = ("a mask first", "mp4")  # it holds no FFV1, and H.264 in grey is decoded as colour


class TestSeveralStreams:
    """The first video stream need not be the one that people mean."""

    @pytest.mark.parametrize(
        ("name", "suffix"),
        [(name, suffix) for name in TRACKS for suffix in ("mkv", "mp4") if (name, suffix) != NO_MP4],
    )
    def test_the_best_is_read(self, tmp_path, name, suffix):
        path = write_tracks(tmp_path / f"tracks.{suffix}", TRACKS[name])
        assert indexes(read_video(path, 100).frames) == list(range(20))

    def test_the_first_where_all_are_equal(self, tmp_path):
        path = write_tracks(tmp_path / "tracks.mkv", [MAIN, OTHER])
        assert indexes(read_video(path, 100).frames) == list(range(20))

    def test_animated_avif(self):
        read = read_video(DATA / "animated.avif")
        assert indexes(read.frames) == list(range(12))
        assert (read.duration, read.fps) == (pytest.approx(0.5), pytest.approx(24))


def shifted(source: Path, path: Path, seconds: float) -> Path:
    """A copy of an MPEG-TS whose clock begins `seconds` later."""
    with av.open(str(source)) as given, av.open(str(path), "w", container_options={"copyts": "1"}) as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is None:
                continue
            packet.pts += round(seconds * 90_000)
            packet.dts += round(seconds * 90_000)
            packet.stream = stream
            out.mux(packet)
    return path


class TestJumpingClocks:
    """MPEG-TS files are joined as they are, and their clocks jump where they are joined."""

    @pytest.mark.parametrize("name", ["joined_same_times.ts", "joined_backwards.ts"])
    def test_files(self, name):
        read = read_video(DATA / name, 96, most_seconds=5)
        assert indexes(read.frames) == [*range(48), *range(48)]
        np.testing.assert_allclose(read.timestamps, np.arange(96) / 24, atol=1e-4)
        assert (read.duration, read.fps) == (pytest.approx(4, abs=1e-3), pytest.approx(24, abs=1e-2))

    @pytest.mark.parametrize("seconds", [-1.5, 60, 40_000])
    def test_joined(self, tmp_path, seconds):
        first = shifted(write_clip(tmp_path / "a.ts"), tmp_path / "first.ts", 100)
        second = shifted(tmp_path / "a.ts", tmp_path / "second.ts", 102 + seconds)
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
        read = read_video(joined, 144, most_seconds=7)
        assert indexes(read.frames) == [*range(48)] * 3
        np.testing.assert_allclose(read.timestamps, np.arange(144) / 24, atol=1e-4)
        assert read.duration == pytest.approx(6, abs=1e-3)

    def test_a_clock_that_wraps(self, tmp_path):
        path = shifted(write_clip(tmp_path / "a.ts"), tmp_path / "wraps.ts", (1 << 33) / 90_000 - 1.0 - 1.4)
        read = read_video(path, 48)
        assert indexes(read.frames) == list(range(48))
        np.testing.assert_allclose(read.timestamps, np.arange(48) / 24, atol=1e-4)

    def test_pauses_stay(self, tmp_path):
        pauses = [0, 1, 2, 3, 100, 101, 102, 103]  # four seconds in MPEG-TS
        read = read_video(write_clip(tmp_path / "pause.ts", 8, pts=pauses), 8)
        np.testing.assert_allclose(read.timestamps, np.array(pauses) / FPS, atol=1e-4)
        slides = [n * 24 * 15 for n in range(8)]  # one frame every 15 s
        read = read_video(write_clip(tmp_path / "slides.ts", 8, pts=slides), 8)
        np.testing.assert_allclose(read.timestamps, np.array(slides) / FPS, atol=1e-4)


def begun_late(source: Path, path: Path, packets: int) -> Path:
    """A copy of an MPEG-TS without the first `packets` packets of its video."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None and number >= packets:
                packet.stream = stream
                out.mux(packet)
    return path


class TestRecordings:
    """A recording begins anywhere."""

    def test_file(self):
        read = read_video(DATA / "begins_amid_gop.ts", 100)
        assert indexes(read.frames) == list(range(12, 48))
        assert read.duration == pytest.approx(1.5)
        np.testing.assert_allclose(read.timestamps, np.arange(36) / 24, atol=1e-4)
        assert indexes(read_video(DATA / "begins_amid_gop.ts", 3).frames) == [12, 29, 47]

    @pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "mpeg4"])
    def test_begins_amid_a_gop(self, tmp_path, codec):
        options = {"x265-params": "keyint=12:log-level=none:pools=1"} if codec == "libx265" else {}
        source = write_clip(tmp_path / "whole.ts", codec=codec, options=options)
        read = read_video(begun_late(source, tmp_path / "late.ts", 4), 100)
        assert indexes(read.frames) == list(range(12, 48))


class TestEncrypted:
    """Encrypted media are not damaged."""

    def test_cenc(self):
        assert "encrypted" in refusal(DATA / "encrypted_cenc.mp4")

    @pytest.mark.parametrize("scheme", [b"cens", b"cbc1", b"cbcs", b"xxxx"])
    def test_other_schemes(self, tmp_path, scheme):
        path = tmp_path / "a.mp4"
        path.write_bytes((DATA / "encrypted_cenc.mp4").read_bytes().replace(b"cenc", scheme))
        assert "encrypted" in refusal(path)

    def test_clear_frames_of_an_encrypted_file(self, clips, tmp_path):
        path = tmp_path / "a.mp4"
        data = (clips / "plain.mp4").read_bytes()
        path.write_bytes(data.replace(b"avc1", b"encv").replace(b"isomiso2encvmp41", b"isomiso2avc1mp41"))
        assert "encrypted" in refusal(path)

    def test_scrambled_broadcast(self, clips, tmp_path):
        data = bytearray((clips / "plain.ts").read_bytes())
        for at in range(0, len(data), 188):
            if int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF == 0x100:
                data[at + 3] |= 0x80
                data[at + 20 : at + 188] = bytes(byte ^ 0x5A for byte in data[at + 20 : at + 188])
        path = tmp_path / "a.ts"
        path.write_bytes(data)
        assert "encrypted" in refusal(path)


class TestOtherContainers:
    """What FFmpeg reads and people have is read; of the rest the message is true."""

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("a.rm", {"codec": "rv20"}),
            ("a.rm", {"codec": "rv10"}),
            ("a.nut", {}),
            ("a.nut", {"codec": "ffv1"}),
            ("a.apng", {"codec": "apng", "pix_fmt": "rgb24"}),
            ("a.dv", {"codec": "dvvideo", "size": (720, 576), "frames": 5}),
        ],
    )
    def test_read(self, tmp_path, name, options):
        same_as_decoded(write_clip(tmp_path / name, options.pop("frames", FRAMES), **options))

    def test_webp(self):
        assert "WebP is not supported" in refusal(DATA / "animated.webp")

    @pytest.mark.parametrize("head", [b"RIFF\x24\0\0\0ACONanih", b"FWS\x06", b"SMK2", b"BIKi"])
    def test_others_are_not_called_damaged(self, tmp_path, head):
        path = tmp_path / "a.bin"
        path.write_bytes(head + bytes(5000))
        message = refusal(path)
        assert "cut short" not in message
        assert "not supported" in message


class TestGrowingFrames:
    """A stream may change the size of its frames on the way."""

    @pytest.fixture
    def grown(self, tmp_path) -> Path:
        small = write_clip(tmp_path / "a.ts", 24)
        path = tmp_path / "grown.ts"
        path.write_bytes(small.read_bytes() + write_clip(tmp_path / "b.ts", 24, size=(640, 480)).read_bytes())
        return path

    def test_scaled_to_the_first(self, grown):
        read = read_video(grown, 48)
        assert read.frames.shape == (48, 48, 64, 3)
        assert indexes(read.frames) == [*range(24), *range(24)]

    @pytest.mark.parametrize("frames", [1, 2, 48])
    def test_no_way_around_the_limit(self, grown, frames):
        message = refusal(grown, frames=frames, most_pixels=100_000)
        assert "the limit is 0.1 million" in message

    def test_far_beyond_the_limit_nothing_is_allocated(self, tmp_path):
        small = write_clip(tmp_path / "a.ts", 24)
        large = write_clip(tmp_path / "b.ts", 2, size=(4096, 2304), options={"preset": "ultrafast"})
        path = tmp_path / "bomb.ts"
        path.write_bytes(small.read_bytes() + large.read_bytes())
        assert "4096x2304 pixels a frame, the limit is 0.1 million" in refusal(path, most_pixels=100_000)
        assert read_video(path, 2, most_pixels=4096 * 2304).frames.shape == (2, 48, 64, 3)


# What the reader does with these was right all along: families that can't take them are not its concern.
def test_one_frame_is_read():
    read = read_video(DATA / "one_frame.mp4")
    assert (read.frames.shape, read.timestamps.tolist()) == ((1, 48, 64, 3), [0])


def test_any_shape_is_read():
    assert read_video(DATA / "wide_2000x8.mkv", 4).frames.shape == (4, 8, 2000, 3)


def test_frames_are_scaled_as_they_come(clips):
    asked = []

    def fit(frames: int, height: int, width: int) -> tuple[int, int]:
        asked.append((frames, height, width))
        return height // 2, width // 2

    for name in ("plain.mp4", "h264.avi"):  # by seeking, and by decoding through
        read, complete = read_video(clips / name, 5, fit=fit), read_video(clips / name, 5)
        assert read.frames.shape == (5, 24, 32, 3)
        means = complete.frames.reshape(5, 24, 2, 32, 2, 3).mean((2, 4))
        assert abs(read.frames - means).mean() < 2
        assert (read.timestamps == complete.timestamps).all()
    assert asked == [(5, 48, 64)] * 2
    kept = read_video(clips / "plain.mp4", 5, fit=lambda frames, height, width: (height, width))
    assert (kept.frames == read_video(clips / "plain.mp4", 5).frames).all()


def test_frames_are_scaled_upright(tmp_path, monkeypatch):
    """As a phone held upright stores them: turned."""
    clip = write_clip(tmp_path / "plain.mp4", 4)
    monkeypatch.setattr("adatp.video.decoding.orientation", lambda frame: Orientation(transposed=True))
    complete = read_video(clip, 2)
    read = read_video(clip, 2, fit=lambda frames, height, width: (height // 2, width // 4))
    assert (complete.frames.shape, read.frames.shape) == ((2, 64, 48, 3), (2, 32, 12, 3))
    means = complete.frames.reshape(2, 32, 2, 12, 4, 3).mean((2, 4))
    assert abs(read.frames - means).mean() < 3


def test_no_memory_is_one_line(clips):
    def greedy(*_: int) -> tuple[int, int]:
        raise MemoryError

    with pytest.raises(VideoError, match="not enough memory"):
        read_video(clips / "plain.mp4", 5, fit=greedy)


def test_every_message_is_explained():
    page = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text()
    messages = [value for name, value in vars(errors).items() if name.isupper()]
    assert len(messages) >= 8
    assert [message for message in messages if message not in page] == []
