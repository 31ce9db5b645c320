"""A GPU that is none: its tensors are the CPU's, and do not mix with those on the CPU.

What runs on a GPU alone is a thing of where tensors are and of what is asked only there. On a
machine without one, `stand_in_gpu` makes torch.cuda answer and "cuda" a device whose operations
the CPU does: a tensor left behind, a NumPy array taken too early, a random generator of the other
device fail as they would. It says nothing of speed, of memory, of rounding, of a compiler.

    python -m tests.stand_in_gpu simulate --ray off --device cuda ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from hyfree_ray.cli import main

MEMORY_MIB = 24 * 1024
PEAK_MIB = 3 * 1024

_setup_privateuseone_for_python_backend("stand_in")
# torch has no name for CUDA in a build without it, so that C++ knows the tensors by another.
_SHOWN, _REAL, _CPU = torch.device("cuda", 0), torch.device("stand_in", 0), torch.device("cpu")
_CpuGenerator = torch.Generator
_aten = torch.ops.aten

_INDEX_PUT = {_aten.index_put_.default, _aten._index_put_impl_.default}
_TAKES_BOTH = {_aten.copy_.default, _aten._to_copy.default, _aten.index.Tensor, *_INDEX_PUT}
"""Operations that take tensors of both devices; a GPU tensor's indices may be the CPU's."""

_IN_HALF = {
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    torch.matmul,
    torch.bmm,
    F.linear,
}
"""What autocast does in half precision, as far as it comes up here."""


class _GpuTensor(Tensor):
    """A tensor that says it is on the GPU."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> _GpuTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            layout=on_cpu.layout,
            device=_REAL,
        )
        tensor.on_cpu = on_cpu
        return tensor

    device = property(lambda self: _SHOWN)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _calculate(operation, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.on_cpu.detach().__reduce_ex__(protocol)


class _Operations(TorchDispatchMode):
    """What torch does at the bottom: also makes tensors there, from nothing or from the CPU's."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _calculate(operation, args, kwargs or {})


def _calculate(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    away = [tensor for tensor in tensors if isinstance(tensor, _GpuTensor)]
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if not away and _REAL not in asked:
        return operation(*args, **kwargs)
    if torch.is_inference_mode_enabled():  # it leaves these in one piece, also those that move
        with _Operations():
            done = operation.decompose(*args, **kwargs)
        if done is not NotImplemented:
            return done
    mixed = away and any(t.dim() for t in tensors if not isinstance(t, _GpuTensor))
    if mixed and (operation not in _TAKES_BOTH or _is_indexed_across(operation, args)):
        raise RuntimeError(f"{operation}: some tensors are on {_SHOWN}, some on the CPU")
    args_on_cpu, kwargs_on_cpu = tree_map(_on_cpu, (args, kwargs))
    result = operation(*args_on_cpu, **kwargs_on_cpu)
    if operation is _aten.copy_.default:
        return args[0]
    if operation is _aten._local_scalar_dense.default or (asked and _REAL not in asked):
        return result
    result = tree_map(lambda x: _GpuTensor(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(operation, args, kwargs, result)


def _is_indexed_across(operation: Any, args: Any) -> bool:
    """Whether it has a GPU's indices into the CPU's tensor, or puts the CPU's values on a GPU."""
    if operation not in {_aten.index.Tensor, *_INDEX_PUT}:
        return False
    own, values = args[0], args[2] if operation in _INDEX_PUT else args[0]
    return not isinstance(own, _GpuTensor) or not (
        isinstance(values, _GpuTensor) or not values.dim()
    )


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, _GpuTensor):
        return leaf.on_cpu
    return _CPU if isinstance(leaf, torch.device) else leaf


class _Calls(TorchFunctionMode):
    """What is called by name: "cuda" is the stand-in's from here on."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.device:
            return function(*args, **kwargs)
        if function in {Tensor.numpy, Tensor.__array__} and isinstance(args[0], _GpuTensor):
            raise TypeError(f"can't convert a tensor on {_SHOWN} to numpy")
        _check_generator(function, args, kwargs)
        if function is Tensor.cuda:
            return args[0].to(_REAL)
        if function in {Tensor.storage, Tensor.untyped_storage, Tensor.data_ptr}:
            return function(_on_cpu(args[0]))
        if function in {torch.tensor, torch.as_tensor} and "device" in kwargs:
            where = _named(kwargs.pop("device"))
            return function(*args, **kwargs).to(where)
        if function in {Tensor.__getitem__, Tensor.__setitem__}:
            args = (args[0], _indices(args[0], args[1]), *args[2:])
        if function in _IN_HALF and torch.is_autocast_enabled("cuda"):
            half = torch.get_autocast_dtype("cuda")
            args, kwargs = tree_map(lambda leaf: _in_half(leaf, half), (args, kwargs))
        args, kwargs = tree_map(_named, (args, kwargs))
        return function(*args, **kwargs)


def _named(leaf: Any) -> Any:
    """The stand-in for "cuda", else what it is."""
    if isinstance(leaf, (str, torch.device)) and str(leaf).split(":")[0] == "cuda":
        return _REAL
    return leaf


def _in_half(leaf: Any, half: torch.dtype) -> Any:
    return leaf.to(half) if isinstance(leaf, _GpuTensor) and leaf.is_floating_point() else leaf


def _indices(tensor: Tensor, index: Any) -> Any:
    """On the tensor's device, as torch itself would make them."""
    if not isinstance(tensor, _GpuTensor):
        return index
    if isinstance(index, tuple):
        return tuple(_indices(tensor, one) for one in index)
    if isinstance(index, (list, np.ndarray)):
        index = torch.tensor(index)
    if isinstance(index, Tensor) and not isinstance(index, _GpuTensor):
        index = index.to(_REAL)
    return index


def _check_generator(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is None:
        return
    own = next((arg.device for arg in args if isinstance(arg, Tensor)), _CPU)
    device = torch.device(kwargs.get("device") or own)
    if device.type != generator.device.type:
        raise RuntimeError(f"{function}: a generator on {generator.device} for {device}")


class _Generator(_CpuGenerator):
    """A random generator that is said to be on a device; its numbers are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        generator = _CpuGenerator.__new__(cls)
        generator.where = torch.device(device)
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        """As torch's own, which takes the device where it is made."""

    device = property(lambda self: self.where)


def _moved(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which cannot make a tensor of one class one of another."""
    with torch.no_grad():
        for module in self.modules():
            for name, old in module._parameters.items():
                new = None if old is None else change(old)
                if new is None or new is old:
                    continue
                if isinstance(old, _GpuTensor) and isinstance(new, _GpuTensor):
                    old.data, old.on_cpu = new, new.on_cpu.detach()
                else:
                    module._parameters[name] = nn.Parameter(new.detach(), old.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = change(buffer)
    return self


_load, _run_thread = torch.load, threading.Thread.run


def _loaded(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """`torch.load`, which reads into the memory of a real device."""
    found = _load(*args, map_location="cpu", **kwargs)
    if _named(map_location) != _REAL:
        return found
    return tree_map(lambda leaf: leaf.to(_REAL) if isinstance(leaf, Tensor) else leaf, found)


def _run_with(self: threading.Thread) -> None:
    with _Calls(), _Operations():  # which are a thread's own
        _run_thread(self)


_CUDA: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "manual_seed_all": lambda seed: None,
    "is_bf16_supported": lambda including_emulation=True: True,
    "reset_peak_memory_stats": lambda device=None: None,
    "max_memory_reserved": lambda device=None: PEAK_MIB * 2**20,
    "get_device_properties": lambda device: SimpleNamespace(
        name="stand-in", total_memory=MEMORY_MIB * 2**20
    ),
}


@contextmanager
def stand_in_gpu() -> Iterator[None]:
    """Inside, here and in threads that start meanwhile, there is a device "cuda"."""
    with ExitStack() as stack:

        def put(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        for name, answer in _CUDA.items():
            put(torch.cuda, name, answer)
        put(torch, "Generator", _Generator)
        put(torch, "load", _loaded)
        put(Tensor, "pin_memory", lambda tensor, device=None: tensor)
        put(nn.Module, "_apply", _moved)
        put(threading.Thread, "run", _run_with)
        stack.enter_context(_Calls())
        stack.enter_context(_Operations())
        yield


if __name__ == "__main__":
    with stand_in_gpu():
        main()
