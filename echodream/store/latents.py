"""Latent files: the unscaled posterior mean and std of each frame, as float16 safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from echodream.store.schema import StoreError

if TYPE_CHECKING:
    from torch import Tensor


def write_latents(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    """Write the posterior ``mean`` and ``std``, (F, C, H, W) each, as float16.

    Raises ``StoreError`` for values that are not finite in float16, whose maximum is 65,504, and for a negative std.
    """
    from safetensors.numpy import save_file

    with np.errstate(over="ignore"):
        tensors = {"mean": np.ascontiguousarray(mean, np.float16), "std": np.ascontiguousarray(std, np.float16)}
    if tensors["mean"].ndim != 4 or mean.shape != std.shape:
        raise StoreError(f"mean and std have the shapes {mean.shape} and {std.shape}, not both (F, C, H, W)")
    _check_latents(path, tensors["mean"], tensors["std"])
    save_file(tensors, path)


def read_latents(path: Path, start: int = 0, stop: int | None = None) -> "tuple[Tensor, Tensor]":
    """Read posterior mean and std of the frames ``start`` to ``stop``: float16, (F, C, H, W) each.

    Only the requested frames are read from the file. Raises ``StoreError`` if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from torch import from_numpy

    try:
        with safe_open(path, framework="np") as file:  # framework="np" reads twice as fast as "pt"
            mean, std = file.get_slice("mean"), file.get_slice("std")
            if any(tensor.get_dtype() != "F16" or len(tensor.get_shape()) != 4 for tensor in (mean, std)):
                raise StoreError(f"{path} does not contain float16 (F, C, H, W): create the store again")
            # slices with framework="np" need bounds that are not negative
            bounds = [slice(start, stop).indices(tensor.get_shape()[0])[:2] for tensor in (mean, std)]
            arrays = [tensor[low : max(low, high)] for tensor, (low, high) in zip((mean, std), bounds, strict=True)]
            return from_numpy(arrays[0]), from_numpy(arrays[1])
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} cannot be read: create the store again") from error


def probe_latents(path: Path, channels: int) -> tuple[int, int, int]:
    """Check all values of a latent file; returns its number of frames, height and width. Raises ``StoreError``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            if set(file.keys()) != {"mean", "std"}:
                raise StoreError(f"{path} contains the tensors {str(sorted(file.keys()))[:80]}, not mean and std")
            shapes = [file.get_slice(key).get_shape() for key in ("mean", "std")]
            types = {file.get_slice(key).get_dtype() for key in ("mean", "std")}
            if types != {"F16"} or shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][1] != channels:
                stored = f"{types} {shapes}"[:120]
                raise StoreError(f"{path}: mean and std are {stored}, not float16 (F, {channels}, H, W)")
            _check_latents(path, file.get_tensor("mean"), file.get_tensor("std"))
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path} is not a readable safetensors file: create the store again") from error
    frames, _, height, width = shapes[0]
    return frames, height, width


def _check_latents(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise StoreError(f"{path}: a latent is not finite, or a std is negative: encode the recording again")
