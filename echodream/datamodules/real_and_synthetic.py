"""Data for training on real recordings, synthetic recordings or both; validation and test data are real."""

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

TRAIN_ON_CHOICES = ("real", "synthetic", "both")
LABEL_SOURCE = "LabelSource"
"""Column with the name of the model that predicted the labels of a store."""


class RealAndSyntheticData(StoreData):
    """``StoreData`` of the real store ``src`` for a ``task``, with optional training samples of a synthetic store.

    ``train_on`` is "real", "synthetic" (TRAIN rows of ``synthetic`` instead of ``src``) or "both" (``ratio`` synthetic
    samples per real sample, by default all). ``length`` is the number of samples of an epoch. With ``folds``, ``fold``
    defines the splits (``split_by_fold``). Raises ``UserError`` if the stores have different frame sizes or classes, or
    if a TRAIN row of ``synthetic`` has the PatientID of a VAL or TEST patient of ``src``.
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
        **store_arguments: Any,
    ) -> None:
        super().__init__(**store_arguments)
        self.task, self.train_on, self.ratio, self.length, self.fold = task, train_on, ratio, length, fold
        self._check_settings(synthetic, folds)
        self.full_table = self.store.table
        self.output_names = task.output_names(self.full_table, self.store.root)
        self.columns = tuple(dict.fromkeys([*self.columns, *task.target_columns(self.output_names)]))
        table = task.select_rows(self.full_table, self.output_names)
        if folds is not None and fold is not None:
            table = split_by_fold(table, task.strata(table), folds, fold, self.seed, held_out_only=train_on != "real")
        self.store.table = table
        self.synthetic = None if train_on == "real" else self._open_synthetic(str(synthetic))

    def _check_settings(self, synthetic: str | None, folds: int | None) -> None:
        validation.one_of("train_on", self.train_on, TRAIN_ON_CHOICES)
        if self.on_device:
            raise UserError("datamodule.cache=device is not for classifiers: give datamodule.cache=true")
        if self.train_on != "real" and synthetic is None:
            raise UserError(f"train_on={self.train_on} needs synthetic=, a store of decoded synthetic videos")
        if self.ratio is not None and self.train_on != "both":
            raise UserError(f"ratio= needs train_on=both, and train_on is {self.train_on}: remove ratio=")
        if self.ratio is not None:
            validation.number("ratio", self.ratio, maximum=1000, above=0, note=", synthetic samples per real sample")
        if self.length is not None:
            validation.whole_number("datamodule.length", self.length, note=", the samples of an epoch")
        fold = self.fold
        if (folds is None) != (fold is None):
            raise UserError(f"datamodule.folds is {folds} and datamodule.fold is {fold}: set both, or neither")
        if type(fold) is not type(folds) or (fold is not None and not 0 <= fold < (folds or 0)):
            raise UserError(f"datamodule.fold is {fold!r}: use a whole number from 0, below datamodule.folds={folds}")
        if folds is not None and self.train_on == "synthetic":
            problem = "folds= with train_on=synthetic would train the same model in each fold"
            raise UserError(f"{problem}: remove folds=, and set seeds=[0,1,2] for several runs")

    def _open_synthetic(self, path: str) -> Store:
        """Open the TRAIN rows of the synthetic store at ``path``. Raises ``UserError`` if the stores do not match."""
        if not Path(path).is_dir():
            raise UserError(f"synthetic={path} does not exist: run stage=decode, or set another store")
        store, real = Store(path, kind=self.store.dataset.kind), self.store
        if (size := frame_size_text(store)) != (real_size := frame_size_text(real)):
            raise UserError(f"synthetic={path} is {size} and src={real.root} is {real_size}: use stores of one size")
        columns = self.task.target_columns(self.output_names)
        if missing := [name for name in columns if name not in store.table or store.table[name].isna().any()]:
            raise UserError(f"synthetic={path} has recordings without {missing[0]}: label all recordings")
        if all({"class_id", "class_name"} <= set(each.table) for each in (store, real)):
            classes = zip(store.table["class_id"], store.table["class_name"], strict=True)
            if different := [name for number, name in classes if self.output_names.get(number, name) != name]:
                stores = f"synthetic={path} and src={real.root}"
                raise UserError(f"class_id of {different[0]} differs in {stores}: ingest again")
        table = self.task.select_rows(store.table, self.output_names)
        if self.output_names and (unknown := sorted(set(table["class_id"].tolist()) - set(self.output_names))):
            problem = f"class_id {unknown[0]}, which no recording of src={real.root} has"
            raise UserError(f"synthetic={path} has {problem}: set task.classes= to classes of both stores")
        table = table[table["Split"] == "TRAIN"]
        if not len(table):
            raise UserError(f"synthetic={path} has no TRAIN recording of this task: generate recordings with labels")
        held_out = set(real.table.loc[real.table["Split"] != "TRAIN", "PatientID"].astype(str))
        if overlap := held_out & set(table["PatientID"].astype(str)):
            patients = f"{len(overlap)} TRAIN patients who are VAL or TEST patients of src={real.root}"
            raise UserError(f"synthetic={path} has {patients}: remove these patients")
        store.table = table
        return store

    def training_dataset(self) -> ViewDataset | MixedDataset:
        """Dataset of training samples from the real store, the synthetic store, or both."""
        parts = [self.samples("TRAIN")] if self.train_on != "synthetic" else []
        if self.synthetic is not None:
            rows = Recordings(self.synthetic, "TRAIN")
            parts.append(ViewDataset(rows, self.view, self.seed + 1, self.columns, self.augment))
            self.cache_recordings(parts[-1].rows)
        if len(parts) == 1 and self.length is None:
            return parts[0]
        return MixedDataset(parts, self.seed, self.ratio, self.length)

    def test_rows(self) -> dict[str, dict[str, int]]:
        """Row in ``store.table`` of each test recording, by name of the test set ("" for real) and FileName."""
        return {"": {name: row for row, name in enumerate(self.store.table["FileName"])}}

    def training_table(self) -> "pd.DataFrame":
        """Rows of FileList.csv used in training. For two stores, the column Weight is a row's frequency in an epoch."""
        import pandas as pd

        real = self.store.table[self.store.table["Split"] == "TRAIN"]
        if self.synthetic is None:
            return real
        if self.train_on == "synthetic":
            return self.synthetic.table
        weight = 1.0 if self.ratio is None else self.ratio * len(real) / len(self.synthetic.table)
        return pd.concat([real.assign(Weight=1.0), self.synthetic.table.assign(Weight=weight)], ignore_index=True)

    def metadata(self) -> dict[str, Any]:
        """Metadata of the training data for the artifact: sizes and checksums of the stores, and source of labels.

        ``synthetic_labels`` names the models that predicted the labels; "asked": labels are the generator's conditions.
        """
        import pandas as pd

        tables = {}
        if self.train_on != "synthetic":
            tables["real"] = self.store.table[self.store.table["Split"] == "TRAIN"]
        metadata: dict[str, Any] = {"train_on": self.train_on, "trained": {}, "stores": {"real": self.store.checksum}}
        if self.synthetic is not None:
            tables["synthetic"] = self.synthetic.table
            metadata["stores"]["synthetic"] = self.synthetic.checksum
            models = self.synthetic.table.get(LABEL_SOURCE, pd.Series(dtype=str)).dropna().astype(str)
            metadata["synthetic_labels"] = " ".join(sorted({*models} - {""})) or "asked"
        metadata["trained"] = {
            name: {"recordings": len(table), "patients": table["PatientID"].nunique()} for name, table in tables.items()
        }
        return {**metadata, "ratio": self.ratio, "fold": self.fold}


def frame_size_text(store: Store, row: int = 0) -> str:
    """Text with width, height and channels of the recording in ``row``, for error messages."""
    first = store.table.iloc[row]
    channels = store.dataset.channels
    return f"{first['FrameWidth']}x{first['FrameHeight']} with {channels} channel{'s' * (channels > 1)}"
