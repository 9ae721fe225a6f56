"""Models in Python: for arrays, tensors and stores, the outputs equal the outputs of the stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import echodream
from echodream import engine
from echodream.artifact import Artifact, write_artifact
from echodream.errors import UserError
from echodream.loaded_models import Autoencoder, Generator, IdentityModel
from echodream.networks.siamese import IdentityEncoder, InputSpec, Siamese
from echodream.store import Store
from echodream.weights import fingerprint
from tests.support import tiny_diffusion, tiny_vae
from tests.support.tiny_diffusion import C, H, W


@pytest.fixture(scope="module")
def vae_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of videos, an autoencoder saved by diffusers, and the latents and decoded videos of the stages."""
    folder = tmp_path_factory.mktemp("vae")
    tiny_vae.moving_disc_store(folder / "videos")
    tiny_vae.tiny_autoencoder().save_pretrained(folder / "vae")
    for stage in ("encode", "decode"):
        engine.sample(tiny_vae.sample_cfg(folder, stage))
    return folder


@pytest.mark.slow
def test_an_autoencoder_gives_the_numbers_of_the_stages(vae_study: Path) -> None:
    vae = echodream.load(vae_study / "vae")
    assert isinstance(vae, Autoencoder)
    assert repr(vae) == f"Autoencoder('{vae_study}/vae'): on cpu"
    videos, latents, decoded = (echodream.open_store(vae_study / name) for name in ("videos", "latents", "decoded"))
    for name in ("r0", "r1"):
        mean, std = vae.encode(videos.frames(name))
        for found, stored in zip((mean, std), latents.latents(name), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.half(), stored, rtol=0, atol=2e-3)
        pixels = vae.decode(latents.latents(name)[0])
        assert pixels.dtype == np.uint8
        difference = np.abs(pixels.astype(int) - decoded.frames(name).astype(int))
        assert pixels.shape == (videos.frames(name).shape)
        assert difference.max() <= 1
    batch = np.stack([videos.frames(name)[:5] for name in ("r0", "r1")])
    both = vae.encode(batch, budget=7)[0]
    assert both.shape == (2, 5, 3, 8, 12)
    torch.testing.assert_close(both[1], vae.encode(torch.from_numpy(batch[1]))[0], rtol=1e-4, atol=1e-4)
    assert vae.decode(both).shape == (2, 5, 16, 24, 1)


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        (
            "encode",
            np.zeros((2, 16, 24, 1)),
            r"frames are torch.float64 \(2, 16, 24, 1\): give uint8 \(..., H, W, 1\)",
        ),
        ("encode", np.zeros((2, 16, 24, 3), np.uint8), r"give uint8 \(..., H, W, 1\)"),
        ("encode", np.zeros((16, 24), np.uint8), "4 or 5 dimensions"),
        ("encode", "r0", "frames is a str: give a numpy array or a tensor"),
        ("decode", np.zeros((2, 4, 8, 12)), r"latents are \(2, 4, 8, 12\): give \(F, 3, h, w\)"),
    ],
)
def test_arrays_of_another_shape_are_refused(vae_study: Path, method: str, values: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        getattr(echodream.load(vae_study / "vae"), method)(values)


def test_a_model_of_images_samples_those_of_the_stage(tmp_path: Path) -> None:
    tiny_diffusion.artifact(tmp_path / "lidm", tiny_diffusion.model("lidm"), "lidm")
    engine.sample(tiny_diffusion.sample_cfg(tmp_path, "image", "seed=3", "guidance.class_id=2"))
    model = echodream.load(tmp_path / "lidm")
    assert isinstance(model, Generator)
    assert model.conditions == ("class_id",)
    samples = model.sample(5, seed=3, steps=3, guidance={"class_id": 2.0}, batch=2)
    assert samples.shape == (5, 1, C, H, W)
    store = Store(tmp_path / "images")
    for row, name in enumerate(store.table["FileName"]):
        torch.testing.assert_close(samples[row].half(), store.latents(name)[0], rtol=1e-3, atol=2e-3)
    sick, listed = model.sample(2, class_id=0, steps=3), model.sample(2, class_id=np.array([0, 3]), steps=3)
    assert torch.equal(sick[0], listed[0])
    assert not torch.allclose(sick[1], listed[1])
    for arguments, words in (
        ({"class_id": 2}, "class_id"),
        ({"EF": 50}, "EF is not a condition of this model"),
        ({"class_id": [0, 1, 3]}, "class_id has 3 values for 2 samples"),
        ({"guidance": {"EF": 2.0}}, r"guidance\.EF=2\.0 is not possible"),
        ({"frames": 8}, "images and frames are for a model of clips"),
        ({"sampler": "heun"}, "sampler"),
    ):
        with pytest.raises(UserError, match=words):
            model.sample(2, **{"steps": 3, **arguments})


@pytest.mark.slow
def test_a_model_of_clips_samples_those_of_the_stage(tmp_path: Path) -> None:
    tiny_diffusion.latent_store(tmp_path / "images", lengths=(1, 1, 1), synthetic=True)
    tiny_diffusion.artifact(tmp_path / "lvdm", tiny_diffusion.model("lvdm", ("reference", "class_id")), "lvdm")
    engine.sample(tiny_diffusion.sample_cfg(tmp_path, "video", "frames=11", "seed=2", "overlap=3"))
    images, videos = Store(tmp_path / "images"), Store(tmp_path / "videos")
    model = echodream.load(tmp_path / "lvdm")
    samples = model.sample(images=images, frames=11, seed=2, steps=3, overlap=3)
    assert samples.shape == (3, 11, C, H, W)
    for row, name in enumerate(videos.table["FileName"]):
        torch.testing.assert_close(samples[row].half(), videos.latents(name)[0], rtol=1e-3, atol=4e-3)
    arrays = torch.stack([images.latents(name)[0] for name in images.table["FileName"]]).float().numpy()
    by_array = model.sample(images=arrays, class_id=images.table["class_id"], frames=11, seed=2, steps=3, overlap=3)
    assert torch.equal(samples, by_array)
    assert torch.equal(model.sample(2, images=images, frames=11, seed=2, steps=3, overlap=3, batch=2), samples[:2])
    with pytest.raises(UserError, match="images= is needed"):
        model.sample(2)
    with pytest.raises(UserError, match="n is 4: give a whole number from 1 to 3"):
        model.sample(4, images=images)
    with pytest.raises(UserError, match="was encoded by another autoencoder"):
        model.sample(images=tiny_diffusion.latent_store(tmp_path / "other", encoder="ef" * 32, lengths=(1,)))


def test_an_identity_model_embeds_frames_and_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Siamese(C, "basic", [1, 1, 1, 1], [4, 4, 4, 4], 6)
    spec = InputSpec("latents", C, H, W, (0.0,) * C, (1.0,) * C, None, "cosine")
    encoder = IdentityEncoder(network, spec).eval()
    write_artifact(tmp_path / "reid", Artifact("reid", "x", fingerprint(network), "0" * 64), "seed: 0\n", encoder.save)
    model = echodream.load(tmp_path / "reid")
    assert isinstance(model, IdentityModel)
    clips = np.random.default_rng(0).normal(size=(3, 2, C, H, W)).astype(np.float32)
    embedded = model.embed(clips)
    assert embedded.shape == (3, 2, 6)
    expected = encoder.embed(torch.from_numpy(clips).flatten(0, 1)).unflatten(0, (3, 2)).numpy()
    np.testing.assert_allclose(embedded, expected, atol=1e-5)
    np.testing.assert_allclose(model.embed(torch.from_numpy(clips[:, 0])), expected[:, 0], atol=1e-5)
    with pytest.raises(UserError, match="the identity network takes latents of"):
        model.embed(clips[..., :2])


def test_a_model_of_the_hub_is_downloaded_at_a_revision(vae_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(*arguments: Any, **settings: Any) -> str:
        asked.append((arguments, settings))
        if arguments == ("lab/private",):
            raise OSError("401 Client Error\nRepository Not Found")
        return str(vae_study / "vae")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert isinstance(echodream.load("hub:lab/echo-vae", revision="v1"), Autoencoder)
    assert asked == [(("lab/echo-vae",), {"repo_type": "model", "revision": "v1"})]
    with pytest.raises(
        UserError, match=r"hub:lab/private cannot be downloaded \(401 Client Error Repository Not Found\)"
    ):
        echodream.load("hub:lab/private")
    with pytest.raises(UserError, match="hub:nonsense is not possible"):
        echodream.load("hub:nonsense")
    with pytest.raises(UserError, match="revision=v1 is for models of the hub"):
        echodream.load(vae_study / "vae", revision="v1")
    with pytest.raises(UserError, match="has no vae"):
        echodream.load(vae_study / "videos" / "Videos")


def test_clips_play_in_a_notebook() -> None:
    clips = np.zeros((6, 3, 16, 24, 1), np.uint8)
    assert echodream.play(clips)._repr_html_().count("<video") == 4
    assert "<figcaption>&lt;a&gt;</figcaption>" in echodream.play(clips[0], captions=["<a>"])._repr_html_()
    for frames, fps, captions, words in (
        (clips / 2, 25, None, "frames are not pixels"),
        (clips[..., [0, 0]], 25, None, "with 1 or 3 channels"),
        (clips, 0, None, "fps is 0"),
        (clips, 25, ["a"], "1 captions and 6 clips"),
    ):
        with pytest.raises(UserError, match=words):
            echodream.play(frames, fps, captions)
