"""A page that shows which patches of a video each method keeps, layer by layer, in one file of HTML."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from adatp.plain_json import to_json
from adatp.plots.tokens import first_frames, shrink, survival
from adatp.session import Answer
from adatp.video import Video

_SIDE, _SIDE_OF_MANY, _MANY = 256, 128, 64
"""Pixels of a frame's long side; the second value is for videos with more frames than the third."""


def render_html(video: Video, question: str, answers: Sequence[Answer]) -> str:
    """Draw which patches methods keep of a video: a layer slider, frames, a timeline, answers and costs.

    Args:
        video: the frames that the model receives (``Session.visible_part``).
        question: the question.
        answers: of one method or several to the same prompt; ``Vanilla``'s may be among them.

    Returns:
        A self-contained HTML page, fit for an iframe's ``srcdoc``. Needs pillow.

    Raises:
        ValueError: there is no answer, they belong to different prompts, or the prompt has several videos.
    """
    if not answers:
        raise ValueError("there is no answer to show")
    survivals = [survival(answer.layout, answer.report) for answer in answers]
    shapes = {(len(answer.report.kept), *each.shape) for answer, each in zip(answers, survivals, strict=True)}
    if len(shapes) > 1:
        raise ValueError("the answers are to different prompts, or of different models")
    frames = survivals[0].shape[0]
    first = first_frames(len(video.frames), frames)
    images = shrink(video.frames[first], _SIDE if frames <= _MANY else _SIDE_OF_MANY)
    data = {
        "images": [_jpeg(image) for image in images],
        "size": [images.shape[2], images.shape[1]],
        "seconds": [round(float(second), 2) for second in video.timestamps[first]],
        "grid": list(survivals[0].shape),
        "tokens": answers[0].layout.tokens_by_frame.tolist(),
        "layers": len(answers[0].report.kept),
        "methods": [_method(answer, each) for answer, each in zip(answers, survivals, strict=True)],
    }
    count = len(video.frames)
    fields = {
        "question": escape(question),
        "video": f"{count} frame{'s' if count > 1 else ''} of {video.duration:.1f} s of video",
        # Inside a script only the text of tags is special, and JSON has another way to write "<".
        "data": to_json(data).replace("<", "\\u003c"),
    }
    template = files("adatp").joinpath("kept_page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda field: fields[field[1]], template)


def _method(answer: Answer, survival: np.ndarray) -> dict[str, Any]:
    """The page's data for one method."""
    report = answer.report
    notes = report.notes[0] if report.notes else {}
    return {
        "name": report.method,
        "answer": answer.text,
        "flops": report.flops_ratio,
        "milliseconds": answer.milliseconds,
        "prefill": report.milliseconds.get("prefill"),
        "merges": report.merges,
        "survival": base64.b64encode(survival.astype(np.uint8).tobytes()).decode(),
        "relevance": report.relevance,
        **{key: notes.get(key) for key in ("segments", "frame_relevance", "segment_relevance")},
    }


def _jpeg(image: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
