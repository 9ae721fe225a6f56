"""PyTorch datasets, sampler and loader: a sample depends on seed, epoch and index only, and loading can be resumed."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from echodream.datamodules.augmentation import Augment
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Sample, View
from echodream.types import Batch


class SampleIndex(NamedTuple):
    """Index of a sample in an epoch. The epoch is part of the index, so that it reaches persistent workers."""

    epoch: int
    number: int


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random generator of one sample, a function of the arguments only."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index)))


class ViewDataset(Dataset[dict[str, Any]]):
    """Dataset of the samples of a ``view`` of the recordings ``rows``; each is a function of (seed, epoch, index).

    ``columns`` of FileList.csv are added to a sample. ``augment`` varies a clip and its reference frames equally, and
    the two frames of a pair independently. Raises ``UserError`` when the recordings do not allow this view.
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
        rng = sample_generator(self.seed, epoch, index)
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
        parts = {"x": sample.x} if sample.other is None else {"x": sample.x, "other": sample.other}
        augmented = {name: augment(part, rng) for name, part in parts.items()}
        if not self.view.stacks_frames:
            return augmented
        return {name: part.transpose(0, 1).flatten(0, 1) for name, part in augmented.items()}  # (F * C, H, W)


class MixedDataset(Dataset[dict[str, Any]]):
    """Dataset of one or two parts, such as real and synthetic samples; a function of (seed, epoch, index).

    A round contains all N samples of the first part and ``ratio`` * N samples of the second part (None: all), other
    samples in each round. An epoch is one round or, with ``length``, the next ``length`` samples of shuffled
    rounds, so that the number of steps does not depend on the size of the parts.
    """

    def __init__(
        self, parts: Sequence[ViewDataset], seed: int, ratio: float | None = None, length: int | None = None
    ) -> None:
        self.parts, self.seed, self.ratio, self.length = list(parts), seed, ratio, length
        self.counts = [len(part) for part in self.parts]
        if ratio is not None and len(parts) == 2:
            self.counts[1] = max(1, round(ratio * self.counts[0]))
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.length or sum(self.counts)

    def __getitem__(self, position: SampleIndex | int) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        turn, place = divmod(epoch * len(self) + index, sum(self.counts))
        if self.length is not None:
            place = int(self._permutation(0, turn, sum(self.counts))[place])
        part = 0 if place < self.counts[0] else 1
        place -= self.counts[0] * part
        cycle, number = divmod(turn * self.counts[part] + place, len(self.parts[part]))
        if self.counts[part] != len(self.parts[part]):
            number = int(self._permutation(1, cycle, len(self.parts[part]))[number])
        return self.parts[part][SampleIndex(cycle, number)]

    def _permutation(self, stream: int, turn: int, count: int) -> np.ndarray:
        """Random order of ``count`` samples in round ``turn``; ``stream`` 0: whole round, 1: second part."""
        if (stream, turn) not in self._permutations:
            self._permutations = {key: order for key, order in self._permutations.items() if key[1] >= turn - 1}
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, 17 + stream, turn)))
            self._permutations[stream, turn] = rng.permutation(count)
        return self._permutations[stream, turn]


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Join samples to one batch: tensors are stacked along a new first dimension B, texts become lists."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join([value[name] for value in values]) for name in values[0]}
        return torch.stack(values) if isinstance(values[0], Tensor) else values

    return cast(Batch, join(list(items)))


def _column_values(column: np.ndarray) -> Tensor | list[str]:
    """A column as int64 for whole numbers, float32 for other numbers (NaN for an empty cell), else as text."""
    if column.dtype.kind in "iu":
        return torch.from_numpy(column.astype(np.int64))
    if column.dtype.kind == "f":
        return torch.from_numpy(column.astype(np.float32))
    return [str(value) for value in column]


class EpochSampler(DistributedSampler[SampleIndex]):
    """Shuffles the samples by (seed, epoch) and divides them among ``world`` processes.

    Like any DistributedSampler, it repeats a few samples so that all processes get the same number. With ``fixed`` the
    samples are not shuffled and the epoch is always 0.
    """

    def __init__(
        self, samples: "ViewDataset | MixedDataset", *, fixed: bool = False, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(samples, num_replicas=world, rank=rank, shuffle=not fixed, seed=samples.seed)
        self.fixed = fixed
        self.skip = 0
        """Number of samples to skip at the start of an epoch: they were used before training was interrupted."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = 0 if self.fixed else epoch

    def __iter__(self) -> Iterator[SampleIndex]:
        count = len(self.dataset)  # type: ignore[arg-type]
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        mine = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        return iter([SampleIndex(self.epoch, int(index)) for index in mine[self.skip :]])


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over an ``EpochSampler`` that can resume in the middle of an epoch.

    Lightning saves the state of the loader in checkpoints. The sampler is read when the first batch is requested,
    because Lightning sets the epoch only then.
    """

    _position: tuple[int, int] = (0, 0)
    _resume: tuple[int, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that have been returned."""
        return {"epoch": self._position[0], "batches": self._position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches of the epoch in ``state`` that have been returned."""
        self._resume = self._position = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        done, epoch = 0, 0
        if isinstance(self.sampler, EpochSampler):
            epoch = self.sampler.epoch
            if self._resume is not None and self._resume[0] == epoch:
                done = self._resume[1]
            self.sampler.skip = done * (self.batch_size or 1)
        self._resume = None
        for number, batch in enumerate(super().__iter__(), start=done + 1):
            self._position = (epoch, number)
            yield batch
