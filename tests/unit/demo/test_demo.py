"""The page: its parts, and the real command used in a browser."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adatp import PromptError, Session
from adatp.cli import main
from adatp.demo import results
from adatp.demo.asking import PRUNING, Comparison, RefusedError, compare, error_text
from adatp.demo.examples import KINDS, write_examples
from adatp.methods import METHODS, AdaTP, Vanilla
from adatp.tiny import CHECKPOINT, CLIP, QUESTION
from adatp.video import VideoError, read_video
from browser import PHONE, Visit
from clips import write_clip
from demo_page import COMMAND, Page

Visitor = Callable[..., Visit]

DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Waits until the page is drawn again."""


def silent(share: float, doing: str) -> None:
    pass


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture(scope="module")
def comparison(session: Session) -> Comparison:
    return compare(session, str(CLIP), QUESTION, 0.273, 8, ["adatp", "dycoke"], silent)


# Its parts.


def test_every_method_but_vanilla_can_be_compared() -> None:
    assert set(PRUNING) == set(METHODS) - {"vanilla"}
    for method in PRUNING.values():
        method(flops=0.5)  # type: ignore[call-arg]


def test_answers_are_those_of_ask(session: Session) -> None:
    said: list[tuple[float, str]] = []
    got = compare(
        session,
        str(CLIP),
        QUESTION,
        0.3,
        8,
        ["adatp", "random"],
        lambda share, what: said.append((share, what)),
    )
    assert [answer.report.method for answer in got.answers] == ["vanilla", "adatp", "random"]
    prompt = session.prepare(CLIP, QUESTION, frames=8)
    for mine, method in zip(got.answers, (Vanilla(), AdaTP(flops=0.3)), strict=False):
        theirs = session.answer(prompt, method, max_new_tokens=64)
        assert (mine.text, mine.report.visual_tokens) == (theirs.text, theirs.report.visual_tokens)
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert "asking: adatp" in {what for _, what in said}


def test_a_target_out_of_reach_is_reported_and_the_others_are_answered(session: Session) -> None:
    got = compare(session, str(CLIP), QUESTION, 0.1, 16, ["pyramiddrop", "adatp"], silent)
    assert [answer.report.method for answer in got.answers] == ["vanilla", "adatp"]
    assert "the lowest is" in got.refused["pyramiddrop"]
    assert "the lowest is" in results.answers(got)


@pytest.mark.parametrize(
    ("path", "question", "names", "reason"),
    [
        (None, QUESTION, ["adatp"], "no clip yet"),
        (str(CLIP), "  ", ["adatp"], "no question yet"),
        (str(CLIP), QUESTION, [], "No method"),
        (str(CLIP), "what is <video> ?", ["adatp"], "stands for a video"),
        (str(CLIP), "what " * 5000, ["adatp"], "the model takes 4096"),
    ],
)
def test_what_can_not_be_asked_is_refused(
    session: Session, path: str | None, question: str, names: list[str], reason: str
) -> None:
    with pytest.raises((RefusedError, PromptError), match=reason):
        compare(session, path, question, 0.273, 8, names, silent)


def test_clips_beyond_the_limits_are_refused_before_they_are_decoded(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = write_clip(tmp_path / "long.mkv", 20, pts=[n * 24 * 32 for n in range(20)])
    large = write_clip(tmp_path / "large.mp4", 2, size=(4096, 2306), options={"preset": "ultrafast"})
    monkeypatch.setattr("adatp.video.reading.by_seeking", lambda *_: pytest.fail("decoded"))
    with pytest.raises(VideoError, match=r"long.mkv: 6\d\d seconds long, the limit is 600; cut"):
        compare(session, str(long), QUESTION, 0.273, 8, ["adatp"], silent)
    with pytest.raises(VideoError, match=r"4096x2306 pixels a frame, the limit is 9.4 million"):
        compare(session, str(large), QUESTION, 0.273, 8, ["adatp"], silent)


def test_an_error_names_the_clip_and_not_its_place() -> None:
    assert error_text(VideoError("/tmp/x/y.mp4: cut short"), "/tmp/x/y.mp4") == "y.mp4: cut short"
    assert error_text(RefusedError("no clip"), None) == "no clip"


def test_nothing_said_becomes_markup(comparison: Comparison) -> None:
    evil = "<script>alert(1)</script>"
    answers = [replace(each, text=evil) for each in comparison.answers]
    changed = Comparison(comparison.video, evil, answers, {"dycoke": evil})
    for page in (results.answers(changed), results.gallery(changed), results.message(evil)):
        assert "<script" not in page
    assert "&lt;script&gt;" in results.answers(changed)


def test_the_numbers_are_the_reports(comparison: Comparison) -> None:
    page = results.answers(comparison)
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', page)
    table = {name: re.findall("<td>(.*?)</td>", cells) for name, cells in rows}
    reports = [answer.report for answer in comparison.answers]
    assert len(table["visual tokens"]) == len(reports) > 1
    for column, report in enumerate(reports):
        first, last = sum(report.prompt_visual_tokens), sum(report.visual_tokens[-1])
        assert table["visual tokens"][column] == f"{first} → {last}"
        assert table["of vanilla's"][column] == f"{report.flops_ratio:.1%}"
        shown = float(table["time: prefill"][column].split()[0])
        assert shown == pytest.approx(report.milliseconds["prefill"], abs=0.6)


def test_examples_can_be_read_and_are_the_clip_alone_for_other_models(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, embedded=True)
    assert len(examples) == 1 + len(KINDS)
    assert len({question for _, question in examples}) == len(examples)
    assert [len(read_video(path, 64).frames) for path, _ in examples] == [16] * len(examples)
    assert write_examples(tmp_path, embedded=False) == examples[:1]
    assert Session().embedded
    assert Session(CHECKPOINT).embedded
    assert not Session(shutil.copytree(CHECKPOINT, tmp_path / "other")).embedded


# The command.


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_bad_options_are_reported_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--dtype" in refused(capsys, "--dtype", "float7")
    assert "65535" in refused(capsys, "--port", "70000")
    monkeypatch.setattr("adatp.cli.demo.find_spec", lambda name: None if name == "gradio" else name)
    assert 'pip install "adatp[demo]"' in refused(capsys)


# Tests have no network, nor any other machine's: the browser and the server are processes of their own.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    server = Page(tmp_path_factory.mktemp("demo") / "tmp")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.address), server.errors.read_text()
    yield server
    # Ctrl-C ends it as it ends every command; SIGTERM ends that of `test_floods`.
    code, printed = server.stop(signal.SIGINT)
    assert (code, printed) == (130, "")
    left = {path.name for path in server.folder.iterdir()}
    assert left <= {f"torchinductor_{getpass.getuser()}"}  # an empty folder of torch's own


@pytest.fixture
def opened(server: Page, visit: Visitor) -> Visit:
    opened = visit(server.address)
    opened.page.set_default_timeout(30_000)
    return opened


def upload(page: Any, clip: Path) -> None:
    clear = page.locator("#clip").get_by_role("button", name="Clear").first
    if clear.count():
        clear.click()
    page.locator("#clip input[type=file]").set_input_files(clip)
    clear.wait_for()


def press_ask(page: Any) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()


def test_a_user_uploads_asks_moves_sliders_and_sees(opened: Visit, tmp_path: Path) -> None:
    page = opened.page
    press_ask(page)
    page.get_by_role("alert").get_by_text("There is no clip yet").wait_for()

    bad = tmp_path / "bad.mp4"
    bad.write_bytes(CLIP.read_bytes()[:4000])
    upload(page, bad)
    page.get_by_label("Question").fill(QUESTION)
    press_ask(page)
    page.get_by_role("alert").get_by_text("bad.mp4: the video is cut short").wait_for()
    assert "Traceback" not in page.content()

    upload(page, CLIP)
    page.get_by_label("range slider for FLOPs").fill("15")
    press_ask(page)
    cards = page.locator(".adatp-card")
    cards.nth(1).wait_for()
    assert [card.split("\n")[0] for card in cards.all_inner_texts()] == ["vanilla", "adatp"]
    assert [card.split("\n")[-1] for card in cards.all_inner_texts()] == ["yellow", "yellow"]
    ratios = page.locator("tr", has_text="of vanilla's").locator("td").all_inner_texts()
    assert ratios[0] == "100.0%"
    assert 14 < float(ratios[1].rstrip("%")) <= 15

    gallery = page.frame_locator("iframe.adatp-gallery")
    slider = gallery.locator("input[type=range]")
    shown = gallery.locator("output")
    last = shown.inner_text()
    slider.fill("0")
    assert shown.inner_text() != last
    assert re.search(r"of 576 tokens kept by adatp", shown.inner_text())
    assert gallery.locator("figure").count() == 16
    assert gallery.locator("svg text", has_text="text relevance").count() == 1
    all_of_the_gallery_is_shown(page)
    vanilla = gallery.get_by_role("radio").nth(1)
    vanilla.scroll_into_view_if_needed()
    page.evaluate(DRAWN)  # before that, a click into a frame that was just scrolled may be lost
    vanilla.check()
    assert "576 of 576 tokens kept by vanilla" in shown.inner_text()

    assert opened.outside == []
    assert opened.errors == []


def all_of_the_gallery_is_shown(page: Any) -> None:
    """The frame is as high as what is in it, and no text reaches beyond its edge."""
    frame = page.locator("iframe.adatp-gallery")
    frame.scroll_into_view_if_needed()
    inside = page.frame_locator("iframe.adatp-gallery")
    inside.locator("body[data-ready]").wait_for()
    inside.locator("figure").last.scroll_into_view_if_needed()
    needed = inside.locator("body").evaluate("body => body.offsetHeight")
    end = time.monotonic() + 10
    while abs(frame.evaluate("frame => frame.clientHeight") - needed) > 2 and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert abs(frame.evaluate("frame => frame.clientHeight") - needed) <= 2
    cut = """() => [...document.querySelectorAll("text, figcaption span, h1, p, dd, dt, label")]
        .filter(each => each.getBoundingClientRect().right > innerWidth).map(each => each.textContent)"""
    assert inside.locator("body").evaluate(cut) == []


def test_on_a_phone_nothing_is_cut_off(server: Page, visit: Visitor) -> None:
    visited = visit(server.address, size=PHONE, dark=True)
    page = visited.page
    page.get_by_text(QUESTION).first.click()
    page.locator("video").first.wait_for()
    press_ask(page)
    page.locator("iframe.adatp-gallery").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    all_of_the_gallery_is_shown(page)
    assert visited.outside == []


# Other sites, in a browser.


def test_a_name_that_was_pointed_here_reads_nothing(server: Page, visit: Visitor) -> None:
    """DNS rebinding: to the browser a site whose name now leads here is of one origin with itself."""
    visited = visit(server.address.replace("127.0.0.1", "rebound.test"))
    assert "not known by that name" in visited.page.content()
    asked = (
        """async () => (await fetch("gradio_api/upload", {method: "POST", body: new FormData()})).status"""
    )
    assert visited.page.evaluate(asked) == 403


def test_another_site_can_neither_upload_nor_show_the_page_in_a_frame(
    server: Page, visit: Visitor, tmp_path: Path
) -> None:
    site = tmp_path / "site.html"
    site.write_text(f'<iframe src="{server.address}/"></iframe>')
    page = visit(site).page
    before = sorted(server.folder.rglob("*"))
    page.evaluate(
        """async address => {
            const form = new FormData();
            form.append("files", new File(["a clip"], "foreign.mp4"));
            const sent = {method: "POST", mode: "no-cors", body: form};
            await fetch(address + "/gradio_api/upload", sent).catch(() => 0);
        }""",
        server.address,
    )
    assert sorted(server.folder.rglob("*")) == before
    page.wait_for_timeout(500)
    assert "adatp" not in page.frames[1].content()


def test_a_port_in_use_is_reported_in_a_line(server: Page) -> None:
    port = server.address.rsplit(":", 1)[1]
    done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"adatp: .*in use.*--port.*\n", done.stderr)


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_ctrl_c_before_the_server_listens_to_signals(command: str, tmp_path: Path) -> None:
    """Its coroutine is made, and nothing awaits it yet."""
    program = (
        "import signal, sys, uvicorn\n"
        "from adatp.cli import main\n"
        "found = uvicorn.Config.get_loop_factory\n"
        "def pressed(config):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    return found(config)\n"
        "uvicorn.Config.get_loop_factory = pressed\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, command, "--port", "0"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert (done.returncode, done.stderr) == (130 if command == "demo" else 0, "")
