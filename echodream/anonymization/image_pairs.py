"""Originals and their anonymised versions, opened and put side by side, and the spaces in which they are compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from echodream import validation
from echodream.datamodules.anonymized import SHOWN as SHOWN
from echodream.datamodules.anonymized import placed
from echodream.datamodules.normalization import whiten
from echodream.datamodules.recordings import Recordings, select_recordings
from echodream.errors import UserError
from echodream.filtering.copy_generation import spread
from echodream.filtering.embedding import FrameEmbedder, latents
from echodream.privacy.similarity import Similarity, normalised
from echodream.store import Store
from echodream.store.schema import CHECKSUMS, SPLITS
from echodream.weights import fingerprint

FRAMES = 1024
"""Frames that are in memory at once."""
ORIGINAL_FRAMES = "OriginalFrames"
"""Column that says of which frames of the original those of its version are, where it has not all of them."""
SPACES = {"latent": "latents", "video": "pixels"}
"""What frames are compared by as they are, for each kind of store."""


class Identity(Protocol):
    """A network that tells patients apart. ``embed``: frames of a store it has checked, (n, C, H, W), to (n, D)."""

    def check(self, store: Store) -> None:
        """Raise ``UserError`` for a store whose frames it cannot look at."""

    def embed(self, frames: Tensor) -> Tensor:
        """Embeddings, float32 on the CPU."""


@dataclass(frozen=True)
class Space:
    """Where frames are compared: unscaled latents, or pixels in [-1, 1], (n, C, H, W), become embeddings (n, D)."""

    name: str
    """"identity", "latents" or "pixels"."""
    means: str
    embed: Callable[[Tensor], Tensor]
    fingerprint: str | None = None
    """Of the network, where there is one."""


@dataclass(frozen=True)
class Images:
    """Chosen frames of recordings, in one order: each is an image. n of them."""

    rows: Recordings
    row: np.ndarray
    """Of each image, its recording: int64 (n,)."""
    place: np.ndarray
    """Its frame in the recording: int64 (n,)."""

    @property
    def patients(self) -> np.ndarray:
        """Whose each image is: (n,)."""
        return self.rows.table["PatientID"].astype(str).to_numpy()[self.row]

    @property
    def names(self) -> np.ndarray:
        """The recording that each image is of: (n,)."""
        return np.array(self.rows.names, dtype=object)[self.row]

    def __len__(self) -> int:
        return len(self.row)

    def only(self, chosen: Sequence[int] | np.ndarray) -> "Images":
        """These images alone."""
        return Images(self.rows, self.row[chosen], self.place[chosen])


def opened(path: str, key: str) -> Store:
    """The complete store at ``path``, given as ``key``."""
    store = Store(path)
    if not (store.root / CHECKSUMS).is_file():
        raise UserError(f"{key}: {store.root / CHECKSUMS} is missing: {store.root} is not a complete store")
    return store


def chosen(store: Store, splits: Sequence[str] | None, key: str) -> Recordings:
    """The recordings of ``splits``, of all if None, by name."""
    wrong = [split for split in splits or () if split not in SPLITS]
    if wrong or splits == []:
        raise UserError(f"splits={list(splits or ())} is not possible: give some of {', '.join(SPLITS)}, or null")
    return select_recordings(store, splits or SPLITS, key)


def images(rows: Recordings, frames: int) -> Images:
    """``frames`` frames of each recording, spread over it; one is that in the middle."""
    validation.whole_number("frames", frames)
    if rows.frames.min() < frames:
        short = rows.names[int(rows.frames.argmin())]
        raise UserError(f"frames={frames} is too many: {short} of {rows.store.root} has {int(rows.frames.min())}")
    places = [spread(int(count), frames) for count in rows.frames]
    return Images(rows, np.repeat(np.arange(len(rows)), frames), np.concatenate(places).astype(np.int64))


def versions(shown: Images, rows: Recordings) -> Images:
    """The versions of the images ``shown`` in ``rows``, the partners of their recordings."""
    if ORIGINAL_FRAMES not in rows.table:
        return Images(rows, shown.row, shown.place)
    made = [[int(frame) for frame in str(cell).split()] for cell in rows.column(ORIGINAL_FRAMES)]
    for row, place in zip(shown.row.tolist(), shown.place.tolist(), strict=True):
        if place not in made[row]:
            have = ", ".join(map(str, made[row]))
            raise UserError(
                f"{rows.store.root} has no version of frame {place} of {shown.rows.names[row]}, but of {have}: give "
                f"frames={len(made[row])}, as for stage=anonymise"
            )
    place = [made[row].index(place) for row, place in zip(shown.row.tolist(), shown.place.tolist(), strict=True)]
    return Images(rows, shown.row, np.array(place, np.int64))


def partners(real: Recordings, store: Store, match: str) -> Recordings:
    """The recordings of ``store``, in the order of ``real``: the column ``match`` says of which each is the version.

    Raises ``UserError`` with the names of those that are missing, or that are nobody's, and for other sizes.
    """
    rows = select_recordings(store, SPLITS, "src")
    of = pd.Series(rows.column(match), name=match)
    known = real.store.table["FileName"].tolist()  # other splits may be anonymised, too
    remedy = "give the anonymised version of the same images, or the splits= that were anonymised"
    remedy += "; a set without pairs needs paired=false"
    found = rows.select(placed(of, real.names, known, (store.root, real.store.root), remedy))
    for number, name in enumerate(real.names):
        sizes = [_size(side, number, ORIGINAL_FRAMES in store.table) for side in (real, found)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{name} has {sizes[0]} in {real.store.root} and {sizes[1]} in {store.root}: the two are not a pair; "
                "anonymise it again without changing its size"
            )
    return found


def _size(rows: Recordings, row: int, some: bool) -> str:
    entry = rows.table.iloc[row]
    size = f"{int(entry['FrameWidth'])}x{int(entry['FrameHeight'])}"
    return size if some else f"{entry['NumberOfFrames']} frames of {size}"


def check_alike(real: Store, source: Store) -> None:
    """Raise ``UserError`` unless both stores hold what can be compared."""
    a, b = real.dataset, source.dataset
    if (a.kind, a.channels) != (b.kind, b.channels):
        raise UserError(
            f"real={real.root} holds {a.kind}s of {a.channels} channels and src={source.root} {b.kind}s of "
            f"{b.channels}: give two stores of a kind"
        )
    if a.encoder != b.encoder:
        raise UserError(
            f"{real.root} and {source.root} were made by different encoders: encode both with the same autoencoder"
        )
    if real.root.resolve() == source.root.resolve():
        raise UserError(f"src={source.root} and real={real.root} are the same store: give the anonymised one as src=")


def spaces(real: Store, others: Sequence[Store], artifact: str | None, autoencoder: str) -> list[Space]:
    """The identity space of the network at ``artifact``, if given, and the space of latents, or of pixels, as they are.

    Latents are whitened with the statistics of ``real``.
    """
    found = []
    if artifact is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = FrameEmbedder(artifact, autoencoder, device, real.dataset.kind)
        similarity = cast(Similarity, network.encoder.sees.similarity)
        for store in (real, *others):
            network.check(store)
        found.append(identity(network, similarity, fingerprint(network.encoder.network)))
    statistics = real.dataset.statistics
    if real.dataset.kind == "video":
        return [*found, Space("pixels", "pixels in [-1, 1], as they are", lambda x: x.flatten(1))]
    assert statistics is not None  # Recordings have refused others
    means = "posterior means, whitened by the mean and deviation of each channel over the originals in training"
    return [*found, Space("latents", means, lambda x: whiten(x.float(), statistics, dim=1).flatten(1))]


def identity(network: Identity, similarity: Similarity, mark: str) -> Space:
    """The space of ``network``, in unit vectors: the squared distance of two is 2 - 2 times their ``similarity``."""

    def embed(frames: Tensor) -> Tensor:
        return normalised(network.embed(frames), similarity, "embeddings")

    return Space("identity", f"unit vectors of the identity network, for {similarity} similarity", embed, mark)


def embedded(shown: Images, places: Sequence[Space], what: str) -> list[Tensor]:
    """All images in each of the ``places``: float32 (n, D) each. Frames are read once."""
    parts: list[list[Tensor]] = [[] for _ in places]
    held: list[Tensor] = []
    starts = np.flatnonzero(np.diff(shown.row, prepend=-1))
    bar: Any = tqdm(np.split(np.arange(len(shown)), starts[1:]), what, unit="rec", disable=None, leave=False)
    for group in bar:
        held.append(_frames(shown.rows, int(shown.row[group[0]]), shown.place[group]))
        if sum(map(len, held)) >= FRAMES:
            _into(parts, places, held)
            held = []
    if held:
        _into(parts, places, held)
    return [torch.cat(part) for part in parts]


def _into(parts: list[list[Tensor]], places: Sequence[Space], held: Sequence[Tensor]) -> None:
    frames = torch.cat([*held])
    for part, place in zip(parts, places, strict=True):
        part.append(place.embed(frames))


def _frames(rows: Recordings, row: int, places: np.ndarray) -> Tensor:
    """Frames of a recording: unscaled latents, or pixels in [-1, 1]; float32 (f, C, H, W)."""
    if rows.store.dataset.kind == "latent":
        return latents(rows, row, places)
    return rows.read(row, places.tolist(), np.random.default_rng(0)).transpose(0, 1)
