"""Stores and artifacts of an earlier version of the code still load, with equal outputs of the networks.

``fixtures/written_by_version_0.zip`` has one small store and one small artifact of every kind, made from phantom
data. ``expected.json`` in this file has the outputs of each network for fixed inputs, from the earlier version.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from echodream.diffusion.model import load_diffusion_model
from echodream.modules.reid import load_reid
from echodream.modules.vae import load_vae
from echodream.networks.classifiers import load_classifier
from echodream.store import Store, verify

ARCHIVE = Path(__file__).parent / "fixtures" / "written_by_version_0.zip"
STORES = {
    "real_videos": "video",
    "latents": "latent",
    "sampled_images": "latent",
    "filtered_images": "latent",
    "sampled_clips": "latent",
    "decoded_videos": "video",
}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", STORES)
def test_a_store_opens_and_is_valid(older: Path, name: str) -> None:
    store = verify(older / "stores" / name)
    assert isinstance(store, Store)
    assert store.dataset.kind == STORES[name]
    first = store.table["FileName"].iloc[0]
    frames = store.frames(first) if STORES[name] == "video" else store.latents(first)[0]
    assert len(frames) == store.table["NumberOfFrames"].iloc[0]


def vae(folder: Path) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 1, 32, 32, generator=generator) * 2 - 1
    mean: Tensor = load_vae(str(folder)).encode(pixels).latent_dist.mean
    return mean


def denoiser(folder: Path) -> Tensor:
    model = load_diffusion_model(str(folder), folder.name)
    size, conditioner = model.metadata, model.conditioner
    images = (size.channels * size.frames, size.height, size.width)
    clips = (size.channels, size.frames, size.height, size.width)
    x = torch.randn(1, *(clips if model.is_video else images), generator=torch.Generator().manual_seed(1))
    values = conditioner.encode_request(
        {column: [1 if column == "class_id" else None] for column in conditioner.columns}
    )
    if "reference" in conditioner.names:
        values["reference"] = torch.zeros(1, size.channels, 1, size.height, size.width)
        values["reference_time"] = torch.zeros(1, 1)
    keep = {name: torch.ones(1, dtype=torch.bool) for name in conditioner.names}
    with torch.no_grad():
        prediction: Tensor = model(x, torch.full((1,), 500), values, keep)
    return prediction


def encoder(folder: Path) -> Tensor:
    inputs = json.loads((folder / "config.json").read_text())["sees"]
    shape = (1, inputs["channels"], inputs["height"], inputs["width"])
    return load_reid(folder).embed(torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape))


def classifier(folder: Path) -> Tensor:
    network, config = load_classifier(folder)
    channels = config["architecture"]["channels"]
    clip = torch.linspace(-1, 1, channels * 2 * 32 * 32).view(1, channels, 2, 32, 32)
    scores: Tensor = network(clip).detach()
    return scores


NETWORKS: dict[str, Callable[[Path], Tensor]] = {
    "vae": vae,
    "lidm": denoiser,
    "lvdm": denoiser,
    "reid": encoder,
    "identity": encoder,
    "classifier": classifier,
    "utility": classifier,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_artifact_opens_and_gives_the_same_numbers(older: Path, name: str) -> None:
    expected = torch.tensor(json.loads((older / "expected.json").read_text())[name])
    found = NETWORKS[name](older / "models" / name).flatten()[: len(expected)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
