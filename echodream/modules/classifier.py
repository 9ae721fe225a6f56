"""Training of classifiers of clips or images (``model=classifier``, ``model=utility``)."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData
from echodream.datamodules.views import Clips
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights
from echodream.modules.classifier_tasks import ClassifierTask, MultilabelTask, build_task
from echodream.modules.trainable import Trainable
from echodream.networks.classifiers import Classifier, blur_by_downsampling
from echodream.runs.atomic_folder import write_record
from echodream.types import Batch
from echodream.weights import fingerprint

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
"""File in a classifier's artifact, with test metrics and their 95 % intervals."""


@dataclass(frozen=True)
class EvaluationResult:
    """Outputs, targets and metrics of one test set."""

    outputs: np.ndarray
    """Outputs of the network, (N, K)."""
    targets: np.ndarray
    """Ground truth: (N,), or (N, K) for ``MultilabelTask``."""
    metrics: dict[str, dict[str, float]]
    """``value`` of each metric, and ``low`` and ``high`` of its 95 % interval; NaN if the metric is undefined."""
    recordings: int
    patients: int
    label_counts: dict[str, dict[str, int]] | None = None
    """Numbers of images and patients of each label (``MultilabelTask.label_counts``)."""

    def as_json(self) -> dict[str, Any]:
        """Test metrics, and numbers of recordings and patients, as JSON values."""
        labels = {} if self.label_counts is None else {"labels": self.label_counts}
        return {"figures": self.metrics, "recordings": self.recordings, "patients": self.patients, **labels}


class ClipClassifier(Trainable):
    """Train a classifier of clips, (B, C, F, H, W) in [-1, 1], for the task of the data module.

    ``backbone`` is a ``functools.partial`` with arguments ``classes`` and ``channels``. ``balanced`` weights classes by
    inverse frequency, and positives of a label by negatives / positives. ``blur`` is the probability that a training
    batch is downsampled by a random factor between ``smallest`` and 1, and upsampled, because decoded latents are
    blurred. ``optimizer``, ``schedule``: see ``Trainable``. ``repeats`` is the number of bootstrap samples of patients.
    """

    task: ClassifierTask

    def __init__(
        self,
        backbone: Callable[..., Classifier],
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        balanced: bool = True,
        blur: float = 0.5,
        smallest: float = 0.3,
        repeats: int = 1000,
    ) -> None:
        super().__init__()
        for name, value in (("blur", blur), ("smallest", smallest)):
            validation.fraction(f"model.{name}", value)
        validation.whole_number("model.repeats", repeats, 100)
        self.make_network, self.make_optimizer, self.make_schedule = backbone, optimizer, schedule
        self.balanced, self.blur, self.smallest, self.repeats = balanced, blur, smallest, repeats
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        """Outputs, targets and row numbers of the batches of the current validation or test run."""
        self._test_results: dict[str, EvaluationResult] = {}
        """Result of each test set, by name. The test set of real recordings has the name ""."""

    def configure_from_data(self, data: RealAndSyntheticData) -> None:  # type: ignore[override]
        """Build the network for the channels and the task of ``data``. Raises ``UserError`` for unsuitable data."""
        self.task = build_task(data, self.balanced)
        self.network = self.make_network(classes=self.task.output_count, channels=data.store.dataset.channels)
        self._rows_by_set = data.test_rows()
        self._patients = data.store.table["PatientID"].astype(str).to_numpy()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = batch["x"]
        if torch.rand(()) < self.blur:
            x = blur_by_downsampling(x, self.smallest + (1 - self.smallest) * float(torch.rand(())))
        return self.log_training_loss(self.task.loss(self.network(x), self.task.target(batch)), batch["name"], len(x))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the outputs and targets of a batch, for the metrics at the end of the epoch."""
        row_of_name, offset = [*self._rows_by_set.values()][dataloader_idx], dataloader_idx * len(self._patients)
        rows = torch.tensor([offset + row_of_name[name] for name in batch["name"]], device=self.device)
        self._outputs.append((self.network(batch["x"]).float(), self.task.target(batch), rows))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        out, target, _ = self._gather_outputs("val/")[0]
        logged = ("auc", "balanced_accuracy", "r2", "mae")
        self._log_metrics("val/", {name: v[0] for name, v in self.task.metrics(out, target).items() if name in logged})

    def on_test_epoch_end(self) -> None:
        """Log all metrics of each test set, and keep the results for ``export``."""
        prefixes = {name: f"test/{name}{'_' if name else ''}" for name in self._rows_by_set}
        gathered = zip(prefixes.items(), self._gather_outputs(*prefixes.values()), strict=True)
        self._test_results = {name: self._evaluate_outputs(*arrays, prefix) for (name, prefix), arrays in gathered}

    def _evaluate_outputs(self, out: np.ndarray, target: np.ndarray, rows: np.ndarray, prefix: str) -> EvaluationResult:
        patients = self._patients[rows]
        values = self.task.metrics(out, target, bootstrap_weights(patients, self.repeats))
        self._log_metrics(prefix, {name: samples[0] for name, samples in values.items()})
        count = self.task.patients_per_metric(target, patients)
        metrics = {name: asdict(bootstrap_interval(v, patients=count.get(name))) for name, v in values.items()}
        counts = self.task.label_counts(target, patients) if isinstance(self.task, MultilabelTask) else None
        return EvaluationResult(out, target, metrics, len(rows), len(set(patients.tolist())), counts)

    @torch.no_grad()
    def export(self, root: Path, data: RealAndSyntheticData, artifact: Artifact, config: str) -> None:  # type: ignore[override]
        """Write the artifact: network, metadata of task and training data, test metrics, and plots."""
        from PIL import Image

        view, first = data.view, data.store.table.iloc[0]  # all recordings have equal size
        clip: dict[str, Any] = {"frames": 1, "stride": 1, "start": "centre"}
        if isinstance(view, Clips):
            clip = {"frames": view.frames, "stride": view.stride, "start": view.for_evaluation().start}
        size = {"height": int(first["FrameHeight"]), "width": int(first["FrameWidth"])}
        metadata = {**self.task.metadata(), **clip, **size, **data.metadata()}
        self.task.rescale_output(self.network)

        def save(folder: Path) -> None:
            self.network.save(folder, metadata)
            if self._test_results:
                records = {name: result.as_json() for name, result in self._test_results.items()}
                record = {**records.pop(""), "interval": f"95 %, {self.repeats} bootstrap samples of patients"}
                if records:
                    record |= {"anonymised": records, "train_on": str(metadata["train_on"])}
                write_record(folder / METRICS_FILE, record)
            for test_set, result in self._test_results.items():
                for name, picture in self.task.plots(result.outputs, result.targets).items():
                    Image.fromarray(picture).save(folder / f"{name}{'_' if test_set else ''}{test_set}.png")

        if isinstance(self.task, MultilabelTask) and self._test_results:
            log.info("%s", format_label_table(self._test_results))
        write_artifact(root, replace(artifact, fingerprint=fingerprint(self.network)), config, save)

    @torch.no_grad()
    def _gather_outputs(self, *prefixes: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Outputs (N, K), targets and row numbers (N,) of each test set, from all processes. Logs the losses."""
        out, target, rows = (torch.cat(parts) for parts in zip(*self._outputs, strict=True))
        self._outputs = []
        if self.trainer.world_size > 1:
            out, target, rows = (torch.cat([*self.all_gather(part)]) for part in (out, target, rows))
        unique = np.unique(rows.cpu().numpy(), return_index=True)[1]  # a distributed sampler repeats some recordings
        out, target, rows = out[unique], target[unique], rows[unique]
        gathered = []
        for number, prefix in enumerate(prefixes):
            in_set = rows // len(self._patients) == number
            self._log_metrics(prefix, {"loss": float(self.task.loss(out[in_set], target[in_set]))})
            row_numbers = (rows[in_set] % len(self._patients)).cpu().numpy()
            gathered.append((out[in_set].double().cpu().numpy(), target[in_set].cpu().numpy(), row_numbers))
        return gathered

    def _log_metrics(self, prefix: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name == "loss" or not math.isnan(value):  # the metric of a class without patients in this split is NaN
                self.log(f"{prefix}{name}", float(value))


def format_label_table(results: Mapping[str, EvaluationResult]) -> str:
    """Format AUC and average precision of each label and test set as a text table."""
    lines = []
    for name, result in results.items():
        images = f"images in {name}, versions of originals" if name else "original images"
        lines.append(f"  tested on {result.recordings} {images}, of {result.patients} TEST patients (95 % intervals)")
        counts = result.label_counts or {}
        width = max(map(len, [*counts, "mean"]))
        for label, count in counts.items():
            positive, negative = count["positive"], count["negative"]
            text = f"not scored: {positive} positive and {negative} negative images, and AUC needs both kinds"
            if positive and negative:
                share = f"{positive} of {positive + negative} images, {count['patients_positive']} patients"
                text = f"{_format_label_metrics(f'_{label}', result)}  positive: {share}"
            lines.append(f"    {label:<{width}}  {text}")
        lines.append(f"    {'mean':<{width}}  {_format_label_metrics('', result)}")
    return "\n".join(lines)


def _format_label_metrics(suffix: str, result: EvaluationResult) -> str:
    metrics = {"AUC": result.metrics[f"auc{suffix}"], "average precision": result.metrics[f"average_precision{suffix}"]}
    return "  ".join(f"{name} {m['value']:.3f} ({m['low']:.3f} to {m['high']:.3f})" for name, m in metrics.items())
