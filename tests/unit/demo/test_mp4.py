"""Files of clips for the page."""

from pathlib import Path

from adatp.demo.mp4 import write_mp4
from adatp.tiny import world
from adatp.tiny.processor import pixel_values
from adatp.video import read_video


def test_written_clip_is_the_clip(tmp_path: Path) -> None:
    frames = world.make_clip(0, 5, "validation").frames
    write_mp4(tmp_path / "clip.mp4", frames)
    again = read_video(tmp_path / "clip.mp4", 1000).frames
    assert again.shape == (5, 192, 192, 3)
    error = (pixel_values(again) - pixel_values(frames)).abs() * 127.5
    assert error.mean() < 6
    swapped = (pixel_values(again[..., ::-1].copy()) - pixel_values(frames)).abs() * 127.5
    assert swapped.mean() > error.mean()
