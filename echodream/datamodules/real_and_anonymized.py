"""Data for training on original images or anonymized versions, and for testing on both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.datamodules.anonymized import ORIGINAL_COLUMN, TRAIN_ON_CHOICES, open_anonymized_store, versions_table
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData, frame_size_text
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.store import Store


class RealAndAnonymizedData(RealAndSyntheticData):
    """Original images in ``src``, and their anonymized versions in the stores ``anonymised``.

    The column ``match`` of each store has the FileName of the original of a version, from which labels are taken. With
    ``train_on`` "anonymised", training uses versions of TRAIN originals. Validation and test use originals; versions of
    TEST originals in each store are further test sets. Raises ``UserError`` if a version is missing or has no original.
    """

    def __init__(
        self,
        *,
        train_on: str = "original",
        anonymised: str | Sequence[str] | None = None,
        match: str = "FileName",
        **data: Any,
    ) -> None:
        validation.one_of("train_on", train_on, TRAIN_ON_CHOICES)
        paths = validation.path_list(anonymised)
        if train_on == "anonymised" and len(paths) != 1:
            raise UserError(f"train_on=anonymised needs one store as anonymised=, and has {len(paths) or 'none'}")
        if len({Path(path).name for path in paths}) < len(paths):
            problem = f"anonymised=[{','.join(paths)}] has folders of equal names, but metrics are named after folders"
            raise UserError(f"{problem}: rename a folder")
        super().__init__(**data)
        self.training_images, self.match = train_on, match
        self.versions = {Path(path).name: self._open_versions(path) for path in paths}

    def _open_versions(self, path: str) -> Store:
        """Open the store at ``path`` with only the required versions, and patients and labels of the originals."""
        real, store = self.store, open_anonymized_store(path, self.store)
        sizes = store.table.drop_duplicates(["FrameHeight", "FrameWidth"]).index  # one row of each size
        if other := [row for row in sizes if frame_size_text(store, row) != frame_size_text(real)]:
            problem = f"{store.table['FileName'][other[0]]} is {frame_size_text(store, other[0])}"
            remedy = "convert all images to one size"
            raise UserError(f"anonymised={path}: {problem}, the originals are {frame_size_text(real)}: {remedy}")
        test = real.table.loc[real.table["Split"] == "TEST", "FileName"]
        originals = set(store.table[self.match].astype(str)) if self.match in store.table else set()
        splits = ["TRAIN"] if self.training_images == "anonymised" else ["TEST"]
        splits += ["TEST"] if originals & set(test) else []  # a store for training may have no TEST versions
        store.table = versions_table(store, real, self.match, splits, self.full_table["FileName"].tolist())
        return store

    def recordings(self, split: str) -> Recordings:
        """Recordings of ``split``: versions for TRAIN with ``train_on`` "anonymised"; otherwise originals."""
        if split == "TRAIN" and self.training_images == "anonymised":
            (store,) = self.versions.values()
            return Recordings(store, split)
        return super().recordings(split)

    def _test_versions(self) -> dict[str, Store]:
        """Folder name -> store, for all stores with versions of TEST images."""
        return {name: store for name, store in self.versions.items() if (store.table["Split"] == "TEST").any()}

    def test_dataloader(self) -> Any:
        """Loaders of the test originals and of the test versions in each store, in the order of ``test_rows``."""
        loaders = [super().test_dataloader()]
        for store in self._test_versions().values():
            samples = ViewDataset(Recordings(store, "TEST"), self.view.for_evaluation(), self.seed, self.columns)
            loaders.append(self._evaluation_loader(samples))
        return loaders

    def test_rows(self) -> dict[str, dict[str, int]]:
        """Row in ``store.table`` of each test image, by name of the test set ("" for originals) and FileName."""
        rows = super().test_rows()
        for name, store in self._test_versions().items():
            pairs = zip(store.table["FileName"], store.table[ORIGINAL_COLUMN], strict=True)
            rows[name] = {version: rows[""][original] for version, original in pairs}
        return rows

    def metadata(self) -> dict[str, Any]:
        """Metadata of the training data for the artifact: sizes, and checksums of all stores."""
        data = super().metadata()
        stores = {"original": data["stores"]["real"]}
        stores |= {name: store.checksum for name, store in self.versions.items()}
        trained = {self.training_images: data["trained"]["real"]}
        return {**data, "train_on": self.training_images, "trained": trained, "stores": stores, "match": self.match}
