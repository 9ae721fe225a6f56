"""The evidence that a rule of ``stage=filter`` decides from: samples, new patients and known copies, scored alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from echodream import validation
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, drawn, pick, rng_of
from echodream.filtering.embedding import FrameEmbedder
from echodream.filtering.positive_controls import Control, copies, views
from echodream.filtering.reference_search import Compared, Query, References, View, embedded, train_to_test
from echodream.privacy.certification import PatientScores
from echodream.privacy.rules import Evidence, Percentile, Rule
from echodream.store import Store


@dataclass(frozen=True)
class ScoringConfig:
    """How samples, new patients and copies are looked at: one way for all."""

    on: str
    """"image" or "video"."""
    check_every: int
    reference: str
    reference_every: int
    calibration: Sequence[str]
    views: Sequence[str]
    patients: int | None
    steps: int
    seed: int

    def __post_init__(self) -> None:
        validation.one_of("on", self.on, ("image", "video"))
        validation.one_of("reference", self.reference, ("all", "first"))
        for name in ("check_every", "reference_every", "steps"):
            validation.whole_number(name, getattr(self, name))
        validation.whole_number("seed", self.seed, 0)
        if self.patients is not None:
            validation.whole_number("patients", self.patients)
        splits = [self.calibration] if isinstance(self.calibration, str) else list(self.calibration)
        if not splits or not set(splits) <= {"VAL", "TEST"} or len(set(splits)) < len(splits):
            raise UserError(
                f"calibration={splits} must be of TEST and VAL: patients whom the generator or the reid was trained on "
                "say nothing of new ones"
            )
        object.__setattr__(self, "calibration", splits)
        object.__setattr__(self, "views", list(self.views))

    def checked(self, frames: int) -> np.ndarray:
        """The frames of a sample of ``frames`` that are looked at."""
        return np.arange(0, frames, self.check_every)


@dataclass(frozen=True)
class Scored:
    """What was found: the samples in the order of ``names``, and what the rule decides from."""

    names: list[str]
    samples: Compared
    evidence: Evidence
    reported: dict[str, PatientScores]
    """Of the controls that are no part of the guarantee."""
    frames: int
    """Of each query that were looked at."""


def score(
    store: Store,
    real: Store,
    embedder: FrameEmbedder,
    shop: CopyGenerator,
    rule: Rule,
    controls: Mapping[str, Control],
    report_only: Sequence[str],
    looking: ScoringConfig,
) -> Scored:
    """Score the samples of ``store``, the calibration patients, and a copy of each patient under each control."""
    references = References(embedder, shop.rows, looking.reference_every, looking.reference == "first")
    ways: list[View] = [partial(views, shop, [controls[name] for name in looking.views])]
    names = sorted(store.table["FileName"].tolist())
    count = len(looking.checked(length_of(store)))
    queries = [Query(found) for found in embedded(embedder, _samples(store, names, looking), ways)]
    held_out = [Recordings(real, split) for split in looking.calibration]
    new = {name: one for rows in held_out for name, one in _new(rows, count, looking).items()}
    queries += [Query(found) for found in embedded(embedder, new.values(), ways)]
    of: list[tuple[str, str]] = []
    for name, control in controls.items():
        chosen = _chosen(shop.rows, control, count, looking)
        bar = tqdm(copies(shop, name, control, list(chosen.values())), name, len(chosen), unit="copy", disable=None)
        made = embedded(embedder, bar, ways)
        queries += [Query(found, control, one) for found, one in zip(made, chosen.values(), strict=True)]
        of += [(name, patient) for patient in chosen]
    found = references.compare(queries, rule.similarity)
    samples, calibration, rest = np.split(np.arange(len(queries)), [len(names), len(names) + len(new)])
    scores = _by_control(controls, of, found.score[rest], report_only)
    maxima = None
    if isinstance(rule, Percentile):
        maxima = np.max([train_to_test(references, rows, rule.similarity) for rows in held_out], axis=0)
    evidence = Evidence(
        calibration=PatientScores(found.score[calibration], np.array([*new])),
        controls={name: part for name, part in scores.items() if name not in report_only},
        train_to_test=maxima,
        samples=found.score[samples],
        amounts={name: control.amount for name, control in controls.items()},
    )
    reported = {name: part for name, part in scores.items() if name in report_only}
    return Scored(names, only(found, samples), evidence, reported, count)


def length_of(store: Store) -> int:
    """The number of frames of each sample. Raises ``UserError`` where they differ, or there is no sample."""
    lengths = sorted(set(store.table["NumberOfFrames"].tolist()))
    if not lengths:
        raise UserError(f"src={store.root} holds no sample: there is nothing to filter")
    if len(lengths) > 1:
        raise UserError(
            f"src={store.root} has samples of {lengths[0]} and of {lengths[-1]} frames, and new patients are looked at "
            "in as many frames as a sample has: draw them in one length"
        )
    return int(lengths[0])


def _samples(store: Store, names: Sequence[str], looking: ScoringConfig) -> Iterator[Tensor]:
    """The checked frames of each sample, unscaled (f, C, H, W). Raises ``UserError`` for numbers that are none."""
    places = looking.checked(length_of(store))
    for name in tqdm(names, "samples", unit="sample", disable=None):
        found = store.latents(name, 0, int(places[-1]) + 1)[0][places].float()
        if not torch.isfinite(found).all():
            raise UserError(f"src={store.root}: {name} holds NaN or infinite numbers: draw the samples again")
        yield found


def _new(rows: Recordings, count: int, looking: ScoringConfig) -> dict[str, Tensor]:
    """Of each patient of ``rows`` as many frames as a sample has, drawn from their posterior as a generator would."""
    taken = pick(rows, count, looking.seed, looking.check_every)
    return {
        patient: drawn(rows, one.row, one.places, rng_of(looking.seed, f"new/{rows.names[one.row]}"))
        for patient, one in taken.items()
    }


def _chosen(rows: Recordings, control: Control, count: int, looking: ScoringConfig) -> dict[str, FrameSelection]:
    """What is copied of which patients: of at most ``looking.patients``, the same under each control."""
    taken = pick(rows, count, looking.seed, looking.check_every)
    if looking.patients is not None:
        order = rng_of(looking.seed, "patients").permutation(len(taken))[: looking.patients]
        taken = {name: taken[name] for name in np.array([*taken])[np.sort(order)].tolist()}
    if control.leave_out != "recording":
        return taken
    recordings = rows.table["PatientID"].astype(str).value_counts()
    return {patient: one for patient, one in taken.items() if recordings[patient] > 1}


def _by_control(
    controls: Mapping[str, Control], of: Sequence[tuple[str, str]], scores: np.ndarray, optional: Sequence[str]
) -> dict[str, PatientScores]:
    """Scores, (n,), of copies by control, each ``of`` (control, patient); NaN is of a copy that cannot be.

    Raises ``UserError`` for a declared control of nobody: leaving it out would promise what was not tested.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in controls}
    for (name, patient), value in zip(of, scores.tolist(), strict=True):
        if not np.isnan(value):
            found[name][patient] = value
    for name, patients in found.items():
        if not patients and name not in optional:
            raise UserError(
                f"controls.{name}: no TRAIN patient has further references for it (other recordings, or frames that "
                f"are not next to these), so nothing can be promised; set controls.{name}=null, or report_only=[{name}]"
            )
    return {
        name: PatientScores(np.array([*patients.values()]), np.array([*patients]))
        for name, patients in found.items()
        if patients
    }


def only(found: Compared, part: np.ndarray) -> Compared:
    """Some of the queries."""
    return Compared(
        found.score[part],
        found.patient[part],
        found.recording[part],
        found.place[part],
        found.references,
        found.patients,
    )
