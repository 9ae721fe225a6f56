"""``model=classifier`` and ``model=utility``: what clips or images show: a class, a number, or any number of labels."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echodream import validation
from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData
from echodream.datamodules.tasks import Task
from echodream.datamodules.views import Clips
from echodream.metrics.bootstrap import bootstrap_interval, bootstrap_weights
from echodream.modules.classifier_tasks import ClassifierTask, MultilabelTask, goal_of
from echodream.modules.label_table import label_table, plain
from echodream.modules.trainable import Trainable
from echodream.networks.classifiers import Classifier, soften
from echodream.types import Batch
from echodream.weights import fingerprint

log = logging.getLogger(__name__)

METRICS = "metrics.json"
"""In an artifact: figures of the test patients with their intervals."""


class ClipClassifier(Trainable):
    """Answer a ``task`` from clips, (B, C, F, H, W) in [-1, 1]: by cross-entropy, or a number by squared error.

    ``backbone`` is a partial that takes the number of answers and of channels, which the data have. A class counts
    by the inverse of its frequency in training if ``balanced``, the yes of a label as often as there is a no for it. In
    training each batch is, ``blur`` of the time, reduced to a random share of its sides, from ``smallest`` on, and
    enlarged again: decoded latents lack detail.
    ``optimizer`` and ``schedule`` are partials, as for the autoencoder. Test figures have intervals of ``repeats``
    bootstrap samples of the patients.
    """

    goal: ClassifierTask

    def __init__(
        self,
        backbone: Callable[..., Classifier],
        optimizer: Callable[..., torch.optim.Optimizer],
        task: Task,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        balanced: bool = True,
        blur: float = 0.5,
        smallest: float = 0.3,
        repeats: int = 1000,
    ) -> None:
        super().__init__()
        for name, value in (("blur", blur), ("smallest", smallest)):
            validation.share(f"model.{name}", value)
        validation.whole_number("model.repeats", repeats, 100)
        self.make_network, self.make_optimizer, self.make_schedule = backbone, optimizer, schedule
        self.balanced, self.blur, self.smallest, self.repeats = balanced, blur, smallest, repeats
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._tested: dict[str, Any] = {}
        self._versions: dict[str, dict[str, Any]] = {}

    def adapt(self, data: RealAndSyntheticData) -> None:  # type: ignore[override]
        """Build the network for the channels and answers of ``data``. Raises ``UserError`` when it has none."""
        self.goal = goal_of(data, self.balanced)
        self.network = self.make_network(classes=self.goal.outputs, channels=data.store.dataset.channels)
        table = data.store.table
        self._rows = data.tested()
        self._patients = table["PatientID"].astype(str).to_numpy()

    def configure_optimizers(self) -> Any:
        """One optimiser, with its schedule counted in steps."""
        return self.optimize(self.make_optimizer, self.make_schedule)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Blur, answer, compare, log."""
        x = batch["x"]
        if torch.rand(()) < self.blur:
            x = soften(x, self.smallest + (1 - self.smallest) * float(torch.rand(())))
        loss = self.goal.loss(self.network(x), self.goal.target(batch))
        if not torch.isfinite(loss):
            self.refuse("loss", batch["name"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep answers and targets: what is measured is of the whole split. Rows of further sets are numbered on."""
        row, more = [*self._rows.values()][dataloader_idx], dataloader_idx * len(self._patients)
        rows = torch.tensor([more + row[name] for name in batch["name"]], device=self.device)
        self._found.append((self.network(batch["x"]).float(), self.goal.target(batch), rows))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation, on the test patients, and on each other set that is tested."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Loss and the means over classes, or the figures of a number."""
        out, target, _ = self._gathered("val/")[0]
        means = ("auc", "balanced_accuracy", "r2", "mae")
        self._log("val/", {name: v[0] for name, v in self.goal.measure(out, target).items() if name in means})

    def on_test_epoch_end(self) -> None:
        """All figures, each class by its name; the artifact has them with intervals. Of other sets, by their names."""
        where = {name: f"test/{name}{'_' if name else ''}" for name in self._rows}
        parts = self._gathered(*where.values())
        tested = [self._measured(*part, prefix) for part, prefix in zip(parts, where.values(), strict=True)]
        self._tested, self._versions = tested[0], dict(zip([*where][1:], tested[1:], strict=True))

    def _measured(self, out: np.ndarray, target: np.ndarray, rows: np.ndarray, prefix: str) -> dict[str, Any]:
        patients = self._patients[rows]
        found = self.goal.measure(out, target, bootstrap_weights(patients, self.repeats))
        self._log(prefix, {name: values[0] for name, values in found.items()})
        of = self.goal.units(target, patients)
        figures = {name: asdict(bootstrap_interval(values, patients=of.get(name))) for name, values in found.items()}
        tested = {"out": out, "target": target, "figures": figures}
        tested |= {"recordings": len(rows), "patients": len(set(patients.tolist()))}
        return (
            {**tested, "labels": self.goal.counts(target, patients)}
            if isinstance(self.goal, MultilabelTask)
            else tested
        )

    @torch.no_grad()
    def export(self, root: Path, data: RealAndSyntheticData, artifact: Artifact, config: str) -> None:  # type: ignore[override]
        """Write the network with what it answers, what it looks at and what it was trained on, figures and pictures."""
        view, first = data.view, data.store.table.iloc[0]  # all are of one size
        clip: dict[str, Any] = {"frames": 1, "stride": 1, "start": "centre"}
        if isinstance(view, Clips):
            clip = {"frames": view.frames, "stride": view.stride, "start": view.fixed().start}
        size = {"height": int(first["FrameHeight"]), "width": int(first["FrameWidth"])}
        facts = {**self.goal.facts(), **clip, **size, **data.facts()}
        self.goal.finish(self.network)

        def save(folder: Path) -> None:
            self.network.save(folder, facts)
            if self._tested:
                _write_figures(folder, self._tested, self._versions, self.repeats, str(facts["train_on"]))
            for which, tested in {"": self._tested, **self._versions}.items():
                for name, picture in self.goal.pictures(tested["out"], tested["target"]).items() if tested else ():
                    _write_picture(folder / f"{name}{'_' if which else ''}{which}.png", picture)

        if isinstance(self.goal, MultilabelTask) and self._tested:
            log.info("%s", label_table(self._tested, self._versions))
        write_artifact(root, replace(artifact, fingerprint=fingerprint(self.network)), config, save)

    @torch.no_grad()
    def _gathered(self, *sets: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Outputs (N, K), targets and row numbers (N,) of each of ``sets``, each recording once; logs the losses."""
        out, target, rows = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found = []
        if self.trainer.world_size > 1:
            out, target, rows = (torch.cat([*self.all_gather(part)]) for part in (out, target, rows))
        once = np.unique(rows.cpu().numpy(), return_index=True)[1]  # a few are repeated on several devices
        out, target, rows = out[once], target[once], rows[once]
        found = []
        for number, prefix in enumerate(sets):
            own = rows // len(self._patients) == number
            self._log(prefix, {"loss": float(self.goal.loss(out[own], target[own]))})
            numbers = (rows[own] % len(self._patients)).cpu().numpy()
            found.append((out[own].double().cpu().numpy(), target[own].cpu().numpy(), numbers))
        return found

    def _log(self, prefix: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name == "loss" or not math.isnan(value):  # a class without a patient here has no value
                self.log(f"{prefix}{name}", float(value))


def _write_figures(
    folder: Path, tested: dict[str, Any], versions: dict[str, dict[str, Any]], repeats: int, train_on: str
) -> None:
    """``metrics.json``: each figure with its interval; null for what has no value."""
    record = {**plain(tested), "interval": f"95 %, {repeats} bootstrap samples of patients"}
    if versions:
        record["anonymised"] = {name: plain(each) for name, each in versions.items()}
        record["train_on"] = train_on  # of originals, their own figures say nothing of the versions
    (folder / METRICS).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_picture(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(picture).save(path)
