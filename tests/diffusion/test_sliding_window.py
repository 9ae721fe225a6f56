"""Sliding windows over clips of any length: positions, blending, and equal results for any batch of windows."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from echodream.diffusion import sliding_window as windows
from echodream.diffusion.processes.ddpm import DDPM
from echodream.diffusion.sliding_window import blend_windows, sliding_window_denoiser, window_starts
from echodream.errors import UserError
from tests.support.gaussians import PROCESSES, C, H, W, exact, generators, normal

LAYOUTS = [(1, 0), (2, 0), (2, 1), (4, 1), (4, 3), (8, 4), (9, 5), (16, 0), (16, 8), (64, 32), (64, 16)]


@pytest.mark.parametrize(("window", "overlap"), LAYOUTS)
def test_windows_cover_every_frame_and_end_with_the_last(window: int, overlap: int) -> None:
    for frames in range(1, 71):
        found = window_starts(frames, window, overlap)
        assert found[0] == 0
        if frames <= window:
            assert found == [0]
            continue
        assert found[-1] + window == frames
        gaps = [after - before for before, after in itertools.pairwise(found)]
        assert all(1 <= gap <= window - overlap for gap in gaps)  # neighboring windows share at least `overlap` frames
        assert max(gaps) - min(gaps) <= 1
        fewest = -(-(frames - window) // (window - overlap)) + 1
        assert len(found) == fewest


def test_windows_by_hand() -> None:
    assert window_starts(192, 64, 32) == [0, 32, 64, 96, 128]
    assert window_starts(100, 64, 32) == [0, 18, 36]
    assert window_starts(65, 64, 32) == [0, 1]
    assert window_starts(10, 4, 0) == [0, 3, 6]


def cut(x: Tensor, firsts: list[int], window: int) -> Tensor:
    return torch.stack([x[:, :, first : first + window] for first in firsts])


def shares(firsts: list[int], window: int, frames: int) -> Tensor:
    """Weight of each window at each frame, (windows, frames): blended windows, one of ones and the others of zeros."""
    units = torch.eye(len(firsts)).view(len(firsts), 1, -1, 1).expand(-1, -1, -1, window)  # one channel per window
    return blend_windows(units, firsts, frames)[0]


@pytest.mark.parametrize(("window", "overlap"), LAYOUTS)
def test_windows_that_agree_come_back_exactly(window: int, overlap: int) -> None:
    for frames in (1, 5, 17, 64, 65, 70):
        x = normal(2, C, frames, H, W)
        firsts = window_starts(frames, window, overlap)
        assert torch.equal(blend_windows(cut(x, firsts, min(window, frames)), firsts, frames), x)


@pytest.mark.parametrize(("window", "overlap"), LAYOUTS)
def test_weights_are_positive_and_sum_to_one(window: int, overlap: int) -> None:
    for frames in (1, 5, 17, 64, 65, 70):
        firsts, size = window_starts(frames, window, overlap), min(window, frames)
        found = shares(firsts, size, frames)
        torch.testing.assert_close(found.sum(0), torch.ones(frames))
        for first, row in zip(firsts, found, strict=True):
            assert (row[first : first + size] > 0).all()
            assert row.count_nonzero() == size


def test_two_windows_are_cross_faded_linearly() -> None:
    """Two windows share four frames: the second window has weights 1/5, 2/5, 3/5 and 4/5."""
    found = shares([0, 6], 10, 16)
    torch.testing.assert_close(found[1], torch.tensor([0.0] * 6 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 6))


def test_blending_is_the_weighted_mean_written_out() -> None:
    firsts, window, frames = window_starts(23, 9, 5), 9, 23
    parts = normal(len(firsts), 2, C, window, H, W)
    top, bottom = torch.zeros(2, C, frames, H, W, dtype=torch.float64), torch.zeros(frames, dtype=torch.float64)
    for part, first in zip(parts.double(), firsts, strict=True):
        for place in range(window):
            weight = min(place + 1, window - place)
            top[:, :, first + place] += weight * part[:, :, place]
            bottom[first + place] += weight
    torch.testing.assert_close(
        blend_windows(parts, firsts, frames).double(), top / bottom.view(-1, 1, 1), rtol=1e-5, atol=1e-5
    )


def largest_step(frames: int, window: int, overlap: int) -> float:
    """Largest difference of consecutive frames if the prediction of window n is the constant n."""
    order = window_starts(frames, window, overlap)

    def denoise_at(x: Tensor, t: Tensor, firsts: list[int]) -> Tensor:
        numbers = torch.tensor([float(order.index(first)) for first in firsts])
        return numbers.repeat_interleave(len(x) // len(firsts)).view(-1, 1, 1).expand_as(x)

    found = windows.sliding_window_denoiser(denoise_at, frames, window, overlap, 99)(
        torch.zeros(2, C, frames), torch.zeros(2)
    )
    return found.diff(dim=2).abs().max().item()


def test_windows_that_differ_are_joined_without_a_seam() -> None:
    """Constant windows n and n + 1 share 8 frames: steps of 1/9, or of 2/9 where two overlaps meet."""
    assert largest_step(40, 16, 8) <= 2 / 9 + 1e-6


@pytest.mark.parametrize(("name", "sampler"), [("ddpm-v", "dpmpp_2m"), ("ddpm-sample", "ddpm"), ("flow", "heun")])
@pytest.mark.parametrize("frames", [3, 8, 9, 21])
def test_windows_change_nothing_where_frames_do_not_look_at_each_other(name: str, sampler: str, frames: int) -> None:
    process, noise = PROCESSES[name], normal(2, C, frames, H, W)
    denoise = exact(process)
    whole = process.sample(denoise, noise, 10, sampler, generators(2))
    parts = sliding_window_denoiser(lambda x, t, firsts: denoise(x, t), frames, 8, 3, 2)
    torch.testing.assert_close(process.sample(parts, noise, 10, sampler, generators(2)), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_any_batch_gives_the_same_and_rows_are_in_their_order(batch: int) -> None:
    """The denoiser gets the start of each window and the time of each row; window n of clip b is row n * B + b."""
    frames, window, overlap = 21, 8, 3
    firsts = window_starts(frames, window, overlap)
    x, t = normal(2, C, frames, H, W), torch.tensor([3.0, 5.0])
    calls: list[list[int]] = []

    def denoise_at(windows: Tensor, times: Tensor, some: list[int]) -> Tensor:
        calls.append(some)
        assert len(windows) == len(times) == 2 * len(some)
        for index, first in enumerate(some):
            assert torch.equal(windows[2 * index : 2 * index + 2], x[:, :, first : first + window])
        place = torch.tensor(some).repeat_interleave(2)
        return windows * (times + place).view(-1, 1, 1, 1, 1)

    found = sliding_window_denoiser(denoise_at, frames, window, overlap, batch)(x, t)
    parts = torch.stack([x[:, :, at : at + window] * (t + at).view(-1, 1, 1, 1, 1) for at in firsts])
    assert torch.equal(found, blend_windows(parts, firsts, frames))
    assert [first for call in calls for first in call] == firsts
    assert all(len(call) <= batch for call in calls)
    assert len(calls) == -(-len(firsts) // batch)


def test_a_short_clip_is_one_window_of_its_own_length() -> None:
    x = normal(2, C, 5, H, W)
    found = sliding_window_denoiser(lambda windows, t, firsts: windows + len(firsts), 5, 8, 3, 4)(x, torch.zeros(2))
    assert torch.equal(found, x + 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 8, 3), "frames is 0: give a whole number from 1"),
        ((10, 0, 0), "window is 0: .* from 1"),
        ((10, 8, -1), "overlap is -1: .* from 0"),
        ((10, 8, 8), "overlap=8 is too large for window=8: give less"),
        ((10, 8, 2.5), "overlap is 2.5"),
        ((True, 8, 2), "frames is true"),
    ],
)
def test_what_windows_cannot_be(values: tuple[int, int, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        window_starts(*values)
    with pytest.raises(UserError, match=words):
        sliding_window_denoiser(lambda x, t, firsts: x, *values, batch=4)


def counted(most: int, calls: list[int]) -> windows.DenoiseWindows:
    """Denoiser that raises an out-of-memory error for more than ``most`` windows at once."""

    def denoise_at(x: Tensor, t: Tensor, firsts: list[int]) -> Tensor:
        calls.append(len(firsts))
        if len(firsts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * torch.tensor(firsts).repeat_interleave(len(t) // len(firsts)).view(-1, 1, 1, 1, 1)

    return denoise_at


def test_all_windows_of_a_clip_are_one_call() -> None:
    x, t, calls = normal(2, C, 24, H, W), torch.zeros(2), list[int]()
    truth = sliding_window_denoiser(counted(9, []), 24, 8, 4, 1)(x, t)
    for batch in ("all", "auto"):
        assert torch.equal(sliding_window_denoiser(counted(9, calls), 24, 8, 4, batch)(x, t), truth)
    assert calls == [5, 5]


def test_auto_takes_fewer_windows_after_the_memory_was_not_sufficient() -> None:
    """After an out-of-memory error, this call and all later calls use fewer windows at once, with equal results."""
    x, t, calls = normal(2, C, 24, H, W), torch.zeros(2), list[int]()
    truth = sliding_window_denoiser(counted(9, []), 24, 8, 4, 1)(x, t)
    denoise = sliding_window_denoiser(counted(2, calls), 24, 8, 4, "auto")
    assert torch.equal(denoise(x, t), truth)
    assert calls == [5, 3, 2, 2, 1]
    assert torch.equal(denoise(x, t), truth)
    assert calls[5:] == [2, 2, 1]


@pytest.mark.parametrize(("batch", "most"), [("auto", 0), ("all", 2), (5, 2)])
def test_too_little_memory_is_an_error_for_one_window_and_for_a_given_number(batch: int | str, most: int) -> None:
    denoise = sliding_window_denoiser(counted(most, []), 24, 8, 4, batch)
    with pytest.raises(torch.OutOfMemoryError):
        denoise(normal(2, C, 24, H, W), torch.zeros(2))


@pytest.mark.parametrize(("device", "expected"), [("cpu", [6, 6]), ("meta", [12])])
def test_auto_limits_the_windows_on_a_cpu_only(device: str, expected: list[int]) -> None:
    calls: list[int] = []

    def denoise_at(x: Tensor, t: Tensor, firsts: list[int]) -> Tensor:
        calls.append(len(firsts))
        return x

    x, t = normal(1, C, 52, H, W).to(device), torch.zeros(1)
    assert sliding_window_denoiser(denoise_at, 52, 8, 4, "auto")(x, t).shape == x.shape
    assert calls == expected


@pytest.mark.parametrize("batch", ["some", None, True, 1.5])
def test_another_number_of_windows_is_refused(batch: Any) -> None:
    with pytest.raises(UserError, match=r"^batch is .*: give a whole number from 1, .* or all or auto$"):
        sliding_window_denoiser(lambda x, t, firsts: x, 10, 8, 3, batch)


def test_no_window_at_once_is_refused() -> None:
    with pytest.raises(UserError, match="batch is 0"):
        sliding_window_denoiser(lambda x, t, firsts: x, 10, 8, 3, 0)


def test_a_clip_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="20 frames instead of 21"):
        sliding_window_denoiser(lambda x, t, firsts: x, 21, 8, 3, 2)(normal(1, C, 20, H, W), torch.zeros(1))


def test_windows_work_in_every_step_of_a_process() -> None:
    """Ten steps, five windows, two windows at once: three network calls per step."""
    calls = 0

    def denoise_at(x: Tensor, t: Tensor, firsts: list[int]) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    DDPM().sample(sliding_window_denoiser(denoise_at, 24, 8, 4, 2), normal(1, C, 24, 2, 2), 10)
    assert calls == 30
