"""``adatp demo``: a page in the browser to try pruning on."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Annotated

import typer

from adatp.cli.asking import load_weights, open_session
from adatp.cli.console import importing, working_on
from adatp.cli.listening import address_of, listen
from adatp.cli.options import DeviceOption, DtypeOption, ModelOption, TrustOption, check_dtype
from adatp.errors import RefusedError


def demo(
    model: ModelOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free port.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that the page may be opened under, such as that of a proxy. May be repeated.",
            show_default="localhost, this machine's name, --host",
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Serve a page to try pruning on: a clip, a question, answers with and without, the patches kept.

    For this machine alone, if --host does not say otherwise. Stop it with Ctrl-C.
    """
    if find_spec("gradio") is None or find_spec("PIL") is None:
        raise RefusedError('adatp demo needs gradio and pillow: pip install "adatp[demo]"')
    check_dtype(dtype)
    with listen(host, port) as listener:
        with importing():
            from adatp.demo.server import serve
        with working_on(model):
            session = open_session(model, device, dtype, trusted)
            load_weights(session)
            address = address_of(host, listener)
            names = ["localhost", socket.gethostname(), host, *(allow_host or ())]
            serve(session, listener, names, lambda: print(address, flush=True))
