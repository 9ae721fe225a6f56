"""Batches for differentially private training: Poisson sampling of patients, each with equally many samples."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset, default_collate

from echodream.datamodules.dataset import SampleIndex, ViewDataset
from echodream.privacy.private_steps import secret_seed


class PatientBatches(Dataset[dict[str, Any]]):
    """Dataset of the training steps of an epoch.

    A step selects each patient of ``samples`` with probability ``sampling_rate``. An item has the list "patients": a
    batch of ``examples`` random samples for each selected patient. If no patient is selected, the list is empty. An
    item is a function of the secret ``key``, epoch and step. On average, an epoch has ``len(samples)`` samples.
    """

    def __init__(self, samples: ViewDataset, sampling_rate: float, examples: int, key: bytes) -> None:
        self.samples, self.sampling_rate, self.examples, self.key = samples, sampling_rate, examples, key
        self.seed = secret_seed(key, "order")
        self.rows = samples.rows.rows_by_patient
        self.names = np.unique(samples.rows.table["PatientID"].astype(str).to_numpy())

    def __len__(self) -> int:
        """Number of steps of an epoch."""
        return max(1, int(len(self.samples) / (self.sampling_rate * len(self.rows) * self.examples)))

    def __getitem__(self, position: SampleIndex | int) -> dict[str, Any]:
        epoch, number = position if isinstance(position, tuple) else (0, position)
        step = epoch * len(self) + number
        rng = np.random.default_rng(secret_seed(self.key, "patients", step))
        chosen = np.flatnonzero(rng.random(len(self.rows)) < self.sampling_rate)
        return {"patients": [self._patient_batch(int(patient), step) for patient in chosen]}

    def _patient_batch(self, patient: int, step: int) -> dict[str, Any]:
        rng = np.random.default_rng(secret_seed(self.key, "samples", step, self.names[patient]))
        rows = rng.choice(self.rows[patient], self.examples)
        ranges = [self.samples.view.sample_range(self.samples.rows, int(row)) for row in rows]
        numbers = [int(rng.integers(each.start, each.stop)) for each in ranges]
        epochs = range(step * self.examples, (step + 1) * self.examples)  # a random generator for each sample
        batch: dict[str, Any] = default_collate(
            [self.samples[SampleIndex(epoch, number)] for epoch, number in zip(epochs, numbers, strict=True)]
        )
        return batch
