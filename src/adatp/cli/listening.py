"""Opens the socket of a server."""

from __future__ import annotations

import ipaddress
import socket

from adatp.errors import RefusedError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket for the server, opened before anything slow.

    Raises:
        RefusedError: there is no such address, or it is taken.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise RefusedError(f"--host {host}: no such address ({error.strerror})") from error
    except UnicodeError as error:  # a part of a name is empty, or longer than 63 characters
        raise RefusedError(f"--host {host}: no such address (no name of a machine)") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just closed can be used again
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise RefusedError(
            f"{host}:{port} can't be listened on ({error.strerror}): choose another --port (or --host)"
        ) from error
    return listener


def url_host(host: str) -> str:
    """A host as it is written in addresses."""
    return f"[{host}]" if ":" in host else host


def address_of(host: str, listener: socket.socket) -> str:
    """The address of a server, as it is entered into a browser."""
    return f"http://{url_host(host)}:{listener.getsockname()[1]}"


def is_private(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
