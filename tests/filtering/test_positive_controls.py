"""Known copies: each kind against its closed form, whatever is made together with it, and what its references lack."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodream.datamodules.augmentation import affine
from echodream.datamodules.recordings import Recordings
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, pick, spread
from echodream.filtering.positive_controls import (
    Control,
    PixelTransform,
    PosteriorSample,
    SDEdit,
    copies,
    left_out,
    views,
)
from tests.support import tiny_diffusion as tiny
from tests.support import tiny_filter
from tests.support.tiny_filter import MEAN, STD, TRAIN, C, H, Pair, W, plant, recordings, study


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyGenerator:
    plant(monkeypatch, tmp_path)
    return CopyGenerator(Recordings(study(tmp_path / "latents", std=0.25, marks=True), "TRAIN"), "vae")


def made(shop: CopyGenerator, control: Any, taken: list[FrameSelection], name: str = "x") -> list[np.ndarray]:
    return [copy.numpy() for copy in copies(shop, name, control, taken)]


def frames_of(shop: CopyGenerator, one: FrameSelection) -> np.ndarray:
    return recordings()[shop.rows.names[one.row]][2][one.places].astype(np.float64)


def intensity(latents: np.ndarray) -> np.ndarray:
    """Of the pixels that the stand-in autoencoder makes, which are a tenth of the latents, cut at 1."""
    return (np.clip(latents / 10, -1, 1) + 1) / 2


def test_a_draw_is_from_the_stored_posterior_and_a_function_of_seed_name_and_recording(shop: CopyGenerator) -> None:
    taken = list(pick(shop.rows, 5, 0).values())
    drawn = made(shop, PosteriorSample(), taken)
    noise = (
        np.concatenate([(copy - frames_of(shop, one)).ravel() for copy, one in zip(drawn, taken, strict=True)]) / 0.25
    )
    assert noise.mean() == pytest.approx(0, abs=0.06)  # 5040 numbers
    assert noise.std() == pytest.approx(1, abs=0.04)
    for control in (PosteriorSample(), PixelTransform(gain=0.3, speckle=0.2)):
        drawn, backwards = made(shop, control, taken), made(shop, control, taken[::-1])[::-1]
        assert all(np.array_equal(a, b) for a, b in zip(drawn, backwards, strict=True))
        assert np.array_equal(drawn[4], made(shop, control, taken[4:5])[0])
        assert not np.array_equal(drawn[0], made(shop, control, taken, "other")[0])


def test_pixels_are_changed_by_the_declared_amount_one_way_or_the_other(shop: CopyGenerator) -> None:
    taken = list(pick(shop.rows, 3, 0).values())
    for control, change in (
        (PixelTransform(gain=0.4), lambda x, sign: x * 1.4**sign),
        (PixelTransform(contrast=0.5), lambda x, sign: x ** (1.5**sign)),
    ):
        signs = []
        for copy, one in zip(made(shop, control, taken), taken, strict=True):
            truths = [np.clip(change(intensity(frames_of(shop, one)), sign), 0, 1) * 20 - 10 for sign in (1, -1)]
            errors = [np.abs(copy - truth).max() for truth in truths]
            assert min(errors) < 1e-4
            signs.append(int(np.argmin(errors)))
        assert 2 <= sum(signs) <= TRAIN - 2
    one, frames = taken[:1], torch.from_numpy(np.clip(frames_of(shop, taken[0]) / 10, -1, 1)).float().transpose(0, 1)
    assert made(shop, PixelTransform(), one)[0] == pytest.approx(frames.transpose(0, 1).numpy() * 10, abs=1e-5)
    assert made(shop, PixelTransform(flip=True), one)[0] == pytest.approx(
        frames.transpose(0, 1).numpy()[..., ::-1] * 10, abs=1e-5
    )
    zoomed = affine(frames, zoom=1.25).transpose(0, 1).numpy() * 10
    assert made(shop, PixelTransform(zoom=0.25), one)[0] == pytest.approx(zoomed, abs=1e-4)
    for control, truths in (
        (PixelTransform(shift=0.25), [affine(frames, (0.25 * a, 0.25 * b)) for a in (1, -1) for b in (1, -1)]),
        (PixelTransform(rotate=9.0), [affine(frames, degrees=9.0 * a) for a in (1, -1)]),
    ):
        copy = made(shop, control, one)[0]
        assert min(np.abs(copy - truth.transpose(0, 1).numpy() * 10).max() for truth in truths) < 1e-4
    ratio = intensity(made(shop, PixelTransform(speckle=0.1), one)[0]) / intensity(frames_of(shop, taken[0])) - 1
    assert 0.07 < ratio.std() < 0.13


def test_a_copy_is_drawn_from_the_posterior_of_the_changed_pixels(
    shop: CopyGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list(pick(shop.rows, 5, 0).values())
    sharp = np.concatenate(made(shop, PixelTransform(flip=True), taken))
    monkeypatch.setattr(Pair, "std", 0.5)
    noise = (np.concatenate(made(shop, PixelTransform(flip=True), taken)) - sharp) / 0.5
    assert noise.std() == pytest.approx(1, abs=0.04)


def test_what_references_lack() -> None:
    places, taken = np.arange(9), FrameSelection(4, np.array([2, 6]))
    assert not left_out(PosteriorSample(), taken, 4, places).any()
    assert np.flatnonzero(left_out(PosteriorSample("frames"), taken, 4, places)).tolist() == [1, 2, 3, 5, 6, 7]
    assert not left_out(PosteriorSample("frames"), taken, 5, places).any()
    assert left_out(PosteriorSample("recording"), taken, 4, places).all()
    assert not left_out(PosteriorSample("recording"), taken, 3, places).any()
    assert np.flatnonzero(left_out(PosteriorSample("frames"), taken, 4, np.array([0, 4, 8]))).tolist() == []


def test_frames_are_picked_by_patient(shop: CopyGenerator) -> None:
    """Key frames of a beat, frames so far apart, or all over the recording; whatever the order of rows."""
    rows = shop.rows
    three = pick(rows, 3, 0)
    assert [*three] == [f"secret{number:02}" for number in range(TRAIN)]
    assert all(one.places.tolist() == [1, 3, 5] for one in three.values())
    assert all(np.diff(one.places).tolist() == [2, 2] for one in pick(rows, 3, 0, every=2).values())
    starts = {int(one.places[0]) for seed in range(9) for one in pick(rows, 3, seed, every=2).values()}
    assert starts == set(range(5))  # nine frames: 4 + 4 is the last
    long = pick(rows, 5, 0, every=4)
    assert all(one.places.tolist() == spread(int(rows.frames[one.row]), 5).tolist() for one in long.values())
    single = [int(one.places[0]) for seed in range(20) for one in pick(rows, 1, seed).values()]
    assert set(single) == set(range(9))
    chosen = {rows.names[pick(rows, 1, seed)["secret03"].row] for seed in range(20)}
    assert chosen == {"clip-03-0", "clip-03-1"}
    back = rows.select([*range(len(rows))][::-1])
    for patient, one in pick(back, 1, 5).items():
        same = pick(rows, 1, 5)[patient]
        assert (back.names[one.row], one.places.tolist()) == (rows.names[same.row], same.places.tolist())


def test_views_are_all_directions_of_a_change(shop: CopyGenerator) -> None:
    x = torch.from_numpy(recordings()["clip-05-0"][2][:2]).float()
    (flipped,) = views(shop, [PixelTransform(flip=True)], x)
    assert torch.allclose(flipped, x.clamp(-10, 10).flip(-1), atol=1e-5)
    shifted = views(shop, [PixelTransform(shift=0.1, gain=0.2)], x)
    assert len(shifted) == 8
    both = views(shop, [PixelTransform(flip=True), PixelTransform(shift=0.1, gain=0.2)], x)
    assert all(torch.equal(one, other) for one, other in zip(both, [flipped, *shifted], strict=True))
    assert len(views(shop, [PixelTransform()], x)) == 1
    assert views(shop, [], x) == []
    for control in (PosteriorSample(), PixelTransform(speckle=0.1), SDEdit(0.1)):
        with pytest.raises(UserError, match="without randomness"):
            views(shop, [control], x)


def generator(kind: str, conditions: tuple[str, ...] = ("class_id",), **facts: Any) -> DiffusionModel:
    return tiny.model(kind, conditions, **{"encoder": tiny_filter.ENCODER, **facts})


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_the_generator_draws_on_from_the_noised_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    """With the exact denoiser of N(m, s^2) the result is m + s (x_t - a m) / sqrt(a^2 s^2 + sigma^2), in key frames."""
    plant(monkeypatch, tmp_path)
    rows, model = Recordings(study(tmp_path / "latents", marks=True), "TRAIN"), generator("lidm", (), frames=3)
    stands = tiny.Gaussian(lambda *_: torch.tensor(0.3), 0.8)
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, *given: stands(own, *given))
    shop = CopyGenerator(rows, "vae", model, steps=400)
    taken = list(pick(rows, 3, 0).values())
    found = np.stack(made(shop, SDEdit(strength), taken))
    assert found.shape == (TRAIN, 3, C, H, W)
    assert len(stands.rows) == round(strength * 400)
    x_0, x = ((part - MEAN) / STD for part in (np.stack([frames_of(shop, one) for one in taken]), found))
    share = float(model.process.alphas_cumprod[min(999, round(strength * 1000))])  # type: ignore[attr-defined]
    a, sigma = share**0.5, (1 - share) ** 0.5
    size = (a**2 * 0.64 + sigma**2) ** 0.5
    noise = ((x - 0.3) * size / 0.8 - a * (x_0 - 0.3)) / sigma
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.06)
    assert np.corrcoef(noise.ravel(), x_0.ravel())[0, 1] == pytest.approx(0, abs=0.08)
    assert np.array_equal(found[5], made(shop, SDEdit(strength), taken[5:6])[0])


def test_the_generator_is_told_the_patient_s_own_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clips: its class, and the key frames of its beat at their times in the clip."""
    store = tiny.latent_store(tmp_path / "latents", encoder=tiny_filter.ENCODER)
    plant(monkeypatch, tmp_path)
    rows = Recordings(store, "TRAIN")
    facts: dict[str, Any] = {"reference_times": (0.0, 2.0, 8.0), "beat_spread": 0.1}
    shop = CopyGenerator(rows, "vae", generator("lvdm", ("reference", "class_id"), **facts), steps=3)
    taken = list(pick(rows, 4, 0, every=2).values())
    x, values = shop.clips(taken, [np.random.default_rng(0) for _ in taken])
    assert x.shape == (len(taken), C, tiny.WINDOW, tiny.H, tiny.W)
    classes = rows.table["class_id"].iloc[[one.row for one in taken]].tolist()
    expected = shop.model.conditioner.encode_request({"class_id": classes})["class_id"]
    assert torch.equal(values["class_id"], expected)
    for number, one in enumerate(taken):
        frames = int(rows.frames[one.row])
        start = max(0, min(int(one.places[0]), frames - tiny.WINDOW))
        assert values["reference_time"][number].tolist() == [0 - start, 2 - start, frames - 1 - start]
        mean = store.latents(rows.names[one.row])[0].float()
        reference = values["reference"][number].transpose(0, 1) * torch.tensor(STD) + torch.tensor(MEAN)
        assert (reference - mean[[0, 2, frames - 1]]).abs().max() < 0.125 * 5  # draws
    copied = made(shop, SDEdit(0.3), taken)
    assert {copy.shape for copy in copied} == {(4, C, tiny.H, tiny.W)}


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path)
    rows = Recordings(study(tmp_path / "latents"), "TRAIN")
    taken = list(pick(rows, 1, 0).values())
    with pytest.raises(UserError, match="need generator="):
        made(CopyGenerator(rows, "vae"), SDEdit(0.5), taken)
    with pytest.raises(UserError, match="draws 3 frames at once, and samples have 1"):
        made(CopyGenerator(rows, "vae", generator("lidm", frames=3)), SDEdit(0.5), taken)
    with pytest.raises(UserError, match="latents of another encoder"):
        CopyGenerator(rows, "vae", tiny.model("lidm", ()))
    for strength in (0.0, 1.0, True):
        with pytest.raises(UserError, match="strength is"):
            SDEdit(strength)
    for wrong in ({"gain": -0.1}, {"shift": 1.5}, {"rotate": float("nan")}):
        with pytest.raises(UserError, match=r"augment\."):
            PixelTransform(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave_out is"):
        PosteriorSample("everything")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (PosteriorSample(), ""),
        (PosteriorSample("frames"), "at least two frames away"),
        (PosteriorSample("recording"), "among the patient's others"),
        (PixelTransform(), ""),
        (PixelTransform(flip=True), ""),
        (PixelTransform(gain=0.3), "by 30 %"),
        (PixelTransform(rotate=5.0), "by 5 degrees"),
        (PixelTransform(shift=0.04, flip=True), "with shift 4 %"),
        (PixelTransform(rotate=2.5, zoom=0.1), "with rotate 2.5 degrees and zoom 10 %"),
        (SDEdit(0.3), "from 30 % noise"),
    ],
)
def test_amounts_are_told_in_words(control: Control, words: str) -> None:
    assert control.amount == words
