"""Memory format and compilation of networks: they change the computing time and the rounding of results only."""

import importlib.util
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from echodream import validation
from echodream.errors import UserError

CUDA_GRAPHS = "reduce-overhead"
"""Value of the setting ``compile`` that uses CUDA graphs: one graph is recorded for each input shape."""


def use_channels_last(network: nn.Module) -> None:
    """Store the weights of all convolutions in channels-last memory format, so that their outputs have this format."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """Context in which attention in bf16 on a CPU is computed without the flash kernel, which is slower there."""
    is_bf16_cpu = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if is_bf16_cpu else nullcontext()


def compile_in_place(modules: Iterable[nn.Module], setting: bool | str, key: str) -> None:
    """Compile ``modules`` with torch.compile at their first call. Names in the state dict stay the same.

    ``setting`` is False, True, or ``CUDA_GRAPHS``. Without a GPU, ``CUDA_GRAPHS`` compiles for fixed input shapes.
    Raises ``UserError`` for another ``setting``, or if this machine cannot compile. ``key`` is the name of the setting.
    """
    if not isinstance(setting, bool) and setting != CUDA_GRAPHS:
        validation.refuse(key, setting, f"give true, false or {CUDA_GRAPHS}")
    if setting is False:
        return
    compiler = os.environ.get("CXX", "g++")
    missing = [f"the C++ compiler {compiler}"] * (shutil.which(compiler) is None)
    missing += ["the package triton"] * (torch.cuda.is_available() and importlib.util.find_spec("triton") is None)
    if missing:
        value = str(setting).lower()
        raise UserError(f"{key}={value} needs {' and '.join(missing)}: install it on this machine, or give {key}=false")
    for module in modules:
        if setting == CUDA_GRAPHS:
            module.compile(mode=CUDA_GRAPHS, dynamic=False)
        else:
            module.compile()
