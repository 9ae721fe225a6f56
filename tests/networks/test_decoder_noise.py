"""Decoder noise: a function of seed and frame when decoding, random in training, and saved in the artifact."""

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from echodream.errors import UserError
from echodream.networks.autoencoder import build_autoencoder, load_autoencoder
from echodream.networks.decoder_noise import add_static_share, decoder_noise, noise_seeds, set_noise_correlation
from echodream.weights import fingerprint
from tests.support.tiny_vae import activate_noise


def network(noise: int = 3, *, active: bool = True) -> AutoencoderKL:
    torch.manual_seed(0)
    net = build_autoencoder(2, [4, 8, 12], layers=1, latent=3, groups=4, noise=noise).eval()
    if noise:
        activate_noise(net, active=active)
    return net


LATENTS = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def decode(net: AutoencoderKL, latents: Tensor = LATENTS) -> Tensor:
    return net.decode(latents).sample


def test_inactive_noise_has_no_effect() -> None:
    assert torch.equal(decode(network(active=False)), decode(network(0)))
    assert not torch.equal(decode(network()), decode(network(0)))
    assert decoder_noise(network(0)) is None


def test_one_seed_is_one_noise_in_every_batch_and_seeds_differ() -> None:
    net = network()
    whole = decode(net)
    torch.testing.assert_close(torch.cat([decode(net, part) for part in LATENTS.split(2)]), whole, rtol=1e-4, atol=1e-5)
    with noise_seeds(net, [0, 0, 7, 7, 9]):
        mixed = decode(net)
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, mixed, strict=True)]
    assert same == [True, True, False, False, False]
    with noise_seeds(net, [7]):
        torch.testing.assert_close(decode(net)[2:4], mixed[2:4], rtol=1e-4, atol=1e-5)
    assert torch.equal(decode(net), whole)


def test_frames_of_one_latent_differ_in_training_and_not_when_decoding() -> None:
    net, twice = network(), LATENTS[:1].repeat(2, 1, 1, 1)
    first, second = decode(net, twice)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    first, second = decode(net.train(), twice)
    assert (first - second).abs().mean() > 1e-3


def test_several_versions_of_a_frame_are_decoded_at_once() -> None:
    net, seeds = network(), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    set_noise_correlation(net, 0.5)
    with noise_seeds(net, seeds):
        versions = decode(net)
    with noise_seeds(net, seeds):
        expected = decode(net, LATENTS.repeat_interleave(2, dim=0))
    torch.testing.assert_close(versions, expected, rtol=1e-4, atol=1e-5)
    assert (versions[::2] - versions[1::2]).abs().mean() > 1e-3


def noise_maps(net: AutoencoderKL, count: int, height: int, width: int) -> Tensor:
    """White noise for ``count`` consecutive frames of a recording, (count, channels, H, W)."""
    noise = decoder_noise(net)
    assert noise is not None
    return torch.stack([noise._noise(3, frame, (3, height, width)) for frame in range(count)])


def test_the_noise_is_white() -> None:
    set_noise_correlation(net := network(), 0.0)
    maps = noise_maps(net, 40, 24, 16)
    assert float(maps.std()) == pytest.approx(1, rel=0.02)
    assert abs(float((maps[..., 1:] * maps[..., :-1]).mean())) < 0.01
    assert abs(float((maps[:, 1:] * maps[:, :-1]).mean())) < 0.01
    assert len({float(frame[0, 0, 0]) for frame in maps}) == 40


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.8, 1.0])
def test_noise_of_consecutive_frames_has_the_correlation(correlation: float) -> None:
    net = network()
    set_noise_correlation(net, correlation)
    maps = noise_maps(net, 60, 48, 32)
    assert float(maps.std()) == pytest.approx(1, rel=0.1)
    for lag in (1, 2, 3):
        measured = float((maps[lag:] * maps[: 60 - lag]).mean() / maps.square().mean())
        assert measured == pytest.approx(correlation**lag, abs=0.02)
    with noise_seeds(net, [3] * 5, range(41, 46)):
        part = decode(net)
    with noise_seeds(net, [3] * 2, range(41, 43)):  # the first two of these frames, in a smaller batch
        torch.testing.assert_close(decode(net, LATENTS[:2]), part[:2], rtol=1e-4, atol=1e-5)


def test_speckle_is_filtered_noise_modulated_by_features_and_place() -> None:
    """The middle pixel by hand: filtered white noise, modulated by a network of the features and the position."""
    noise = activate_noise(network(1))
    features, h, w = torch.randn(1, 4, 15, 9), 15, 9
    speckle = noise(features)
    white = torch.nn.functional.pad(noise._noise(0, 0, (1, h, w))[None], (4, 4, 4, 4), mode="reflect")

    def hidden(row: int, column: int) -> Tensor:
        window = white[:, :, row + 1 : row + 8, column + 1 : column + 8]
        filtered = (noise.filters.weight * window).sum(dim=(1, 2, 3)) + noise.filters.bias
        y, x = torch.linspace(-1, 1, h)[row], torch.linspace(-1, 1, w)[column]
        place = torch.stack([x, y, x * x - 0.5, y * y - 0.5, x * y])
        values = noise.modulation(torch.cat([features[0, :, row, column], place]).view(1, -1, 1, 1)).flatten()
        return torch.nn.functional.silu(filtered * (1 + values[:16]) + values[16:])

    around = torch.stack([torch.stack([hidden(r, c) for c in range(2, 7)], dim=-1) for r in range(5, 10)], dim=-2)
    second = torch.nn.functional.silu(torch.nn.functional.conv2d(around, noise.hidden.weight, noise.hidden.bias))
    expected = torch.nn.functional.conv2d(second, noise.last.weight, noise.last.bias).flatten()
    torch.testing.assert_close(speckle[0, :, 7, 4], expected, rtol=1e-4, atol=1e-5)


def test_the_folder_keeps_the_correlation(tmp_path: Path) -> None:
    net = network()
    set_noise_correlation(net, 0.4)
    net.save_pretrained(tmp_path)
    with noise_seeds(net, [5] * 5, range(5)):
        expected = decode(net)
    again = load_autoencoder(tmp_path)
    with noise_seeds(again, [5] * 5, range(5)):
        assert torch.equal(decode(again), expected)
    set_noise_correlation(net, 1)
    with noise_seeds(net, [5] * 5, range(5)):
        assert not torch.equal(decode(net), expected)


def test_the_folder_keeps_the_static_share(tmp_path: Path) -> None:
    share = add_static_share(net := network())
    share.factor.fill_(0.7)
    net.save_pretrained(tmp_path)
    again = load_autoencoder(tmp_path)
    with noise_seeds(net, [5] * 5, range(5)):
        expected = decode(net)
    with noise_seeds(again, [5] * 5, range(5)):
        assert torch.equal(decode(again), expected)
    with noise_seeds(earlier := network(), [5] * 5, range(5)):
        assert not torch.equal(decode(earlier), expected)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_gradients_through_a_static_share_are_finite(factor: float) -> None:
    share = add_static_share(net := network())
    share.factor.fill_(factor)
    latents = LATENTS.clone().requires_grad_()
    with noise_seeds(net, [5] * 5, range(5)):
        net.decode(latents).sample.square().sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()


def test_a_correlation_above_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"decoder_noise_correlation is 1\.5"):
        set_noise_correlation(network(), 1.5)


def test_the_folder_keeps_it_and_diffusers_opens_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    net.save_pretrained(tmp_path)
    again = load_autoencoder(tmp_path)
    assert fingerprint(again) == fingerprint(net)
    assert torch.equal(decode(again), decode(net))
    with caplog.at_level(logging.ERROR):
        plain = AutoencoderKL.from_pretrained(tmp_path)
    assert torch.equal(decode(plain), decode(network(0)))


def test_all_weights_are_trained() -> None:
    net = network().train()
    net.decode(LATENTS).sample.square().mean().backward()
    noise = decoder_noise(net)
    assert noise is not None
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in noise.parameters())


@pytest.mark.parametrize("wrong", [-1, 0.4])
def test_a_number_of_noise_maps_is_whole(wrong: float) -> None:
    with pytest.raises(UserError, match=rf"vae.noise is {wrong}"):
        network(wrong)  # type: ignore[arg-type]


def test_the_noise_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    network(0).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "has_decoder_noise": True}))
    with pytest.raises(UserError, match=r"decoder noise of an earlier version: train the vae again"):
        load_autoencoder(tmp_path)
