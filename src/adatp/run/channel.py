"""Sends Python objects through a pipe. The numbers of tensors are sent as they are in memory."""

from __future__ import annotations

import io
import pickle
import struct
from typing import IO, Any

import torch

_COUNT = struct.Struct("<Q")


class _Pickler(pickle.Pickler):
    """Leaves the numbers of CPU tensors out of the pickle where numpy knows their type."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.layout is torch.strided:
            try:
                return torch.from_numpy, (value.detach().contiguous().numpy(),)
            except TypeError:  # bfloat16, for one
                pass
        return NotImplemented


def send(stream: IO[bytes], value: Any) -> None:
    """Write an object.

    Args:
        stream: the pipe.
        value: anything that pickle takes.

    Raises:
        OSError: nobody reads any more.
    """
    buffers: list[pickle.PickleBuffer] = []
    text = io.BytesIO()
    _Pickler(text, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [memoryview(text.getvalue()), *(buffer.raw() for buffer in buffers)]
    stream.write(b"".join(_COUNT.pack(number) for number in (len(parts), *(part.nbytes for part in parts))))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read an object.

    Raises:
        EOFError: the other side is gone.
    """
    [count] = _COUNT.unpack(_exactly(stream, _COUNT.size))
    sizes = [_COUNT.unpack(_exactly(stream, _COUNT.size))[0] for _ in range(count)]
    text, *buffers = [_exactly(stream, size) for size in sizes]
    return pickle.loads(text, buffers=buffers)


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view.nbytes:
        got = stream.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the other side of the pipe is gone")
        view = view[got:]
    return data
