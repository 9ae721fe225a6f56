"""Training data from original images or from their anonymized versions, matched by name."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from echodream import validation
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError, shortened_list
from echodream.store import Store
from echodream.store.schema import SPLITS

TRAIN_ON_CHOICES = ("original", "anonymised")
VERSION_COLUMNS = ("FileName", "NumberOfFrames", "FPS", "FrameHeight", "FrameWidth")
"""Columns of FileList.csv with values of the anonymized version. All other columns have values of the original."""
ORIGINAL_COLUMN = "Original"
"""Column with the FileName of the original image."""


class AnonymizedData(StoreData):
    """``StoreData`` of original images in ``src`` or, with ``train_on`` "anonymised", of their anonymized versions.

    The column ``match`` of the store ``anonymised`` has the FileName of the original, which gives patient, split and
    labels. Raises ``UserError`` if a version is missing or has no original.
    """

    def __init__(self, *, train_on: str, anonymised: str | None, match: str, **store_arguments: Any) -> None:
        validation.one_of("train_on", train_on, TRAIN_ON_CHOICES)
        super().__init__(**store_arguments)
        if train_on == "anonymised":
            real = self.store
            self.store = open_anonymized_store(str(anonymised), real)
            self.store.table = versions_table(self.store, real, match)
            self._check_store()


def open_anonymized_store(path: str, real: Store) -> Store:
    """Open the anonymized store at ``path``, with the latent statistics of ``real``. Raises ``UserError``."""
    if not Path(path).is_dir():
        raise UserError(f"anonymised={path} does not exist: create it with stage=anonymise, or give another store")
    if Path(path).resolve() == real.root.resolve():
        raise UserError(f"anonymised={path} and src={real.root} are the same store: give the anonymized store")
    if (kind := Store(path).dataset.kind) != real.dataset.kind:
        problem = f"anonymised={path} holds {kind}s and src={real.root} holds {real.dataset.kind}s"
        raise UserError(f"{problem}: convert one store with stage=encode or stage=decode, and give on=")
    store = Store(path, encoder=real.dataset.encoder)
    store.dataset = replace(store.dataset, statistics=real.dataset.statistics)
    return store


def versions_table(
    store: Store, real: Store, match: str, splits: Sequence[str] = SPLITS, other_originals: Collection[str] = ()
) -> pd.DataFrame:
    """Table of anonymized versions of all images of ``real`` in ``splits``, with patients and labels of ``real``.

    Versions of ``other_originals`` are ignored. Raises ``UserError`` if a version is missing or has no original.
    """
    if match not in store.table:
        problem = f"match={match} is not a column of {store.root}, which has {', '.join(map(str, store.table))}"
        raise UserError(f"{problem}: give the column with the names of originals")
    originals = real.table[real.table["Split"].isin(list(splits))].reset_index(drop=True)
    names = originals["FileName"]
    remedy = f"anonymize all images of {real.root}, or give src= the store that was anonymized"
    all_names = {*real.table["FileName"], *other_originals}
    rows = version_rows(store.table[match], names.tolist(), all_names, (store.root, real.root), remedy)
    versions = store.table.iloc[rows].reset_index(drop=True)[[*VERSION_COLUMNS]]
    labels = originals.drop(columns=[*VERSION_COLUMNS, ORIGINAL_COLUMN], errors="ignore")
    return pd.concat([versions, labels, names.rename(ORIGINAL_COLUMN)], axis=1)


def version_rows(
    original_names: "pd.Series[Any]",
    originals: Sequence[str],
    all_originals: Collection[str],
    roots: tuple[Path, Path],
    remedy: str,
) -> list[int]:
    """Row numbers of the versions of ``originals``; ``original_names`` has the name of each version's original.

    Versions of other images in ``all_originals`` are ignored. ``roots`` are the folders of versions and of originals.
    Raises ``UserError`` that ends with ``remedy`` for missing versions and for versions of unknown originals.
    """
    index, all_originals = pd.Index(original_names.astype(str)), set(all_originals)
    if index.has_duplicates:
        name = index[index.duplicated()][0]
        raise UserError(f"{roots[0]} has several images with {original_names.name}={name}: keep one image per original")
    missing = [name for name in originals if name not in index]
    unknown = [name for name in index if name not in all_originals]
    if missing or unknown:
        reasons = []
        if missing:
            reasons = [f"lacks {len(missing)} of the {len(originals)} images of {roots[1]} ({shortened_list(missing)})"]
        if unknown:
            reasons += [f"has {len(unknown)} images of other originals ({shortened_list(unknown)})"]
        raise UserError(f"{roots[0]} {' and '.join(reasons)}: {remedy}")
    return [int(row) for row in index.get_indexer(pd.Index(originals))]
