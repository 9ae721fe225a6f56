"""Generated copies (positive controls): each kind compared with its closed form, for any batch and order of rows."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from echodream.datamodules.augmentation import affine
from echodream.datamodules.key_frames import evenly_spaced_frames as evenly
from echodream.datamodules.recordings import Recordings, named_rng
from echodream.diffusion.model import DiffusionModel
from echodream.errors import UserError
from echodream.filtering import copy_generation
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection
from echodream.filtering.copy_generation import select_frames_by_patient as select_frames
from echodream.filtering.positive_controls import (
    Control,
    PixelTransform,
    PosteriorSample,
    SDEdit,
    describe_control,
    generate_copies,
)
from echodream.networks.decoder_noise import add_decoder_noise, set_noise_correlation
from tests.support import tiny_diffusion as tiny
from tests.support import tiny_filter
from tests.support.tiny_filter import MEAN, STD, TRAIN, C, H, Pair, W, plant, recordings, study
from tests.support.tiny_vae import activate_noise, tiny_autoencoder


@pytest.fixture
def copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyGenerator:
    plant(monkeypatch, tmp_path)
    return CopyGenerator(Recordings(study(tmp_path / "latents", std=0.25, marks=True), "TRAIN"), "vae")


def generated(
    copier: CopyGenerator, control: Any, selections: list[FrameSelection], name: str = "x"
) -> list[np.ndarray]:
    return [copy.numpy() for copy in generate_copies(copier, name, control, selections)]


def frames_of(copier: CopyGenerator, one: FrameSelection) -> np.ndarray:
    return recordings()[copier.recordings.names[one.row]][2][one.frames].astype(np.float64)


def intensity(latents: np.ndarray) -> np.ndarray:
    """Pixels of the stand-in autoencoder (latents / 10, clipped to [-1, 1]), scaled to [0, 1]."""
    return (np.clip(latents / 10, -1, 1) + 1) / 2


def test_a_draw_is_from_the_stored_posterior_and_a_function_of_seed_name_and_recording(
    copier: CopyGenerator,
) -> None:
    selections = list(select_frames(copier.recordings, 5, 0).values())
    drawn = generated(copier, PosteriorSample(), selections)
    noise = (
        np.concatenate([(copy - frames_of(copier, one)).ravel() for copy, one in zip(drawn, selections, strict=True)])
        / 0.25
    )
    assert noise.mean() == pytest.approx(0, abs=0.06)  # 5040 noise values
    assert noise.std() == pytest.approx(1, abs=0.04)
    for control in (PosteriorSample(), PixelTransform(gain=0.3, speckle=0.2)):
        drawn, backwards = (
            generated(copier, control, selections),
            generated(copier, control, selections[::-1])[::-1],
        )
        assert all(np.array_equal(a, b) for a, b in zip(drawn, backwards, strict=True))
        assert np.array_equal(drawn[4], generated(copier, control, selections[4:5])[0])
        assert not np.array_equal(drawn[0], generated(copier, control, selections, "other")[0])


def test_pixels_are_changed_by_the_declared_amount_one_way_or_the_other(copier: CopyGenerator) -> None:
    selections = list(select_frames(copier.recordings, 3, 0).values())
    for control, change in (
        (PixelTransform(gain=0.4), lambda x, sign: x * 1.4**sign),
        (PixelTransform(contrast=0.5), lambda x, sign: x ** (1.5**sign)),
    ):
        signs = []
        for copy, one in zip(generated(copier, control, selections), selections, strict=True):
            truths = [np.clip(change(intensity(frames_of(copier, one)), sign), 0, 1) * 20 - 10 for sign in (1, -1)]
            errors = [np.abs(copy - truth).max() for truth in truths]
            assert min(errors) < 1e-4
            signs.append(int(np.argmin(errors)))
        assert 2 <= sum(signs) <= TRAIN - 2
    one, frames = (
        selections[:1],
        torch.from_numpy(np.clip(frames_of(copier, selections[0]) / 10, -1, 1)).float().transpose(0, 1),
    )
    assert generated(copier, PixelTransform(), one)[0] == pytest.approx(frames.transpose(0, 1).numpy() * 10, abs=1e-5)
    assert generated(copier, PixelTransform(flip=True), one)[0] == pytest.approx(
        frames.transpose(0, 1).numpy()[..., ::-1] * 10, abs=1e-5
    )
    zoomed = affine(frames, zoom=1.25).transpose(0, 1).numpy() * 10
    assert generated(copier, PixelTransform(zoom=0.25), one)[0] == pytest.approx(zoomed, abs=1e-4)
    for control, truths in (
        (PixelTransform(shift=0.25), [affine(frames, (0.25 * a, 0.25 * b)) for a in (1, -1) for b in (1, -1)]),
        (PixelTransform(rotate=9.0), [affine(frames, degrees=9.0 * a) for a in (1, -1)]),
    ):
        copy = generated(copier, control, one)[0]
        assert min(np.abs(copy - truth.transpose(0, 1).numpy() * 10).max() for truth in truths) < 1e-4
    ratio = (
        intensity(generated(copier, PixelTransform(speckle=0.1), one)[0]) / intensity(frames_of(copier, selections[0]))
        - 1
    )
    assert 0.07 < ratio.std() < 0.13


@torch.no_grad()
def test_decoder_noise_differs_between_recordings_and_is_the_same_in_their_frames(
    copier: CopyGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = add_decoder_noise(tiny_autoencoder(), 2).eval()
    activate_noise(network)
    monkeypatch.setattr(copier, "vae", network)
    decoded: list[torch.Tensor] = []
    decode = copier.decode

    def record(latents: torch.Tensor, seeds: Sequence[int] = (), numbers: Sequence[int] = ()) -> torch.Tensor:
        decoded.append(decode(torch.zeros(len(latents), C, H, W), seeds, numbers))
        return decoded[-1]

    monkeypatch.setattr(copier, "decode", record)
    monkeypatch.setattr(copier, "encode", lambda pixels: (pixels, pixels))
    selections = list(select_frames(copier.recordings, 3, 0).values())[:2]
    generated(copier, PixelTransform(), selections)
    first, second = torch.cat(decoded).split([len(one.frames) for one in selections])
    for frames in (first, second):
        torch.testing.assert_close(frames, frames[:1].expand_as(frames))
    assert (first[0] - second[0]).abs().mean() > 0.01
    set_noise_correlation(network, 0.5)
    decoded.clear()
    generated(copier, PixelTransform(), selections)
    frames = decoded[0][: len(selections[0].frames)]
    assert all((frames[i] - frames[j]).abs().mean() > 0.01 for i, j in itertools.combinations(range(len(frames)), 2))


def test_copies_are_made_of_the_videos_frames_where_there_are_videos(copier: CopyGenerator) -> None:
    pixels = {
        name: np.random.default_rng(k).integers(0, 256, (12, H, W, 1), np.uint8)
        for k, name in enumerate(copier.recordings.names)
    }
    source = copier.recordings.store.dataset.settings.get("source")
    videos: Any = SimpleNamespace(checksum=source, root="v", frames=lambda name, frames: pixels[name][frames])
    with_videos = CopyGenerator(copier.recordings, "vae", videos=videos)
    with_videos.vae.config = SimpleNamespace(in_channels=C)
    one = list(select_frames(copier.recordings, 3, 0).values())[:1]
    own = pixels[copier.recordings.names[one[0].row]][one[0].frames, :, :, 0] / 127.5 - 1
    flipped = generated(with_videos, PixelTransform(flip=True), one)[0]
    assert flipped == pytest.approx(np.repeat(own[:, None, :, ::-1] * 10, C, axis=1), abs=1e-4)
    back = generated(with_videos, PixelTransform(), one)[0]  # without a transform, frames are decoded from the latents
    assert back == pytest.approx(generated(copier, PixelTransform(), one)[0])
    videos.checksum = "other"
    with pytest.raises(UserError, match=r"videos=v is not the origin of .*: give the store that was encoded, or null"):
        CopyGenerator(copier.recordings, "vae", videos=videos)


def test_a_range_of_one_value_copies_like_the_amount(copier: CopyGenerator) -> None:
    selections = list(select_frames(copier.recordings, 3, 0).values())
    for wide, fixed in (
        (PixelTransform(shift=(0.25, 0.25)), PixelTransform(shift=0.25)),
        (PixelTransform(zoom=(1.25, 1.25)), PixelTransform(zoom=0.25)),
        (PixelTransform(blur=(0.8, 0.8)), PixelTransform(blur=0.8)),
    ):
        pairs = zip(generated(copier, wide, selections), generated(copier, fixed, selections), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_each_patient_has_one_sample_of_a_range_whatever_the_batch(
    copier: CopyGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gain, computed from the copies, is equal in all frames of a patient and differs between patients."""
    selections = list(select_frames(copier.recordings, 3, 0).values())
    control = PixelTransform(gain=(-1.0, 0.0))  # negative gain: no pixel is clipped at white
    copies = generated(copier, control, selections)
    factors = []
    for copy, one in zip(copies, selections, strict=True):
        before = intensity(frames_of(copier, one))
        ratio = intensity(copy)[before > 0.05] / before[before > 0.05]
        assert ratio.std() < 1e-3
        factors.append(float(ratio.mean()))
    assert len({round(factor, 6) for factor in factors}) == TRAIN
    assert 0.5 <= min(factors) < 0.7 < max(factors) <= 1
    other = generated(copier, control, selections, "other")
    assert not any(np.array_equal(a, b) for a, b in zip(copies, other, strict=True))
    composed = PixelTransform(**COMPOSED)
    whole = [generated(copier, each, selections) for each in (control, composed)]
    for size in (1, 7):
        monkeypatch.setattr(copy_generation, "BATCH_FRAMES", size)
        for each, before in zip((control, composed), whole, strict=True):
            again = generated(copier, each, selections)
            assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))


COMPOSED: dict[str, Any] = {
    "count": [2, 4],
    "shift": (0, 0.1),
    "elastic": (0, 0.3),
    "jpeg": (10, 95),
    "blend": (0, 0.3),
    "interpolate": (0, 0.3),
    "flip": "any",
}


def test_blends_are_of_the_patient_and_of_another(copier: CopyGenerator) -> None:
    """Stand-in pixels are linear in the latents: ``blend`` and ``interpolate`` give (1 - w) x + w y.

    x is a frame of the patient, y a frame of another patient, w the weight in the configured range.
    """
    selections = list(select_frames(copier.recordings, 2, 0).values())
    tables = {name: (patient, frames.astype(np.float64)) for name, (patient, _, frames) in recordings().items()}
    for control in (PixelTransform(blend=(0.1, 0.3)), PixelTransform(interpolate=(0.1, 0.3))):
        weights, partners = [], set()
        for copy, one in zip(generated(copier, control, selections), selections, strict=True):
            x = np.clip(frames_of(copier, one), -10, 10)
            found = []
            for name, (patient, frames) in tables.items():
                for y in frames if patient != tables[copier.recordings.names[one.row]][0] else []:
                    difference = (np.clip(y, -10, 10) if control.blend else y) - x[0]
                    weight = float((difference * (copy[0] - x[0])).sum() / (difference**2).sum())
                    left = np.abs(copy[0] - x[0] - weight * difference).max()
                    found.append((left, weight, patient, name))
            left, weight, patient, name = min(found)
            assert left < 0.4  # tolerance: the other patient's frame is sampled from its posterior
            weights.append(weight)
            partners.add(name)
            assert patient < TRAIN
        assert 0.09 < min(weights) < 0.15
        assert 0.25 < max(weights) < 0.31
        assert len(partners) > 5


def test_selections_are_random_elements_of_lists_in_the_order_of_names(copier: CopyGenerator) -> None:
    """Selections equal random elements of sorted lists of recordings, without building such a list for each copy."""
    order = np.random.default_rng(0).permutation(len(copier.recordings))
    copier.recordings = rows = copier.recordings.select(order.tolist())
    patients = rows.table["PatientID"].to_numpy()
    assert len(rows) > len(set(patients)) > 3
    selections = select_frames(rows, 1, 5)
    assert [*selections] == sorted(set(patients))
    by_name = sorted(range(len(rows)), key=lambda row: rows.names[row])
    for patient, one in selections.items():
        own = [row for row in by_name if patients[row] == patient]
        assert one.row == own[int(named_rng(5, patient).integers(len(own)))]
        others = [row for row in by_name if patients[row] != patient]
        for seed in range(10):
            chosen = copier.select_other_patient(one, np.random.default_rng(seed))
            assert chosen.row == others[int(np.random.default_rng(seed).integers(len(others)))]


def test_a_blend_needs_two_patients(copier: CopyGenerator) -> None:
    rows = copier.recordings
    copier.recordings = rows.select([0, 1]) if len(set(rows.patient_numbers[:2])) == 1 else rows.select([0])
    with pytest.raises(UserError, match="one TRAIN patient only"):
        generated(copier, PixelTransform(blend=0.2), [FrameSelection(0, np.array([1]))])


def test_records_of_amounts_are_those_of_before() -> None:
    names = {"kind", "gain", "contrast", "speckle", "shift", "rotate", "zoom", "flip"}
    assert PixelTransform(shift=0.04).settings().keys() == names
    ranged = PixelTransform(blur=(0, 2), count=[1, 1]).settings()
    assert ranged.keys() == names | {"blur", "count"}
    assert describe_control("x", json.loads(json.dumps(ranged))) == "1 of these at random: blurred by 0 to 2 px"


def test_a_copy_is_drawn_from_the_posterior_of_the_changed_pixels(
    copier: CopyGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    selections = list(select_frames(copier.recordings, 5, 0).values())
    sharp = np.concatenate(generated(copier, PixelTransform(flip=True), selections))
    monkeypatch.setattr(Pair, "std", 0.5)
    noise = (np.concatenate(generated(copier, PixelTransform(flip=True), selections)) - sharp) / 0.5
    assert noise.std() == pytest.approx(1, abs=0.04)


def test_what_references_lack() -> None:
    places, selections = np.arange(9), FrameSelection(4, np.array([2, 6]))
    assert not PosteriorSample().excludes(selections, 4, places).any()
    assert np.flatnonzero(PosteriorSample("frames").excludes(selections, 4, places)).tolist() == [1, 2, 3, 5, 6, 7]
    assert not PosteriorSample("frames").excludes(selections, 5, places).any()
    assert PosteriorSample("recording").excludes(selections, 4, places).all()
    assert not PosteriorSample("recording").excludes(selections, 3, places).any()
    assert np.flatnonzero(PosteriorSample("frames").excludes(selections, 4, np.array([0, 4, 8]))).tolist() == []


def test_frames_are_picked_by_patient(copier: CopyGenerator) -> None:
    """Key frames of a beat, frames at a stride, or frames over the whole recording; for any order of rows."""
    rows = copier.recordings
    three = select_frames(rows, 3, 0)
    assert [*three] == [f"secret{number:02}" for number in range(TRAIN)]
    assert all(one.frames.tolist() == [1, 3, 5] for one in three.values())
    assert all(np.diff(one.frames).tolist() == [2, 2] for one in select_frames(rows, 3, 0, stride=2).values())
    starts = {int(one.frames[0]) for seed in range(9) for one in select_frames(rows, 3, seed, stride=2).values()}
    assert starts == set(range(5))  # nine frames: the last start is 4, with frames 4, 6 and 8
    long = select_frames(rows, 5, 0, stride=4)
    assert all(one.frames.tolist() == evenly(int(rows.frames[one.row]), 5).tolist() for one in long.values())
    single = [int(one.frames[0]) for seed in range(20) for one in select_frames(rows, 1, seed).values()]
    assert set(single) == set(range(9))
    chosen = {rows.names[select_frames(rows, 1, seed)["secret03"].row] for seed in range(20)}
    assert chosen == {"clip-03-0", "clip-03-1"}
    back = rows.select([*range(len(rows))][::-1])
    for patient, one in select_frames(back, 1, 5).items():
        same = select_frames(rows, 1, 5)[patient]
        assert (back.names[one.row], one.frames.tolist()) == (rows.names[same.row], same.frames.tolist())


def generator(kind: str, conditions: tuple[str, ...] = ("class_id",), **facts: Any) -> DiffusionModel:
    return tiny.model(kind, conditions, **{"encoder": tiny_filter.ENCODER, **facts})


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_the_generator_draws_on_from_the_noised_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    """SDEdit of key frames with the exact denoiser of N(m, s^2): m + s (x_t - a m) / sqrt(a^2 s^2 + sigma^2)."""
    plant(monkeypatch, tmp_path)
    rows, model = Recordings(study(tmp_path / "latents", marks=True), "TRAIN"), generator("lidm", (), frames=3)
    stands = tiny.Gaussian(lambda *_: torch.tensor(0.3), 0.8)
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, *given: stands(own, *given))
    copier = CopyGenerator(rows, "vae", model, steps=400)
    selections = list(select_frames(rows, 3, 0).values())
    found = np.stack(generated(copier, SDEdit(strength), selections))
    assert found.shape == (TRAIN, 3, C, H, W)
    assert len(stands.rows) == round(strength * 400)
    x_0, x = ((part - MEAN) / STD for part in (np.stack([frames_of(copier, one) for one in selections]), found))
    share = float(model.process.alphas_cumprod[min(999, round(strength * 1000))])  # type: ignore[attr-defined]
    a, sigma = share**0.5, (1 - share) ** 0.5
    size = (a**2 * 0.64 + sigma**2) ** 0.5
    noise = ((x - 0.3) * size / 0.8 - a * (x_0 - 0.3)) / sigma
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.06)
    assert np.corrcoef(noise.ravel(), x_0.ravel())[0, 1] == pytest.approx(0, abs=0.08)
    assert np.array_equal(found[5], generated(copier, SDEdit(strength), selections[5:6])[0])


def test_the_generator_is_told_the_patient_s_own_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions of a clip: the patient's class, and the key frames of the recording with their times in the clip."""
    store = tiny.latent_store(tmp_path / "latents", encoder=tiny_filter.ENCODER)
    plant(monkeypatch, tmp_path)
    rows = Recordings(store, "TRAIN")
    facts: dict[str, Any] = {"reference_times": (0.0, 2.0, 8.0), "beat_spread": 0.1}
    copier = CopyGenerator(rows, "vae", generator("lvdm", ("reference", "class_id"), **facts), steps=3)
    selections = list(select_frames(rows, 4, 0, stride=2).values())
    x, values = copier.clip_batch(selections, [np.random.default_rng(0) for _ in selections])
    assert x.shape == (len(selections), C, tiny.WINDOW, tiny.H, tiny.W)
    classes = rows.table["class_id"].iloc[[one.row for one in selections]].tolist()
    expected = copier.model.conditioner.encode_request({"class_id": classes})["class_id"]
    assert torch.equal(values["class_id"], expected)
    for number, one in enumerate(selections):
        frames = int(rows.frames[one.row])
        start = max(0, min(int(one.frames[0]), frames - tiny.WINDOW))
        assert values["reference_time"][number].tolist() == [0 - start, 2 - start, frames - 1 - start]
        mean = store.latents(rows.names[one.row])[0].float()
        reference = values["reference"][number].transpose(0, 1) * torch.tensor(STD) + torch.tensor(MEAN)
        # tolerance: references are sampled from the posterior
        assert (reference - mean[[0, 2, frames - 1]]).abs().max() < 0.125 * 5
    copied = generated(copier, SDEdit(0.3), selections)
    assert {copy.shape for copy in copied} == {(4, C, tiny.H, tiny.W)}


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path)
    rows = Recordings(study(tmp_path / "latents"), "TRAIN")
    selections = list(select_frames(rows, 1, 0).values())
    with pytest.raises(UserError, match="need generator="):
        generated(CopyGenerator(rows, "vae"), SDEdit(0.5), selections)
    with pytest.raises(UserError, match="samples 3 frames at once, and samples of src have 1"):
        generated(CopyGenerator(rows, "vae", generator("lidm", frames=3)), SDEdit(0.5), selections)
    with pytest.raises(UserError, match="latents of another autoencoder"):
        CopyGenerator(rows, "vae", tiny.model("lidm", ()))
    for strength in (0.0, 1.0, True):
        with pytest.raises(UserError, match="strength is"):
            SDEdit(strength)
    for name, wrong in {"gain": -0.1, "shift": 1.5, "rotate": float("nan"), "zoom": "0.1"}.items():
        with pytest.raises(UserError, match=f"^{name} is {wrong!r}"):
            PixelTransform(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave_out is"):
        PosteriorSample("everything")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("control", "amount", "description"),
    [
        (PosteriorSample(), "", "the same frames"),
        (PosteriorSample("frames"), "at least two frames away", "another frame of the recording"),
        (PosteriorSample("recording"), "in the patient's other recordings", "another recording of the patient"),
        (PixelTransform(), "", "through the autoencoder and back"),
        (PixelTransform(flip=True), "", "mirrored"),
        (PixelTransform(gain=0.3), "by 30 %", "brighter or darker by 30 %"),
        (PixelTransform(rotate=5.0), "by 5 degrees", "turned by 5°"),
        (PixelTransform(shift=0.04, flip=True), "with shift 4 %", "moved by 4 % of the side, mirrored"),
        (
            PixelTransform(rotate=2.5, zoom=0.1),
            "with rotate 2.5 degrees and zoom 10 %",
            "cut and enlarged by 10 %, turned by 2.5°",
        ),
        (
            PixelTransform(shift=(0.0, 0.1)),
            "uniform from 0 to 10 % of the side",
            "moved by 0 to 10 % of the side",
        ),
        (SDEdit(0.3), "from 30 % noise", "30 % noise added and removed by the generator (SDEdit)"),
    ],
)
def test_controls_in_words(control: Control, amount: str, description: str) -> None:
    assert control.amount == amount
    assert control.description == description
    assert describe_control("mine", control.settings()) == description


def test_a_control_that_is_not_known_is_described_by_its_name() -> None:
    assert describe_control("new_way", {}) == "new way"
    assert describe_control("weakest of all", {}) == "for each patient, the copy with the lowest score"
