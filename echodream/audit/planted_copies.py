"""Power of an audit: which share of planted copies of training patients each privacy measure finds."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from echodream.audit.embedding_sets import AuditSets
from echodream.audit.inputs import AuditInputs
from echodream.audit.leakage import LEAKAGE_MEASURES
from echodream.audit.measure import PRIVACY, Measure
from echodream.datamodules.recordings import named_rng
from echodream.diffusion.guidance import Guidance
from echodream.errors import UserError
from echodream.filtering.copy_generation import CopyGenerator, FrameSelection, select_frames_by_patient
from echodream.filtering.embedding import sampling_settings
from echodream.filtering.positive_controls import Control, PixelTransform, SDEdit, generate_copies

SHARES = (0.01, 0.05, 0.1)
"""Shares of the samples that are replaced by copies, at least one sample."""
FOUND = 0.8
"""A measure finds a share if it stands out in this fraction of the random plantings."""
PERMUTATIONS = 200
STEPS = 20
"""Sampler steps from pure noise of SDEdit."""
EXACT = "exact"
TRANSFORMS: dict[str, Control] = {"rotated": PixelTransform(rotate=5.0), "redrawn": SDEdit(0.3)}
KINDS = {EXACT: "exact", "rotated": "rotated by 5°", "redrawn": "redrawn by the generator from 30 % noise"}
"""Kinds of planted copies, in words."""


@dataclass(frozen=True)
class PlantedCopies:
    """Copies of training patients: unscaled latents (f, C, H, W), by kind, and why other kinds are missing."""

    latents: dict[str, list[Tensor]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def make_copies(inputs: AuditInputs, autoencoder: str, frames: int, seed: int) -> PlantedCopies:
    """Copies of random training patients, one each, of ``frames`` frames: as many as the largest share needs.

    An exact copy is a new sample of the stored posterior of real frames. Without a generator no copy is redrawn.
    """
    recordings, count = inputs.train, copy_count(SHARES[-1], len(inputs.samples))
    by_patient = select_frames_by_patient(recordings, frames, seed)
    names = named_rng(seed, "planted").permutation(sorted(by_patient))[:count].tolist()
    selections = [by_patient[name] for name in names]
    exact = [
        recordings.posterior_sample(part.row, part.frames, named_rng(seed, f"{EXACT}/{recordings.names[part.row]}"))
        for part in selections
    ]
    copies = PlantedCopies({EXACT: exact})
    for kind, control in TRANSFORMS.items():
        try:
            copies.latents[kind] = _transformed(inputs, autoencoder, kind, control, selections, seed)
        except UserError as error:
            copies.missing[kind] = str(error)
    return copies


def _transformed(
    inputs: AuditInputs, autoencoder: str, kind: str, control: Control, selections: Sequence[FrameSelection], seed: int
) -> list[Tensor]:
    model = inputs.generator[0] if inputs.generator and control.needs_generator else None
    names = model.conditioner.names if model else ()
    guidance = Guidance.from_record(sampling_settings(inputs.samples.store).get("guidance"), names)
    device = inputs.embedder.device
    generator = CopyGenerator(inputs.train, autoencoder, model, guidance, STEPS, seed, device)
    with torch.no_grad():
        return list(generate_copies(generator, kind, control, selections))


def copy_count(share: float, samples: int) -> int:
    """Number of copies that make up ``share`` of ``samples``, at least one."""
    return max(1, math.ceil(share * samples - 1e-9))


def measure_power(
    spaces: Sequence[AuditSets], copies: Mapping[str, int], measures: Sequence[Measure], plantings: int
) -> tuple[list[Measure], dict[str, dict[str, dict[str, float]]]]:
    """``measures`` with their power, and the fraction of ``plantings`` in which each stands out, by kind and share.

    ``spaces``: sets whose samples are followed by the ``copies``, in number by kind. In each planting random copies
    replace random samples. Shares are tested in rising order until one is found. Measures that stand out without
    copies, and those that do not depend on the samples, have no power that can be measured.
    """
    total = len(spaces[0].samples) - sum(copies.values())
    clean = {measure.name for measure in measures if measure.about == PRIVACY and not measure.stands_out}
    found: dict[str, dict[str, dict[str, float]]] = {}
    smallest: dict[str, dict[str, float | None]] = {}
    start = total
    for number, (kind, size) in enumerate(tqdm(copies.items(), "planted copies", disable=None, leave=False)):
        pool, done = np.arange(start, start + size), set[str]()
        start += size
        for share in SHARES:
            hits: Counter[str] = Counter()
            for planting in range(plantings):
                rng = np.random.default_rng([spaces[0].seed, 5, number, planting])
                planted = min(copy_count(share, total), total)
                chosen, kept = np.resize(rng.permutation(pool), planted), rng.permutation(total)[planted:]
                for name, stands_out in _measure_again(spaces, np.concatenate([kept, chosen])):
                    hits[name] += stands_out
            for name in sorted(clean & (hits.keys() - done)):
                fraction = hits[name] / plantings
                found.setdefault(name, {}).setdefault(kind, {})[f"{share:g}"] = fraction
                smallest.setdefault(name, {}).setdefault(kind, None)
                if fraction >= FOUND:
                    smallest[name][kind] = share
                    done.add(name)
    return [replace(measure, power=smallest.get(measure.name)) for measure in measures], found


def _measure_again(spaces: Sequence[AuditSets], rows: np.ndarray) -> Iterator[tuple[str, bool]]:
    """Name of each measure of the samples ``rows``, and whether it stands out."""
    for sets in spaces:
        planted = sets.with_samples(rows, PERMUTATIONS)
        for measure in LEAKAGE_MEASURES.values():
            try:
                yield from ((result.name, result.stands_out) for result in measure(planted))
            except UserError:  # too few patients, also without copies
                continue


def power_record(copies: PlantedCopies, plantings: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was planted and what was found, for audit.json."""
    return {
        "shares": list(SHARES),
        "plantings": plantings,
        "found if it stands out in": FOUND,
        "copies": {kind: {"about": KINDS[kind], "number": len(part)} for kind, part in copies.latents.items()},
        "not planted": copies.missing,
        "found": found,
    }


def power_text(power: Mapping[str, float | None]) -> str:
    """The smallest shares that a measure finds, in words: "exact 1 %, rotated none"."""
    return ", ".join(f"{kind} {'none' if share is None else f'{100 * share:g} %'}" for kind, share in power.items())
