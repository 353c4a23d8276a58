"""``adatp ask``: a question about a video, with vanilla's answer next to it on request."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from adatp.cli.asking import Request, load_weights, open_session, prepare
from adatp.cli.console import PRESET, importing, working_on
from adatp.cli.files import check_writable, keep_inputs, model_files, video_files, write
from adatp.cli.options import (
    DeviceOption,
    DtypeOption,
    FramesOption,
    JsonOption,
    MethodOption,
    ModelOption,
    NewTokensOption,
    QuestionArgument,
    StrictOption,
    TargetOption,
    TrustOption,
    VideoArgument,
    check_dtype,
    check_question,
    method_named,
)
from adatp.cli.tables.ask import show_comparison
from adatp.plain_json import to_json

if TYPE_CHECKING:
    from adatp import Answer


def ask(
    video: VideoArgument = None,
    question: QuestionArgument = None,
    model: ModelOption = None,
    flops: TargetOption = None,
    frames: FramesOption = 32,
    method: MethodOption = "adatp",
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the model unpruned too, and show both side by side.")
    ] = False,
    json_file: JsonOption = None,
    max_new_tokens: NewTokensOption = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    strict: StrictOption = False,
    trusted: TrustOption = False,
) -> None:
    """Ask a Video LLM a question about a video.

    Without arguments a small model that ships with adatp answers a question about a clip that does too.
    """
    check_question("ask", video, question)
    if json_file is not None:
        json_file = check_writable(json_file)
        keep_inputs([("--json", json_file)], [*video_files(video), *model_files(model)])
    check_dtype(dtype)
    with importing():
        from adatp.methods import Vanilla
    with working_on(model):
        chosen = method_named(method, flops)
        session = open_session(model, device, dtype, trusted)
        request = prepare(session, video, question, frames, max_new_tokens)
        request.check(chosen, strict)
        load_weights(session)
        vanilla = None
        if compare:
            request.warm_up(Vanilla())
            request.warm_up(chosen)
            vanilla = request.answer(Vanilla())
        result = request.answer(chosen)
        if json_file is not None:
            write(json_file, to_json(_facts(request, result, vanilla)) + "\n")
        show_comparison(Console(), request, result, vanilla)


def _facts(request: Request, result: Answer, vanilla: Answer | None) -> dict[str, Any]:
    """The content of the --json file."""
    model, prompt = request.session.model, request.prompt
    facts = {
        "version": version("adatp"),
        "model": request.session.source,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "video": request.path,
        "question": prompt.question,
        "frames": len(request.clip.frames),
        "timestamps": request.clip.timestamps.tolist(),
        "video_milliseconds": prompt.milliseconds["video"],
        "preprocess_milliseconds": prompt.milliseconds["preprocess"],
        "paper_preset": PRESET,
        **result.to_dict(),
    }
    if vanilla is not None:
        facts |= {"vanilla": vanilla.to_dict(), "same_answer": vanilla.text == result.text}
    return facts
