"""Membership inference on a diffusion model: training patients may have smaller denoising errors."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
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
from echodream.auditing.measure import PRIVACY, Measure, control_details, exact_interval
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Frames, Triplet, View
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.errors import UserError
from echodream.losses.denoising import mean_squared_errors
from echodream.metrics.bootstrap import unit_indices
from echodream.privacy.attacks.gaussian_denoiser import GaussianDenoiser
from echodream.privacy.attacks.membership import (
    FOLDS,
    Membership,
    calibrated_errors,
    combine_noise_levels,
    controlled_auc,
    membership,
)
from echodream.progress import progress_bar
from echodream.runs.atomic_folder import read_record
from echodream.sampling.sampling_module import batch_noise, seeded_generator
from echodream.store import Store

FPR = 0.01
CONTROL_RECORDS = 1000
"""Maximum number of records that the control is fitted to."""
VIEW_CLASSES: dict[str, type[Any]] = {view.__name__: view for view in (Frames, Clips, Triplet)}


@dataclass(frozen=True)
class MembershipConfig:
    """Number of ``samples`` per patient, noise ``levels``, ``noises`` per level, and samples per ``batch``, from 1."""

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
    """Denoising errors of n records: the same number of records of each training patient and each held-out patient."""

    values: np.ndarray
    """Mean squared error of each record at each noise level, averaged over noise samples: (n, L)."""
    control: np.ndarray
    """Expected error of each record for a Gaussian denoiser that was fitted to other training patients: (n, L)."""
    member: np.ndarray
    """Whether the patient of each record is a training patient: bool, (n,)."""
    patients: list[str]
    """Patient of each record."""
    levels: list[float]
    """Noise levels, (L,), as fractions of the diffusion time."""

    def scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Three scores of P patients, (P,) each, and whether each patient was in training, bool (P,).

        The scores are computed from the errors that the control does not explain, from all errors, and from the
        control.
        """
        unit = unit_indices(self.patients, len(self.patients))
        counts, levels = np.bincount(unit), range(len(self.levels))
        errors, control = (
            np.stack([np.bincount(unit, part[:, level]) / counts for level in levels], axis=1)
            for part in (self.values, self.control)
        )
        member = np.bincount(unit, self.member) > 0
        unexplained = [calibrated_errors(errors[:, level], control[:, level], member) for level in levels]
        scores, raw, difficulty = map(combine_noise_levels, (np.stack(unexplained, axis=1), errors, control))
        return scores, raw, difficulty, member


def load_generator(folder: str) -> tuple[DiffusionModel, View]:
    """The lidm or lvdm in ``folder``, and its training view, changed to one posterior mean per recording.

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
    model: DiffusionModel,
    view: View,
    members: Recordings,
    held_out: Recordings | None,
    config: MembershipConfig,
    seed: int,
) -> DenoisingErrors:
    """Denoising errors of all training patients, ``members``, and of the ``held_out`` patients, unless None.

    All patients have the same noise: it depends on the seed, the noise level and the index of a record among the
    records of its patient. No condition of the model is dropped.
    """
    samples: list[ViewDataset] = []
    names: list[list[str]] = []
    for group in (members, *([] if held_out is None else [held_out])):
        recordings = _use_model_statistics(model, view.select_recordings(group))
        patients = np.unique(recordings.patient_numbers)
        rows = [_rows_of_patient(recordings, int(patient), config.samples, seed) for patient in patients]
        records = recordings.select(np.concatenate(rows).tolist())
        names.append(records.table["PatientID"].astype(str).tolist())
        samples.append(ViewDataset(records, view, seed, model.conditioner.columns))
    folds = [_record_folds(patients, config.samples, seed) for patients in names]
    controls = _fit_controls(model, samples[0], folds[0], config, seed)
    levels = model.process.log_snr_times(config.levels)
    values, control = [], []
    for part, fold, progress in zip(samples, folds, ("members", "others"), strict=False):
        for errors, expected in _denoising_errors(model, part, levels, config, seed, controls, fold, progress):
            values.append(errors)
            control.append(expected)
    member = np.repeat([True, False][: len(names)], [len(patients) for patients in names])
    times = model.process.relative_time(levels).tolist()
    return DenoisingErrors(np.concatenate(values), np.concatenate(control), member, [*itertools.chain(*names)], times)


def _record_folds(patients: Sequence[str], records_per_patient: int, seed: int) -> np.ndarray:
    """Random fold of each of n records, int (n,); all records of a patient are in one fold."""
    count = len(patients) // records_per_patient
    return np.repeat(np.random.default_rng([seed, 3]).permutation(count) % FOLDS, records_per_patient)


@torch.no_grad()
def _fit_controls(
    model: DiffusionModel, samples: ViewDataset, fold: np.ndarray, config: MembershipConfig, seed: int
) -> list[GaussianDenoiser]:
    """For each fold, a Gaussian denoiser that is fitted to the training records (``samples``) of all other folds."""
    if not fold.any():
        raise UserError("membership inference needs two or more patients in training")
    chosen = np.sort(np.random.default_rng([seed, 4]).permutation(len(fold))[:CONTROL_RECORDS])
    latents = [x.flatten(1).cpu() for *_, x in _batches(model, samples, chosen, config.batch, "control")]
    rows, in_fold = torch.cat(latents), torch.from_numpy(fold[chosen])
    return [GaussianDenoiser(rows[in_fold != number]) for number in range(FOLDS)]


def _use_model_statistics(model: DiffusionModel, recordings: Recordings) -> Recordings:
    """A copy of ``recordings`` whose latents are whitened with the statistics of ``model``."""
    whitened = recordings.select(range(len(recordings)))
    whitened.store = Store(recordings.store.root)
    whitened.store.dataset = replace(whitened.store.dataset, statistics=model.metadata.statistics)
    return whitened


def _rows_of_patient(recordings: Recordings, patient: int, count: int, seed: int) -> np.ndarray:
    """``count`` rows of a patient's recordings in random order; rows repeat if the patient has fewer."""
    rows = recordings.rows_by_patient[patient]
    return np.resize(np.random.default_rng([seed, 2, patient]).permutation(rows), count)


def _batches(
    model: DiffusionModel, samples: ViewDataset, indices: np.ndarray, batch_size: int, progress: str
) -> Iterator[tuple[np.ndarray, Any, Mapping[str, Tensor], Tensor]]:
    """For each batch of ``samples``: sample indices, batch, condition values, and the noise-free network input."""
    device = next(model.parameters()).device
    for start in progress_bar(range(0, len(indices), batch_size), f"membership, {progress}", leave=False):
        batch_indices = indices[start : start + batch_size]
        loaded = default_collate([samples[int(number)] for number in batch_indices]).items()
        batch: Any = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in loaded}
        if tuple(batch["x"].shape[-2:]) != (model.metadata.height, model.metadata.width):
            raise UserError(
                f"the generator samples latents of {model.metadata.height} x {model.metadata.width}, and the latents "
                "of real= have another size: give the lidm or lvdm that was trained on real="
            )
        conditions = model.condition_values(batch)
        yield batch_indices, batch, conditions, model.to_residual(batch["x"], conditions)


@torch.no_grad()
def _denoising_errors(
    model: DiffusionModel,
    samples: ViewDataset,
    levels: Tensor,
    config: MembershipConfig,
    seed: int,
    controls: Sequence[GaussianDenoiser],
    fold: np.ndarray,
    progress: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each batch of ``samples``: errors of ``model``, and of the control of each sample's ``fold``, (B, L) each.

    Each patient has ``config.samples`` consecutive samples: sample k is number k % ``config.samples`` of its patient.
    """
    shared, snr = model.metadata.shared_noise if model.is_video else 0.0, model.process.log_snr(levels).exp()
    for numbers, batch, conditions, x in _batches(model, samples, np.arange(len(samples)), config.batch, progress):
        errors = []
        for level, t in enumerate(levels):
            errors_by_noise = []
            for repeat in range(config.noises):
                generators = [seeded_generator(seed, level, repeat, int(number) % config.samples) for number in numbers]
                noise = batch_noise(x.shape[1:], generators, x.device, shared)
                errors_by_noise.append(_denoising_error(model, x, conditions, t, noise, batch.get("mask")))
            errors.append(torch.stack(errors_by_noise).mean(dim=0))
        expected, rows = np.empty((len(x), len(levels))), x.flatten(1).cpu()
        for number in np.unique(fold[numbers]):
            in_fold = fold[numbers] == number
            expected[in_fold] = controls[number].expected_errors(rows[in_fold], snr)
        yield torch.stack(errors, dim=1).double().cpu().numpy(), expected


def _denoising_error(
    model: DiffusionModel, x: Tensor, values: Mapping[str, Tensor], t: Tensor, noise: Tensor, mask: Tensor | None
) -> Tensor:
    """Unweighted mean squared error of each sample at time ``t``, without dropout of conditions: (B,)."""
    keep = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name in model.conditioner.names}
    noised = model.process.corrupt(x, t.to(x.device).expand(len(x)), noise)
    return mean_squared_errors(model(noised.x_t, noised.t, values, keep), noised.target, mask)


def membership_measures(errors: DenoisingErrors, model: DiffusionModel, seed: int) -> Iterator[Measure]:
    """AUC of membership inference over patients, and TPR at 1 % FPR; ``details`` has the AUC of each noise level.

    The AUC stands out if the errors that the control does not explain identify training patients. If the control, too,
    has smaller errors for training patients, the AUC of all errors must also be higher than that of the control.
    """
    scores, raw, control, member = errors.scores()
    result, uncalibrated = (
        membership(scores, member, range(len(scores)), FPR, seed=seed),
        controlled_auc(raw, control, member),
    )
    less_difficult = uncalibrated.control.low > 0.5
    succeeds = result.auc.low > 0.5 and (uncalibrated.beyond.low > 0 or not less_difficult)
    kind = "lvdm" if model.is_video else "lidm"
    note = "" if result.resolved else f"; {result.others} held-out patients are too few for 1 %, so the FPR is 0"
    yield Measure(
        f"membership inference ({kind}), AUC",
        PRIVACY,
        "ROC AUC of membership inference (training patients against held-out patients) by the denoising error of the "
        "generator, which is smaller for recordings that it was trained on, relative to the error of a linear denoiser "
        "that was fitted to other patients",
        ".5: chance level",
        result.auc,
        exact_interval(0.5),
        succeeds,
        {**control_details(uncalibrated), **_membership_details(errors, result, kind)},
    )
    yield Measure(
        f"membership inference ({kind}), TPR at 1 % FPR",
        PRIVACY,
        f"share of training patients who are identified at a false positive rate of 1 %{note}",
        ".01",
        result.tpr,
        exact_interval(FPR),
        succeeds and result.tpr.low > (FPR if result.resolved else 1 / result.others),
        {"resolved": result.resolved},
    )


def _membership_details(errors: DenoisingErrors, result: Membership, kind: str) -> dict[str, Any]:
    member, patients = errors.member, errors.patients
    by_level = [membership(-values, member, patients, FPR, 1) for values in errors.values.T]
    return {
        "generator": kind,
        "members": result.members,
        "others": result.others,
        "records of each patient": len(patients) // (result.members + result.others),
        "noise levels": errors.levels,
        "auc by noise level": [asdict(level.auc) for level in by_level],
        "error by noise level": {
            name: errors.values[member == group].mean(axis=0).tolist()
            for name, group in (("members", True), ("others", False))
        },
    }
