"""Power of the audit: the smallest share of planted copies that is found, for measures that can detect copies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.auditing.embedding_sets import AuditSets, EmbeddingSet
from echodream.auditing.inputs import open_inputs
from echodream.auditing.leakage import leakage_measures
from echodream.auditing.planted_copies import KINDS, SHARES, copy_count, make_copies, measure_power, power_text
from echodream.auditing.record import measure_all
from tests.support.audit_study import ENCODER, generator, networks, samples, strangers, study
from tests.support.tiny_diffusion import C, H, W, model

pytestmark = pytest.mark.slow

TRAIN, HELD, SAMPLES, WIDTH = 40, 26, 60, 12


def normal(rows: int, seed: int, frames: int = 2) -> Tensor:
    """Frames of random patients, (rows, frames, D): patients differ more than frames of one patient."""
    generator = torch.Generator().manual_seed(seed)
    persons = torch.randn(rows, 1, WIDTH, generator=generator)
    return persons + 0.1 * torch.randn(rows, frames, WIDTH, generator=generator)


def embedding_set(frames: Tensor, name: str) -> EmbeddingSet:
    count = len(frames)
    plan = [(n, np.arange(frames.shape[1])) for n in range(count)]
    views, all_true = frames[:, :2], torch.ones(count, dtype=torch.bool)
    return EmbeddingSet([f"{name}{n}" for n in range(count)], frames, views, all_true, frames, [*frames], plan)


def spaces(copies: dict[str, Tensor]) -> list[AuditSets]:
    samples = embedding_set(normal(SAMPLES, 2), "s").concatenate([embedding_set(each, k) for k, each in copies.items()])
    train, held = embedding_set(normal(TRAIN, 0), "t"), embedding_set(normal(HELD, 1), "h")
    classes = np.array(["a", "b"])
    attributes = {"class_name": (classes[np.arange(len(samples)) % 2], classes[np.arange(TRAIN + HELD) % 2])}
    return [AuditSets(samples, train, held, "euclidean", 0, 0.05, None, " by latents", attributes=attributes)]


def test_measures_of_selected_samples_are_those_of_these_samples_alone() -> None:
    (everything,) = spaces({"exact": normal(TRAIN, 0)[:6]})
    rows = np.r_[3:50, 61, 64]
    selected = everything.with_samples(rows)
    alone = AuditSets(
        everything.samples.subset(rows),
        everything.train,
        everything.held_out,
        "euclidean",
        0,
        0.05,
        None,
        " by latents",
        attributes={"class_name": (np.array(["a", "b"])[rows % 2], everything.attributes["class_name"][1])},
    )
    for name, value in vars(alone.sample_distances).items():
        assert np.array_equal(value, getattr(selected.sample_distances, name)), name
    for _, measure in leakage_measures(selected):
        for one, two in zip(measure(selected), measure(alone), strict=True):
            assert (one.value, one.expected, one.details) == (two.value, two.expected, two.details)


@pytest.mark.slow
def test_copies_show_random_training_patients_and_are_redrawn_by_the_generator(tmp_path: Path) -> None:
    real, folder = study(tmp_path / "real", train=12, held=3), networks(tmp_path)
    made = model("lidm", frames=3, encoder=ENCODER)
    lidm = str(generator(tmp_path / "lidm", made, "lidm", "Triplet"))
    samples(tmp_path / "samples", strangers, count=40, frames=3, settings={"model": made.fingerprint()})
    places = (str(tmp_path / "samples"), str(real.root), ["TEST", "VAL"], str(folder / "reid"), str(folder / "vae"))
    inputs = open_inputs(*places, lidm, decode=False)
    copies = make_copies(inputs, str(folder / "vae"), 3, 0)
    assert not copies.missing
    assert {kind: len(part) for kind, part in copies.latents.items()} == dict.fromkeys(KINDS, 4)
    assert {tuple(part.shape) for each in copies.latents.values() for part in each} == {(3, C, H, W)}
    train = real.table["FileName"][real.table["Split"] == "TRAIN"]
    frames = torch.cat([real.latents(name)[0].float() for name in train]).flatten(1)
    distance = {kind: torch.cdist(torch.cat(part).flatten(1), frames).min() for kind, part in copies.latents.items()}
    assert distance["exact"] < 0.2
    assert distance["exact"] < distance["redrawn"]
    again = make_copies(inputs, str(folder / "vae"), 3, 0)
    assert all(
        torch.equal(*pair) for kind in KINDS for pair in zip(copies.latents[kind], again.latents[kind], strict=True)
    )
    alone = make_copies(replace(inputs, generator=None), str(folder / "vae"), 3, 0)
    assert [*alone.latents] == ["exact", "rotated"]
    assert "need generator=" in alone.missing["redrawn"]


@pytest.mark.slow
def test_exact_copies_are_found_and_unrelated_samples_are_not() -> None:
    size = copy_count(SHARES[-1], SAMPLES)
    # these "rotated" frames are unrelated to all patients
    copies = {"exact": normal(TRAIN, 0)[:size], "rotated": normal(size, 9)}
    sets = spaces(copies)
    clean = [each.with_samples(range(SAMPLES)) for each in sets]
    measures, _ = measure_all(clean)
    measures, found = measure_power(sets, {kind: len(part) for kind, part in copies.items()}, measures, 5)
    power = {measure.name: measure.power for measure in measures}
    assert power["training patients singled out by latents"] == {"exact": 0.01, "rotated": None}
    assert found["training patients singled out by latents"]["exact"] == {"0.01": 1.0}
    assert [*found["training patients singled out by latents"]["rotated"]] == ["0.01", "0.05", "0.1"]
    assert all(each["rotated"] is None for each in power.values() if each)
    assert {*(power["membership by a trained attacker, AUC by latents"] or {})} == {"exact", "rotated"}
    assert power["precision"] is None  # precision measures quality and is no test for copies


def test_a_measure_that_stands_out_without_copies_has_no_power_to_measure() -> None:
    copies = {"exact": normal(TRAIN, 0)[:6]}
    sets = spaces(copies)
    everything = [each.with_samples(range(SAMPLES + 6)) for each in sets]
    measures, _ = measure_all(everything)
    assert next(measure for measure in measures if "singled out" in measure.name).stands_out
    measures, _ = measure_power(sets, {"exact": 6}, measures, 1)
    assert next(measure for measure in measures if "singled out" in measure.name).power is None


@pytest.mark.parametrize(("share", "samples", "copies"), [(0.01, 96, 1), (0.01, 200, 2), (0.05, 96, 5), (0.1, 100, 10)])
def test_number_of_copies(share: float, samples: int, copies: int) -> None:
    assert copy_count(share, samples) == copies


def test_power_in_words() -> None:
    assert power_text({"exact": 0.01, "rotated": 0.05, "redrawn": None}) == "exact 1 %, rotated 5 %, redrawn none"
