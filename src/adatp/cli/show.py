"""``adatp show``: an image and a page of the patches of a video that methods keep for a question."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from adatp.cli import options
from adatp.cli.asking import Request, load_weights, open_session, prepare, show_answers
from adatp.cli.console import importing, progress, working_on
from adatp.cli.drawing import FILES, draw_kept
from adatp.cli.files import check_drawing, check_folder, keep_inputs, model_files, video_files
from adatp.cli.terminal import plain
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.methods import Method


def show(
    out: Annotated[
        Path, typer.Option(help="The folder for show.png, show.svg and show.html; made if missing.")
    ],
    video: options.VideoArgument = None,
    question: options.QuestionArgument = None,
    model: options.ModelOption = None,
    flops: options.TargetOption = None,
    frames: options.FramesOption = 32,
    method: options.MethodOption = "adatp",
    against: Annotated[
        str | None,
        typer.Option(
            help="Another method for the page, at the same FLOPs.",
            show_default="fastv, or random if fastv can't reach the target",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers, one row of the image each, separated by commas.",
            show_default="some of those that drop tokens",
        ),
    ] = None,
    max_new_tokens: options.NewTokensOption = 64,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    strict: options.StrictOption = False,
    trusted: options.TrustOption = False,
) -> None:
    """Show which patches of a video a method keeps, layer by layer, as an image and as a page.

    Without arguments but --out, of a clip and a model that ship with adatp.
    """
    if find_spec("matplotlib") is None or find_spec("PIL") is None:
        raise RefusedError('adatp show needs matplotlib and pillow: pip install "adatp[plot]"')
    check_drawing()
    options.check_question("show", video, question)
    wanted = None if layers is None else sorted(set(options.numbers("--layers", layers, int)))
    options.check_dtype(dtype)
    out = check_folder(out, "--out", FILES)
    keep_inputs([("--out", out / name) for name in FILES], [*video_files(video), *model_files(model)])
    with importing():
        from adatp.budget import BudgetError
        from adatp.flops import DecoderShape
    with working_on(model):
        chosen = options.method_named(method, flops)
        other = (
            None
            if against is None
            else options.method_named(against, None if against == "vanilla" else flops)
        )
        session = open_session(model, device, dtype, trusted)
        request = prepare(session, video, question, frames, max_new_tokens)
        depth = DecoderShape.from_config(session.config.get_text_config()).layers
        if wanted is not None and not 0 <= wanted[0] <= wanted[-1] < depth:
            raise RefusedError(f"--layers are some of 0 to {depth - 1}, not {layers}")
        request.check(chosen, strict)
        if other is None:
            other = _beside(request, chosen, flops)
        try:
            request.check(other, strict)
        except BudgetError as error:
            raise RefusedError(f"--against {other.name}: {error}") from error
        load_weights(session)
        for each in (chosen, other):
            request.warm_up(each)
        answers = [request.answer(each) for each in (chosen, other)]
        with progress("drawing"):
            draw_kept(out, request, answers, wanted)
    show_answers(Console(), request, answers)
    for name in FILES:
        print(plain(str(out / name)))


def _beside(request: Request, chosen: Method, flops: float | None) -> Method:
    """A method to compare with, at the same target and within its reach."""
    from adatp.methods import Vanilla

    for name in ("fastv", "random"):
        other = options.method_named(name, flops)
        if name != chosen.name and request.can_run(other):
            return other
    return Vanilla()
