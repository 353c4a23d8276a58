"""Builds the page of ``adatp demo`` with Gradio."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from fastapi import FastAPI

from adatp.demo import results
from adatp.demo.asking import (
    LEAST_PERCENT,
    MOST_BYTES,
    MOST_FRAMES,
    MOST_SECONDS,
    PRUNING,
    error_text,
    is_question,
)
from adatp.demo.asking import compare as compare_methods
from adatp.demo.examples import write_examples
from adatp.demo.gate import Gate, Rules
from adatp.demo.visitors import MOST_WAITING, Visitors
from adatp.errors import AdaTPError
from adatp.methods import AdaTP
from adatp.session import Session

ASKING = "compare"
"""The function of the page that asks the model."""


def build_app(session: Session, folder: Path, names: Collection[str] = ("localhost",)) -> Gate:
    """Build the web application.

    Args:
        session: holds the model.
        folder: holds the examples and the uploads.
        names: host names that the page may have in an address, besides any IP address.
    """
    examples, visitors = write_examples(folder, session.embedded), Visitors()
    page = build_page(session, examples, visitors)
    [asking] = [number for number, function in page.fns.items() if function.api_name == ASKING]
    picking = {number: len(examples) for number in page.fns if number != asking}
    known = frozenset(name.lower() for name in names)
    rules = Rules(known, folder, asking, is_question, picking, MOST_BYTES)
    return Gate(_mounted(page), rules, visitors)


def _mounted(page: gr.Blocks) -> Any:
    """The page as its own application."""
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="",
        max_file_size=MOST_BYTES,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(
            primary_hue="orange",
            font=["system-ui", "sans-serif"],  # in some versions, others are fetched from the web
            font_mono=["ui-monospace", "monospace"],
        ),
        css=_text_of("page.css"),
        head=_text_of("page.html"),
    )


def _text_of(name: str) -> str:
    """Text of a file of this package."""
    return files("adatp.demo").joinpath(name).read_text(encoding="utf-8")


def build_page(session: Session, examples: list[tuple[Path, str]], visitors: Visitors) -> gr.Blocks:
    """The page: inputs on the left, results on the right."""

    def compare(
        path: str | None,
        question: str | None,
        percent: float,
        frames: float,
        names: list[str],
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        try:
            return _compared(session, path, question or "", percent / 100, int(frames), names, progress)
        finally:
            visitors.leave(request.session_hash)

    with gr.Blocks(title="adatp", analytics_enabled=False, fill_width=True) as page:
        model = "a small model of a world of coloured shapes" if session.embedded else session.source
        gr.Markdown(
            "# adatp: the same answer for a fraction of the compute\n"
            f"Ask a Video LLM ({model}) about a clip, with all visual tokens and with most of them pruned."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                video = gr.Video(label="Clip", elem_id="clip", sources=["upload"], height=260, render=False)
                question = gr.Textbox(label="Question", placeholder="what colour is the star ?", render=False)
                gr.Examples(
                    [[str(path), text] for path, text in examples],
                    inputs=[video, question],
                    example_labels=[text for _, text in examples],
                    label="Pick a clip with a question, or upload your own: "
                    f"{MOST_BYTES // 2**20} MB and {MOST_SECONDS / 60:.0f} minutes at most",
                )
                video.render()
                question.render()
                percent = gr.Slider(
                    LEAST_PERCENT,
                    100,
                    value=100 * AdaTP().flops,
                    step=0.1,
                    label="FLOPs target, % of vanilla's prefill",
                )
                frames = gr.Slider(1, MOST_FRAMES, value=32, step=1, label="Frames, sampled uniformly")
                names = gr.Dropdown(
                    list(PRUNING), value=[AdaTP.name], multiselect=True, label="Methods, beside vanilla"
                )
                button = gr.Button("Ask", variant="primary")
            with gr.Column(scale=3, min_width=320):
                answers = gr.HTML(results.WELCOME, min_height=160)
                gallery = gr.HTML()
        gr.on(
            [button.click, question.submit],
            compare,
            inputs=[video, question, percent, frames, names],
            outputs=[answers, gallery],
            show_progress_on=answers,
            concurrency_limit=1,  # one request at a time on the model; others wait
            api_name=ASKING,
            api_visibility="private",
        )
    return page.queue(max_size=MOST_WAITING)


def _compared(session: Session, path: str | None, *asked: Any) -> tuple[str, str]:
    """The page's view of a comparison (answers and gallery), or the reason why there is none."""
    try:
        comparison = compare_methods(session, path, *asked)
        return results.answers(comparison), results.gallery(comparison)
    except AdaTPError as error:
        return results.message(error_text(error, path)), ""
    except (MemoryError, torch.OutOfMemoryError):
        return results.message("Out of memory: ask for fewer frames, or upload a smaller clip."), ""
    except Exception:  # a bug: reported to the person who runs the server
        traceback.print_exc()
        return results.message("Something went wrong here; the server's log says what."), ""
