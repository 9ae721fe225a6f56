"""Masked denoising error, compared with a loop over samples and frames."""

import torch

from echodream.losses.denoising import mean_squared_errors


def test_images_and_clips_without_a_mask() -> None:
    torch.manual_seed(0)
    for shape in [(2, 4, 5, 7), (2, 4, 3, 5, 7)]:
        a, b = torch.randn(shape), torch.randn(shape)
        expected = [((a[k] - b[k]) ** 2).mean() for k in range(2)]
        torch.testing.assert_close(mean_squared_errors(a, b), torch.stack(expected))


def test_only_real_frames_count_and_short_clips_weigh_as_much() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(3, 4, 6, 5, 7), torch.randn(3, 4, 6, 5, 7)
    lengths = [6, 2, 1]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = torch.stack([((a[k, :, :n] - b[k, :, :n]) ** 2).mean() for k, n in enumerate(lengths)])
    torch.testing.assert_close(mean_squared_errors(a, b, mask), expected)
    b[1, :, 2:] += 100  # padded frames have no effect
    torch.testing.assert_close(mean_squared_errors(a, b, mask), expected)


def test_no_real_frame_is_no_error() -> None:
    a = torch.ones(2, 4, 3, 5, 7)
    assert mean_squared_errors(a, -a, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]
