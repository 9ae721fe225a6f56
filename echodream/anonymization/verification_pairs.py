"""Pairs of images for verification: whether both images of a pair show the same patient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echodream.anonymization.image_pairs import ImageSet
from echodream.datamodules.recordings import indices_by_value
from echodream.errors import UserError, shortened_list

PAIR_COLUMNS = ("First", "FirstFrame", "Second", "SecondFrame", "Same")
_ATTEMPTS = 50
"""Maximum number of attempts to sample an unused pair of two patients."""


def images_by_patient(images: ImageSet, within_recording: bool) -> dict[str, np.ndarray]:
    """Image indices of each patient with two or more recordings or, if ``within_recording``, two or more images."""
    indices = indices_by_value(images.patients)
    rows = np.arange(len(images)) if within_recording else images.row
    return {patient: each for patient, each in indices.items() if len(np.unique(rows[each])) > 1}


def sample_pairs(images: ImageSet, pairs_per_patient: int, within_recording: bool, seed: Sequence[int]) -> np.ndarray:
    """Random pairs of images without repetition, alternately of one patient and of two patients: int64 (P, 2).

    Each patient has at most ``pairs_per_patient`` pairs of images of this patient. The images of one pair are from
    different recordings unless ``within_recording``. Raises ``UserError`` if no patient has a pair.
    """
    store, split = images.recordings.store, images.recordings.split
    rng, owner = np.random.default_rng(list(seed)), images.patients
    by_patient, patients = images_by_patient(images, within_recording), sorted(set(owner.tolist()))
    if not by_patient:
        raise UserError(
            f"{store.root} has no patient with a second image in {split} ({shortened_list(patients)} have one image): "
            "give other splits=, or within=true with frames= above 1"
        )
    if len(patients) < 2:
        raise UserError(f"{store.root} has only one patient in {split}: give other splits=")
    images_of = indices_by_value(owner)
    pairs: list[tuple[int, int]] = []
    used: set[tuple[int, int]] = set()
    for indices in by_patient.values():
        first, second = (indices[position] for position in np.triu_indices(len(indices), 1))
        allowed = np.flatnonzero(within_recording | (images.row[first] != images.row[second]))
        for number in rng.permutation(allowed)[:pairs_per_patient]:
            image = int(first[number])
            for _ in range(_ATTEMPTS):
                patient = patients[int(rng.integers(len(patients)))]
                other = int(rng.choice(images_of[patient]))
                pair = min(image, other), max(image, other)
                if patient != owner[image] and pair not in used:
                    used.add(pair)
                    pairs += [(image, int(second[number])), (image, other)]
                    break  # a pair of one patient is added only together with a pair of two patients
    return np.array(pairs, np.int64).reshape(-1, 2)


def sample_version_pairs(originals: ImageSet, seed: int) -> np.ndarray:
    """For each original, a pair with its anonymized version and one with another patient's version: int64 (2n, 2)."""
    rng, owner = np.random.default_rng([seed, 1]), originals.patients
    patients, number = np.unique(owner, return_inverse=True)
    if len(patients) < 2:
        recordings = originals.recordings
        raise UserError(f"{recordings.store.root} has only one patient in {recordings.split}: give other splits=")
    pairs, images_of = [], [*indices_by_value(number).values()]
    for image, patient in enumerate(number):
        position = int(rng.integers(len(patients) - 1))
        other = rng.choice(images_of[position + (position >= patient)])
        pairs += [(image, image), (image, int(other))]
    return np.array(pairs, np.int64)


def pairs_table(images: ImageSet, pairs: np.ndarray) -> pd.DataFrame:
    """Table of ``pairs``, (P, 2), with the columns ``PAIR_COLUMNS`` of the csv file."""
    first, second = pairs.T
    same = (images.patients[first] == images.patients[second]).astype(int)
    columns = (images.names[first], images.frame[first], images.names[second], images.frame[second], same)
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, columns, strict=True)))


def read_pairs(path: Path, images: ImageSet) -> np.ndarray:
    """Read pairs from the csv file at ``path``, as indices of ``images``: int64 (P, 2).

    FirstFrame, SecondFrame and Same are optional. Raises ``UserError`` if an image is not in ``images``, or if the
    column Same contradicts the PatientID of the two images.
    """
    try:
        table = pd.read_csv(path, dtype={"First": str, "Second": str})
    except (OSError, ValueError) as error:
        remedy = "run stage=pairs, or set pairs= to a folder of csv files"
        raise UserError(f"{path} cannot be read as pairs: {remedy}") from error
    if missing := [name for name in ("First", "Second") if name not in table]:
        raise UserError(f"{path} has no column {missing[0]}: give the columns First and Second with FileNames")
    pairs = np.stack([_image_indices(table, name, images, path) for name in ("First", "Second")], axis=1).reshape(-1, 2)
    if "Same" in table:
        first, second = images.patients[pairs].T
        if len(wrong := np.flatnonzero((first == second) != (table["Same"] == 1))):
            line = int(wrong[0]) + 2
            raise UserError(f"{path}: Same in line {line} contradicts the PatientID of its images: correct Same")
    return pairs


def _image_indices(table: pd.DataFrame, column: str, images: ImageSet, path: Path) -> np.ndarray:
    """Indices of the images that ``column`` names; without a frame column, the first image of each recording."""
    if f"{column}Frame" in table:
        frames = pd.to_numeric(table[f"{column}Frame"], errors="coerce")
    else:
        frames = table[column].map(pd.Series(images.frame, images.names).groupby(level=0).first())
    known = pd.MultiIndex.from_arrays([images.names, images.frame])
    indices = known.get_indexer(pd.MultiIndex.from_arrays([table[column], frames.fillna(-1).astype(int)]))
    if unknown := table[column][indices < 0].astype(str).unique().tolist():
        raise UserError(
            f"{path} names images that are not in {images.recordings.split} of {images.recordings.store.root} "
            f"({shortened_list(unknown)}): run stage=pairs again with the same frames="
        )
    return np.asarray(indices, np.int64)
