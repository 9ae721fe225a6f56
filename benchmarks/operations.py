"""Floating-point operations of the networks, counted without running the networks.

    python benchmarks/operations.py

Prints a line for each autoencoder (encoding and decoding of one frame) and for each denoiser (one evaluation for an
image, or for a clip of 64 frames). Frames have 64 x 64 pixels for the preset ``tiny``, and 112 x 112 for other presets.
"""

import argparse

import torch
from gpu import count_operations
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from echodream.config.paths import CONF_DIR
from echodream.types import Condition

SIZES = {"published": 112, "grey": 112, "small": 112, "tiny": 64}
"""Height and width of a frame in pixels, by preset."""
DOWNSAMPLING, CHANNELS, FRAMES, TOKEN_WIDTH = 8, 4, 64, 256


def training_config(model: str, size: str) -> DictConfig:
    """Configuration of ``train.py model=... preset=...``."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", [f"model={model}", "data=echonet_dynamic", f"preset={size}"])


def main() -> None:
    """Print the floating-point operations of the networks of all presets, in GFLOP."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for size, side in SIZES.items():
        network, latent = instantiate(training_config("vae", size).vae), side // DOWNSAMPLING
        frame = torch.empty(1, network.config.in_channels, side, side)
        encode = count_operations(lambda: network.encode(frame))  # noqa: B023 (called at once)
        decode = count_operations(lambda: network.decode(torch.empty(1, CHANNELS, latent, latent)))  # noqa: B023
        print(
            f"vae={size:<10} encode {encode / 1e9:9.2f} GFLOP per frame    decode {decode / 1e9:9.2f} GFLOP per frame"
        )
    for model, frames in (("lidm", ()), ("lvdm", (FRAMES,))):
        for size, side in SIZES.items():
            latent = side // DOWNSAMPLING
            build = instantiate(training_config(model, size).denoiser)
            denoiser = build(channels=CHANNELS, extra_channels=CHANNELS * len(frames), token_width=TOKEN_WIDTH)
            x = torch.empty(1, CHANNELS, *frames, latent, latent)
            condition = Condition(torch.empty(1, 1, TOKEN_WIDTH), x if frames else None)
            operations = count_operations(lambda: denoiser(x, torch.zeros(1), condition))  # noqa: B023
            print(f"model={model} preset={size:<10} {operations / 1e9:9.2f} GFLOP per evaluation")


if __name__ == "__main__":
    with FakeTensorMode(), torch.no_grad():
        main()
