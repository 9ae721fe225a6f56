"""Membership inference: memorization is found, no false alarm without memorization, and errors match definitions."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.auditing.membership_inference import (
    DenoisingErrors,
    MembershipConfig,
    _rows_of_patient,
    denoising_errors,
    load_generator,
    membership_measures,
)
from echodream.auditing.record import group_difference
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.recordings import select_recordings
from echodream.datamodules.views import Clips, Frames, Triplet, View
from echodream.diffusion.model import DiffusionModel
from echodream.diffusion.processes.ddpm import DDPM
from echodream.errors import UserError
from echodream.privacy.attacks.gaussian_denoiser import GaussianDenoiser
from echodream.store import Statistics, Store
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS
from tests.support.audit_study import (
    ENCODER,
    HELD,
    MEAN,
    STD,
    TRAIN,
    Restorer,
    audit,
    generator,
    networks,
    samples,
    strangers,
    study,
)
from tests.support.tiny_diffusion import STATISTICS, C, model

CONFIG = MembershipConfig(samples=2, levels=3, noises=2, batch=5)
KINDS: dict[str, tuple[str, int, tuple[str, ...], View]] = {
    "frames": ("lidm", 1, ("class_id",), Frames(per_recording=1, posterior="mean")),
    "key frames": ("lidm", 3, ("class_id",), Triplet(posterior="mean")),
    "clips": (
        "lvdm",
        4,
        ("reference", "class_id"),
        Clips(frames=4, reference="random", references=2, posterior="mean"),
    ),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return study(tmp_path_factory.mktemp("attack") / "real")


def known(real: Store) -> Tensor:
    """All frames of training patients, normalized by MEAN and STD."""
    names = real.table["FileName"][real.table["Split"] == "TRAIN"]
    return torch.cat([(real.latents(name)[0].double() - torch.tensor(MEAN)) / torch.tensor(STD) for name in names])


def attacked(real: Store, kind: str, frames: Tensor | None, seed: int = 0, **facts: Any) -> tuple[Any, Restorer]:
    name, count, conditions, view = KINDS[kind]
    made = model(name, conditions, frames=count, encoder=ENCODER)
    made.metadata = replace(made.metadata, **facts)
    restorer = Restorer(frames)
    made.forward = lambda *given: restorer(made, *given)  # type: ignore[method-assign]
    sides = [select_recordings(real, splits, "real") for splits in (["TRAIN"], ["TEST", "VAL"])]
    return denoising_errors(made, view, sides[0], sides[1], CONFIG, seed), restorer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_remembers_is_found(real: Store, kind: str) -> None:
    errors, _ = attacked(real, kind, known(real))
    found = list(membership_measures(errors, model("lidm"), 0))
    assert found[0].value.value > 0.95
    assert found[0].value.low >= 0.025 ** (1 / HELD) - 1e-9  # lower end of the exact interval for an AUC of 1
    assert found[0].stands_out
    assert found[1].value.value > 0.8
    assert (found[0].details["members"], found[0].details["others"]) == (TRAIN, HELD)
    assert all(level["value"] > 0.9 for level in found[0].details["auc by noise level"][:1])
    means = found[0].details["error by noise level"]
    assert means["members"][0] < 0.1 * means["others"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_remembers_nobody_is_not(real: Store, kind: str) -> None:
    errors, _ = attacked(real, kind, None)
    found = list(membership_measures(errors, model("lidm"), 0))
    assert found[0].value.low < 0.5 < found[0].value.high
    assert not found[0].stands_out
    assert not found[1].stands_out
    assert "too few for 1 %" in found[1].means
    assert found[1].details == {"resolved": False}


def test_the_control_never_saw_the_patient(real: Store) -> None:
    """The control, by hand: expected errors of a denoiser fitted to the training patients of the other folds."""
    name, count, conditions, view = KINDS["frames"]
    sides = [select_recordings(real, splits, "real") for splits in (["TRAIN"], ["TEST", "VAL"])]
    made = model(name, conditions, frames=count, encoder=ENCODER)
    seen: list[tuple[list[str], Tensor]] = []
    errors, _ = attacked(real, "frames", None)
    for side in sides:
        rows = np.concatenate([_rows_of_patient(side, patient, 2, 0) for patient in np.unique(side.patient_numbers)])
        records = side.select(rows.tolist())
        samples = ViewDataset(records, view, 0, made.conditioner.columns)
        x = torch.stack([samples[number]["x"] for number in range(len(samples))]).flatten(1)
        seen.append((records.table["PatientID"].tolist(), x))
    members, others = (np.random.default_rng([0, 3]).permutation(side) % 5 for side in (TRAIN, HELD))
    folds = np.repeat(np.concatenate([members, others]), 2)
    assert errors.patients == [*seen[0][0], *seen[1][0]]
    everyone, snr = torch.cat([x for _, x in seen]), made.process.log_snr(made.process.log_snr_times(3)).exp()
    for row in (0, 17, 59, 60, 107):
        others_of_training = seen[0][1][np.flatnonzero(folds[: 2 * TRAIN] != folds[row])]
        assert len(others_of_training) == 2 * TRAIN * 4 // 5
        expected = GaussianDenoiser(others_of_training).expected_errors(everyone[row : row + 1], snr)
        assert errors.control[row] == pytest.approx(expected[0].numpy(), rel=1e-3)
    with pytest.raises(UserError, match="two or more patients in training"):
        denoising_errors(made, view, sides[0].select([0]), sides[1], CONFIG, 0)


def test_groups_that_differ_are_named_and_are_no_finding(real: Store) -> None:
    """Training patients are easier to denoise than new patients: the difference is reported, but is no finding."""
    generator, member = np.random.default_rng(0), np.arange(90) < 50
    difficulty = generator.lognormal(-0.5 * member, 0.4)[:, None] * [1.0, 2.0]
    values = 0.5 * difficulty + 0.05 * generator.normal(size=(90, 2))
    names = [f"p{number:02}" for number in range(90)]
    made = model("lidm")
    for remembered in (0.0, 0.6):
        errors = DenoisingErrors(values - remembered * member[:, None], difficulty, member, names, [0.3, 0.6])
        found = next(membership_measures(errors, made, 0))
        assert found.details["groups differ"]
        assert found.details["control"]["low"] > 0.5
        assert found.details["auc"]["low"] > 0.5  # AUC without calibration by difficulty
        assert found.stands_out == (remembered > 0)
        sentence = group_difference([asdict(found)])
        assert sentence.startswith("Training and new patients differ by themselves")
        assert "membership inference (lidm), AUC" in sentence
    assert group_difference([asdict(replace(found, details={"groups differ": False}))]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_patients_are_attacked_with_equally_many_records(real: Store, kind: str) -> None:
    errors, _ = attacked(real, kind, None)
    assert errors.values.shape == errors.control.shape == (2 * (TRAIN + HELD), 3)
    assert errors.member.sum() == 2 * TRAIN
    members = {name for name, inside in zip(errors.patients, errors.member, strict=True) if inside}
    others = set(errors.patients) - members
    assert (len(members), len(others)) == (TRAIN, HELD)
    splits = dict(zip(real.table["PatientID"], real.table["Split"], strict=True))
    assert {splits[name] for name in members} == {"TRAIN"}
    assert {splits[name] for name in others} == {"TEST", "VAL"}
    assert all(errors.patients.count(name) == 2 for name in members | others)
    times = (torch.tensor(errors.levels) * 1000).round().long() - 1
    assert torch.logit(DDPM().alphas_cumprod[times]).tolist() == pytest.approx([8 / 3, 0, -8 / 3], abs=0.03)
    again, _ = attacked(real, kind, None)
    assert (again.values == errors.values).all()
    assert (attacked(real, kind, None, seed=1)[0].values != errors.values).any()


def everyone(real: Store) -> Tensor:
    """All frames of the study, normalized by MEAN and STD."""
    names = real.table["FileName"]
    return torch.cat([(real.latents(name)[0].double() - torch.tensor(MEAN)) / torch.tensor(STD) for name in names])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_noise_is_the_same_for_all_patients_and_errors_are_means_of_squares(
    real: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors computed by hand from the recorded data and noise: the target is v = a noise - s x_0, the prediction 0.

    The denoiser receives each batch of 5 recordings 6 times: 3 noise levels with 2 noise samples each. The recordings
    of a patient alternate (0, 1, 0, 1, ...); recording 0 of all patients has the same noise, and so has recording 1.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    corrupt = DDPM.corrupt

    def watched(own: DDPM, x_0: Tensor, t: Tensor, noise: Tensor) -> Any:
        seen.append((x_0.double(), t, noise.double()))
        return corrupt(own, x_0, t, noise)

    monkeypatch.setattr(DDPM, "corrupt", watched)
    errors, _ = attacked(real, kind, None)
    frames, shares = Restorer(everyone(real)), DDPM().alphas_cumprod.double()
    made, row = np.zeros((len(errors.values), 3, 2)), 0
    noises: dict[tuple[int, int], list[Tensor]] = {}
    for start in range(0, len(seen), 6):
        for place, (x_0, t, noise) in enumerate(seen[start : start + 6]):
            assert torch.allclose(x_0, frames._nearest(x_0), atol=1e-3)  # the data are posterior means of real frames
            a, s = shares[t[0]].sqrt(), (1 - shares[t[0]]).sqrt()
            made[row : row + len(x_0), place // 2, place % 2] = (a * noise - s * x_0).square().flatten(1).mean(dim=1)
            for number in range(len(x_0)):
                noises.setdefault((place, (row + number) % 2), []).append(noise[number])
        row += len(x_0)
    assert errors.values == pytest.approx(made.mean(axis=2), abs=1e-4)
    assert len(noises) == 12
    assert all(
        len(same) == TRAIN + HELD and all(torch.equal(same[0], each) for each in same) for same in noises.values()
    )
    drawn = torch.stack([same[0] for same in noises.values()]).flatten(1)
    assert drawn.std() == pytest.approx(1, abs=0.1)
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.6


def test_noise_of_clips_is_shared_as_in_training(real: Store) -> None:
    """With shared_noise=.9, the noise of two frames of a clip correlates by .9; images have no shared noise."""
    _, restorer = attacked(real, "clips", None, shared_noise=0.9)
    x_t, t = restorer.shown[4]  # the highest noise level: x_t is almost pure noise
    assert t[0] > 500
    between = torch.corrcoef(x_t.transpose(1, 2).flatten(2)[0])
    assert between[0, 1:].mean() == pytest.approx(0.9, abs=0.1)


def test_latents_are_whitened_as_the_generator_knows_them(real: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Statistics(tuple(value + 1 for value in STATISTICS.mean), tuple(2 * value for value in STATISTICS.std))
    seen: list[Tensor] = []
    corrupt = DDPM.corrupt
    monkeypatch.setattr(DDPM, "corrupt", lambda own, x, t, noise: seen.append(x) or corrupt(own, x, t, noise))
    _, plain = attacked(real, "frames", None)
    first, count = seen[0], len(seen)
    attacked(real, "frames", None, statistics=other)
    std = torch.tensor(STATISTICS.std).view(1, C, 1, 1)
    assert torch.allclose(seen[count], first / 2 - 0.5 / std, atol=1e-5)
    assert len(plain.shown) == count


@pytest.mark.slow
def test_what_a_clip_adds_to_its_references_is_attacked_where_that_is_drawn(
    real: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With references at both ends, the attack uses the residual from the line between the references, divided by the
    spread of each channel.
    """
    monkeypatch.setitem(
        KINDS, "ends", (*KINDS["clips"][:3], Clips(frames=4, reference="even", references=2, posterior="mean"))
    )
    seen: list[Tensor] = []
    corrupt = DDPM.corrupt
    monkeypatch.setattr(DDPM, "corrupt", lambda own, x, t, noise: seen.append(x) or corrupt(own, x, t, noise))
    attacked(real, "ends", None)
    x, count = seen[0], len(seen)
    spread = (0.5, 2.0, 3.0)
    attacked(real, "ends", None, residual=spread)
    share = torch.linspace(0, 1, 4).view(4, 1, 1)
    line = x[:, :, :1] * (1 - share) + x[:, :, -1:] * share
    assert torch.allclose(seen[count], (x - line) / torch.tensor(spread).view(-1, 1, 1, 1), atol=1e-4)


@pytest.mark.slow
def test_key_frames_come_again_in_every_beat(real: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        KINDS, "beats", (*KINDS["clips"][:3], Clips(frames=4, reference="keyframes", references=3, posterior="mean"))
    )
    _, plain = attacked(real, "beats", None)
    _, again = attacked(real, "beats", None, beat_spread=0.1, reference_times=(0.0, 2.0, 6.0))
    assert plain.told[0]["reference_time"].shape[1] == 3
    times = again.told[0]["reference_time"]
    assert times.shape[1] > 3
    assert again.told[0]["reference"].shape[2] == times.shape[1]
    assert (times.min(dim=1).values <= 0).all()
    assert (times.max(dim=1).values >= 3).all()


def test_other_sizes_are_refused(real: Store) -> None:
    with pytest.raises(UserError, match="give the lidm or lvdm that was trained on real="):
        attacked(real, "frames", None, height=8)


VIEWS = {
    "Frames": ("Frames, per_recording: null, held_out: 2, posterior: sample", Frames),
    "Triplet": ("Triplet, per_recording: 3, beat: random, posterior: sample", Triplet),
    "Clips": ("Clips, frames: 4, stride: 2, reference: keyframes, references: 3", Clips),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_generator_is_attacked_in_the_view_it_was_trained_on(tmp_path: Path, view: str) -> None:
    text, kind = VIEWS[view]
    name = "lvdm" if view == "Clips" else "lidm"
    conditions = ("reference", "class_id") if view == "Clips" else ("class_id",)
    made = model(name, conditions, frames={"Frames": 1, "Triplet": 3, "Clips": 4}[view], encoder=ENCODER)
    found, seen = load_generator(str(generator(tmp_path / name, made, name, text)))
    assert type(seen) is kind
    assert (seen.per_recording, seen.posterior) == (1, "mean")  # type: ignore[attr-defined]
    assert found.fingerprint() == made.fingerprint()
    if isinstance(seen, Clips):
        assert (seen.frames, seen.stride, seen.reference) == (4, 2, "keyframes")


@pytest.mark.parametrize("view", ["Recordings", "Frames, unheard: 3", "Triplet, beat: late"])
def test_a_view_that_is_none_is_refused_and_never_imported(tmp_path: Path, view: str) -> None:
    made = model("lidm", encoder=ENCODER)
    with pytest.raises(UserError, match=r"training.yaml does not record|view.beat"):
        load_generator(str(generator(tmp_path / "lidm", made, "lidm", view)))


@pytest.mark.slow
def test_the_stage_attacks_the_generator_that_drew_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of key frames, attacked with more training patients than held-out patients."""
    real = study(tmp_path / "real")
    networks(tmp_path)
    made = model("lidm", frames=3, encoder=ENCODER)
    generator(tmp_path / "lidm", made, "lidm", "Triplet")
    samples(tmp_path / "samples", strangers, frames=3, settings={"model": made.fingerprint()})
    samples(tmp_path / "drawn-by-another", strangers, frames=3, settings={"model": "ab" * 32})
    restorer = Restorer(known(real))
    monkeypatch.setattr(DiffusionModel, "forward", lambda own, *given: restorer(own, *given))
    overrides = [f"generator={tmp_path}/lidm", "membership.samples=2", "membership.levels=2", "membership.noises=1"]
    overrides.append("plant=0")  # the network that memorizes cannot sample, so no copies are planted
    said = audit(tmp_path, *overrides)
    record = json.loads((tmp_path / "audit" / "audit.json").read_text())
    found = {measure["name"]: measure for measure in record["measures"]}["membership inference (lidm), AUC"]
    assert found["stands_out"]
    assert found["details"]["others"] == HELD < TRAIN
    assert "privacy" in said
    assert "membership inference (lidm), AUC" in said.splitlines()[-1]
    assert record["generator"] == made.fingerprint()
    assert (tmp_path / "audit" / "membership.png").is_file()
    assert (tmp_path / "audit" / "drift.png").is_file()  # drift over three key frames
    told = tmp_path / "lidm" / "artifact.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"source": "ab" * 32}))
    with pytest.raises(UserError, match=r"generator=.* was trained on another store than real="):
        audit(tmp_path, *overrides, f"dst={tmp_path}/of-another-split")
    own = file_sha256(tmp_path / "real" / CHECKSUMS)
    told.write_text(json.dumps(json.loads(told.read_text()) | {"source": own}))
    with pytest.raises(UserError, match=r"did not generate .*drawn-by-another"):
        audit(tmp_path, *overrides, f"src={tmp_path}/drawn-by-another", f"dst={tmp_path}/other")
    generator(tmp_path / "foreign", model("lidm", frames=3, encoder="12" * 32), "lidm", "Triplet")
    with pytest.raises(UserError, match=r"and real=.* have different autoencoders"):
        audit(tmp_path, f"generator={tmp_path}/foreign", f"dst={tmp_path}/other")
