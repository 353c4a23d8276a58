"""Whether files were opened or read meanwhile, by any process: asked of Linux's inotify."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_ACCESS, _OPEN = 0x1, 0x20
_EVENT = struct.Struct("iIII")


class Watched:
    """Files that nobody is to open."""

    def __init__(self, paths: Iterable[Path]) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.inotify_init1(os.O_NONBLOCK)
        assert self._descriptor >= 0
        self._names: dict[int, Path] = {}
        for path in paths:
            number = library.inotify_add_watch(self._descriptor, os.fsencode(path), _ACCESS | _OPEN)
            assert number > 0, path
            self._names[number] = path

    def opened(self) -> list[Path]:
        """Those that were opened since the last look."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            number, _, _, length = _EVENT.unpack_from(data, at)
            found.append(self._names[number])
            at += _EVENT.size + length
        return found

    def close(self) -> None:
        os.close(self._descriptor)
