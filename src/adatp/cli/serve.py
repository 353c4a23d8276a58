"""``adatp serve``: a server that OpenAI's clients talk to."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from adatp.cli import options
from adatp.cli.asking import load_weights, open_session
from adatp.cli.console import importing, working_on
from adatp.cli.listening import address_of, is_private, listen, url_host
from adatp.cli.terminal import say
from adatp.errors import RefusedError

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "PIL")
_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(
    model: options.ModelOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option("--served-model-name", help="Name of the model in requests.", show_default="--model"),
    ] = None,
    method: options.MethodOption = "adatp",
    flops: options.TargetOption = None,
    frames: options.FramesOption = 32,
    most_frames: Annotated[
        int, typer.Option("--max-frames", min=1, max=4096, help="Most frames that a request may ask for.")
    ] = 256,
    max_new_tokens: options.NewTokensOption = 64,
    most_new_tokens: Annotated[
        int,
        typer.Option("--max-tokens", min=1, max=options.MOST, help="Most tokens that a request may ask for."),
    ] = 1024,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Answers generated together.")] = 8,
    batch_wait: Annotated[
        float, typer.Option(min=0, max=10, help="Seconds to wait for requests that are being read.")
    ] = 0.05,
    max_requests: Annotated[
        int, typer.Option(min=1, max=1000, help="Most requests at once; one more gets 429.")
    ] = 64,
    max_body_mb: Annotated[int, typer.Option(min=1, max=4096, help="Largest request, in MiB.")] = 128,
    max_media_mb: Annotated[
        int, typer.Option(min=1, max=65536, help="Largest video of the web, in MiB.")
    ] = 256,
    media_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds to fetch and decode a request's videos.")
    ] = 60,
    local: Annotated[
        Path | None,
        typer.Option(
            "--allowed-local-media-path", help="A folder whose files requests may name.", show_default="none"
        ),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--allow-remote-media", help="Fetch videos from public addresses of the web.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="File of keys, one per line; also $ADATP_API_KEY.",
            show_default="no key is needed",
        ),
    ] = None,
    shutdown_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds for running requests when the server is stopped.")
    ] = 30,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    trusted: options.TrustOption = False,
) -> None:
    """Serve a model that OpenAI's clients can ask about videos, while a method prunes.

    For this machine alone, if --host does not say otherwise. Stop it with Ctrl-C.
    """
    given: dict[str, Any] = locals()
    if any(find_spec(package) is None for package in _PACKAGES):
        raise RefusedError('adatp serve needs fastapi, uvicorn and others: pip install "adatp[serve]"')
    options.check_dtype(dtype)
    options.check_limits(frames, most_frames, max_new_tokens, most_new_tokens)
    if local is not None and not os.path.isdir(local):
        raise RefusedError(f"--allowed-local-media-path {local}: no such folder")
    with listen(host, port) as listener:
        with importing():
            from adatp.serve.keys import read_keys
            from adatp.serve.server import serve as serve_until_stopped
            from adatp.serve.settings import MIB, Settings
        keys = read_keys(key_file)
        with working_on(model):
            same = ("frames", "most_frames", "max_new_tokens", "most_new_tokens", "max_batch")
            times = ("batch_wait", "max_requests", "media_seconds", "shutdown_seconds")
            settings = Settings(
                name=name or model or "adatp-embedded",
                method=options.method_named(method, flops),
                most_body=max_body_mb * MIB,
                most_media=max_media_mb * MIB,
                local_media=local,
                remote_media=remote,
                keys=keys,
                hosts=_NAMES | {url_host(host).lower()} if is_private(listener) and not keys else None,
                **{field: given[field] for field in (*same, *times)},
            )
            session = open_session(model, device, dtype, trusted)
            load_weights(session)
            if not is_private(listener) and not keys:
                say("warning: whoever reaches this address may ask: set ADATP_API_KEY or --api-key-file")
            address = address_of(host, listener)
            serve_until_stopped(session, settings, listener, lambda: print(f"{address}/v1", flush=True))
    raise typer.Exit(0)  # Ctrl-C is the normal way to stop it
