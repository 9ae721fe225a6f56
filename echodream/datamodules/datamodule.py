"""LightningDataModule of a Store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from echodream import validation
from echodream.datamodules.augmentation import Augment
from echodream.datamodules.dataset import EpochSampler, MixedDataset, ResumableLoader, ViewDataset
from echodream.datamodules.device_cache import LATENT_ENTRIES, DeviceCache
from echodream.datamodules.patient_batches import PatientBatches
from echodream.datamodules.recordings import Recordings, require_column
from echodream.datamodules.views import View
from echodream.errors import UserError
from echodream.privacy.canaries import Canaries
from echodream.store import Store
from echodream.store.reader import MAX_LATENT_CACHE_BYTES, MAX_SMALL_CACHE_BYTES


class StoreData(LightningDataModule):
    """Batches (``echodream.types.Batch``) of samples of ``view`` from the splits of the store ``src``.

    Training samples are shuffled in each epoch; validation and test samples are fixed. A sample is a function of
    (``seed``, epoch, index). Batches contain ``columns`` of FileList.csv: numbers as tensors (B,), int64 or float32
    (NaN for empty cells); text as lists. ``augment`` applies to training only. With ``drop_last``, an incomplete last
    batch is dropped. With ``cache``, the recordings of used splits are kept in memory. With ``cache`` "auto", they are
    kept if they take at most ``MAX_SMALL_CACHE_BYTES``, or ``MAX_LATENT_CACHE_BYTES`` for latents and a GPU. With
    ``cache`` "device", latents for training are kept on the device. Raises ``UserError`` if the store is unsuitable.
    """

    def __init__(
        self,
        src: str,
        view: View,
        batch_size: int,
        workers: int,
        seed: int,
        columns: Sequence[str] = (),
        augment: Augment | None = None,
        kind: str | None = None,
        encoder: str | None = None,
        drop_last: bool = False,
        cache: bool | str = False,
    ) -> None:
        super().__init__()
        for name, value, low in (("batch_size", batch_size, 1), ("workers", workers, 0), ("seed", seed, 0)):
            validation.whole_number(name, value, low)
        self.store = Store(src, kind=kind, encoder=encoder)
        self.view, self.batch_size, self.workers, self.seed = view, batch_size, workers, seed
        self.columns, self.augment, self.drop_last = tuple(columns), augment, drop_last
        if cache not in ("auto", "device") and not isinstance(cache, bool):
            validation.refuse("datamodule.cache", cache, "give auto, true, device or false")
        if cache == "device" and self.store.dataset.kind != "latent":
            raise UserError(f"datamodule.cache=device is for latents, and {self.store.root} holds videos: give true")
        self.cache, self.on_device = cache, cache == "device"
        self._device_cache: DeviceCache | None = None
        self._datasets: dict[str, ViewDataset] = {}
        self.canaries: Canaries | None = None
        """Training patients of whom some are left out of training; set before the first use of training samples."""
        self.private_batches: PatientBatches | None = None
        """Batches of patients for private training, in place of batches of ``batch_size`` samples."""
        self._check_store()

    def _check_store(self) -> None:
        table = self.store.table
        for name in self.columns:
            require_column(self.store.root, table, name)
        sizes = sorted(set(zip(table["FrameHeight"], table["FrameWidth"], strict=True)))
        if len(sizes) > 1:
            examples = ", ".join(f"{width}x{height}" for height, width in sizes[:2])
            problem = f"{self.store.root} has recordings of {len(sizes)} sizes ({examples}, ...)"
            raise UserError(f"{problem}, which cannot form a batch: ingest with one data.size=")
        if self.store.dataset.kind == "latent" and self.augment and (names := self.augment.pixel_augmentations()):
            raise UserError(f"augment.{names[0]} is for pixels, and {self.store.root} holds latents: set it to 0")
        if self.on_device and self.augment and (names := self.augment.enabled_augmentations()):
            raise UserError(f"augment.{names[0]} is not for datamodule.cache=device: set it to 0, or give cache=true")

    def samples(self, split: str) -> ViewDataset:
        """Dataset of ``split`` (TRAIN, VAL or TEST), created on first use."""
        if split not in self._datasets:
            train = split == "TRAIN"
            view = self.view if train else self.view.for_evaluation()
            rows = self.recordings(split)
            self._datasets[split] = ViewDataset(rows, view, self.seed, self.columns, self.augment if train else None)
            if not (train and self.on_device):
                self.cache_recordings(self._datasets[split].rows)
        return self._datasets[split]

    def cache_recordings(self, rows: Recordings) -> None:
        """Read the recordings ``rows`` into memory if the setting ``cache`` requires it."""
        for_gpu = torch.cuda.is_available() and rows.store.dataset.kind == "latent"
        limit = MAX_LATENT_CACHE_BYTES if for_gpu else MAX_SMALL_CACHE_BYTES
        if self.cache is True or (self.cache in ("auto", "device") and rows.store.fits_in_memory(limit)):
            rows.store.cache(rows.names)

    def recordings(self, split: str) -> Recordings:
        """Recordings of ``split``. TRAIN does not contain the ``canaries`` that are left out of training."""
        rows = Recordings(self.store, split)
        if split != "TRAIN" or self.canaries is None:
            return rows
        left_out = rows.table["PatientID"].astype(str).isin(self.canaries.left_out)
        return rows.select(np.flatnonzero(~left_out).tolist())

    def training_dataset(self) -> ViewDataset | MixedDataset:
        """Dataset of the training samples, with frame numbers in place of latents for ``cache`` "device"."""
        samples = self.samples("TRAIN")
        if not self.on_device:
            return samples
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._device_cache is None or self._device_cache.device != device:
            self._device_cache = DeviceCache(samples, device)
        return self._device_cache.dataset

    def train_dataloader(self) -> ResumableLoader:
        """Loader of training batches, shuffled by (seed, epoch), that can resume in the middle of an epoch."""
        if self.private_batches is not None:
            settings = self._loader_settings(self.private_batches, fixed=False)
            return ResumableLoader(self.private_batches, **{**settings, "batch_size": None})
        samples = self.training_dataset()
        settings = self._loader_settings(samples, fixed=False)
        sampler = settings["sampler"]
        if self.drop_last and self.batch_size * sampler.num_replicas < 2:
            raise UserError("batch_size=1 is too small for batch normalization: use at least 2")
        if self.drop_last and len(sampler) < self.batch_size:
            raise UserError(f"batch_size={self.batch_size} with drop_last exceeds {len(sampler)} samples: lower it")
        return ResumableLoader(samples, drop_last=self.drop_last, **settings)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to ``device``, except ``reference_time``, from which the CPU computes the number of beats."""
        if "patients" in batch:  # a batch of private training
            patients = (self.transfer_batch_to_device(each, device, dataloader_idx) for each in batch["patients"])
            return {"patients": list(patients)}
        if self._device_cache is not None and not batch["x"].is_floating_point():
            latents = {key: self._device_cache.batch_latents(batch[key]) for key in LATENT_ENTRIES if key in batch}
            batch = {**batch, **latents}
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if "reference_time" in batch:
            moved["reference_time"] = batch["reference_time"]
        return moved

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Loader of validation batches, which are equal in all epochs."""
        return self._evaluation_loader(self.samples("VAL"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Loader of test batches, which are equal in all runs."""
        return self._evaluation_loader(self.samples("TEST"))

    def _evaluation_loader(self, samples: ViewDataset) -> DataLoader[dict[str, Any]]:
        return DataLoader(samples, **self._loader_settings(samples, fixed=True))

    def _loader_settings(self, samples: ViewDataset | MixedDataset | PatientBatches, *, fixed: bool) -> dict[str, Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = EpochSampler(samples, fixed=fixed, rank=rank, world=world)
        settings = {"batch_size": self.batch_size, "num_workers": self.workers, "persistent_workers": self.workers > 0}
        return {**settings, "sampler": sampler, "pin_memory": torch.cuda.is_available()}
