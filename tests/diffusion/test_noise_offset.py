"""The optional noise offset of training: one random constant per row and channel, added to the noise."""

import torch

from echodream.diffusion.noise import add_noise_offset


def test_an_offset_moves_each_channel_of_each_row_as_a_whole() -> None:
    torch.manual_seed(0)
    noise = torch.randn(2000, 4, 3, 5, 7)
    moved = add_noise_offset(noise, 0.5) - noise
    assert torch.allclose(moved, moved[:, :, :1, :1, :1].expand_as(moved), atol=1e-6)
    own = moved[:, :, 0, 0, 0]
    assert abs(float(own.std()) - 0.5) < 0.02
    assert abs(float(own.mean())) < 0.03
    assert abs(float(torch.corrcoef(own.T)[0, 1])) < 0.06
    assert add_noise_offset(noise[:, :, 0], 0.5).shape == (2000, 4, 5, 7)


def test_without_an_offset_no_random_number_is_drawn() -> None:
    noise = torch.randn(2, 4, 3)
    before = torch.get_rng_state()
    assert add_noise_offset(noise, 0.0) is noise
    assert torch.equal(torch.get_rng_state(), before)
