"""Training on real recordings, on synthetic ones, or on both; validation and test always on real patients."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from echodream import validation
from echodream.datamodules.datamodule import StoreData
from echodream.datamodules.dataset import MixedDataset, ViewDataset
from echodream.datamodules.patient_folds import split_by_fold
from echodream.datamodules.recordings import Recordings
from echodream.datamodules.tasks import Task
from echodream.errors import UserError
from echodream.store import Store

if TYPE_CHECKING:
    import pandas as pd

TRAIN_ON = ("real", "synthetic", "both")
LABEL_SOURCE = "LabelSource"
"""The column of a store that was relabelled: which model said its classes."""


class RealAndSyntheticData(StoreData):
    """``StoreData`` of the real store ``src`` for a ``task``, with the store ``synthetic`` as training samples.

    ``train_on`` "synthetic" takes the TRAIN rows of ``synthetic`` instead of the real ones, "both" joins them:
    ``ratio`` synthetic samples for each real one in a round, or all. An epoch is a round, or ``length`` samples.
    With ``folds``, the splits are those of ``fold`` (``split_by_fold``). Raises ``UserError`` for stores that do not go
    together: other sizes or classes, or patients of VAL and TEST among the training rows of ``synthetic``.
    """

    def __init__(
        self,
        *,
        task: Task,
        train_on: str = "real",
        synthetic: str | None = None,
        ratio: float | None = None,
        length: int | None = None,
        folds: int | None = None,
        fold: int | None = None,
        **store: Any,
    ) -> None:
        super().__init__(**store)
        self.task, self.train_on, self.ratio, self.length, self.fold = task, train_on, ratio, length, fold
        self._refuse(synthetic)
        self._refuse_fold(folds)
        self.whole = whole = self.store.table
        self.known = task.known(whole, self.store.root)
        self.columns = tuple(dict.fromkeys([*self.columns, *task.columns(self.known)]))
        table = task.usable(whole, self.known)
        if folds is not None and fold is not None:
            table = split_by_fold(table, task.strata(table), folds, fold, self.seed, unseen=train_on != "real")
        self.store.table = table
        self.left_out = len(whole) - len(table)
        self.synthetic = None if train_on == "real" else self._opened(str(synthetic))

    def _refuse(self, synthetic: str | None) -> None:
        validation.one_of("train_on", self.train_on, TRAIN_ON)
        if self.train_on != "real" and synthetic is None:
            raise UserError(f"train_on={self.train_on} needs synthetic=, a store of decoded synthetic videos")
        if self.ratio is not None and self.train_on != "both":
            raise UserError(f"ratio= is of train_on=both, and train_on is {self.train_on}: leave it out")
        if self.ratio is not None:
            validation.number("ratio", self.ratio, maximum=1000, above=0, note=", synthetic samples per real sample")
        if self.length is not None:
            validation.whole_number("datamodule.length", self.length, note=", the samples of an epoch")

    def _refuse_fold(self, folds: int | None) -> None:
        fold = self.fold
        if (folds is None) != (fold is None):
            raise UserError(
                f"datamodule.folds is {folds} and datamodule.fold is {fold}: give both for one run, or folds= for all"
            )
        if type(fold) is not type(folds) or (fold is not None and not 0 <= fold < (folds or 0)):
            raise UserError(f"datamodule.fold is {fold!r}: give a whole number from 0, below datamodule.folds={folds}")
        if folds is not None and self.train_on == "synthetic":
            raise UserError(
                "folds= with train_on=synthetic would train the same model in each fold: leave folds= out, and give "
                "seeds=[0,1,2] for several runs"
            )

    def _opened(self, path: str) -> Store:
        """The synthetic store, its rows those that are trained on."""
        if not Path(path).is_dir():
            raise UserError(f"synthetic={path} does not exist: make it with stage=decode, or give another store")
        store, real = Store(path, kind=self.store.dataset.kind), self.store
        sizes = [frame_size(one) for one in (store, real)]
        if sizes[0] != sizes[1]:
            raise UserError(f"synthetic={path} is of {sizes[0]} and src={real.root} of {sizes[1]}: bring both to one")
        wanted = self.task.columns(self.known)
        if lacks := [name for name in wanted if name not in store.table or store.table[name].isna().any()]:
            raise UserError(f"synthetic={path} lacks {lacks[0]} for some recordings: nothing says what they show")
        named = zip(store.table["class_id"], store.table["class_name"], strict=True) if self._named(store) else ()
        if wrong := [name for number, name in named if self.known.get(number, name) != name]:
            raise UserError(
                f"synthetic={path} gives {wrong[0]} another class_id than src={real.root}: ingest both anew"
            )
        table = self.task.usable(store.table, self.known)
        if self.known and (unknown := sorted(set(table["class_id"].tolist()) - set(self.known))):
            raise UserError(
                f"synthetic={path} has class_id {unknown[0]}, which no recording of src={real.root} has: give "
                "task.classes=, names of both"
            )
        table = table[table["Split"] == "TRAIN"]
        if not len(table):
            raise UserError(f"synthetic={path} has no TRAIN recording of this task: draw some")
        held = set(real.table.loc[real.table["Split"] != "TRAIN", "PatientID"].astype(str))
        if seen := held & set(table["PatientID"].astype(str)):
            raise UserError(
                f"synthetic={path} has {len(seen)} patients in TRAIN who are held out in src={real.root}: they may not "
                "be trained on"
            )
        store.table = table
        return store

    def _named(self, store: Store) -> bool:
        return all({"class_id", "class_name"} <= set(one.table) for one in (store, self.store))

    def training(self) -> ViewDataset | MixedDataset:
        """The samples of the real store, of the synthetic one, or both."""
        parts = [self.samples("TRAIN")] if self.train_on != "synthetic" else []
        if self.synthetic is not None:
            rows = Recordings(self.synthetic, "TRAIN")
            parts.append(ViewDataset(rows, self.view, self.seed + 1, self.columns, self.augment))
        if len(parts) == 1 and self.length is None:
            return parts[0]
        return MixedDataset(parts, self.seed, self.ratio, self.length)

    def tested(self) -> dict[str, dict[str, int]]:
        """Of each set that is tested on, by its name, the row of ``store.table`` that each recording is of."""
        return {"": {name: row for row, name in enumerate(self.store.table["FileName"])}}

    def trained(self) -> "pd.DataFrame":
        """The rows that are trained on, of both stores, each as often as a round has it."""
        import pandas as pd

        real = self.store.table[self.store.table["Split"] == "TRAIN"]
        if self.synthetic is None:
            return real
        if self.train_on == "synthetic":
            return self.synthetic.table
        share = 1.0 if self.ratio is None else self.ratio * len(real) / len(self.synthetic.table)
        return pd.concat([real.assign(Weight=1.0), self.synthetic.table.assign(Weight=share)], ignore_index=True)

    def facts(self) -> dict[str, Any]:
        """What was trained on, for the artifact: sizes and checksums of stores, and who gave the labels."""
        tables = (
            {"real": self.store.table[self.store.table["Split"] == "TRAIN"]} if self.train_on != "synthetic" else {}
        )
        stores = {"real": self.store.checksum}
        labels = "asked"
        if self.synthetic is not None:
            tables["synthetic"] = self.synthetic.table
            stores["synthetic"] = self.synthetic.checksum
            if LABEL_SOURCE in self.synthetic.table:
                found = sorted({str(name) for name in self.synthetic.table[LABEL_SOURCE].dropna()} - {""})
                labels = " ".join(found) or labels
        sizes = {
            name: {"recordings": len(table), "patients": table["PatientID"].nunique()} for name, table in tables.items()
        }
        facts = {"train_on": self.train_on, "trained": sizes, "stores": stores, "synthetic_labels": labels}
        if self.synthetic is None:
            del facts["synthetic_labels"]
        return {**facts, "ratio": self.ratio, "fold": self.fold}


def frame_size(store: Store, row: int = 0) -> str:
    """Width, height and channels of the recording ``row``; mostly all are of one size."""
    first = store.table.iloc[row]
    channels = store.dataset.channels
    return f"{first['FrameWidth']}x{first['FrameHeight']} with {channels} channel{'s' * (channels > 1)}"
