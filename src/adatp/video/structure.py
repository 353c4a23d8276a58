"""Reads the outer structure of a file for a fact that FFmpeg hides: whether bytes are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_SEGMENT, _EBML = b"\x18\x53\x80\x67", b"\x1aE\xdf\xa3"
_UNKNOWN = -1  # a Matroska element that lasts until the next one of its level, as live streams write it


def is_fragmented(file: str) -> bool:
    """Whether an MP4 has fragments: then its header does not list all of its samples."""
    return any(kind == b"moof" for kind, _, _ in _boxes(file))


def declares_encryption(file: str) -> bool:
    """Whether the header of an MP4 or MOV names an encrypted kind of sample."""
    for kind, start, size in _boxes(file):
        if kind == b"moov":
            with open(file, "rb") as stream:
                stream.seek(start)
                header = stream.read(size)
            return b"encv" in header or b"drmi" in header
    return False


def _boxes(file: str) -> Iterator[tuple[bytes, int, int]]:
    """The name, the start and the size of each outer box of an MP4 or MOV."""
    with open(file, "rb") as stream:
        at, end = 0, os.fstat(stream.fileno()).st_size
        while at + 8 <= end:
            stream.seek(at)
            head = stream.read(16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:16], "big")
            if size < 8:  # 0: to the end of the file
                size = end - at
            yield kind, at, min(size, end - at)
            at += size


def is_cut_matroska(file: str) -> bool:
    """Whether the elements of a Matroska file do not fill it as declared: it was cut, or overwritten.

    False where a live stream declares no size.
    """
    with open(file, "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        at = 0
        while True:
            kind, size, body = _element(stream, at)
            if kind == _SEGMENT:
                break
            if kind != _EBML or size < 0:
                return False  # not a Matroska that this code can follow
            at = body + size
        if size == _UNKNOWN:
            return False
        stop = body + size
        if stop > end:
            return True
        at = body
        while at < stop:
            kind, size, body = _element(stream, at)
            if not kind:
                return True
            if size == _UNKNOWN:
                return False
            at = body + size
        return at > stop


def _element(stream: BinaryIO, at: int) -> tuple[bytes, int, int]:
    """Name, size and start of the content of the EBML element at `at`; an empty name if there is none."""
    stream.seek(at)
    head = stream.read(12)
    width = 9 - head[0].bit_length() if head else 9
    if width > 4 or len(head) <= width:
        return b"", 0, at
    first = head[width]
    length = 9 - first.bit_length()
    if length > 8 or len(head) < width + length:
        return b"", 0, at
    size = int.from_bytes(head[width : width + length], "big") & ((1 << 7 * length) - 1)
    if size == (1 << 7 * length) - 1:
        size = _UNKNOWN
    return head[:width], size, at + width + length


def is_scrambled(file: str, pid: int | None = None) -> bool:
    """Whether most packets of stream `pid` of an MPEG-TS are scrambled, as conditional access does it.

    Without `pid`, it looks at all streams.
    """
    with open(file, "rb") as stream:
        data = stream.read(1 << 21)
    for stride in (188, 192, 204):
        start = next((at for at in range(stride) if data[at : at + 5 * stride : stride] == b"G" * 5), None)
        if start is not None:
            break
    else:
        return False
    clear = scrambled = 0
    for at in range(start, len(data) - 3, stride):
        owner = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
        if data[at] == 0x47 and (owner == pid if pid is not None else 0x20 <= owner < 0x1FFF):
            scrambled += data[at + 3] >> 7
            clear += not data[at + 3] >> 7
    return scrambled > clear
