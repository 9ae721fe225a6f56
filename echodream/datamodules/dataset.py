"""Samples by number, in an order that depends on seed and epoch alone, and batches that can be resumed."""

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
    """What a sampler asks of ``Samples``. The epoch travels with the index, so it reaches workers that persist."""

    epoch: int
    number: int


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of all randomness in one sample: a function of its arguments alone."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index)))


class ViewDataset(Dataset[dict[str, Any]]):
    """The samples of ``view`` over ``rows``; each is a function of (seed, epoch, index), whichever worker makes it.

    ``columns`` of FileList.csv go along, and ``augment`` varies x and its references alike, the other of a pair apart.
    Raises ``UserError`` when the view or a column cannot be had from these recordings.
    """

    def __init__(
        self, rows: Recordings, view: View, seed: int, columns: Sequence[str] = (), augment: Augment | None = None
    ) -> None:
        rows = view.usable(rows)
        self.rows, self.view, self.seed, self.augment = rows, view, seed, augment
        self.columns = {name: _values(rows.column(name)) for name in columns}

    def __len__(self) -> int:
        return self.view.count(self.rows)

    def __getitem__(self, draw: SampleIndex | int) -> dict[str, Any]:
        epoch, index = draw if isinstance(draw, tuple) else (0, draw)
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
        return {**self._tensors(sample, rng), **item}

    def _tensors(self, sample: Sample, rng: np.random.Generator) -> dict[str, Tensor]:
        vary = self.augment if self.augment is not None else (lambda x, _: x)
        if sample.reference is not None:
            sizes = [sample.x.shape[1], sample.reference.shape[1]]
            x, reference = vary(torch.cat([sample.x, sample.reference], 1), rng).split(sizes, 1)
            return {"x": x, "reference": reference}
        parts = {"x": sample.x} if sample.other is None else {"x": sample.x, "other": sample.other}
        varied = {name: vary(part, rng) for name, part in parts.items()}
        if not self.view.still:
            return varied
        return {name: part.transpose(0, 1).flatten(0, 1) for name, part in varied.items()}  # frame by frame


class MixedDataset(Dataset[dict[str, Any]]):
    """``parts`` joined: real samples, synthetic ones, or both; each is a function of (seed, epoch, index).

    A round has all of the first part and ``ratio`` times as many of the second, others in each round, or all of it if
    None. An epoch is a round, or, where ``length`` is given, the next ``length`` samples of shuffled rounds: as many
    steps whatever the parts hold.
    """

    def __init__(
        self, parts: Sequence[ViewDataset], seed: int, ratio: float | None = None, length: int | None = None
    ) -> None:
        self.parts, self.seed, self.ratio, self.length = list(parts), seed, ratio, length
        self.counts = [len(part) for part in self.parts]
        if ratio is not None and len(parts) == 2:
            self.counts[1] = max(1, round(ratio * self.counts[0]))
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.length or sum(self.counts)

    def __getitem__(self, draw: SampleIndex | int) -> dict[str, Any]:
        epoch, index = draw if isinstance(draw, tuple) else (0, draw)
        turn, place = divmod(epoch * len(self) + index, sum(self.counts))
        if self.length is not None:
            place = int(self._order(0, turn, sum(self.counts))[place])
        part = 0 if place < self.counts[0] else 1
        place -= self.counts[0] * part
        cycle, number = divmod(turn * self.counts[part] + place, len(self.parts[part]))
        if self.counts[part] != len(self.parts[part]):
            number = int(self._order(1, cycle, len(self.parts[part]))[number])
        return self.parts[part][SampleIndex(cycle, number)]

    def _order(self, what: int, turn: int, count: int) -> np.ndarray:
        """The order of ``count`` samples in one turn: 0, of a round's; 1, of the second part's."""
        if (what, turn) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[1] >= turn - 1}
            made = np.random.default_rng(np.random.SeedSequence((self.seed, 17 + what, turn))).permutation(count)
            self._orders[what, turn] = made
        return self._orders[what, turn]


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Samples as one batch: tensors stacked along a new first dimension B, texts as lists."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor):
            return torch.stack(values)
        if isinstance(values[0], dict):
            return {name: join([value[name] for value in values]) for name in values[0]}
        return values

    return cast(Batch, join(list(items)))


def _values(column: np.ndarray) -> Tensor | list[str]:
    """Whole numbers as int64, other numbers as float32 (NaN where the cell is empty), anything else as text."""
    if column.dtype.kind in "iu":
        return torch.from_numpy(column.astype(np.int64))
    if column.dtype.kind == "f":
        return torch.from_numpy(column.astype(np.float32))
    return [str(value) for value in column]


class EpochSampler(DistributedSampler[SampleIndex]):
    """Each sample once an epoch, in an order that is a function of (seed, epoch), shared among ``world`` processes.

    As with any DistributedSampler, a few samples are repeated so that all processes get as many. With ``fixed`` the
    samples come in their own order, and the epoch is always 0.
    """

    def __init__(
        self, samples: "ViewDataset | MixedDataset", *, fixed: bool = False, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(samples, num_replicas=world, rank=rank, shuffle=not fixed, seed=samples.seed)
        self.fixed = fixed
        self.skip = 0
        """Samples to leave out at the beginning of a pass: they were seen before training was interrupted."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = 0 if self.fixed else epoch

    def __iter__(self) -> Iterator[SampleIndex]:
        count = len(self.dataset)  # type: ignore[arg-type]
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch))).permutation(count)
        mine = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        return iter([SampleIndex(self.epoch, int(index)) for index in mine[self.skip :]])


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over an ``EpochSampler`` that goes on in the middle of an epoch.

    Lightning keeps its state in checkpoints. Nothing is read before the first batch is asked for: only then has
    Lightning told the sampler which epoch it is.
    """

    _seen: tuple[int, int] = (0, 0)
    _resume: tuple[int, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        return {"epoch": self._seen[0], "batches": self._seen[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out, in the epoch of ``state``, the batches that were handed out."""
        self._resume = self._seen = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        done, epoch = 0, 0
        if isinstance(self.sampler, EpochSampler):
            epoch = self.sampler.epoch
            if self._resume is not None and self._resume[0] == epoch:
                done = self._resume[1]
            self.sampler.skip = done * (self.batch_size or 1)
        self._resume = None
        for batch in super().__iter__():
            done += 1
            self._seen = (epoch, done)
            yield batch
