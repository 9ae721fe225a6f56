"""Images and their anonymised versions: which of them are trained on, and which are tested."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from echodream import validation
from echodream.datamodules.anonymized import ORIGINAL_COLUMN, TRAIN_ON, versions_table
from echodream.datamodules.dataset import ViewDataset
from echodream.datamodules.real_and_synthetic import RealAndSyntheticData, frame_size
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.store import Store


class RealAndAnonymizedData(RealAndSyntheticData):
    """Originals, the store ``src``, and ``anonymised`` stores, whose column ``match`` names the original of each image.

    ``train_on`` "anonymised" takes the versions of the TRAIN originals instead of these. Validation and test are always
    of originals; besides, the versions of TEST are tested that each of the ``anonymised`` stores has. Labels are those
    of the originals. Raises ``UserError`` naming versions that are missing, or that are nobody's.
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
                f"anonymised=[{','.join(paths)}]: figures are called by the folder, so give each another name"
            )
        super().__init__(**data)
        self.trains, self.match = train_on, match
        self.versions = {Path(path).name: self._opened_versions(path) for path in paths}

    def _opened_versions(self, path: str) -> Store:
        """The store at ``path``, its rows the versions that are needed, with what the originals say of them."""
        if not Path(path).is_dir():
            raise UserError(f"anonymised={path} does not exist: make it with stage=anonymise, or give another store")
        real = self.store
        if (kind := Store(path).dataset.kind) != real.dataset.kind:
            raise UserError(
                f"anonymised={path} holds {kind}s and src={real.root} {real.dataset.kind}s: bring both to one with "
                "stage=encode or stage=decode, and give on="
            )
        store = Store(path, encoder=real.dataset.encoder)
        if store.root.resolve() == real.root.resolve():
            raise UserError(f"anonymised={path} and src={real.root} are the same store: give the anonymised one")
        other = store.table.drop_duplicates(["FrameHeight", "FrameWidth"]).index  # a row of each size
        if wrong := [row for row in other if frame_size(store, row) != frame_size(real)]:
            name, found = store.table["FileName"][wrong[0]], frame_size(store, wrong[0])
            raise UserError(
                f"anonymised={path}: {name} is {found}, the originals are {frame_size(real)}: bring both to one"
            )
        test = real.table.loc[real.table["Split"] == "TEST", "FileName"]
        of = set(store.table[self.match].astype(str)) if self.match in store.table else set()
        splits = ["TRAIN"] if self.trains == "anonymised" else ["TEST"]
        splits += ["TEST"] if of & set(test) else []  # a set that is trained on may have no others
        store.table = versions_table(store, real, self.match, splits, self.whole["FileName"].tolist())
        store.dataset = replace(store.dataset, statistics=real.dataset.statistics)  # latents in units of the originals
        return store

    def recordings(self, split: str) -> Recordings:
        """Of TRAIN, the versions if they are trained on; else the originals."""
        if split == "TRAIN" and self.trains == "anonymised":
            (store,) = self.versions.values()
            return Recordings(store, split)
        return super().recordings(split)

    def _shown(self) -> dict[str, Store]:
        """The stores that have versions of TEST."""
        return {name: store for name, store in self.versions.items() if (store.table["Split"] == "TEST").any()}

    def test_dataloader(self) -> Any:
        """The originals, then the versions in each store, in the order of ``tested``."""
        loaders = [super().test_dataloader()]
        for store in self._shown().values():
            samples = ViewDataset(Recordings(store, "TEST"), self.view.fixed(), self.seed, self.columns)
            loaders.append(DataLoader(samples, sampler=self._sampler(samples, fixed=True), **self._settings()))
        return loaders

    def tested(self) -> dict[str, dict[str, int]]:
        """Of the originals, "", and of each anonymised store the row of ``store.table`` that each image is of."""
        rows = super().tested()
        for name, store in self._shown().items():
            pairs = zip(store.table["FileName"], store.table[ORIGINAL_COLUMN], strict=True)
            rows[name] = {version: rows[""][original] for version, original in pairs}
        return rows

    def facts(self) -> dict[str, Any]:
        """What was trained on, for the artifact: sizes, and checksums of all stores."""
        facts = super().facts()
        stores = {"original": facts["stores"]["real"]}
        stores |= {name: store.checksum for name, store in self.versions.items()}
        trained = {self.trains: facts["trained"]["real"]}
        return {**facts, "train_on": self.trains, "trained": trained, "stores": stores, "match": self.match}
