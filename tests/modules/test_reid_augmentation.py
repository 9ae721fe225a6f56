"""Augmentations of model=reid: copies through the autoencoder, the bank of frames, and redrawn Gaussian copies."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from echodream.datamodules.augmentation import Augment
from echodream.datamodules.normalization import unwhiten, whiten
from echodream.datamodules.random_transforms import RandomTransform
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.modules.reid_augmentation import CopyAugmentation, FrameBank, GaussianRedraw, sample_frames
from echodream.networks.decoder_noise import add_decoder_noise
from echodream.weights import fingerprint
from tests.support.patients import STATISTICS, C, H, W, latent_store
from tests.support.tiny_vae import activate_noise, tiny_autoencoder, write_vae_artifact


def test_frame_bank_samples_two_different_versions_of_a_frame() -> None:
    frames = (torch.arange(4.0)[:, None] * 10 + torch.arange(3.0)).view(4, 3, 1, 1, 1)
    torch.manual_seed(0)
    copies = FrameBank(frames, torch.tensor([7, 8, 9, 5])).sample_pairs(600)
    (first, second), rows = copies.frames.flatten().view(2, 600), copies.rows
    assert (first != second).all()
    assert torch.equal(first // 10, second // 10)
    assert torch.equal(torch.tensor([7, 8, 9, 5])[(first // 10).long()], rows)
    pairs, counts = torch.unique(torch.stack([first % 10, second % 10]), dim=1, return_counts=True)
    assert pairs.shape == (2, 6)
    assert int(counts.min()) > 60


def test_frame_bank_samples_copies_with_their_originals() -> None:
    frames = (torch.arange(4.0)[:, None] * 10 + torch.arange(3.0)).view(4, 3, 1, 1, 1)
    torch.manual_seed(0)
    sampled = FrameBank(frames, torch.tensor([7, 8, 9, 5])).sample_with_originals(600)
    assert sampled.originals is not None
    copy, frame, rows = sampled.frames.flatten(), sampled.originals.flatten(), sampled.rows
    assert set((copy - frame).tolist()) == {1.0, 2.0}
    assert torch.equal(torch.tensor([7, 8, 9, 5])[(frame // 10).long()], rows)


def copies(folder: Path, augment: Augment | None = None, **changes: Any) -> tuple[CopyAugmentation, Any]:
    network = tiny_autoencoder()
    settings = {"frames": 7, "variants": 3, "share": 1.0, **changes}
    made = CopyAugmentation(str(write_vae_artifact(folder, network)), augment or Augment(), **settings)
    made.load_autoencoder(fingerprint(network))
    return made, network


@torch.no_grad()
def test_copies_of_latents_are_changed_as_pixels(tmp_path: Path) -> None:
    """The flip is applied to decoded pixels, not to latents; original latents and copies are not normalized."""
    made, network = copies(tmp_path / "vae", Augment(flip=1.0), variants=200)
    torch.manual_seed(0)
    z = torch.randn(2, C, 4, 6)
    found = made.copy_frames(z, STATISTICS, np.random.default_rng(0))
    assert found.shape == (2, 201, C, 4, 6)
    stored = unwhiten(z, STATISTICS, dim=1)
    assert torch.equal(found[:, 0], stored)
    posterior = network.encode(network.decode(stored).sample.clamp(-1, 1).flip(-1)).latent_dist
    far = (found[:, 1:] - posterior.mean[:, None]) / posterior.std[:, None]
    assert float(far.std()) == pytest.approx(1, abs=0.03)  # samples of the posterior of the flipped pixels
    mean, unflipped = found[:, 1:].mean(dim=1), network.encode(network.decode(stored).sample.clamp(-1, 1)).latent_dist
    assert (mean - posterior.mean).abs().mean() < 0.7 * (mean - unflipped.mean).abs().mean()


@torch.no_grad()
def test_each_copy_is_decoded_with_new_decoder_noise(tmp_path: Path) -> None:
    made, _ = copies(tmp_path / "vae", variants=5)
    z = torch.randn(2, C, 4, 6, generator=torch.Generator().manual_seed(0))
    without = made._decode_variants(z).unflatten(0, (2, 5))
    assert torch.equal(without, without[:, :1].expand_as(without))
    add_decoder_noise(made.network, 2)
    activate_noise(made.network.eval())
    decoded = made._decode_variants(z).unflatten(0, (2, 5))
    distances = torch.cdist(decoded.flatten(0, 1).flatten(1), decoded.flatten(0, 1).flatten(1))
    assert distances[~torch.eye(10, dtype=torch.bool)].min() > 0.01
    noise = decoded - decoded.mean(dim=1, keepdim=True)
    assert abs(float(torch.corrcoef(noise[:, 0].flatten(1))[0, 1])) < 0.5  # the noise of two frames is not correlated


@torch.no_grad()
def test_copies_of_pixels_are_pixels(tmp_path: Path) -> None:
    made, network = copies(tmp_path / "vae", variants=1)
    x = torch.rand(4, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = made.copy_frames(x, None, np.random.default_rng(0))
    assert found.shape == (4, 2, 1, 8, 12)
    assert torch.equal(found[:, 0], x)
    assert found.abs().max() <= 1
    mean = network.decode(network.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    assert (found[:, 1] - mean).abs().mean() < (found[:, 1] - x).abs().mean()


def test_the_frame_bank_has_random_training_frames_and_depends_on_the_seed(tmp_path: Path) -> None:
    network = tiny_autoencoder()
    rows = Recordings(latent_store(tmp_path / "own", fingerprint(network)), "TRAIN")
    made, _ = copies(tmp_path / "vae", frames=40)
    torch.manual_seed(5)
    bank = made.build_frame_bank(rows, torch.device("cpu"))
    assert bank is not None
    assert bank.frames.shape == (40, 4, C, H, W)
    for frame, row in zip(bank.frames[:, 0], bank.rows.tolist(), strict=True):
        mean, std = rows.store.latents(rows.names[row])
        # a posterior sample of a frame of this recording
        assert ((frame - mean) / std).abs().amax(dim=(1, 2, 3)).min() < 6
    assert len(set(bank.rows.tolist())) > 15  # of 24 recordings
    torch.manual_seed(5)
    again = made.build_frame_bank(rows, torch.device("cpu"))
    assert again is not None
    assert torch.equal(again.frames, bank.frames)


def test_each_pixel_change_except_the_flip_is_applied_with_probability_half(tmp_path: Path) -> None:
    wanted, rng = Augment(gain=0.4, shift=0.1, flip=0.7), np.random.default_rng(0)
    made, _ = copies(tmp_path / "vae", wanted)
    drawn = [made._select_random_transforms(wanted, rng) for _ in range(400)]
    assert {augment.flip for augment in drawn} == {0.7}
    for name, amount in (("gain", 0.4), ("shift", 0.1), ("speckle", 0.0)):
        values = [getattr(augment, name) for augment in drawn]
        assert set(values) == {0.0, amount}
        assert amount == 0 or 0.4 < np.mean([value > 0 for value in values]) < 0.6


@torch.no_grad()
def test_copies_have_samples_of_the_filter_s_distributions(tmp_path: Path) -> None:
    """Copies use the random transforms of the control copies: shifts within the range, and flips of either axis."""
    made, network = copies(tmp_path / "vae", RandomTransform(shift=(0.1, 0.4)), variants=5)
    z = torch.randn(3, C, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = made.copy_frames(z, STATISTICS, np.random.default_rng(1))
    pixels, rng = network.decode(unwhiten(z, STATISTICS, dim=1)).sample.clamp(-1, 1), np.random.default_rng(1)
    changed = [
        RandomTransform(shift=(0.1, 0.4)).sample(rng).change_pixels(frame[:, None], rng)[:, 0]
        for frame in pixels
        for _ in range(5)
    ]
    posterior = network.encode(torch.stack(changed)).latent_dist
    far = (found[:, 1:].flatten(0, 1) - posterior.mean) / posterior.std
    assert float(far.std()) == pytest.approx(1, abs=0.08)
    assert float(far.mean()) == pytest.approx(0, abs=0.08)


@torch.no_grad()
@pytest.mark.parametrize("statistics", [STATISTICS, None])
def test_frames_are_mixed_with_those_of_other_patients_only(
    tmp_path: Path, statistics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each patient has frames of one constant value; the replaced autoencoder returns its input."""
    made, _ = copies(tmp_path / "vae", RandomTransform(blend=(0.5, 0.5)), variants=40)
    monkeypatch.setattr(made, "_encode", lambda x: x)
    monkeypatch.setattr(made, "_decode", lambda x: x)
    patients = np.array([0, 0, 1, 2])
    x = torch.tensor([0.1, 0.2, 0.4, 0.8]).view(4, 1, 1, 1).expand(4, C, 4, 6)
    stored = x if statistics is None else unwhiten(x, statistics, dim=1)
    for transform in (RandomTransform(blend=(0.5, 0.5)), RandomTransform(interpolate=(0.5, 0.5))):
        made.augment = transform
        found = made.copy_frames(x, statistics, np.random.default_rng(0), patients)
        for number, patient in enumerate(patients):
            halves = [(stored[number] + stored[other]) / 2 for other in np.flatnonzero(patients != patient)]
            hits = [[bool(torch.allclose(copy, half, atol=1e-5)) for half in halves] for copy in found[number, 1:]]
            assert all(sum(hit) == 1 for hit in hits)
            assert all(any(column) for column in zip(*hits, strict=True))
        alone = made.copy_frames(x, statistics, np.random.default_rng(0), np.zeros(4, int))
        assert torch.allclose(alone[:, 1:], stored[:, None].expand_as(alone[:, 1:]), atol=1e-6)


def test_copies_need_the_autoencoder_of_the_latents(tmp_path: Path) -> None:
    made, _ = copies(tmp_path / "vae")
    with pytest.raises(UserError, match="is not the encoder of these latents"):
        made.load_autoencoder("ab" * 32)
    absent = CopyAugmentation(str(tmp_path / "nothing"), Augment(), 2, 1, 1.0)
    with pytest.raises(UserError, match=r"does not exist.*model.copies.frames=0"):
        absent.load_autoencoder(None)
    for frames, share in ((0, 1.0), (2, 0.0)):
        none = CopyAugmentation(str(tmp_path / "nothing"), Augment(), frames, 1, share)
        none.load_autoencoder(None)
        assert none.build_frame_bank(SimpleNamespace(), torch.device("cpu")) is None  # type: ignore[arg-type]
    for wrong, key in (((-1, 1, 1.0), "frames"), ((2, 0, 1.0), "variants"), ((2, 1, -0.5), "share")):
        with pytest.raises(UserError, match=rf"model\.copies\.{key} is"):
            CopyAugmentation("vae", Augment(), *wrong)


def test_redrawn_latents_match_the_closed_form_of_the_gaussian_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    train = (torch.randn(50, 6, generator=generator, dtype=torch.float64) @ mixing + 0.5).view(50, 1, 2, 3)
    made = GaussianRedraw(1.0, 0.5, 0.5)
    made.fit(train)
    x, sigma, times = train[:1].float(), 0.7, 60_000
    torch.manual_seed(0)
    found = made.sample_posterior(x.expand(times, -1, -1, -1), torch.full((times,), sigma)).flatten(1).double()
    flat = train.flatten(1)
    mean, cov = flat.mean(dim=0), torch.cov(flat.T)
    gain = cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(6))
    truth = mean + gain @ (flat[0] - mean)
    spread = sigma**2 * gain @ gain.T + cov - gain @ cov
    assert (found.mean(dim=0) - truth).abs().max() < 0.02
    assert (torch.cov(found.T) - spread).abs().max() < 0.02 * float(spread.abs().max()) + 0.01


def test_redraw_probability_and_strength() -> None:
    made = GaussianRedraw(0.25, 0.1, 10.0)
    made.fit(torch.randn(300, C, 2, 2, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    x = torch.randn(800, C, 2, 2)
    moved = (made(x) - x).flatten(1).norm(dim=1)
    assert float((moved > 0).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert float(moved[moved > 0].min()) < 0.5 < 4 < float(moved.max())
    for wrong in ((1.5, 0.1, 1.0), (0.5, 0.0, 1.0), (0.5, 2.0, 1.0)):
        with pytest.raises(UserError, match=r"model\.redraw"):
            GaussianRedraw(*wrong)


def test_the_gaussian_is_fitted_to_whitened_training_latents(tmp_path: Path) -> None:
    made = GaussianRedraw(1.0, 0.1, 1.0)
    rows = Recordings(latent_store(tmp_path / "own"), "TRAIN")
    made.fit(sample_frames(rows, frames=48))
    parts = []
    for name in rows.names:
        mean, _ = rows.store.latents(name)
        parts.append(whiten(mean[[0, len(mean) - 1]].float(), STATISTICS, dim=1))
    truth = torch.cat(parts).flatten(1)
    assert len(truth) == 48
    assert (made.mean - truth.mean(dim=0)).abs().max() < 0.03
    assert float(made.variance.sum()) == pytest.approx(float(truth.var(dim=0).sum()), rel=0.02)
