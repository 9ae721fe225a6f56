"""PyTorch datasets whose samples depend on seed, epoch and index only, and a loader that can resume an epoch."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream.datamodules.augmentation import Augment
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Sample, View


class SampleIndex(NamedTuple):
    """Epoch and index of a sample. Samplers pass the epoch to persistent workers in this index."""

    epoch: int
    number: int


class ViewDataset(Dataset[dict[str, Any]]):
    """Dataset of the samples of ``view`` for the recordings ``rows``, each a function of (seed, epoch, index).

    Samples contain ``columns`` of FileList.csv. ``augment`` changes a clip and its reference frames equally, and both
    frames of a pair independently. Raises ``UserError`` if the recordings are unsuitable for the view.
    """

    def __init__(
        self, rows: Recordings, view: View, seed: int, columns: Sequence[str] = (), augment: Augment | None = None
    ) -> None:
        rows = view.select_recordings(rows)
        self.rows, self.view, self.seed, self.augment = rows, view, seed, augment
        self.columns = {name: _column_values(rows.column(name)) for name in columns}

    def __len__(self) -> int:
        return self.view.number_of_samples(self.rows)

    def __getitem__(self, position: SampleIndex | int) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.view.sample(self.rows, index, rng)
        item: dict[str, Any] = {
            "name": self.rows.names[sample.row],
            "columns": {name: values[sample.row] for name, values in self.columns.items()},
        }
        if sample.mask is not None:
            item["mask"] = torch.from_numpy(sample.mask)
        if sample.reference_time is not None:
            item["reference_time"] = torch.from_numpy(sample.reference_time)
        if sample.other_row is not None:
            item["other_name"] = self.rows.names[sample.other_row]
            item["same"] = torch.tensor(float(bool(sample.same)))
        return {**self._augmented_tensors(sample, rng), **item}

    def _augmented_tensors(self, sample: Sample, rng: np.random.Generator) -> dict[str, Tensor]:
        augment = self.augment if self.augment is not None else (lambda x, _: x)
        if sample.reference is not None:
            sizes = [sample.x.shape[1], sample.reference.shape[1]]
            x, reference = augment(torch.cat([sample.x, sample.reference], 1), rng).split(sizes, 1)
            return {"x": x, "reference": reference}
        frames = {"x": sample.x} if sample.other is None else {"x": sample.x, "other": sample.other}
        augmented = {name: augment(x, rng) for name, x in frames.items()}
        if not self.view.stacks_frames:
            return augmented
        return {name: x.transpose(0, 1).flatten(0, 1) for name, x in augmented.items()}  # (F * C, H, W)


class MixedDataset(Dataset[dict[str, Any]]):
    """Mixture of one or two datasets ``parts``, such as real and synthetic samples.

    A round contains all N samples of the first dataset and ``ratio`` * N samples of the second dataset (by default all
    samples). An epoch is one round or, with ``length``, the next ``length`` samples of shuffled rounds.
    """

    def __init__(
        self, parts: Sequence[ViewDataset], seed: int, ratio: float | None = None, length: int | None = None
    ) -> None:
        self.parts, self.seed, self.length = list(parts), seed, length
        self.counts = [len(part) for part in self.parts]
        if ratio is not None and len(parts) == 2:
            self.counts[1] = max(1, round(ratio * self.counts[0]))
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.length or sum(self.counts)

    def __getitem__(self, position: SampleIndex | int) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        round_number, position_in_round = divmod(epoch * len(self) + index, sum(self.counts))
        if self.length is not None:
            position_in_round = int(self._permutation(0, round_number, sum(self.counts))[position_in_round])
        part = 0 if position_in_round < self.counts[0] else 1
        sample_number = round_number * self.counts[part] + position_in_round - self.counts[0] * part
        part_epoch, number = divmod(sample_number, len(self.parts[part]))
        if self.counts[part] != len(self.parts[part]):
            number = int(self._permutation(1, part_epoch, len(self.parts[part]))[number])
        return self.parts[part][SampleIndex(part_epoch, number)]

    def _permutation(self, stream: int, epoch: int, count: int) -> np.ndarray:
        """Random order of ``count`` samples in a round (``stream`` 0) or in an epoch of the second dataset (1)."""
        if (stream, epoch) not in self._permutations:
            self._permutations = {key: order for key, order in self._permutations.items() if key[1] >= epoch - 1}
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, 17 + stream, epoch)))
            self._permutations[stream, epoch] = rng.permutation(count)
        return self._permutations[stream, epoch]


def _column_values(column: np.ndarray) -> Tensor | list[str]:
    """Values of a column: int64 for whole numbers, float32 for other numbers (NaN for empty cells), else text."""
    if column.dtype.kind in "iu":
        return torch.from_numpy(column.astype(np.int64))
    if column.dtype.kind == "f":
        return torch.from_numpy(column.astype(np.float32))
    return [str(value) for value in column]


class EpochSampler(DistributedSampler[SampleIndex]):
    """Sampler that shuffles by (seed, epoch), unless ``fixed``, and divides samples equally among processes."""

    def __init__(self, samples: Any, *, fixed: bool = False, rank: int = 0, world: int = 1) -> None:
        super().__init__(samples, num_replicas=world, rank=rank, shuffle=not fixed, seed=samples.seed)
        self.fixed = fixed
        self.skip = 0
        """Number of samples at the start of an epoch that were used before training was interrupted."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; no effect with ``fixed``."""
        self.epoch = 0 if self.fixed else epoch

    def __iter__(self) -> Iterator[SampleIndex]:
        count = len(self.dataset)  # type: ignore[arg-type]
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        own_indices = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        epoch = self.epoch
        return (SampleIndex(epoch, int(index)) for index in own_indices[self.skip :])


class ResumableLoader(DataLoader[dict[str, Any]]):
    """DataLoader over an ``EpochSampler`` that can resume in the middle of an epoch.

    Lightning saves the state of the loader in checkpoints, and sets the epoch of the sampler before the first batch.
    """

    _position: tuple[int, int] = (0, 0)
    _resume_position: tuple[int, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """State of the loader: the epoch, and the number of its batches that have been returned."""
        return {"epoch": self._position[0], "batches": self._position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after the batches in ``state`` (``state_dict``)."""
        self._resume_position = self._position = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches_done, epoch = 0, 0
        if isinstance(self.sampler, EpochSampler):
            epoch = self.sampler.epoch
            if self._resume_position is not None and self._resume_position[0] == epoch:
                batches_done = self._resume_position[1]
            self.sampler.skip = batches_done * (self.batch_size or 1)
        self._resume_position = None
        for number, batch in enumerate(super().__iter__(), start=batches_done + 1):
            self._position = (epoch, number)
            yield batch
