"""``model=classifier``: what class a clip is of, trained on real patients and tested on others."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from echodream.artifact import Artifact, write_artifact
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.views import Clips
from echodream.errors import UserError
from echodream.metrics.classification import auc, balanced_accuracy, class_accuracy
from echodream.modules.trainable import Trainable
from echodream.networks.classifiers import Classifier, soften
from echodream.types import Batch
from echodream.weights import fingerprint


class ClipClassifier(Trainable):
    """Classify clips, (B, C, F, H, W) in [-1, 1], by the column class_id; cross-entropy.

    ``backbone`` is a partial that takes the number of classes and of channels, which the data have. A class counts
    by the inverse of its frequency in training if ``balanced``. In training each batch is, ``blur`` of the time,
    reduced to a random share of its sides, from ``smallest`` on, and enlarged again: decoded latents lack detail.
    ``optimizer`` and ``schedule`` are partials, as for the autoencoder.
    """

    columns = ("class_id",)
    weight: Tensor

    def __init__(
        self,
        backbone: Callable[..., Classifier],
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        balanced: bool = True,
        blur: float = 0.5,
        smallest: float = 0.3,
    ) -> None:
        super().__init__()
        for name, value in (("blur", blur), ("smallest", smallest)):
            if not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1")
        self.make_network, self.make_optimizer, self.make_schedule = backbone, optimizer, schedule
        self.balanced, self.blur, self.smallest = balanced, blur, smallest
        self.class_ids: list[int] = []
        self.class_names: list[str] = []
        self._found: list[tuple[Tensor, Tensor]] = []

    def adapt(self, data: StoreData) -> None:
        """Build the network for the channels and classes of ``data``. Raises ``UserError`` when it has no classes."""
        table = data.store.table
        if "class_id" not in table or table["class_id"].isna().any():
            raise UserError(f"{data.store.root} lacks class_id for some recordings, and a classifier needs it for all")
        train = table.loc[table["Split"] == "TRAIN", "class_id"].to_numpy(np.int64)
        ids, counts = np.unique(train, return_counts=True)
        if len(ids) < 2:
            raise UserError(f"{data.store.root} has {len(ids)} class_id in split TRAIN: a classifier needs two or more")
        if unseen := sorted(set(table["class_id"].astype(int)) - set(ids.tolist())):
            raise UserError(f"{data.store.root} has class_id {unseen[0]}, of which no recording is in split TRAIN")
        named = dict(zip(table["class_id"], table["class_name"], strict=True)) if "class_name" in table else {}
        self.class_ids, self.class_names = ids.tolist(), [str(named.get(number, number)) for number in ids.tolist()]
        self.network = self.make_network(classes=len(ids), channels=data.store.dataset.channels)
        weight = len(train) / len(ids) / counts if self.balanced else np.ones(len(ids))
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32), persistent=False)

    def configure_optimizers(self) -> Any:
        """One optimiser, with its schedule counted in steps."""
        return self.optimize(self.make_optimizer, self.make_schedule)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Blur, classify, compare, log."""
        x = batch["x"]
        if torch.rand(()) < self.blur:
            x = soften(x, self.smallest + (1 - self.smallest) * float(torch.rand(())))
        loss = functional.cross_entropy(self.network(x), self.target(batch), self.weight)
        if not torch.isfinite(loss):
            self.refuse("loss", batch["name"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep logits and targets: what is measured is of the whole split."""
        self._found.append((self.network(batch["x"]).float(), self.target(batch)))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test patients."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Loss, AUC (one class against the rest, mean over classes) and balanced accuracy."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """The same, and each class by its name."""
        self._measure("test")

    def target(self, batch: Batch) -> Tensor:
        """The place of each sample's class_id among those of training: int64, (B,)."""
        known = torch.tensor(self.class_ids, device=self.device)
        return torch.bucketize(torch.as_tensor(batch["columns"]["class_id"]), known)

    @torch.no_grad()
    def export(self, root: Path, data: StoreData, artifact: Artifact, config: str) -> None:
        """Write the network with its classes and what it was trained to look at: clips of so many frames."""
        view, first = data.view, data.store.table.iloc[0]  # all are of one size
        clip = {"frames": view.frames, "stride": view.stride} if isinstance(view, Clips) else {"frames": 1, "stride": 1}
        size = {"height": int(first["FrameHeight"]), "width": int(first["FrameWidth"])}
        facts = {"class_ids": self.class_ids, "class_names": self.class_names, **clip, **size}
        made = replace(artifact, fingerprint=fingerprint(self.network))
        write_artifact(root, made, config, lambda folder: self.network.save(folder, facts))

    @torch.no_grad()
    def _measure(self, stage: str) -> None:
        logits, target = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found = []
        if self.trainer.world_size > 1:
            logits, target = (torch.cat([*self.all_gather(part)]) for part in (logits, target))
        probabilities, predicted = logits.softmax(dim=1), logits.argmax(dim=1)
        areas, classes = auc(probabilities, target), len(self.class_ids)
        values = {"loss": float(functional.cross_entropy(logits, target, self.weight)), "auc": float(areas.nanmean())}
        values["balanced_accuracy"] = balanced_accuracy(predicted, target, classes)
        if stage == "test":
            accuracy = class_accuracy(predicted, target, classes)
            for name, area, share in zip(self.class_names, areas.tolist(), accuracy.tolist(), strict=True):
                values |= {f"auc_{name}": area, f"accuracy_{name}": share}
        for name, value in values.items():
            if name == "loss" or not math.isnan(value):  # a class without a patient here has no value
                self.log(f"{stage}/{name}", value)
