"""The page, in Gradio."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from fastapi import FastAPI, Request, Response

from adatp.demo import results
from adatp.demo.asking import MOST_BYTES, MOST_FRAMES, MOST_SECONDS, PRUNING, told
from adatp.demo.asking import compare as compare_methods
from adatp.demo.examples import write_examples
from adatp.errors import AdaTPError
from adatp.methods import AdaTP
from adatp.session import Session

GoOn = Callable[[Request], Awaitable[Response]]

KEEP_SECONDS, SWEEP_SECONDS = 3600, 600
"""How long an upload is kept, and how often old ones are looked for."""


def build_app(session: Session, folder: Path) -> FastAPI:
    """The web application.

    Args:
        session: of the model.
        folder: where the examples are written, and uploads are.
    """
    app = FastAPI(openapi_url=None)
    app.middleware("http")(only_files_in(folder))
    return gr.mount_gradio_app(  # type: ignore[no-any-return]
        app,
        build_page(session, write_examples(folder, session.embedded)),
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
            font=["system-ui", "sans-serif"],  # others, in some versions, are fetched from the web
            font_mono=["ui-monospace", "monospace"],
        ),
        css=files("adatp.demo").joinpath("page.css").read_text(encoding="utf-8"),
    )


def build_page(session: Session, examples: list[tuple[Path, str]]) -> gr.Blocks:
    """The page: inputs at the left, results at the right."""

    def compare(
        path: str | None,
        question: str | None,
        percent: float,
        frames: float,
        names: list[str],
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        return _compared(session, path, question or "", percent / 100, int(frames), names, progress)

    with gr.Blocks(
        title="adatp", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS), fill_width=True
    ) as page:
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
                    5, 100, value=100 * AdaTP().flops, step=0.1, label="FLOPs target, % of vanilla's prefill"
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
            api_visibility="private",
        )
    return page.queue()


def _compared(session: Session, path: str | None, *asked: Any) -> tuple[str, str]:
    """What the page shows of a comparison, answers and gallery, or why there is none."""
    try:
        comparison = compare_methods(session, path, *asked)
        return results.answers(comparison), results.gallery(comparison)
    except AdaTPError as error:
        return results.message(told(error, path)), ""
    except (MemoryError, torch.OutOfMemoryError):
        return results.message("Out of memory: ask for fewer frames, or upload a smaller clip."), ""
    except Exception:  # a bug: told to who runs the server
        traceback.print_exc()
        return results.message("Something went wrong here; the server's log says what."), ""


def only_files_in(folder: Path) -> Callable[[Request, GoOn], Awaitable[Response]]:
    """Middleware: clients may name files in ``folder`` alone, neither others of this machine nor of the web.

    Gradio checks the files that its inputs name only where it is not mounted on another application, and
    fetches addresses.
    """
    inside = folder.resolve()

    def check(item: dict[str, Any]) -> dict[str, Any]:
        if "path" in item and not Path(str(item["path"])).resolve().is_relative_to(inside):
            raise _ForeignFileError
        return item

    async def middleware(request: Request, go_on: GoOn) -> Response:
        uploads = request.headers.get("content-type", "").startswith("multipart/")
        try:
            if re.search(r"=https?:", request.url.path):
                raise _ForeignFileError
            if request.method == "POST" and not uploads:
                json.loads(await request.body() or "{}", object_hook=check)
        except _ForeignFileError:
            return Response("a clip has to be uploaded, not named", 403)
        except (ValueError, OSError):
            return Response("bad request", 400)
        return await go_on(request)

    return middleware


class _ForeignFileError(Exception):
    """A file that was not uploaded here."""
