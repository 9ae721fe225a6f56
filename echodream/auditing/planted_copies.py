"""Power of an audit: the smallest share of planted copies of training patients that each privacy measure finds."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream.auditing.embedding_sets import AuditSets
from echodream.auditing.inputs import AuditInputs
from echodream.auditing.leakage import leakage_measures
from echodream.auditing.measure import PRIVACY, Measure
from echodream.datamodules.recordings import named_rng
from echodream.diffusion.guidance import Guidance
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, select_frames_by_patient
from echodream.filtering.positive_controls import Control, PixelTransform, SDEdit, generate_copies
from echodream.progress import progress_bar

SHARES = (0.01, 0.05, 0.1)
"""Tested shares of the samples that copies replace; at least one sample is replaced."""
DETECTION_RATE = 0.8
"""A measure detects a share of copies if it stands out in at least this fraction of random plantings of copies."""
PERMUTATIONS = 200
"""Number of permutations and bootstrap samples of each measure, for each random planting of copies."""
SDEDIT_STEPS = 20
"""Sampler steps of SDEdit, counted from pure noise."""
EXACT = "exact"
COPY_TRANSFORMS: dict[str, Control] = {"rotated": PixelTransform(rotate=5.0), "redrawn": SDEdit(0.3)}
KINDS = {EXACT: "exact", "rotated": "rotated by 5°", "redrawn": "redrawn by the generator from 30 % noise"}
"""Kinds of planted copies, and their descriptions."""


@dataclass(frozen=True)
class PlantedCopies:
    """Copies of training patients, unscaled latents (f, C, H, W), by kind, and the reasons for missing kinds."""

    latents: dict[str, list[Tensor]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    patients: list[str] = field(default_factory=list)
    """The copied patients, the same for each kind."""

    def copied_patients(self) -> list[str]:
        """Patient of each copy, kind by kind."""
        return self.patients * len(self.latents)


def make_copies(inputs: AuditInputs, autoencoder: str, frames: int, seed: int) -> PlantedCopies:
    """Copies of random training patients, one per patient, with ``frames`` frames, as many as the largest share needs.

    An exact copy is a new sample of the stored posterior of real frames. A redrawn copy needs a generator.
    """
    recordings, count = inputs.train, copy_count(SHARES[-1], len(inputs.samples))
    by_patient = select_frames_by_patient(recordings, frames, seed)
    names = named_rng(seed, "planted").permutation(sorted(by_patient))[:count].tolist()
    selections = [by_patient[name] for name in names]
    exact = [
        recordings.posterior_sample(part.row, part.frames, named_rng(seed, f"{EXACT}/{recordings.names[part.row]}"))
        for part in selections
    ]
    copies = PlantedCopies({EXACT: exact}, patients=names)
    for kind, control in COPY_TRANSFORMS.items():
        try:
            copies.latents[kind] = _transform_copies(inputs, autoencoder, kind, control, selections, seed)
        except UserError as error:
            copies.missing[kind] = str(error)
    return copies


def _transform_copies(
    inputs: AuditInputs, autoencoder: str, kind: str, control: Control, selections: Sequence[FrameSelection], seed: int
) -> list[Tensor]:
    model = inputs.generator[0] if inputs.generator and control.needs_generator else None
    names = model.conditioner.names if model else ()
    guidance = Guidance.from_record(inputs.samples.store.dataset.sampling_settings.get("guidance"), names)
    device = inputs.embedder.device
    generator = CopyGenerator(inputs.train, autoencoder, model, guidance, SDEDIT_STEPS, seed, device)
    with torch.no_grad():
        return list(generate_copies(generator, kind, control, selections))


def copy_count(share: float, samples: int) -> int:
    """Number of copies that replace a ``share`` of the number of ``samples``, rounded up, at least 1."""
    return max(1, math.ceil(share * samples - 1e-9))


def measure_power(
    spaces: Sequence[AuditSets], copies: Mapping[str, int], measures: Sequence[Measure], plantings: int
) -> tuple[list[Measure], dict[str, dict[str, dict[str, float]]]]:
    """``measures`` with their power, and the fraction of ``plantings`` in which each stands out, by kind and share.

    ``spaces``: audit sets of each embedding space, with the rows of all copies after their samples. ``copies``: number
    of copies of each kind. Each planting replaces random samples by random copies. A measure stands out if it is
    significantly worse than expected. Shares are tested in ascending order until the measure detects one. Measures that
    stand out without copies, and measures that do not depend on the samples, get no power.
    """
    total = len(spaces[0].samples) - sum(copies.values())
    testable = {measure.name for measure in measures if measure.about == PRIVACY and not measure.stands_out}
    fractions: dict[str, dict[str, dict[str, float]]] = {}
    smallest_share: dict[str, dict[str, float | None]] = {}
    first_copy = total
    for number, (kind, size) in enumerate(progress_bar(copies.items(), "planted copies", leave=False)):
        copy_rows, finished = np.arange(first_copy, first_copy + size), set[str]()
        first_copy += size
        for share in SHARES:
            detections: Counter[str] = Counter()
            for planting in range(plantings):
                rng = np.random.default_rng([spaces[0].seed, 5, number, planting])
                planted = min(copy_count(share, total), total)
                planted_rows = np.resize(rng.permutation(copy_rows), planted)
                rows = np.concatenate([rng.permutation(total)[planted:], planted_rows])
                for name, stands_out in _measure_planting(spaces, rows):
                    detections[name] += stands_out
            for name in sorted(testable & (detections.keys() - finished)):
                fraction = detections[name] / plantings
                fractions.setdefault(name, {}).setdefault(kind, {})[f"{share:g}"] = fraction
                smallest_share.setdefault(name, {}).setdefault(kind, None)
                if fraction >= DETECTION_RATE:
                    smallest_share[name][kind] = share
                    finished.add(name)
    return [replace(measure, power=smallest_share.get(measure.name)) for measure in measures], fractions


def _measure_planting(spaces: Sequence[AuditSets], rows: np.ndarray) -> Iterator[tuple[str, bool]]:
    """Name of each privacy measure of the samples ``rows``, and whether the measure stands out."""
    for sets in spaces:
        planted = sets.with_samples(rows, PERMUTATIONS)
        for _, measure in leakage_measures(planted):
            try:
                yield from ((result.name, result.stands_out) for result in measure(planted))
            except UserError:  # the measure lacks patients, also without copies
                continue


def power_record(copies: PlantedCopies, plantings: int, fractions: Mapping[str, Any]) -> dict[str, Any]:
    """The entry "power" of audit.json: planted copies, and the fraction of plantings that each measure detects."""
    return {
        "shares": list(SHARES),
        "plantings": plantings,
        "found if it stands out in": DETECTION_RATE,
        "copies": {kind: {"about": KINDS[kind], "number": len(part)} for kind, part in copies.latents.items()},
        "not planted": copies.missing,
        "found": fractions,
    }


def power_text(power: Mapping[str, float | None]) -> str:
    """The smallest share of planted copies that a measure detects, for each kind, such as "exact 1 %, rotated none"."""
    return ", ".join(f"{kind} {'none' if share is None else f'{100 * share:g} %'}" for kind, share in power.items())
