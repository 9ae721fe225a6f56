"""The decoder noise is a function of seed and frame when decoding, new in training, and kept in the artifact."""

import itertools
import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from echodream.errors import UserError
from echodream.networks.autoencoder import build_autoencoder, load_autoencoder
from echodream.networks.decoder_noise import activate_noise, noise_levels, noise_seeds, set_noise_correlation
from echodream.weights import fingerprint


def network(noise: float = 0.5) -> AutoencoderKL:
    torch.manual_seed(0)
    return build_autoencoder(2, [4, 8, 12], layers=1, latent=3, groups=4, noise=noise).eval()


LATENTS = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def decode(net: AutoencoderKL, latents: Tensor = LATENTS) -> Tensor:
    return net.decode(latents).sample


def test_inactive_noise_has_no_effect() -> None:
    assert torch.equal(decode(network()), decode(network(0.0)))
    assert noise_levels(network(0.0)) == []


def test_one_seed_is_one_noise_in_every_batch_and_seeds_differ() -> None:
    net = network()
    activate_noise(net)
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
    activate_noise(net)
    first, second = decode(net, twice)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    first, second = decode(net.train(), twice)
    assert (first - second).abs().mean() > 1e-3


def test_the_noise_is_white_with_the_trained_scale() -> None:
    level = noise_levels(network(0.5))[2]
    level.active.fill_(True)
    level.seeds = [(seed, 0) for seed in range(40)]
    (out,) = level.add_noise(level, (torch.zeros(40, len(level.scale[0]), 24, 16),)) or ()
    out = out.detach()
    assert float(out.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float((out[:, 0, :, 1:] * out[:, 0, :, :-1]).mean())) < 0.01
    assert torch.equal(out[:, 0], out[:, 1])  # one noise map for all channels
    assert len({float(frame[0, 0, 0]) for frame in out}) == 40


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.8, 1.0])
def test_noise_of_consecutive_frames_has_the_correlation(correlation: float) -> None:
    net = network(0.5)
    set_noise_correlation(net, correlation)
    level = noise_levels(net)[2]
    level.active.fill_(True)
    level.seeds = [(3, frame) for frame in range(60)]
    x = torch.zeros(60, len(level.scale[0]), 48, 32)
    noise = (level.add_noise(level, (x,)) or ())[0].detach()[:, 0]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
    for lag in (1, 2, 3):
        measured = float((noise[lag:] * noise[: 60 - lag]).mean() / noise.square().mean())
        assert measured == pytest.approx(correlation**lag, abs=0.02)
    level.seeds = [(3, frame) for frame in range(41, 47)]  # the same frames in another batch
    again = (level.add_noise(level, (x[:6],)) or ())[0].detach()[:, 0]
    assert torch.equal(again, noise[41:47])


def test_the_folder_keeps_the_correlation(tmp_path: Path) -> None:
    net = network()
    activate_noise(net)
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


def test_a_correlation_above_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"decoder_noise_correlation is 1\.5"):
        set_noise_correlation(network(), 1.5)


def test_the_folder_keeps_it_and_diffusers_opens_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    activate_noise(net)
    net.save_pretrained(tmp_path)
    again = load_autoencoder(tmp_path)
    assert fingerprint(again) == fingerprint(net)
    assert torch.equal(decode(again), decode(net))
    with caplog.at_level(logging.ERROR):
        plain = AutoencoderKL.from_pretrained(tmp_path)
    assert torch.equal(decode(plain), decode(network(0.0)))


def test_all_scales_are_trained_by_the_decoder() -> None:
    net = network().train()
    activate_noise(net)
    net.decode(LATENTS).sample.square().mean().backward()
    gradients = itertools.chain(*(level.parameters() for level in noise_levels(net)))
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in gradients)


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(UserError, match=r"vae.noise is -1"):
        network(-1)
