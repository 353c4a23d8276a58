"""An accelerator that is not there: its tensors are computed on the CPU, under a device's rules.

What a GPU refuses is refused: an operation on tensors of two devices. What makes the host wait for a GPU is
noted: a number read, an extent that depends on values, a copy to the host. Each operation is one launch.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
READS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive),
}
INDEXED = {aten.index, aten.index_put, aten.index_put_}  # also by indices on the host
VIEWS = {
    aten.view,
    aten._unsafe_view,
    aten.expand,
    aten.slice,
    aten.select,
    aten.t,
    aten.transpose,
    aten.permute,
}
VIEWS |= {aten.unsqueeze, aten.squeeze, aten.detach, aten.alias, aten.as_strided, aten.split, aten.unbind}
VIEWS |= {aten.split_with_sizes, aten.diagonal}


class _Absent(backend_registration._DummyPrivateUse1Hook):  # type: ignore[misc]
    """For torch and transformers there is no accelerator, unless they are handed tensors of it."""

    def is_available(self) -> bool:
        return False


backend_registration._setup_privateuseone_for_python_backend("pretended", hook=_Absent())
# `torch.utils.checkpoint` asks every accelerator that is registered what its autocast knows.
torch.pretended.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
DEVICE = torch.device("pretended", 0)


class _There(Tensor):
    """A tensor on the pretended device."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.here!r} on {DEVICE}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:
            PretendedGPU.now[-1].wait()
            return args[0].here.tolist()
        if func is F.scaled_dot_product_attention:  # by the kernel that the CPU takes
            assert all(isinstance(each, _There) for each in args)
            args, kwargs = tree_map_only(_There, lambda tensor: tensor.here, (args, kwargs))
            return _There(func(*args, **kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the mode")


def _read(number: _There) -> Any:  # by torch.tensor([...]), which no mode sees
    PretendedGPU.now[-1].wait()
    return number.here.item()


_kernels = torch.library.Library("aten", "IMPL")
_kernels.impl("_local_scalar_dense", _read, "PrivateUse1")


class PretendedGPU(TorchDispatchMode):
    """While it is active, tensors can be on the pretended device.

    Attributes:
        waits: the file and line of ``watched`` code that each wait was for, waits of others left out.
        launches: the same of each kernel.
    """

    now: ClassVar[list[PretendedGPU]] = []

    def __init__(self, watched: str) -> None:
        super().__init__()
        self.watched = watched
        self.waits: list[str] = []
        self.launches: list[str] = []

    def __enter__(self) -> PretendedGPU:
        PretendedGPU.now.append(self)
        # Makes torch.tensor(..., device=...) a copy from the CPU, which a mode sees.
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch._C._set_only_lift_cpu_tensors(False)
        PretendedGPU.now.pop()

    def put(self, what: Any) -> Any:
        """Tensors, also within lists and dicts, on the device; a module's in place."""
        if not isinstance(what, nn.Module):
            return tree_map_only(Tensor, _There, what)
        for module in what.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    table[name] = None if tensor is None else _There(tensor.detach())
        return what

    def wait(self) -> None:
        """Somebody waits for the device."""
        self._note(self.waits)

    def _note(self, noted: list[str]) -> None:
        frame = sys._getframe(1)
        while frame.f_back and (
            frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename
        ):
            frame = frame.f_back
        if self.watched in frame.f_code.co_filename:
            noted.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kind = func.overloadpacket
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        there = {id(each.here): each for each in tensors if isinstance(each, _There)}
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if kind is aten._to_copy and asked is not None:
            goes = torch.device(asked).type == DEVICE.type
        elif kind is aten.copy_:
            goes = isinstance(args[0], _There)
        else:
            goes = bool(there) or (asked is not None and torch.device(asked).type == DEVICE.type)
            together = tensors[:1] if kind in INDEXED else tensors
            if (
                there
                and kind is not aten._to_copy
                and any(t.dim() and not isinstance(t, _There) for t in together)
            ):
                raise RuntimeError(f"{func}: tensors on two devices")
        if there and (not goes or self._reads(func, args, kwargs)):
            self.wait()
        if goes and kind not in VIEWS:
            self._note(self.launches)
        here = tree_map_only(_There, lambda tensor: tensor.here, (args, kwargs))
        if kind is aten.histc:  # which on the CPU knows no integers
            here = ((here[0][0].float(), *here[0][1:]), here[1])
        made = func(*here[0], **here[1])
        if not goes:
            return made
        return tree_map_only(
            Tensor, lambda tensor: there[id(tensor)] if id(tensor) in there else _There(tensor), made
        )

    @staticmethod
    def _reads(func: Any, args: Any, kwargs: Any) -> bool:
        if func is aten.repeat_interleave.Tensor:
            return kwargs.get("output_size") is None
        if func.overloadpacket in INDEXED:
            return any(isinstance(index, _There) and index.dtype == torch.bool for index in args[1])
        return func.overloadpacket in READS
