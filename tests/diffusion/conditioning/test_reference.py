"""Reference frames, interpolated in time, compared with a loop over frames."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.diffusion.conditioning.class_id import ClassId
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.reference import Reference, interpolate_references, repeat_key_frames
from echodream.errors import UserError
from tests.support.conditions import REST, B, C, F, H, R, W, batch, conditioner, keep


def brute_force(latents: np.ndarray, times: np.ndarray, frames: int) -> np.ndarray:
    """Interpolated references of latents (C, R, H, W) at times (R,), frame by frame: (C + 3, F, H, W)."""
    channels, _, height, width = latents.shape
    made = np.zeros((channels + 3, frames, height, width), np.float32)
    for frame in range(frames):
        before = (
            max((time, number) for number, time in enumerate(times) if time <= frame) if min(times) <= frame else None
        )
        after = min((time, number) for number, time in enumerate(times) if time > frame) if max(times) > frame else None
        ends = [end for end in (before, after) if end is not None]
        if len(ends) == 2:
            share = (frame - ends[0][0]) / (ends[1][0] - ends[0][0])
            made[:channels, frame] = (1 - share) * latents[:, ends[0][1]] + share * latents[:, ends[1][1]]
        else:
            made[:channels, frame] = latents[:, ends[0][1]]
        d = min(abs(frame - time) for time in times)
        made[channels, frame] = math.exp(-d * d / 2)
        made[channels + 1, frame] = 1 if before is None else math.tanh((frame - before[0]) / 32)
        made[channels + 2, frame] = 1 if after is None else math.tanh((after[0] - frame) / 32)
    return made


def given(made: Conditioner, latents: Tensor, times: Tensor, frames: int, *names: str) -> Tensor:
    values = {"reference": latents, "reference_time": times}
    rest = torch.Size((frames, *latents.shape[-2:]))
    found = made(values, keep(made, len(latents), *(names or ("reference",))), rest).channels
    assert found is not None
    return found


@pytest.mark.parametrize("references", [1, 2, 3])
@pytest.mark.parametrize("low", [-40, 0, 9])
def test_reference_channels_against_a_loop_over_frames(references: int, low: int) -> None:
    made, frames = conditioner(reference=Reference()), 11
    rng = np.random.default_rng(references)
    for _ in range(20):
        times = rng.choice(np.arange(2 * low, 2 * low + 40) / 2, (B, references), replace=False).astype(np.float32)
        latents = rng.standard_normal((B, C, references, H, W)).astype(np.float32)
        found = given(made, torch.from_numpy(latents), torch.from_numpy(times), frames)
        assert found.shape == (B, made.extra_channels, frames, H, W)
        for row in range(B):
            truth = brute_force(latents[row], times[row], frames)
            assert np.allclose(found[row].detach().numpy(), truth, atol=1e-6), (times[row], low)


def test_the_reference_itself_is_marked_with_one_and_zero() -> None:
    made = conditioner(reference=Reference())
    latents = torch.randn(B, C, 1, H, W)
    found = given(made, latents, torch.tensor([[1.0], [2.0]]), F)
    for row, frame in enumerate((1, 2)):
        assert torch.equal(found[row, :C, frame], latents[row, :, 0])
        assert torch.equal(found[row, C, frame], torch.ones(H, W))
        assert torch.equal(found[row, C + 1, frame], torch.zeros(H, W))
    assert (found[0, C + 1, 0] == 1).all()  # there is no reference before frame 0
    assert 0 < found[0, C + 1, 2].min() < 1
    assert 0 < found[0, C + 2, 0].min() < 1
    assert (found[0, C + 2, 2] == 1).all()


@pytest.mark.parametrize("stride", [1, 3])
def test_a_window_sees_what_the_whole_video_sees_there(stride: int) -> None:
    """A window and the whole video have equal references. Times are multiples of 1 / stride, so that ties occur."""
    made, frames, window = conditioner(reference=Reference()), 30, 8
    rng = np.random.default_rng(stride)
    for _ in range(30):
        times = torch.from_numpy((rng.integers(-9, 99, (B, 4)) / stride).astype(np.float32))
        latents = torch.from_numpy(rng.standard_normal((B, C, 4, H, W)).astype(np.float32))
        whole = given(made, latents, times, frames)
        for start in (0, 1, 13, 22):
            part = given(made, latents, times - start, window)
            assert torch.allclose(part, whole[:, :, start : start + window], atol=1e-5)


def test_the_order_of_references_is_of_no_account() -> None:
    made = conditioner(reference=Reference())
    latents, times = torch.randn(B, C, 3, H, W), torch.tensor([[0.0, 4.0, 2.0], [6.0, 1.0, 5.0]])
    turn = torch.tensor([2, 0, 1])
    assert torch.equal(given(made, latents, times, 9), given(made, latents[:, :, turn], times[:, turn], 9))


# with equal sizes B = C = F = H = W, only the values show mixed-up axes
@pytest.mark.parametrize("size", [(F, H, W), (4, 4, 4)])
def test_a_dropped_reference_leaves_nothing_of_it(size: tuple[int, int, int]) -> None:
    made, count = conditioner(reference=Reference()), 4
    latents, times = torch.randn(count, C, 1, *size[1:]), torch.zeros(count, 1)
    rest = torch.Size(size)
    values = {"reference": latents, "reference_time": times}
    mask = torch.tensor([True, False, True, False])
    found = made(values, {"reference": mask}, rest).channels
    full = made(values, {"reference": torch.ones(4, dtype=torch.bool)}, rest).channels
    other = made(
        {"reference": latents + 1, "reference_time": times + 1}, {"reference": torch.zeros(4, dtype=torch.bool)}, rest
    ).channels
    assert torch.equal(found[mask], full[mask])
    assert torch.equal(found[~mask], other[~mask])
    null = made.conditions["reference"].null.detach()
    assert torch.equal(found[1, :C].detach(), null.expand(-1, *size))
    assert torch.equal(found[1, C:], torch.zeros(3, *size))
    assert null.std() > 0.1
    assert not torch.allclose(found[1, :C], full[1, :C], atol=0.1)
    found.sum().backward()
    assert made.conditions["reference"].null.grad.abs().min() > 0


def test_without_reference_frames_the_reference_is_null() -> None:
    made = conditioner(reference=Reference(), class_id=ClassId())
    values = made.encode_request({"class_id": [0, 1]})
    found = made(values, keep(made, 2, *made.names), REST).channels
    latents = {**values, "reference": torch.randn(2, C, R, H, W), "reference_time": torch.zeros(2, R)}
    assert torch.equal(found, made(latents, keep(made, 2), REST).channels)


def test_a_batch_without_references() -> None:
    made = conditioner(reference=Reference())
    without = batch()
    del without["reference"]
    with pytest.raises(UserError, match=r"conditioning=reference needs reference frames: give view=clips and"):
        made.encode_batch(without)


@pytest.mark.parametrize("references", [1, 2, 3])
@pytest.mark.parametrize("low", [-30, 0, 7])
def test_what_lies_between_references_against_numpy(references: int, low: int) -> None:
    rng = np.random.default_rng(references)
    times = rng.choice(np.arange(2 * low, 2 * low + 30) / 2, (B, references), replace=False).astype(np.float32)
    latents = rng.standard_normal((B, C, references, H, W)).astype(np.float32)
    found = interpolate_references(torch.from_numpy(latents), torch.from_numpy(times), 11)
    assert found.shape == (B, C, 11, H, W)
    for row in range(B):
        order = np.argsort(times[row])
        for place in np.ndindex(C, H, W):
            series = latents[row][place[0], order, place[1], place[2]]
            truth = np.interp(np.arange(11.0), times[row][order], series)
            assert np.allclose(found[row, place[0], :, place[1], place[2]], truth, atol=1e-4), (row, place)


def test_two_references_at_one_time_are_no_gap() -> None:
    assert torch.isfinite(interpolate_references(torch.randn(1, C, 2, H, W), torch.tensor([[3.0, 3.0]]), F)).all()


@pytest.mark.parametrize("first", [-50.0, -3.0, 0.0, 4.0, 30.0])
def test_a_beat_comes_again_before_and_after(first: float) -> None:
    """The key frames of a beat are repeated before and after the beat, so that the interpolation is periodic."""
    frames, lengths = 23, torch.tensor([7.0, 11.0])
    latents = torch.randn(2, C, 3, H, W)
    latents[:, :, 2] = latents[:, :, 0]
    times = torch.stack([lengths * 0, lengths - 4, lengths], dim=1) + first
    reference, time = repeat_key_frames(latents, times, frames)
    assert float(time.min()) <= 0
    assert float(time.max()) >= frames
    found = interpolate_references(reference, time, frames)
    for row, length in enumerate(lengths.tolist()):
        phase = np.mod(np.arange(frames) - first, length)
        for place in np.ndindex(C, H, W):
            series = latents[row][place[0], :, place[1], place[2]].numpy()
            truth = np.interp(phase, [0, length - 4, length], series)
            assert np.allclose(found[row, place[0], :, place[1], place[2]], truth, atol=1e-5)


def test_a_beat_that_covers_the_clip_is_given_as_it_is() -> None:
    latents, times = torch.randn(2, C, 3, H, W), torch.tensor([[0.0, 4.0, 12.0], [-1.0, 3.0, 15.0]])
    reference, time = repeat_key_frames(latents, times, 12)
    assert torch.equal(reference, latents)
    assert torch.equal(time, times)
