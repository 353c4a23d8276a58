"""``adatp demo``: a page in the browser to try pruning on."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Annotated

import typer

from adatp.cli.asking import load_weights, open_session
from adatp.cli.console import importing, working_on
from adatp.cli.options import DeviceOption, DtypeOption, ModelOption, TrustOption, check_dtype
from adatp.errors import RefusedError


def demo(
    model: ModelOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the page is served; 0: any free port.")
    ] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: every one of this machine.")
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
    with _listen(host, port) as listener:
        with importing():
            from adatp.demo.server import serve
        with working_on(model):
            session = open_session(model, device, dtype, trusted)
            load_weights(session)
            at = f"[{host}]" if ":" in host else host
            address = f"http://{at}:{listener.getsockname()[1]}"
            names = ["localhost", socket.gethostname(), host, *(allow_host or ())]
            serve(session, listener, names, lambda: print(address, flush=True))


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound, before anything slow, to where the page will be."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise RefusedError(f"--host {host}: no such address ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed may be had again
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise RefusedError(
            f"{host}:{port} can't be listened on ({error.strerror}): choose another --port (or --host)"
        ) from error
    return listener
