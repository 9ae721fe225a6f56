"""Latent files: the unscaled posterior mean and std of each frame, as float16 safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from echodream.store.schema import StoreError

if TYPE_CHECKING:
    from torch import Tensor


def write_latents(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    """Write the posterior ``mean`` and ``std``, (F, C, H, W) each, as float16.

    Raises ``StoreError`` when a value is not finite (the largest float16 is 65,504), or a std is negative.
    """
    from safetensors.numpy import save_file

    with np.errstate(over="ignore"):
        tensors = {"mean": np.ascontiguousarray(mean, np.float16), "std": np.ascontiguousarray(std, np.float16)}
    if tensors["mean"].ndim != 4 or mean.shape != std.shape:
        raise StoreError(f"mean and std have the shapes {mean.shape} and {std.shape}, not both (F, C, H, W)")
    _check_values(path, tensors["mean"], tensors["std"])
    save_file(tensors, path)


def read_latents(path: Path, start: int = 0, stop: int | None = None) -> "tuple[Tensor, Tensor]":
    """Posterior mean and std of the frames ``start`` to ``stop``, float16, (F, C, H, W) each.

    Reads only this slice of the file. Raises ``StoreError`` when the file is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from torch import from_numpy

    try:
        with safe_open(path, framework="np") as file:  # "np" takes half the time of "pt"
            mean, std = file.get_slice("mean"), file.get_slice("std")
            if any(part.get_dtype() != "F16" or len(part.get_shape()) != 4 for part in (mean, std)):
                raise StoreError(f"{path} does not hold float16 (F, C, H, W): create the store again")
            # "np" accepts no negative or missing bounds
            bounds = [slice(start, stop).indices(part.get_shape()[0])[:2] for part in (mean, std)]
            arrays = [part[low : max(low, high)] for part, (low, high) in zip((mean, std), bounds, strict=True)]
            return from_numpy(arrays[0]), from_numpy(arrays[1])
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} cannot be read: create the store again") from error


def probe_latents(path: Path, channels: int) -> tuple[int, int, int]:
    """Number of frames, height and width of a latent file, after checking all values. Raises ``StoreError``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            if set(file.keys()) != {"mean", "std"}:
                raise StoreError(f"{path} holds the tensors {str(sorted(file.keys()))[:80]}, not mean and std")
            shapes = [file.get_slice(key).get_shape() for key in ("mean", "std")]
            types = {file.get_slice(key).get_dtype() for key in ("mean", "std")}
            if types != {"F16"} or shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][1] != channels:
                stored = f"{types} {shapes}"[:120]
                raise StoreError(f"{path}: mean and std are {stored}, not float16 (F, {channels}, H, W)")
            _check_values(path, file.get_tensor("mean"), file.get_tensor("std"))
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path} is not a readable safetensors file: create the store again") from error
    frames, _, height, width = shapes[0]
    return frames, height, width


def _check_values(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise StoreError(f"{path}: a latent is not finite, or a std is negative: encode the recording again")
