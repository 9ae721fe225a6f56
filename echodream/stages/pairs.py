"""``stage=pairs``: which images are compared with which, to see whether they are taken for one patient's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echodream import validation
from echodream.anonymization.image_pairs import SHOWN, Images, chosen, images, opened
from echodream.errors import UserError
from echodream.runs.atomic_folder import FRESH, write_record
from echodream.runs.summary import Summary

COLUMNS = ("First", "FirstFrame", "Second", "SecondFrame", "Same")
RECORD = "pairs.json"
_TRIES = 50


def pairs(
    *,
    src: str,
    dst: str,
    splits: Sequence[str],
    frames: int,
    per_patient: int,
    within: bool,
    seed: int,
    command: str,
    code_version: str,
) -> Summary:
    """Draw, for each of ``splits`` of the store ``src``, pairs of one patient and as many of two: ``dst``/<split>.csv.

    At most ``per_patient`` pairs of each patient, of different recordings; with ``within`` also of one. ``frames`` of
    each recording are images. A patient without a second image has no pair of their own and stands beside others.
    Raises ``UserError`` when a split has no patient with two images.
    """
    validation.whole_number("per_patient", per_patient)
    store = opened(src, "src")
    facts: dict[str, object] = {}
    tables = {}
    if len(set(splits)) != len(splits) or not splits:
        raise UserError(f"splits={list(splits)} is not possible: give TRAIN, VAL, TEST, or some of them, once each")
    for split in splits:
        shown = images(chosen(store, [split], "src"), frames)
        found = drawn(shown, per_patient, within, [seed, len(split), *split.encode()])
        tables[split] = table(shown, found)
        alone = len(set(shown.patients.tolist())) - len(_several(shown, within))
        facts[split] = f"{len(found) // 2} pairs of one patient, {len(found) // 2} of two"
        facts[split] = f"{facts[split]}; patients without a second image: {alone}" if alone else facts[split]
    folder = Path(dst)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in tables.items():
        fresh = folder / f"{FRESH}{split}.csv"
        rows.to_csv(fresh, index=False)
        fresh.replace(folder / f"{split}.csv")
    record = {"source": store.checksum, "frames": frames, "per_patient": per_patient, "within": within}
    record |= {"seed": seed, "pairs": {split: len(rows) for split, rows in tables.items()}}
    write_record(folder / RECORD, {**record, "command": command, "code_version": code_version})
    return Summary(f"pairs: {dst} done", facts)


def _several(shown: Images, within: bool) -> dict[str, np.ndarray]:
    """The images of each patient who has two that make a pair."""
    found = {}
    for patient in np.unique(shown.patients):
        own = np.flatnonzero(shown.patients == patient)
        if len(own) > 1 and (within or len(np.unique(shown.row[own])) > 1):
            found[str(patient)] = own
    return found


def drawn(shown: Images, per_patient: int, within: bool, seed: Sequence[int]) -> np.ndarray:
    """Pairs of images, int64 (P, 2), no pair twice: one of one patient and one of two, in turns."""
    rng, owner, split = np.random.default_rng(list(seed)), shown.patients, shown.rows.split
    several, everybody = _several(shown, within), sorted(set(owner.tolist()))
    if not several:
        told = ", ".join(everybody[:SHOWN])
        raise UserError(
            f"{shown.rows.store.root} has no patient with a second image in {split} ({told} and all others have one): "
            "give other splits=, or within=true with frames= above 1"
        )
    if len(everybody) < 2:
        raise UserError(f"{shown.rows.store.root} has one patient only in {split}: give other splits=")
    of = {patient: np.flatnonzero(owner == patient) for patient in everybody}
    found: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    for own in several.values():
        first, second = (own[part] for part in np.triu_indices(len(own), 1))
        kept = np.flatnonzero(within | (shown.row[first] != shown.row[second]))
        for number in rng.permutation(kept)[:per_patient]:
            one = int(first[number])
            other = _other(one, owner, of, everybody, seen, rng)
            if other is not None:  # as many of one kind as of the other
                seen.add((min(one, other), max(one, other)))
                found += [(one, int(second[number])), (one, other)]
    return np.array(found, np.int64).reshape(-1, 2)


def _other(
    one: int,
    owner: np.ndarray,
    of: dict[str, np.ndarray],
    everybody: Sequence[str],
    seen: set[tuple[int, int]],
    rng: np.random.Generator,
) -> int | None:
    """An image of a random other patient that image ``one`` has not been paired with; None where none is found."""
    for _ in range(_TRIES):
        patient = everybody[int(rng.integers(len(everybody)))]
        other = int(rng.choice(of[patient]))
        if patient != owner[one] and (min(one, other), max(one, other)) not in seen:
            return other
    return None


def table(shown: Images, found: np.ndarray) -> pd.DataFrame:
    """Pairs as they are written."""
    first, second = found.T
    same = (shown.patients[first] == shown.patients[second]).astype(int)
    columns = (shown.names[first], shown.place[first], shown.names[second], shown.place[second], same)
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def read_pairs(path: Path, shown: Images) -> np.ndarray:
    """The pairs of the csv file at ``path`` as rows of ``shown``, int64 (P, 2).

    FirstFrame, SecondFrame and Same may be left out; Same, where given, must agree with the store. ``UserError``.
    """
    try:
        rows = pd.read_csv(path, dtype={"First": str, "Second": str})
    except (OSError, ValueError) as error:
        reason = f"{path} cannot be read as pairs: run stage=pairs, or give pairs= a folder of csv files"
        raise UserError(reason) from error
    if missing := [name for name in ("First", "Second") if name not in rows]:
        raise UserError(f"{path} has no column {missing[0]}: give First and Second, names of images")
    found = np.stack([_images(rows, side, shown, path) for side in ("First", "Second")], axis=1).reshape(-1, 2)
    owner = shown.patients
    if "Same" in rows:
        wrong = np.flatnonzero((owner[found[:, 0]] == owner[found[:, 1]]) != (rows["Same"].to_numpy() == 1))
        if len(wrong):
            raise UserError(
                f"{path}: line {int(wrong[0]) + 2} says otherwise than the PatientID of its images: correct Same"
            )
    return found


def _images(rows: pd.DataFrame, side: str, shown: Images, path: Path) -> np.ndarray:
    """The images that the column ``side`` names, as rows of ``shown``; without a frame the first that is there."""
    number = {(name, int(place)): k for k, (name, place) in enumerate(zip(shown.names, shown.place, strict=True))}
    first: dict[str, int] = {}
    for (name, _), k in number.items():
        first.setdefault(str(name), k)
    names = rows[side].tolist()
    found = [first.get(name, -1) for name in names]
    if f"{side}Frame" in rows:
        frames = pd.to_numeric(rows[f"{side}Frame"], errors="coerce").fillna(-1).astype(int)
        found = [number.get((name, place), -1) for name, place in zip(names, frames, strict=True)]
    if unknown := [str(name) for name, k in zip(names, found, strict=True) if k < 0]:
        told = ", ".join(list(dict.fromkeys(unknown))[:SHOWN])
        raise UserError(
            f"{path} names images that are not in {shown.rows.split} of {shown.rows.store.root} ({told}): draw the "
            "pairs again with stage=pairs, and the same frames="
        )
    return np.array(found, np.int64)
