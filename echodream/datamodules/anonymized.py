"""Originals or their anonymised versions as training data; which version is of which original."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from echodream import validation
from echodream.datamodules.datamodule import StoreData
from echodream.errors import UserError
from echodream.store import Store
from echodream.store.schema import SPLITS

TRAIN_ON = ("original", "anonymised")
SHOWN = 5
"""Names that an error lists."""
OWN = ("FileName", "NumberOfFrames", "FPS", "FrameHeight", "FrameWidth")
"""Columns that a version has of its own; all others are those of its original."""
ORIGINAL = "Original"
"""The column that then says of which original a version is."""


class AnonymizedData(StoreData):
    """``StoreData`` of the originals ``src``, or, with ``train_on`` "anonymised", of their versions, for all splits.

    The column ``match`` of the store ``anonymised`` names the original, which says whose the version is, in which
    split, and what it is labelled with. Raises ``UserError`` naming versions that are missing, or that are nobody's.
    """

    def __init__(self, *, train_on: str, anonymised: str | None, match: str, **store: Any) -> None:
        validation.one_of("train_on", train_on, TRAIN_ON)
        if train_on == "anonymised" and not Path(anonymised or "").is_dir():
            raise UserError(
                f"anonymised={anonymised} does not exist: make it with stage=anonymise, or give another store"
            )
        super().__init__(**store)
        if train_on == "anonymised":
            real = self.store
            if Path(str(anonymised)).resolve() == real.root.resolve():
                raise UserError(
                    f"anonymised={anonymised} and src={real.root} are the same store: give the anonymised one"
                )
            self.store = Store(str(anonymised), kind=real.dataset.kind, encoder=real.dataset.encoder)
            self.store.table = as_originals(self.store, real, match)
            self.store.dataset = replace(self.store.dataset, statistics=real.dataset.statistics)  # in their units
            self._check()


def as_originals(
    store: Store, real: Store, match: str, splits: Sequence[str] = SPLITS, known: Collection[str] = ()
) -> pd.DataFrame:
    """The table of ``store``, versions of all images of ``real`` in ``splits``, with what ``real`` says of them.

    ``known`` are further names that versions may be of. Raises ``UserError``.
    """
    if match not in store.table:
        there = ", ".join(map(str, store.table))
        raise UserError(f"match={match} is no column of {store.root}, which would name originals; it has {there}")
    table = real.table[real.table["Split"].isin(list(splits))].reset_index(drop=True)
    remedy = f"anonymise all images of {real.root}, or give src= the store that was anonymised"
    known = {*real.table["FileName"], *known}
    rows = placed(store.table[match], table["FileName"].tolist(), known, (store.root, real.root), remedy)
    own = store.table.iloc[rows].reset_index(drop=True)[[*OWN]]
    return pd.concat(
        [own, table.drop(columns=[*OWN, ORIGINAL], errors="ignore"), table["FileName"].rename(ORIGINAL)], axis=1
    )


def placed(
    of: "pd.Series[Any]", wanted: Sequence[str], known: Collection[str], roots: tuple[Path, Path], remedy: str
) -> list[int]:
    """For each ``wanted`` original the place of its version, where ``of`` says of which original each version is.

    ``roots`` are the folders of the versions and of the originals, ``known`` all names that versions may be of. Raises
    ``UserError`` with the names of those that are missing, or that are nobody's, and ends it with ``remedy``.
    """
    index, known = pd.Index(of.astype(str)), set(known)
    if index.has_duplicates:
        raise UserError(
            f"{roots[0]} has several images with {of.name}={index[index.duplicated()][0]}: each original has one "
            "version"
        )
    missing, extra = [name for name in wanted if name not in index], [name for name in index if name not in known]
    if missing or extra:
        told = [f"lacks {len(missing)} of the {len(wanted)} in {roots[1]} ({some(missing)})"] if missing else []
        told += [f"has {len(extra)} that are not there ({some(extra)})"] if extra else []
        raise UserError(f"{roots[0]} {' and '.join(told)}: {remedy}")
    return [int(place) for place in index.get_indexer(pd.Index(wanted))]


def some(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
