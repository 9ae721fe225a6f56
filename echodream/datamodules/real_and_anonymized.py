"""Training on original images or on their anonymized versions, and testing on both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.datamodules.anonymized import ORIGINAL_COLUMN, TRAIN_ON, open_anonymized, versions_table
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData, frame_size
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.store import Store


class RealAndAnonymizedData(RealAndSyntheticData):
    """Original images in ``src``, and their anonymized versions in the ``anonymised`` stores.

    The column ``match`` of an ``anonymised`` store names the original of each version.

    With ``train_on`` "anonymised", the network is trained on the versions of the TRAIN originals. Validation and test
    use the originals; the versions of the TEST originals in each of the ``anonymised`` stores are further test sets.
    Labels are those of the originals. Raises ``UserError`` if a version is missing or has no original.
    """

    def __init__(
        self,
        *,
        train_on: str = "original",
        anonymised: str | Sequence[str] | None = None,
        match: str = "FileName",
        **data: Any,
    ) -> None:
        validation.one_of("train_on", train_on, TRAIN_ON)
        paths = validation.path_list(anonymised)
        if train_on == "anonymised" and len(paths) != 1:
            raise UserError(f"train_on=anonymised needs one store as anonymised=, and has {len(paths) or 'none'}")
        if len({Path(path).name for path in paths}) < len(paths):
            raise UserError(
                f"anonymised=[{','.join(paths)}]: metrics are named after the folder, so give each folder another name"
            )
        super().__init__(**data)
        self.training_images, self.match = train_on, match
        self.versions = {Path(path).name: self._open_versions(path) for path in paths}

    def _open_versions(self, path: str) -> Store:
        """The store at ``path``, reduced to the versions that are needed, with patients and labels of the originals."""
        real, store = self.store, open_anonymized(path, self.store)
        sizes = store.table.drop_duplicates(["FrameHeight", "FrameWidth"]).index  # a row of each size
        if wrong := [row for row in sizes if frame_size(store, row) != frame_size(real)]:
            name, size = store.table["FileName"][wrong[0]], frame_size(store, wrong[0])
            raise UserError(
                f"anonymised={path}: {name} is {size}, the originals are {frame_size(real)}: convert both to one size"
            )
        test = real.table.loc[real.table["Split"] == "TEST", "FileName"]
        originals = set(store.table[self.match].astype(str)) if self.match in store.table else set()
        splits = ["TRAIN"] if self.training_images == "anonymised" else ["TEST"]
        splits += ["TEST"] if originals & set(test) else []  # a store for training may have no TEST versions
        store.table = versions_table(store, real, self.match, splits, self.full_table["FileName"].tolist())
        return store

    def recordings(self, split: str) -> Recordings:
        """The recordings of ``split``: for TRAIN the versions, if ``train_on`` is "anonymised"; otherwise originals."""
        if split == "TRAIN" and self.training_images == "anonymised":
            (store,) = self.versions.values()
            return Recordings(store, split)
        return super().recordings(split)

    def _test_versions(self) -> dict[str, Store]:
        """Stores with versions of TEST images, by name."""
        return {name: store for name, store in self.versions.items() if (store.table["Split"] == "TEST").any()}

    def test_dataloader(self) -> Any:
        """Loaders of the originals, then of the versions in each store, in the order of ``test_rows``."""
        loaders = [super().test_dataloader()]
        for store in self._test_versions().values():
            samples = ViewDataset(Recordings(store, "TEST"), self.view.for_evaluation(), self.seed, self.columns)
            loaders.append(self._evaluation_loader(samples))
        return loaders

    def test_rows(self) -> dict[str, dict[str, int]]:
        """Set name ("" for the originals) -> row in ``store.table`` of each tested image."""
        rows = super().test_rows()
        for name, store in self._test_versions().items():
            pairs = zip(store.table["FileName"], store.table[ORIGINAL_COLUMN], strict=True)
            rows[name] = {version: rows[""][original] for version, original in pairs}
        return rows

    def metadata(self) -> dict[str, Any]:
        """Training data, as recorded in the artifact: sizes, and checksums of all stores."""
        data = super().metadata()
        stores = {"original": data["stores"]["real"]}
        stores |= {name: store.checksum for name, store in self.versions.items()}
        trained = {self.training_images: data["trained"]["real"]}
        return {**data, "train_on": self.training_images, "trained": trained, "stores": stores, "match": self.match}
