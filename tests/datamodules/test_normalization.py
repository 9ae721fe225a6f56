"""Mean and standard deviation of latent posteriors, compared with random samples and with numpy."""

import itertools

import numpy as np
import pytest
import torch

from echodream.datamodules.normalization import PosteriorMoments


def test_they_are_those_of_draws() -> None:
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(4000, 3, 2, 5, generator=random) * torch.tensor([1.0, 0.1, 2.0])[:, None, None] + 7
    std = torch.rand(4000, 3, 2, 5, generator=random)
    moments = PosteriorMoments()
    moments.add(mean, std)
    draws = mean + std * torch.randn(mean.shape, generator=random)
    assert moments.mean() == pytest.approx(draws.mean(dim=(0, 2, 3)).tolist(), abs=0.05)
    assert moments.std() == pytest.approx(draws.std(dim=(0, 2, 3)).tolist(), rel=0.03)


def test_parts_of_different_sizes_count_by_their_size() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3, 2, 5))
    whole, parts = PosteriorMoments(), PosteriorMoments()
    for moments, bounds in ((whole, [0, 7]), (parts, [0, 1, 4, 7])):
        for start, stop in itertools.pairwise(bounds):
            part = torch.from_numpy(values[start:stop])
            moments.add(part, torch.zeros_like(part))
    assert parts.mean() == pytest.approx(whole.mean())
    assert parts.std() == pytest.approx(whole.std())
    assert whole.mean() == pytest.approx(values.mean(axis=(0, 2, 3)))
    assert whole.std() == pytest.approx(values.std(axis=(0, 2, 3)))


def test_a_constant_channel_has_a_positive_std() -> None:
    moments = PosteriorMoments()
    moments.add(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))
    assert moments.std() == [pytest.approx(1e-6)]
