"""Resolves an address on the web: names are resolved once, and the resulting machine is checked."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from adatp.video.errors import VideoError

LONGEST = 8192
"""Length of the longest accepted address in characters."""

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Place:
    """A host named by an address, and the machine it resolves to.

    Attributes:
        secure: whether the connection uses TLS.
        host: the name, for the certificate and the request.
        port: port on the machine.
        target: path and query, for the request.
        machine: the numeric address to connect to.
        public: whether it is a machine of the public internet.
    """

    secure: bool
    host: str
    port: int
    target: str
    machine: str
    public: bool


def is_address(source: object) -> bool:
    """Whether a source is an address on the web and not a path."""
    return isinstance(source, str) and re.match(r"https?://", source, re.IGNORECASE) is not None


def locate(address: str) -> Place:
    """Resolve an address.

    If a host has several machines, the first is used. The host counts as public only if all of them are.

    Raises:
        VideoError: It is no address of http or https, names a user, or its host can't be found.
    """
    shown = re.sub(r"[\x00-\x20\x7f]+", " ", address[:200]) + ("..." if len(address) > 200 else "")
    if len(address) > LONGEST or re.search(r"[\x00-\x20\x7f]", address):
        raise VideoError(f"{shown}: not an address (it has blanks or is too long)")
    try:
        parts = urlsplit(address)
        scheme, port = parts.scheme.lower(), parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii") if parts.hostname else ""
        query = f"?{parts.query}" if parts.query else ""
        target = quote(f"{parts.path or '/'}{query}", safe="/%?&=+:,;@!$'()*~-._[]|")
    except ValueError as error:  # UnicodeError too
        raise VideoError(f"{shown}: not an address ({error})") from error
    if scheme not in _PORTS or not host or "%" in host or port == 0:
        raise VideoError(f"{shown}: not an address of http or https")
    if parts.username is not None or parts.password is not None:
        raise VideoError(f"{shown.split('//')[0]}//...: an address with a user or a password is not opened")
    port = port or _PORTS[scheme]
    machines = _resolved(host, port, shown)
    return Place(scheme == "https", host, port, target, machines[0], all(map(is_public, machines)))


def _resolved(host: str, port: int, shown: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise VideoError(f"{shown}: no such host; check the address") from error
    return [str(entry[4][0]) for entry in found]


def is_public(machine: str) -> bool:
    """Whether a numeric address is on the public internet, not on this machine or its network.

    An IPv6 address that stands for an IPv4 address counts as the latter.
    """
    try:
        address = ipaddress.ip_address(machine.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and (address in _NAT64 or int(address) >> 32 == 0):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )
