"""Detects operations for which the CPU waits for the device, by tests on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "unique_dim", "_unique2", "masked_select"}
"""Operations that return values of a tensor to Python, or whose output size depends on values."""


class HostAccess(Exception):
    pass


@contextmanager
def forbidden_host_access() -> Iterator[None]:
    """Raise ``HostAccess`` for reads of a tensor on another device than the CPU, and for blocking copies."""
    with _Operations(None), _Functions(None):
        yield


@contextmanager
def counted_host_access() -> Iterator[list[str]]:
    """Record the operations that wait for the device. A value that is read is 1, and a boolean mask selects no row."""
    found: list[str] = []
    with _Operations(found), _Functions(found):
        yield found


def _report(found: list[str] | None, what: str) -> None:
    if found is None:
        raise HostAccess(what)
    found.append(what)


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str] | None) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        devices = {tensor.device.type for tensor in _tensors(args)}
        if name in _READS and devices - {"cpu"}:
            _report(self.found, f"{name} of a tensor on {devices}")
            return torch.empty(0, args[0].ndim, dtype=torch.int64, device="meta") if name == "nonzero" else 1
        masks = [index for index in _tensors(args[1]) if index.dtype == torch.bool] if name == "index" else []
        if masks and devices - {"cpu"}:
            _report(self.found, "index by a condition")
            return args[0].new_empty(0, *args[0].shape[masks[0].ndim :])
        result = func(*args, **kwargs)
        made = {tensor.device.type for tensor in _tensors([result])}
        if name in ("_to_copy", "copy_") and made and devices != made and not _non_blocking(args, kwargs):
            _report(self.found, f"{name} from {devices} to {made}")
        return result


class _Functions(TorchFunctionMode):
    """Detects host access that ``_Operations`` cannot detect.

    This is creation of device tensors from Python values, and indexing with a list.
    """

    def __init__(self, found: list[str] | None) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        device = kwargs.get("device")
        if name == "new_tensor":
            device = device or args[0].device
        if name in ("tensor", "as_tensor", "new_tensor") and device is not None and torch.device(device).type != "cpu":
            _report(self.found, f"{name} from values of Python")
        if name == "__getitem__" and args[0].device.type != "cpu":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in index):
                _report(self.found, "index by a list")
        return func(*args, **kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _non_blocking(args: Any, kwargs: Any) -> bool:
    return bool(kwargs.get("non_blocking")) or (len(args) > 2 and args[2] is True)
