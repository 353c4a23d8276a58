"""Attention bias: the statistics, what the controls tell apart, the command and its figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adatp import Session, bias, cli, tiny
from adatp.bias import AttentionRecorder, altered, correlation, debiased_attention, describe, measure, order
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout, build_layouts
from adatp.plots import plot_bias
from adatp.tiny.world import benchmark, make_clip
from adatp.video import Video
from agreement import Agree
from clips import write_clip
from families import COMPLETE, FAMILIES, Prompt, Qwen35, batch, build
from rounding import limit
from running import Run

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def layout_of(frames: int, rows: int, columns: int) -> VideoLayout:
    ids = torch.tensor([[1, *[9] * (frames * rows * columns), 2]])
    [layout] = build_layouts(
        ids, torch.ones_like(ids, dtype=torch.bool), [(frames, rows, columns)], video_token_id=9
    )
    return layout


def video(frames: np.ndarray) -> Video:
    return Video(frames, np.arange(len(frames), dtype=float), float(len(frames)), 1.0)


# The statistics.


def test_flat_attention_has_no_bias() -> None:
    layout = layout_of(4, 2, 5)
    found = describe(torch.full((40,), 0.01), torch.arange(40), layout)
    assert found.entropy == pytest.approx(1, rel=1e-5)
    assert found.position_peak_to_mean == found.top10_position_peak_to_mean == pytest.approx(1, rel=1e-5)
    for share in (found.mass_by_frame, found.top10_by_frame):
        assert share.tolist() == pytest.approx([0.25] * 4, rel=1e-5)


def test_attention_is_found_where_it_is() -> None:
    attention = torch.ones(4, 2, 5)
    attention[:, 1, 3] = 11  # one position in every frame
    attention[3] *= 3  # the last frame
    flat = attention.flatten()
    found = describe(flat, flat.argsort(descending=True, stable=True)[:4], layout_of(4, 2, 5))
    assert found.position_peak_to_mean == pytest.approx(11 / 2, rel=1e-5)
    assert found.mass_by_position.argmax() == 8
    assert found.mass_by_frame.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2], rel=1e-5)
    assert found.top10_by_frame.tolist() == [0.25] * 4
    assert found.top10_position_peak_to_mean == 10
    p = flat / flat.sum()
    assert found.entropy == pytest.approx(float(-(p * p.log()).sum()) / math.log(40), rel=1e-5)


def test_all_on_one_token_is_no_entropy() -> None:
    attention = torch.zeros(8).index_fill_(0, torch.tensor([5]), 1)
    found = describe(attention, torch.tensor([5]), layout_of(2, 2, 2))
    assert found.entropy == 0
    assert found.mass_by_frame.tolist() == [0, 1]
    assert found.position_peak_to_mean == 4


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_debiased_attention_compares_only_frames_of_a_position(
    seed: int, frames: int, positions: int, segments: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(frames * positions, generator=generator) ** 8
    of_frame = torch.randint(segments, (frames,), generator=generator).sort().values
    of_frame = of_frame.unique(return_inverse=True)[1]
    segment = of_frame.repeat_interleave(positions)
    position = torch.arange(positions).repeat(frames)
    share = torch.rand(int(of_frame.max()) + 1, generator=generator) + 0.1
    got = debiased_attention(attention, segment, position, share)
    for s, weight in enumerate(share):
        mine = got[segment == s]
        for p in range(positions):
            where = (segment == s) & (position == p)
            assert float(got[where].sum()) == pytest.approx(float(weight), rel=1e-5)
            raw = attention[where].double()
            if raw.min() > 0:
                assert torch.allclose(got[where] / got[where].sum(), raw / raw.sum())
        assert len(mine) == int((of_frame == s).sum()) * positions


def test_a_position_without_attention_keeps_its_part() -> None:
    zero = debiased_attention(
        torch.zeros(6), torch.zeros(6, dtype=torch.int64), torch.arange(6) % 3, torch.ones(1)
    )
    assert zero.tolist() == pytest.approx([0.5] * 6, rel=1e-5)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_shuffling_moves_complete_blocks(frames: int, unit: int, seed: int) -> None:
    got = order(frames, unit, seed)
    assert sorted(got) == list(range(frames))
    complete = frames // unit * unit
    assert (got[:complete].reshape(-1, unit) % unit == np.arange(unit)).all()
    assert (got[complete:] == np.arange(complete, frames)).all()  # a block that is short stays at the end


def test_controls_show_what_they_say() -> None:
    frames = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    assert (altered(frames, "identical", np.arange(5)) == frames[2]).all()
    assert not altered(frames, "black", np.arange(5)).any()
    assert (altered(frames, "shuffled", np.array([3, 1, 0, 2, 4]))[0] == frames[3]).all()
    assert altered(frames, "original", np.arange(5)) is frames


def test_correlation() -> None:
    x = torch.tensor([1.0, 2, 4])
    assert correlation(x, 3 * x + 1) == pytest.approx(1, rel=1e-5)
    assert correlation(x, -x) == pytest.approx(-1, rel=1e-5)
    assert correlation(x, torch.ones(3)) is None


# Watching changes nothing, and sees what eager attention has.


@pytest.mark.parametrize("family", COMPLETE, ids=lambda family: family.name)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_watching_sees_eager_attention_in_every_layer_that_has_any(
    family: Any, attention: str, agree: Agree
) -> None:
    """Of the other families the conformance suite shows the same of the layer that is scored."""
    inputs = batch(family, [Prompt(before=1, seed=1), Prompt(before=4, seed=2)])
    model, eager = build(family, attention), build(family, "eager")
    expected = model(**inputs).logits
    with AttentionRecorder(layers=family.full)(model) as run:
        assert torch.equal(model(**inputs).logits, expected)
    rows = eager(**inputs, output_attentions=True).attentions
    attentions = dict(
        zip(DecoderShape.from_config(model.config.get_text_config()).key_layers, rows, strict=True)
    )
    for sample, (observed, layout) in enumerate(zip(run.report.notes, run.layouts, strict=True)):
        assert sorted(map(int, observed["attention"])) == list(family.full)
        for layer, plain in observed["attention"].items():
            scores = torch.tensor(plain)
            expected = attentions[int(layer)][sample][:, layout.question].mean((0, 1))
            agree(scores, expected[layout.index], within=limit(family, of="attention"))
            assert scores.shape == layout.index.shape
    assert run.report.flops_ratio > 1  # scoring costs, and is counted
    assert json.loads(run.report.to_json())["samples"] == run.report.notes


# What the controls tell apart.


def simulated(monkeypatch: pytest.MonkeyPatch, attention: Any) -> None:
    """Let the model be one whose attention on a frame is a function of its slot and of its pixels."""

    def recorded(
        session: Session, recorder: AttentionRecorder, shown: Video, question: str
    ) -> tuple[Any, VideoLayout]:
        layout = layout_of(len(shown.frames), 2, 2)
        by_frame = torch.tensor([attention(slot, int(f.max())) for slot, f in enumerate(shown.frames)])
        observed = {
            "segments": list(range(len(shown.frames))),
            "segment_relevance": None,
            "attention": dict.fromkeys(map(str, recorder.layers), by_frame.repeat_interleave(4).tolist()),
        }
        return SimpleNamespace(notes=[observed], relevance="none"), layout

    monkeypatch.setattr(bias, "_recorded", recorded)


def stills(clips: int) -> Iterator[tuple[Video, str]]:
    """Frames of one brightness each, no two equal."""
    for seed in range(clips):
        level = np.random.default_rng(seed).permutation(np.arange(10, 250, 30)).astype(np.uint8)
        yield video(np.tile(level[:, None, None, None], (1, 2, 2, 3))), "?"


MODEL = SimpleNamespace(
    config=SimpleNamespace(get_text_config=lambda: tiny.load()[0].config.text_config),
    device="cpu",
    dtype="float32",
)


def test_attention_by_position_follows_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda slot, level: 1 + slot)
    found = measure(Session.of(MODEL, None), stills(6), layers=[3])
    [layer], [shuffled] = found["layers"], found["controls"]["shuffled"]
    assert layer["layer"] == 3
    assert shuffled["follows_slot"] == pytest.approx(1, rel=1e-5)
    assert abs(shuffled["follows_content"]) < 0.6
    for control in ("identical", "black"):
        [row] = found["controls"][control]
        assert row["mass_by_frame"] == pytest.approx(layer["mass_by_frame"], abs=5e-6)
    assert layer["mass_by_frame"] == pytest.approx([(1 + slot) / 36 for slot in range(8)], abs=5e-6)
    assert sum(layer["top10_by_frame"][-1:]) == 1
    assert layer["debiased"]["mass_by_frame"] == pytest.approx([1 / 8] * 8, rel=1e-5)


def test_attention_by_content_follows_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda slot, level: 1 + level)
    found = measure(Session.of(MODEL, None), stills(6), layers=[3])
    [shuffled] = found["controls"]["shuffled"]
    assert shuffled["follows_content"] == pytest.approx(1, rel=1e-5)
    assert abs(shuffled["follows_slot"]) < 0.6
    for control in ("identical", "black"):
        [row] = found["controls"][control]
        assert row["mass_by_frame"] == pytest.approx([1 / 8] * 8, rel=1e-5)


def world(clips: int, frames: int = 16) -> Iterator[tuple[Video, str]]:
    for seed, question in benchmark("test", frames, clips):
        yield video(make_clip(seed, frames, "test").frames), question.text


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The embedded model on a few clips."""
    return measure(Session(device="cpu"), world(3))


def test_the_embedded_model_is_biased_by_position(measured: dict[str, Any]) -> None:
    """Its first layer reads where a frame stands, whatever it shows; the rules even that out."""
    assert (measured["clips"], measured["frames"], measured["relevance"]) == (3, 16, "siglip")
    assert [row["layer"] for row in measured["layers"]] == list(range(12))
    first, shuffled = measured["layers"][0], measured["controls"]["shuffled"][0]
    assert shuffled["follows_slot"] > 0.7 > 0.3 > shuffled["follows_content"]
    for row in measured["controls"]["identical"]:
        assert row["top10_position_peak_to_mean"] > 2 > row["debiased"]["top10_position_peak_to_mean"]
    black = [max(row["mass_by_frame"]) * 16 for row in measured["controls"]["black"]]
    assert max(black) > 1.5  # nothing to see, and yet some frames are looked at more
    for row in measured["layers"]:
        for each in (row, row["debiased"]):
            assert sum(each["top10_by_frame"]) == pytest.approx(1, abs=1e-4)  # numbers are rounded to 1e-6
            assert sum(each["mass_by_frame"]) == pytest.approx(1, abs=1e-4)
            assert 0 < each["entropy"] <= 1 <= each["position_peak_to_mean"]
        assert row["debiased"]["position_peak_to_mean"] == pytest.approx(1, rel=1e-5)
        assert 0 < row["visual_mass"] <= 1.0001
    assert first["top10_position_peak_to_mean"] > first["debiased"]["top10_position_peak_to_mean"]


def test_means_are_over_clips(measured: dict[str, Any]) -> None:
    singles = [measure(Session(device="cpu"), [clip], layers=[2], controls=()) for clip in world(3)]
    for name in ("visual_mass", "position_peak_to_mean", "entropy"):
        mean = sum(single["layers"][0][name] for single in singles) / 3
        assert measured["layers"][2][name] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("layers", [[12], [-1], []])
def test_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(bias.BiasError, match="layers 0 to 11"):
        measure(Session(device="cpu"), world(1), layers=layers)


def test_clips_of_different_lengths_and_none() -> None:
    session = Session(device="cpu")
    with pytest.raises(bias.BiasError, match="16 frames, the first 8"):
        measure(session, [next(world(1, 8)), next(world(1, 16))], layers=[0])
    with pytest.raises(bias.BiasError, match="no clip"):
        measure(session, [], layers=[0])


# Figures.


def test_figures_show_the_numbers(measured: dict[str, Any]) -> None:
    figures = plot_bias(measured)
    assert list(figures) == ["frames", "positions", "controls"]
    before, after = figures["frames"].axes[:2]
    for axes, rows in (
        (before, measured["layers"]),
        (after, [row["debiased"] for row in measured["layers"]]),
    ):
        drawn = np.asarray(axes.images[0].get_array())
        assert drawn == pytest.approx(16 * np.array([row["top10_by_frame"] for row in rows]))
    assert before.images[0].get_clim() == after.images[0].get_clim()
    assert len([axes for axes in figures["positions"].axes if axes.images]) == 3 * 6
    panels = [axes for axes in figures["controls"].axes if axes.get_visible()]
    assert len(panels) == 12
    lines = {line.get_label(): line.get_ydata() for line in panels[1].lines[:4]}
    assert list(lines) == ["original", "shuffled", "identical", "black"]
    black = measured["controls"]["black"][1]["mass_by_frame"]
    assert list(lines["black"]) == pytest.approx([16 * share for share in black])
    top = panels[0].get_ylim()[1]
    assert all(max(line.get_ydata()) <= top for axes in panels for line in axes.lines[:4])


def test_clips_in_several_formats_have_no_maps(measured: dict[str, Any]) -> None:
    without = [{**row, "mass_by_position": None, "top10_by_position": None} for row in measured["layers"]]
    assert list(plot_bias({**measured, "layers": without, "controls": {}})) == ["frames"]


# The command.

QUICK = ("bias", "--frames", "8", "--limit", "2", "--layers", "0,11")
KEYS = {"top10_by_frame", "mass_by_frame", "position_peak_to_mean", "entropy"}


def test_bias_of_the_embedded_model(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*QUICK, "--json", tmp_path / "out.json", "--plot", tmp_path / "figures")
    assert (code, err) == (0, "")
    assert "2 clips of 8 frames" in out
    got = json.loads((tmp_path / "out.json").read_text())
    assert [row["layer"] for row in got["layers"]] == [0, 11]
    for row in got["layers"]:
        assert row.keys() >= KEYS
        assert row["debiased"].keys() >= KEYS
        assert f"{row['position_peak_to_mean']:.2f}" in out
    assert list(got["controls"]) == ["shuffled", "identical", "black"]
    names = {f"bias-{name}.{kind}" for name in ("frames", "positions", "controls") for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "out.json"]


@families
def test_bias_of_any_family_on_videos(run: Run, hub: Path, tmp_path: Path, family: Any) -> None:
    """Of several formats, with questions on some; what is no video, or too short, is skipped in a line."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_clip(folder / "a.mp4")
    write_clip(folder / "b.mp4", size=(48, 64))
    write_clip(folder / "short.mp4", 3)
    (folder / "notes.txt").write_text("no video")
    questions = tmp_path / "questions.txt"
    questions.write_text("what is the cat ?\n\na.mp4\twho runs ?\n")
    code, out, err = run(
        "bias", "--model", hub / family.name, "--videos", folder, "--questions", questions,
        "--frames", 8, "--json", tmp_path / "out.json", "--plot", tmp_path,
    )  # fmt: skip
    assert code == 0
    assert [line.split(":")[1] for line in err.splitlines()] == [" skipped"] * 2
    assert "notes.txt" in err
    assert "only 3 frames" in err
    got = json.loads((tmp_path / "out.json").read_text())
    assert got["clips"] == 3
    assert [row["layer"] for row in got["layers"]] == list(family.full)
    assert "3 clips" in out
    assert got["frames"] == 8 // family.step
    assert (got["layers"][0]["mass_by_position"] is None) == family.any_size  # its grids follow the format
    assert (tmp_path / "bias-positions.png").exists() != family.any_size


def test_bias_of_linear_attention_is_refused(run: Run, hub: Path, tmp_path: Path) -> None:
    asked = ("bias", "--model", hub / Qwen35.name, "--videos", write_clip(tmp_path / "a.mp4").parent)
    code, out, err = run(*asked, "--frames", 8, "--layers", "1,3,4,5")
    assert (code, out) == (2, "")
    assert err == "adatp: only layers with full attention can be looked at, not 3, 5\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layers", "0,12"), "layers 0 to 11"),
        (("--layers", "all"), "--layers"),
        (("--videos", "{tmp}/none"), "no such folder"),
        (("--videos", "{tmp}/empty"), "no file in it"),
        (("--videos", "{tmp}/bad"), "no clip to measure"),
        (("--videos", "{tmp}/bad", "--synthetic"), "choose one"),
        (("--questions", "{tmp}/bad/a.mp4"), "name their folder"),
        (("--videos", "{tmp}/bad", "--questions", "{tmp}/none"), "can't be read"),
        (("--videos", "{tmp}/bad", "--questions", "{tmp}/bad/a.mp4"), "not a text file"),
        (("--videos", "{tmp}/bad", "--questions", "{tmp}/blank"), "no question in it"),
        (("--videos", "{tmp}/bad", "--questions", "{tmp}/other"), "'b.mp4'"),
        (("--frames", "2"), "--frames"),
        (("--limit", "0"), "--limit"),
        (("--dtype", "int8"), "--dtype"),
        (("--json", "{tmp}/none/out.json"), "--json"),
        (("--plot", "{tmp}/blank"), "not a folder"),
        (("--plot", "{tmp}/none/figures"), "--plot"),
        (("--model", "{tmp}/none"), "no such model folder"),
    ],
)
def test_bias_refuses_in_one_line(run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    for folder in ("empty", "bad"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"\xff\xfe" * 100)
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "other").write_text("b.mp4\twho runs ?\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*QUICK, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (code, out) == (2, "")
    *skipped, last = err.splitlines()
    assert words in last
    assert last.startswith("adatp: ")
    assert all(line.startswith("adatp: skipped: ") for line in skipped)
    assert sorted(tmp_path.rglob("*")) == before


def test_bias_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli.bias, "find_spec", lambda name: None)
    code, out, err = run(*QUICK, "--plot", tmp_path / "figures")
    assert (code, out) == (2, "")
    assert 'pip install "adatp[plot]"' in err
