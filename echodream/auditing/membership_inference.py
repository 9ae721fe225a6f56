"""Membership inference on a diffusion model: whether training patients have smaller denoising errors than others."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.utils.data import default_collate

from echodream import validation
from echodream.artifact import METADATA_FILE, TRAINING_FILE
from echodream.auditing.measure import PRIVACY, Measure, exact_value
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Frames, Triplet, View
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.errors import UserError
from echodream.losses.denoising import mean_squared_errors
from echodream.privacy.attacks.membership import Membership, combine_levels, membership
from echodream.progress import progress_bar
from echodream.runs.atomic_folder import read_record
from echodream.sampling.sampling_module import batch_noise, seeded_generator
from echodream.store import Store

FPR = 0.01
VIEW_CLASSES: dict[str, type[Any]] = {view.__name__: view for view in (Frames, Clips, Triplet)}


@dataclass(frozen=True)
class MembershipConfig:
    """Numbers of ``samples`` per patient, noise ``levels``, ``noises`` per level, batch size. Raises ``UserError``."""

    samples: int
    levels: int
    noises: int
    batch: int

    def __post_init__(self) -> None:
        for name in ("samples", "levels", "noises", "batch"):
            validation.whole_number(f"membership.{name}", getattr(self, name))

    def settings(self) -> dict[str, int]:
        """The settings on which the result of membership inference depends."""
        return {"samples": self.samples, "levels": self.levels, "noises": self.noises}


@dataclass(frozen=True)
class DenoisingErrors:
    """Denoising errors of n records: equally many per patient, equally many of training patients and of others."""

    values: np.ndarray
    """Mean squared error of each record at each noise level, averaged over noise samples: (n, L)."""
    member: np.ndarray
    """Whether the patient of each record was in training: bool, (n,)."""
    patients: list[str]
    """Patient of each record."""
    levels: list[float]
    """Noise levels, (L,), as fractions of the diffusion time."""


def load_generator(folder: str) -> tuple[DiffusionModel, View]:
    """The lidm or lvdm in ``folder``, and its training view, with one sample per recording and posterior means.

    Raises ``UserError`` if the artifact is another model or does not record its view.
    """
    if (name := (read_record(Path(folder) / METADATA_FILE) or {}).get("model")) is None:
        remedy = "give the artifact that generated the samples, or generator=null"
        raise UserError(f"generator={folder} holds no lidm or lvdm: {remedy}")
    if name not in ("lidm", "lvdm"):
        raise UserError(f"generator={folder} is a {name}: give the lidm or lvdm that generated the samples")
    return load_diffusion_model(folder, name), _training_view(Path(folder) / TRAINING_FILE)


def _training_view(path: Path) -> View:
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        view = dict(settings["view"])
        training_view: View = VIEW_CLASSES[view.pop("_target_").rpartition(".")[2]](**view)
        return replace(training_view, per_recording=1, posterior="mean")
    except (OSError, OmegaConfBaseException, KeyError, TypeError, ValueError, AttributeError) as error:
        remedy = "train the generator again, or give generator=null"
        raise UserError(f"{path} does not record the view that the generator was trained with: {remedy}") from error


def denoising_errors(
    model: DiffusionModel, view: View, members: Recordings, others: Recordings, config: MembershipConfig, seed: int
) -> DenoisingErrors:
    """Denoising errors of equally many patients of ``members`` and ``others``; the larger group is subsampled.

    The noise is the same for all patients: it depends on the seed, the noise level and the number of the record within
    its patient. The model gets all of its conditions.
    """
    groups = [_use_model_statistics(model, view.select_recordings(recordings)) for recordings in (members, others)]
    patients_of_groups = [np.unique(recordings.patient_numbers) for recordings in groups]
    count = min(map(len, patients_of_groups))
    levels = model.process.log_snr_times(config.levels)
    values: list[np.ndarray] = []
    names: list[str] = []
    for number, (recordings, patients) in enumerate(zip(groups, patients_of_groups, strict=True)):
        selected = np.sort(np.random.default_rng([seed, number]).permutation(patients)[:count])
        rows = [_rows_of_patient(recordings, int(patient), config.samples, seed) for patient in selected]
        records = recordings.select(np.concatenate(rows).tolist())
        names += records.table["PatientID"].astype(str).tolist()
        samples = ViewDataset(records, view, seed, model.conditioner.columns)
        values += _denoising_errors(model, samples, levels, config, seed, ("members", "others")[number])
    member = np.repeat([True, False], len(values) // 2)
    return DenoisingErrors(np.stack(values), member, names, model.process.relative_time(levels).tolist())


def _use_model_statistics(model: DiffusionModel, recordings: Recordings) -> Recordings:
    """A copy of ``recordings`` whose latents are whitened with the statistics of ``model``."""
    whitened = recordings.select(range(len(recordings)))
    whitened.store = Store(recordings.store.root)
    whitened.store.dataset = replace(whitened.store.dataset, statistics=model.metadata.statistics)
    return whitened


def _rows_of_patient(recordings: Recordings, patient: int, count: int, seed: int) -> np.ndarray:
    """``count`` rows of a patient's recordings in random order; rows repeat if there are fewer recordings."""
    rows = np.flatnonzero(recordings.patient_numbers == patient)
    return np.resize(np.random.default_rng([seed, 2, patient]).permutation(rows), count)


@torch.no_grad()
def _denoising_errors(
    model: DiffusionModel, samples: ViewDataset, levels: Tensor, config: MembershipConfig, seed: int, progress: str
) -> list[np.ndarray]:
    """Denoising errors of each of ``samples``, (L,); sample k is record k modulo ``config.samples`` of its patient."""
    device, shared = next(model.parameters()).device, model.metadata.shared_noise if model.is_video else 0.0
    values = []
    for start in progress_bar(range(0, len(samples), config.batch), f"membership, {progress}", leave=False):
        numbers = range(start, min(start + config.batch, len(samples)))
        loaded = default_collate([samples[number] for number in numbers]).items()
        batch: Any = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in loaded}
        if tuple(batch["x"].shape[-2:]) != (model.metadata.height, model.metadata.width):
            raise UserError(
                f"the generator samples latents of {model.metadata.height} x {model.metadata.width}, and the latents "
                "of real= have another size: give the lidm or lvdm that was trained on real="
            )
        conditions = model.condition_values(batch)
        x = model.to_residual(batch["x"], conditions)
        records = [number % config.samples for number in numbers]
        errors = []
        for level, t in enumerate(levels):
            errors_by_noise = []
            for repeat in range(config.noises):
                generators = [seeded_generator(seed, level, repeat, record) for record in records]
                noise = batch_noise(x.shape[1:], generators, device, shared)
                errors_by_noise.append(_denoising_error(model, x, conditions, t, noise, batch.get("mask")))
            errors.append(torch.stack(errors_by_noise).mean(dim=0))
        values += list(torch.stack(errors, dim=1).double().cpu().numpy())
    return values


def _denoising_error(
    model: DiffusionModel, x: Tensor, values: Mapping[str, Tensor], t: Tensor, noise: Tensor, mask: Tensor | None
) -> Tensor:
    """Unweighted mean squared error of each sample at time ``t``, without dropout of conditions: (B,)."""
    keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in model.conditioner.names}
    noised = model.process.corrupt(x, t.to(x.device).expand(len(x)), noise)
    return mean_squared_errors(model(noised.x_t, noised.t, values, keep), noised.target, mask)


def membership_measures(errors: DenoisingErrors, model: DiffusionModel, seed: int) -> Iterator[Measure]:
    """AUC, and TPR at 1 % FPR, over patients, from all noise levels; ``details`` has the AUC of each level."""
    result = membership(combine_levels(errors.values), errors.member, errors.patients, FPR, seed=seed)
    kind = "lvdm" if model.is_video else "lidm"
    note = "" if result.resolved else f"; {result.others} others are too few for 1 %, so the FPR is 0"
    yield Measure(
        f"membership inference ({kind}), AUC",
        PRIVACY,
        "ROC AUC of a classifier of training patients by the denoising error of the generator, which is smaller for "
        "recordings that it was trained on",
        ".5: chance level",
        result.auc,
        exact_value(0.5),
        result.auc.low > 0.5,
        _membership_details(errors, result, kind, seed),
    )
    yield Measure(
        f"membership inference ({kind}), TPR at 1 % FPR",
        PRIVACY,
        f"share of training patients who are identified at a false positive rate of 1 %{note}",
        ".01",
        result.tpr,
        exact_value(FPR),
        result.tpr.low > (FPR if result.resolved else 1 / result.others),
        {"resolved": result.resolved},
    )


def _membership_details(errors: DenoisingErrors, result: Membership, kind: str, seed: int) -> dict[str, Any]:
    by_level = [membership(-values, errors.member, errors.patients, FPR, seed=seed) for values in errors.values.T]
    return {
        "generator": kind,
        "members": result.members,
        "others": result.others,
        "records of each patient": len(errors.patients) // (result.members + result.others),
        "noise levels": errors.levels,
        "auc by noise level": [asdict(level.auc) for level in by_level],
        "error by noise level": {
            name: errors.values[errors.member == member].mean(axis=0).tolist()
            for name, member in (("members", True), ("others", False))
        },
    }
