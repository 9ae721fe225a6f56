"""Membership inference on a diffusion model: the denoising error of patients who were in training, and of others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm

from echodream import validation
from echodream.artifact import CONFIG, FACTS
from echodream.audit.measure import PRIVACY, Measure, exactly
from echodream.datamodules.dataset import ViewDataset, collate
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Frames, Triplet, View
from echodream.diffusion.conditioning import beating
from echodream.diffusion.model import DiffusionModel, load_diffusion
from echodream.diffusion.noise import draw
from echodream.errors import UserError
from echodream.losses.denoising import mean_squares
from echodream.privacy.attacks.membership import Membership, combined, membership
from echodream.store import Store
from echodream.types import Batch

FPR = 0.01
VIEWS: dict[str, type[Any]] = {view.__name__: view for view in (Frames, Clips, Triplet)}


@dataclass(frozen=True)
class Attack:
    """How hard the attacker tries. Raises ``UserError`` for numbers that cannot be."""

    samples: int
    """Frames, beats or clips of each patient."""
    levels: int
    """Of noise."""
    noises: int
    """Draws of noise at each level."""
    batch: int

    def __post_init__(self) -> None:
        for name in ("samples", "levels", "noises", "batch"):
            validation.whole_number(f"membership.{name}", getattr(self, name))

    def settings(self) -> dict[str, int]:
        """What decides the result."""
        return {"samples": self.samples, "levels": self.levels, "noises": self.noises}


@dataclass(frozen=True)
class Errors:
    """Denoising errors of records, as many of each patient, and of as many members as of others."""

    values: np.ndarray
    """(n, L): mean squared error at each noise level, averaged over draws of noise."""
    member: np.ndarray
    """Whether a record's patient was in training: bool, (n,)."""
    patients: list[str]
    """Whose each record is, n."""
    levels: list[float]
    """Share of the way to pure noise: L."""


def load_generator(folder: str) -> tuple[DiffusionModel, View]:
    """The lidm or lvdm at ``folder``, and the view it was trained on: one sample of each recording, posterior means.

    Raises ``UserError`` when the artifact is something else or does not say what it was trained on.
    """
    try:
        name = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"generator={folder} holds no lidm or lvdm: give the artifact that drew the samples, or generator=null"
        ) from error
    if name not in ("lidm", "lvdm"):
        raise UserError(f"generator={folder} is a {name}: give the lidm or lvdm that drew the samples")
    return load_diffusion(folder, name), _view(Path(folder) / CONFIG)


def _view(path: Path) -> View:
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        view = dict(settings["view"])
        made: View = VIEWS[view.pop("_target_").rpartition(".")[2]](**view)
        return replace(made, per_recording=1, posterior="mean")  # type: ignore[call-arg]
    except (OSError, OmegaConfBaseException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not say on what view the generator was trained: train it again, or give generator=null"
        ) from error


def denoising_errors(
    model: DiffusionModel,
    view: View,
    members: Recordings,
    others: Recordings,
    attack: Attack,
    seed: int,
) -> Errors:
    """Of as many patients of ``members`` as of ``others``, of the larger group a random choice.

    Noise depends on the seed, the level and the number of a patient's record alone: it is the same for all patients.
    All conditions are given, as the recordings have them.
    """
    sides = [_whitened_as(view.usable(rows), model) for rows in (members, others)]
    people = [np.unique(rows.patient_numbers) for rows in sides]
    count = min(map(len, people))
    levels = model.process.levels(attack.levels)
    values: list[np.ndarray] = []
    patients: list[str] = []
    for number, (rows, those) in enumerate(zip(sides, people, strict=True)):
        chosen = np.sort(np.random.default_rng([seed, number]).permutation(those)[:count])
        taken = [_taken(rows, int(patient), attack.samples, seed) for patient in chosen]
        part = rows.select(np.concatenate(taken).tolist())
        patients += part.table["PatientID"].astype(str).tolist()
        samples = ViewDataset(part, view, seed, model.conditioner.columns)
        what = ("members", "others")[number]
        values += list(_errors(model, samples, levels, attack, seed, what))
    member = np.repeat([True, False], len(values) // 2)
    return Errors(np.stack(values), member, patients, [float(level) for level in model.process.level(levels)])


def _whitened_as(rows: Recordings, model: DiffusionModel) -> Recordings:
    """The same recordings, read with the statistics that the model knows."""
    made = rows.select(range(len(rows)))
    made.store = Store(rows.store.root)
    made.store.dataset = replace(made.store.dataset, statistics=model.facts.statistics)
    return made


def _taken(rows: Recordings, patient: int, count: int, seed: int) -> np.ndarray:
    """``count`` recordings of a patient, all of them in turn."""
    own = np.flatnonzero(rows.patient_numbers == patient)
    return np.resize(np.random.default_rng([seed, 2, patient]).permutation(own), count)


@torch.no_grad()
def _errors(
    model: DiffusionModel, samples: ViewDataset, levels: Tensor, attack: Attack, seed: int, what: str
) -> Sequence[np.ndarray]:
    """Of each sample, (L,); sample k is the record k modulo ``attack.samples`` of its patient."""
    device = next(model.parameters()).device
    found = []
    for start in tqdm(range(0, len(samples), attack.batch), f"membership, {what}", disable=None, leave=False):
        numbers = range(start, min(start + attack.batch, len(samples)))
        batch = _to(collate([samples[number] for number in numbers]), device)
        if tuple(batch["x"].shape[-2:]) != (model.facts.height, model.facts.width):
            raise UserError(
                f"the generator draws latents of {model.facts.height} x {model.facts.width}, and real= has others: "
                "give the lidm or lvdm that was trained on real="
            )
        values = _values(model, batch)
        x = model.drawn(batch["x"], values)
        records = [number % attack.samples for number in numbers]
        errors = []
        for level, t in enumerate(levels):
            draws = []
            for again in range(attack.noises):
                noise = _noise(model, x, records, (seed, level, again))
                draws.append(_error(model, x, values, t, noise, batch.get("mask")))
            errors.append(torch.stack(draws).mean(dim=0))
        found += list(torch.stack(errors, dim=1).double().cpu().numpy())
    return found


def _values(model: DiffusionModel, batch: Batch) -> dict[str, Tensor]:
    """The conditions' values as in training: the key frames of a beat come again in every beat."""
    values = model.conditioner.values(batch)
    if model.facts.beat_spread is not None and "reference" in values:
        again = beating(values["reference"], values["reference_time"], batch["x"].shape[2])
        values["reference"], values["reference_time"] = again
    return values


def _error(
    model: DiffusionModel, x: Tensor, values: Mapping[str, Tensor], t: Tensor, noise: Tensor, mask: Tensor | None
) -> Tensor:
    """The unweighted error of each sample at ``t``: (B,)."""
    keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in model.conditioner.names}
    noised = model.process.corrupt(x, t.to(x.device).expand(len(x)), noise)
    return mean_squares(model(noised.x_t, noised.t, values, keep), noised.target, mask)


def _noise(model: DiffusionModel, x: Tensor, records: list[int], key: tuple[int, ...]) -> Tensor:
    """Noise of clips or images shaped like ``x``, (B, C, *rest); equal for equal ``records``, one number a row."""
    shared = model.facts.shared_noise if model.is_video else 0.0
    drawn = {}
    for record in set(records):
        state = np.random.SeedSequence([*key, record]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) & (2**63 - 1))
        drawn[record] = draw(x.shape[1:], shared, generator)
    return torch.stack([drawn[record] for record in records]).to(x.device)


def _to(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on ``device``; columns are moved by the conditions."""
    moved: Any = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return moved


def measured(errors: Errors, model: DiffusionModel, seed: int) -> list[Measure]:
    """AUC and TPR at 1 % FPR, of patients, from all noise levels together; the AUC of each level beside them."""
    found = membership(combined(errors.values), errors.member, errors.patients, FPR, seed=seed)
    kind = "lvdm" if model.is_video else "lidm"
    few = "" if found.resolved else f"; {found.others} others are too few for 1 %: none of them is taken for one"
    return [
        Measure(
            f"membership inference ({kind}), AUC",
            PRIVACY,
            "how well training patients are told from others: those whose recordings the generator restores with a "
            "smaller error are taken for training patients",
            ".5: chance",
            found.auc,
            exactly(0.5),
            found.auc.low > 0.5,
            _details(errors, found, kind, seed),
        ),
        Measure(
            f"membership inference ({kind}), TPR at 1 % FPR",
            PRIVACY,
            f"share of training patients who are found where 1 % of others are taken for one{few}",
            ".01",
            found.tpr,
            exactly(FPR),
            found.tpr.low > (FPR if found.resolved else 1 / found.others),
            {"resolved": found.resolved},
        ),
    ]


def _details(errors: Errors, found: Membership, kind: str, seed: int) -> dict[str, Any]:
    levels = [membership(-level, errors.member, errors.patients, FPR, seed=seed) for level in errors.values.T]
    return {
        "generator": kind,
        "members": found.members,
        "others": found.others,
        "records of each patient": len(errors.patients) // (found.members + found.others),
        "noise levels": errors.levels,
        "auc by noise level": [asdict(each.auc) for each in levels],
        "error by noise level": {
            name: errors.values[errors.member == inside].mean(axis=0).tolist()
            for name, inside in (("members", True), ("others", False))
        },
    }
