"""Embedding sets of the audit: equal numbers of frames, key frames of one beat, two views, independence of order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.auditing.embedding_sets import AuditSets, EmbeddingSet, EmbeddingSetBuilder, EmbeddingSetConfig
from echodream.auditing.leakage import linkability_risk
from echodream.datamodules.recordings import select_recordings
from echodream.errors import UserError
from echodream.privacy.attacks.copying import cell_centers
from echodream.store import Store
from tests.support.audit_study import samples, strangers, study, write
from tests.support.tiny_diffusion import C, H, W


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return study(tmp_path_factory.mktemp("sides") / "real", train=9, held=4)


def flat(latents: Tensor) -> Tensor:
    """Stand-in for an embedding network: the embedding is the flattened latents."""
    return latents.flatten(1)


def set_builder(tmp_path: Path, frames: int, **settings: int) -> EmbeddingSetBuilder:
    store = samples(tmp_path / f"of-{frames}", strangers, count=5, frames=frames)
    chosen = EmbeddingSetConfig(**{"frames": 4, "per_patient": 6, "every": 3, "seed": 0, **settings})
    return EmbeddingSetBuilder(flat, "euclidean", chosen, select_recordings(store, ["TRAIN"], "src"))


def latents_of(store: Store, name: str) -> Tensor:
    return store.latents(name)[0].float().flatten(1)


def places(store: Store, patient: str, rows: Tensor) -> list[tuple[str, int]]:
    """Recording and frame index of each row of ``rows``, searched in all recordings of ``patient``."""
    found = []
    names = store.table["FileName"][store.table["PatientID"] == patient]
    for row in rows:
        hits = [(n, int(f)) for n in names for f in (latents_of(store, n) == row).all(dim=1).nonzero().flatten()]
        assert len(hits) == 1
        found += hits
    return found


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (3, 3), (7, 4)])
def test_everybody_is_seen_as_a_sample_is(real: Store, tmp_path: Path, frames: int, count: int) -> None:
    look = set_builder(tmp_path, frames)
    own, people = (
        look.embed_samples(),
        look.embed_patients(select_recordings(real, ["TRAIN"], "real"), "patients", True),
    )
    assert own.sample_frames.shape == (5, count, C * H * W)
    assert people.sample_frames.shape == (9, count, C * H * W)
    assert people.names == [f"secret{number:03}" for number in range(9)]
    lengths = dict(zip(real.table["FileName"], real.table["NumberOfFrames"], strict=True))
    for name, seen in zip(people.names, people.sample_frames, strict=True):
        where = places(real, name, seen)
        assert len({recording for recording, _ in where}) == 1
        length = lengths[where[0][0]]
        if count == 3:
            assert [place for _, place in where] == [1, 3, length - 1]  # key frames: ED, ES, ED
        elif count == 4:
            assert [place for _, place in where] == np.linspace(0, length - 1, 4).round().tolist()


def test_samples_have_their_own_frames(tmp_path: Path) -> None:
    look = set_builder(tmp_path, 7)
    own = look.embed_samples()
    for row, name in enumerate(look.samples.names):
        truth = latents_of(look.samples.store, name)
        assert torch.equal(own.sample_frames[row], truth[[0, 2, 4, 6]])
        assert torch.equal(own.sequences[row], truth[[0, 3, 6]])
        assert torch.equal(own.two_views[row], truth[[0, 4]])


def test_a_patients_frames_are_spread_over_all_recordings(real: Store, tmp_path: Path) -> None:
    people = set_builder(tmp_path, 1).embed_patients(select_recordings(real, ["TRAIN"], "real"), "patients", False)
    assert people.all_frames.shape == (9, 6, C * H * W)
    for name, rows in zip(people.names, people.all_frames, strict=True):
        names = real.table["FileName"][real.table["PatientID"] == name].tolist()
        everything = torch.cat([latents_of(real, each) for each in names])
        wanted = np.linspace(0, len(everything) - 1, 6).round().astype(int)
        assert torch.equal(rows, everything[wanted])


@pytest.mark.parametrize("frames", [1, 3])
def test_the_second_view_is_another_recording_or_another_frame(real: Store, tmp_path: Path, frames: int) -> None:
    people = set_builder(tmp_path, frames).embed_patients(select_recordings(real, ["TRAIN"], "real"), "patients", False)
    assert people.has_two_views.all()
    for number, (name, pair) in enumerate(zip(people.names, people.two_views, strict=True)):
        (one, first), (two, second) = places(real, name, pair)
        assert (one != two) == (number % 3 == 0)  # every third patient has a second recording
        assert one != two or first != second
        assert frames == 1 or second == 3  # frame 3 is the end systole


def test_a_patient_of_a_single_frame_has_no_second_view(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        f"x{k}": (np.full((1 + k, C, H, W), float(k)) + np.arange(1 + k)[:, None, None, None], {"PatientID": f"p{k}"})
        for k in range(3)
    }
    store = write(tmp_path / "real", rows)
    people = set_builder(tmp_path, 1).embed_patients(select_recordings(store, ["TRAIN"], "real"), "patients", False)
    assert people.has_two_views.tolist() == [False, True, True]
    assert people.all_frames.shape[1] == 3  # no patient has more than three frames


def test_seeds_choose_recordings_and_frames(real: Store, tmp_path: Path) -> None:
    rows = select_recordings(real, ["TRAIN"], "real")
    one, two, three = (
        set_builder(tmp_path / str(number), 1, seed=seed).embed_patients(rows, "patients", False).sample_frames
        for number, seed in enumerate((0, 0, 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def side(rows: Tensor) -> EmbeddingSet:
    count = len(rows)
    return EmbeddingSet(
        [str(n) for n in range(count)],
        rows[:, None],
        torch.stack([rows, rows], dim=1),
        torch.ones(count, dtype=torch.bool),
        rows[:, None],
        [*rows[:, None]],
        [(n, np.array([0])) for n in range(count)],
    )


def test_the_threshold_is_what_pairs_of_different_people_rarely_reach() -> None:
    rows = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    sides = AuditSets(side(rows), side(rows), side(rows), "cosine", 0, 0.05, None)
    found = sides.same_patient_threshold()
    alike = [float(rows[i] @ rows[j]) for i in range(40) for j in range(i)]
    assert np.mean(np.array(alike) >= found - 1e-6) == pytest.approx(0.05, abs=0.002)
    few = AuditSets(side(rows), side(rows), side(rows[:6]), "cosine", 0, 0.05, None)
    with pytest.raises(UserError, match="needs 7 held-out patients, and there are 6"):
        few.same_patient_threshold()


def test_links_that_the_samples_make_are_found_and_others_are_not() -> None:
    """The two views of a patient are unrelated; samples copy both views of training patients, or are random."""

    def pairs(count: int, seed: int) -> EmbeddingSet:
        drawn = torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(seed))
        return replace(side(drawn[:, 0]), two_views=drawn)

    train, held = pairs(60, 0), pairs(60, 1)
    copied = replace(train, two_views=train.two_views + 0.01 * torch.randn(60, 2, 6))
    for samples_, found in ((copied, True), (pairs(60, 2), False)):
        (measure,) = linkability_risk(AuditSets(samples_, train, held, "euclidean", 0, 0.05, None))
        assert measure.stands_out == found
        assert (measure.value.low > 0.8) == found
        assert measure.expected is not None
        assert measure.expected.value < 0.2
    alone = replace(train, has_two_views=torch.arange(60) < 1)
    with pytest.raises(UserError, match="two or more patients in training with two frames each: there are 1"):
        list(linkability_risk(AuditSets(copied, alone, held, "euclidean", 0, 0.05, None)))


def test_those_chosen_keep_what_is_theirs() -> None:
    rows = torch.arange(12.0).view(4, 3)
    found = side(rows).subset([3, 1])
    assert found.names == ["3", "1"]
    assert torch.equal(found.first_frames(), rows[[3, 1]])
    assert [row for row, _ in found.frame_plan] == [3, 1]
    assert len(found) == 2


def random_set(count: int, frames: int, all_frames: int, seed: int) -> EmbeddingSet:
    generator = torch.Generator().manual_seed(seed)
    first, whole = (torch.randn(count, number, 5, generator=generator) for number in (frames, all_frames))
    names = [f"{seed}-{number}" for number in range(count)]
    return EmbeddingSet(names, first, first[:, [0, -1]], torch.ones(count, dtype=torch.bool), whole, [*first], [])


def test_distances_are_those_of_the_closest_frames_and_authenticity_is_that_of_every_frame() -> None:
    samples, train, held = random_set(13, 3, 3, 0), random_set(7, 3, 4, 1), random_set(6, 3, 4, 2)
    samples.sample_frames[0] = train.all_frames[2, 1] + 0.01  # sample 0 copies a frame of training patient 2
    found = AuditSets(samples, train, held, "euclidean", seed=0, far=0.1, cells=2).sample_distances
    queries, references = samples.sample_frames.double(), torch.cat([train.all_frames, held.all_frames]).double()
    distance = torch.cdist(queries.flatten(0, 1), references.flatten(0, 1)).view(13, 3, 13, 4)
    assert found.to_patients == pytest.approx(distance.amin(dim=(1, 3)).numpy(), rel=1e-5)
    frames = train.all_frames.double().flatten(0, 1)
    own = torch.cdist(frames, frames).masked_fill(
        torch.eye(7, dtype=torch.bool).repeat_interleave(4, 0).repeat_interleave(4, 1), torch.inf
    )
    to_train = torch.cdist(queries.flatten(0, 1), frames)
    authentic = (to_train.amin(dim=1) > own.amin(dim=1)[to_train.argmin(dim=1)]).view(13, 3).all(dim=1)
    assert found.authentic.tolist() == authentic.tolist()
    assert not found.authentic[0]
    assert found.authentic.any()
    closest = queries[torch.arange(13), to_train.view(13, 3, -1).amin(dim=2).argmin(dim=1)]
    assert found.cell.tolist() == torch.cdist(closest, cell_centers(frames, 2, 0)).argmin(dim=1).tolist()
