"""Preview images: number and content of the images, decoding with the autoencoder, and no effect on the training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from echodream.callbacks.previews import Previews
from tests.support.tiny_vae import tiny_autoencoder, write_vae_artifact


class Module:
    """Module whose preview returns ``latents`` and draws from torch's random generator, as a sampler may do."""

    def __init__(self, latents: Tensor) -> None:
        self.latents, self.asked = latents, list[Any]()

    def preview(self, batch: Any, count: int, steps: int) -> Tensor:
        torch.rand(5)
        self.asked.append((batch, count, steps))
        return self.latents


def show(folder: Path, module: Module, batch_idx: int = 0, rank: int = 0, **settings: Any) -> np.ndarray | None:
    trainer = SimpleNamespace(is_global_zero=rank == 0, current_epoch=3, global_step=9, loggers=[])
    made = Previews(str(folder / "p"), **{"vae": str(folder / "vae"), "count": 2, "steps": 4, **settings})
    made.on_validation_batch_end(trainer, module, None, "batch", batch_idx)  # type: ignore[arg-type]
    path = folder / "p" / "samples_00003.png"
    return np.asarray(Image.open(path)) if path.exists() else None


def test_decoded_frames_a_row_for_each_sample(tmp_path: Path) -> None:
    network = tiny_autoencoder(1)
    write_vae_artifact(tmp_path / "vae", network)
    latents = torch.randn(2, 3, 11, 5, 7)
    module = Module(latents)
    picture = show(tmp_path, module)
    assert module.asked == [("batch", 2, 4)]
    assert picture is not None
    shown = [0, 1, 3, 4, 6, 7, 9, 10]  # eight of the eleven frames, evenly spaced, including the first and the last
    assert picture.shape == (2 * 12 - 2, 8 * 16 - 2, 3)
    for row in range(2):
        for column, frame in enumerate(shown):
            with torch.no_grad():
                pixels = network.decode(latents[row, :, frame][None]).sample[0, 0]
            wanted = ((pixels.clamp(-1, 1) + 1) * 127.5).numpy()
            part = picture[row * 12 : row * 12 + 10, column * 16 : column * 16 + 14]
            assert np.abs(part - wanted[..., None]).max() <= 1


def test_images_are_in_one_row(tmp_path: Path) -> None:
    write_vae_artifact(tmp_path / "vae", tiny_autoencoder(1))
    picture = show(tmp_path, Module(torch.randn(3, 3, 1, 5, 7)))
    assert picture is not None
    assert picture.shape == (10, 3 * 16 - 2, 3)


@pytest.mark.parametrize("vae", [None, 3])
def test_without_a_vae_of_such_latents_their_first_channels_are_shown(tmp_path: Path, vae: int | None) -> None:
    """Without an autoencoder for four latent channels, the preview shows the first three channels of the latents."""
    if vae:
        write_vae_artifact(tmp_path / "vae", tiny_autoencoder(1))
    latents = torch.randn(2, 4, 1, 5, 7)
    picture = show(tmp_path, Module(latents))
    assert picture is not None
    assert picture.shape == (5, 2 * 9 - 2, 3)
    wanted = (((latents[0, :3, 0] / 3).clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(picture[:, :7] - wanted).max() <= 1


def test_first_process_previews_once_and_restores_the_generator(tmp_path: Path) -> None:
    module = Module(torch.randn(2, 3, 1, 5, 7))
    torch.manual_seed(4)
    wanted = torch.rand(1)
    torch.manual_seed(4)
    show(tmp_path, module)
    assert torch.equal(torch.rand(1), wanted)
    for more in ({"batch_idx": 1}, {"rank": 1}, {"count": 0}):
        show(tmp_path, module, **more)  # type: ignore[arg-type]
    assert len(module.asked) == 1
