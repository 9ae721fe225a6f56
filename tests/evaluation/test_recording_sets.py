"""Recordings for the evaluation: further test patients, key frames, and reconstructions by the autoencoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from echodream.errors import UserError
from echodream.evaluation.feature_extraction import FeatureExtraction, RecordingSet, check_frame_sizes
from echodream.evaluation.further_patients import open_test_store
from echodream.networks.extractors.spectra import spatial_spectrum, temporal_spectrum
from tests.support.tiny_vae import moving_disc_store, tiny_autoencoder


def test_patients_of_the_study_are_left_out_whatever_their_split(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real", lengths=(5, 4, 6, 4))
    moving_disc_store(tmp_path / "further")
    found = open_test_store(real, str(tmp_path / "further"))
    assert found.table["PatientID"].tolist() == ["p4", "p5", "p6"]
    assert set(found.table["Split"]) == {"TEST"}
    assert found.frames("r5").shape[0] == 9


def test_without_such_a_store_the_study_itself_is_tested(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real")
    assert open_test_store(real, None) is real
    assert open_test_store(real, str(tmp_path / "absent")) is real


def test_a_store_of_the_same_patients_is_refused(tmp_path: Path) -> None:
    real = moving_disc_store(tmp_path / "real")
    with pytest.raises(UserError, match=r"has only patients who are in .*real: give a store of other patients"):
        open_test_store(real, str(moving_disc_store(tmp_path / "same", lengths=(5, 4)).root))


def test_key_frames_and_frames_of_a_recording_are_evenly_spread(tmp_path: Path) -> None:
    """Key frames if the synthetic images are key frames and the recording has ED and ES marks; else evenly spread."""
    marks = {"ED": ["0 4", "", "1", "0", "9", "0 2", "3"], "ES": ["2", "", "", "3", "1", "", "1 5"]}
    store = moving_disc_store(tmp_path / "real", **marks)
    recordings = RecordingSet(store, store.table, "real=x", only_key_frames=True)
    assert [recordings.comparable_frames(row).tolist() for row in (0, 1, 2, 3)] == [
        [0, 2, 4],
        list(range(11)),
        [1],
        [0, 3],
    ]
    with pytest.raises(UserError, match=r"^real=x: r4 has ED '9', not frame numbers from 0 to 5 separated by spaces"):
        recordings.comparable_frames(4)
    plain = RecordingSet(store, store.table, "real=x")
    assert plain.comparable_frames(0).tolist() == [0, 1, 2, 3, 4]


def test_frames_through_the_autoencoder_are_its_reconstructions(tmp_path: Path) -> None:
    store, network = moving_disc_store(tmp_path / "real"), tiny_autoencoder()
    raw = RecordingSet(store, store.table, "real=x").read(2, [0, 2, 2])
    x = raw.transpose(0, 1)
    with torch.inference_mode():
        expected = network.decode(network.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    found = RecordingSet(store, store.table, "real=x", autoencoder=network).read(2, [0, 2, 2])
    assert torch.allclose(found, expected.transpose(0, 1), atol=1e-5)
    assert not torch.allclose(found, raw, atol=1e-2)


@pytest.mark.parametrize(
    ("most", "expected"), [(100, [5, 2, 9]), (10, [4, 2, 4]), (11, [4, 2, 4]), (3, [1, 1, 1]), (6, [2, 2, 2])]
)
def test_frames_are_divided_equally_among_recordings(most: int, expected: list[int]) -> None:
    counts = FeatureExtraction(most, 1, 0)._frame_counts(np.array([5, 2, 9]))
    assert counts.sum() == min(most, 16)
    assert (np.abs(counts - expected) <= (most == 11)).all()


def test_frames_of_several_sizes_are_refused(tmp_path: Path) -> None:
    store = moving_disc_store(tmp_path / "real")
    one = RecordingSet(store, store.table, "real=x")
    other = RecordingSet(store, store.table.assign(FrameHeight=20), "videos=y")
    check_frame_sizes([one, other], [])
    with pytest.raises(UserError, match=r"\(real=x: 24x16; videos=y: 24x20\): use one data.size, or leave spectrum"):
        check_frame_sizes([one, other], [spatial_spectrum()])
    mixed = RecordingSet(store, store.table.assign(FrameWidth=[24] * 6 + [30]), "videos=y")
    with pytest.raises(UserError, match=r"^videos=y has frames of several sizes \(24x16, 30x16\): ingest it with one"):
        check_frame_sizes([one, mixed], [])


@pytest.mark.parametrize("section", ["images", "videos"])
def test_the_first_samples_alone_are_those_of_all_samples(tmp_path: Path, section: str) -> None:
    store = moving_disc_store(tmp_path / "real", lengths=(40, 34, 36, 33, 38))
    recordings = RecordingSet(store, store.table, "real=x")
    extractor = spatial_spectrum() if section == "images" else temporal_spectrum()
    (kind,) = FeatureExtraction(7, 2, 3).sample_kinds(section, extractor)
    every, few = kind.extract(recordings), kind.extract(recordings, max_count=3)
    assert len(every.features) == (7 if section == "images" else 5)
    assert np.array_equal(few.rows, every.rows[:3])
    assert np.allclose(few.features, every.features[:3])
    assert few.units.count() <= 3
