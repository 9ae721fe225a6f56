"""Checking a Store against its specification."""

from collections.abc import Iterator
from pathlib import Path

from echodream.store.checksums import file_sha256, read_checksums
from echodream.store.latents import probe_latents
from echodream.store.reader import Store
from echodream.store.schema import (
    CHECKSUMS,
    DATASET,
    FILE_LIST,
    MEDIA_FILES,
    REJECTED,
    REJECTED_COLUMNS,
    StoreError,
    media_path,
)
from echodream.store.table import read_text_table
from echodream.store.video import probe_video

TABLES_AND_METADATA = (FILE_LIST, REJECTED, DATASET)
"""The files beside the media that SHA256SUMS has a line for."""


def verify(root: str | Path, *, encoder: str | None = None) -> Store:
    """Open the store at ``root`` if it meets docs/format.md, every file and checksum included.

    Raises ``StoreError`` with the first problem and the number of others.
    """
    found = find_problems(root, encoder=encoder)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)
        raise StoreError(first + (f" (and {others} more)" if others else ""))
    return Store(root)


def find_problems(root: str | Path, *, encoder: str | None = None) -> Iterator[str]:
    """Every way in which the store at ``root`` fails its specification, as one sentence each."""
    root = Path(root)
    try:
        store = Store(root, encoder=encoder)
        sums = read_checksums(root)
        read_text_table(root / REJECTED, REJECTED_COLUMNS)
    except StoreError as error:
        yield str(error)
        return
    yield from _stray(store)
    rows = zip(
        store.table["FileName"],
        store.table["NumberOfFrames"],
        store.table["FrameHeight"],
        store.table["FrameWidth"],
        strict=True,
    )
    for name, frames, height, width in rows:
        path = media_path(root, store.dataset.kind, name)
        listed = sums.pop(path.relative_to(root).as_posix(), None)
        problem = _file_problem(path, listed) or _size_problem(store, (height, width), name)
        yield from [problem] if problem else _content(store, path, (frames, height, width))
    for table in TABLES_AND_METADATA:
        if problem := _file_problem(root / table, sums.pop(table, None)):
            yield problem
    for left in sums:
        yield f"{root / CHECKSUMS} lists {left[:80]!r}, which FileList.csv does not"


def require_intact(root: str | Path) -> None:
    """Raise ``StoreError`` unless every file of the store at ``root`` has its checksum: reading does not notice all."""
    root = Path(root)
    for name, listed in read_checksums(root).items():
        if problem := _file_problem(root / name, listed):
            raise StoreError(f"{problem}; bring it back, or make the store again")


def _stray(store: Store) -> Iterator[str]:
    """Files that the specification does not know."""
    folder, suffix = MEDIA_FILES[store.dataset.kind]
    known = {folder, CHECKSUMS, *TABLES_AND_METADATA}
    for entry in sorted(store.root.iterdir()):
        if entry.name not in known:
            yield f"{entry} does not belong in a store: move it elsewhere"
    media = store.root / folder
    if media.is_symlink() or not media.is_dir():
        yield f"{media} is not a folder of this store"
        return
    names = {f"{name}{suffix}" for name in store.table["FileName"]}
    for entry in sorted(media.iterdir()):
        if entry.name not in names:
            yield f"{entry} is not listed in FileList.csv"


def _file_problem(path: Path, listed: str | None) -> str | None:
    if path.is_symlink():
        return f"{path} is a link: a store holds its own files"
    if not path.is_file():
        return f"{path} is missing, or no file"
    if listed is None:
        return f"{path} has no line in SHA256SUMS"
    if file_sha256(path) != listed:
        return f"{path} has changed since the store was made: its checksum differs"
    return None


def _size_problem(store: Store, size: tuple[int, int], name: str) -> str | None:
    expected = (store.dataset.height, store.dataset.width)
    if any(want is not None and want != have for want, have in zip(expected, size, strict=True)):
        wanted = [side or "any" for side in expected]
        return f"{store.root / FILE_LIST}: {name} is {size[1]}x{size[0]}, dataset.json says {wanted[1]}x{wanted[0]}"
    return None


def _content(store: Store, path: Path, shape: tuple[int, int, int]) -> Iterator[str]:
    """What is inside one media file against its row, ``shape`` being frames, height and width."""
    try:
        probe = probe_video if store.dataset.kind == "video" else probe_latents
        found = probe(path, store.dataset.channels)
    except StoreError as error:
        yield str(error)
        return
    if found != tuple(map(int, shape)):
        yield "{} holds {} frames of {}x{}, FileList.csv says {} of {}x{}".format(path, *found, *shape)
