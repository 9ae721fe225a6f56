"""Pixels read as latents: each frame has the same latents as with stage=encode."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodream import engine
from echodream.datamodules.encoded_store import EncodedStore
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.video import write_video
from tests.support.tiny_vae import moving_disc, moving_disc_store, sample_cfg, tiny_autoencoder, write_vae_artifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoded")
    moving_disc_store(root / "videos")
    write_vae_artifact(root / "vae", tiny_autoencoder())
    engine.sample(sample_cfg(root, "encode"))
    return root


def test_frames_are_read_as_stage_encode_writes_them(folder: Path) -> None:
    pixels, study = Store(folder / "videos"), Store(folder / "latents")
    store = EncodedStore(pixels, tiny_autoencoder(), study)
    origin: dict[str, Any] = {"command": "", "code_version": "", "settings": {}}
    assert replace(store.dataset, **origin) == replace(study.dataset, **origin)
    assert store.checksum == pixels.checksum
    for name in pixels.table["FileName"]:
        for bounds in ((0, None), (1, 3)):
            for found, expected in zip(store.latents(name, *bounds), study.latents(name, *bounds), strict=True):
                assert found.dtype == torch.float16
                torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert store.path("r1") == pixels.path("r1")
    rows, encoded = Recordings(study, "TRAIN"), Recordings(store, "TRAIN")
    frames = np.array([7, 2])
    for found, expected in zip(encoded.posterior(1, frames), rows.posterior(1, frames), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_frames_of_another_size_are_refused(folder: Path) -> None:
    with StoreWriter(folder / "larger", Dataset(kind="video", channels=1, synthetic=True)) as writer:
        write_video(writer.scratch_path("s"), moving_disc(2, 0, 32, 32), 25.0)
        row = {"FileName": "s", "Split": "TRAIN", "PatientID": "S0", "NumberOfFrames": 2, "FPS": 25.0}
        writer.commit({**row, "FrameHeight": 32, "FrameWidth": 32}, writer.scratch_path("s"))
        larger = writer.finish(["s"])
    with pytest.raises(UserError, match=r"s has 32x32 pixels, .* had 24x16: .* with data.size=\[16, 24\]"):
        EncodedStore(larger, tiny_autoencoder(), Store(folder / "latents"))
    with pytest.raises(UserError, match="has 1 channels, this vae takes 3"):
        EncodedStore(Store(folder / "videos"), tiny_autoencoder(3), Store(folder / "latents"))
