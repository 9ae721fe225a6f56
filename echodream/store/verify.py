"""Checks a Store against its specification, docs/format.md."""

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
"""The files other than media files that SHA256SUMS lists."""


def verify(root: str | Path, *, encoder: str | None = None) -> Store:
    """Check every file and checksum of the store at ``root``, and open it.

    Raises ``StoreError`` with the first problem and the number of other problems.
    """
    problems = find_problems(root, encoder=encoder)
    first = next(problems, None)
    if first is not None:
        others = sum(1 for _ in problems)
        raise StoreError(first + (f" (and {others} more)" if others else ""))
    return Store(root)


def find_problems(root: str | Path, *, encoder: str | None = None) -> Iterator[str]:
    """Every problem of the store at ``root``, one sentence each."""
    root = Path(root)
    try:
        store = Store(root, encoder=encoder)
        sums = read_checksums(root)
        read_text_table(root / REJECTED, REJECTED_COLUMNS)
    except StoreError as error:
        yield str(error)
        return
    yield from _unexpected_files(store)
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
        yield from [problem] if problem else _media_problems(store, path, (frames, height, width))
    for table in TABLES_AND_METADATA:
        if problem := _file_problem(root / table, sums.pop(table, None)):
            yield problem
    for name in sums:
        yield f"{root / CHECKSUMS} lists {name[:80]!r}, which is not in FileList.csv"


def require_intact(root: str | Path) -> None:
    """Raise ``StoreError`` unless every file of the store at ``root`` has its checksum. Reading alone checks less."""
    root = Path(root)
    for name, listed in read_checksums(root).items():
        if problem := _file_problem(root / name, listed):
            raise StoreError(f"{problem}; restore the file, or create the store again")


def _unexpected_files(store: Store) -> Iterator[str]:
    """Problems: files that are not part of a store."""
    folder, suffix = MEDIA_FILES[store.dataset.kind]
    known = {folder, CHECKSUMS, *TABLES_AND_METADATA}
    for entry in sorted(store.root.iterdir()):
        if entry.name not in known:
            yield f"{entry} is not part of a store: move it elsewhere"
    media = store.root / folder
    if media.is_symlink() or not media.is_dir():
        yield f"{media} is not a folder"
        return
    names = {f"{name}{suffix}" for name in store.table["FileName"]}
    for entry in sorted(media.iterdir()):
        if entry.name not in names:
            yield f"{entry} is not listed in FileList.csv"


def _file_problem(path: Path, listed: str | None) -> str | None:
    if path.is_symlink():
        return f"{path} is a link: a store holds regular files only"
    if not path.is_file():
        return f"{path} is missing, or not a regular file"
    if listed is None:
        return f"{path} has no line in SHA256SUMS"
    if file_sha256(path) != listed:
        return f"{path} has changed since the store was written: its checksum differs"
    return None


def _size_problem(store: Store, size: tuple[int, int], name: str) -> str | None:
    expected = (store.dataset.height, store.dataset.width)
    if any(side is not None and side != actual for side, actual in zip(expected, size, strict=True)):
        height, width = (side or "any" for side in expected)
        return f"{store.root / FILE_LIST}: {name} is {size[1]}x{size[0]}, dataset.json states {width}x{height}"
    return None


def _media_problems(store: Store, path: Path, shape: tuple[int, int, int]) -> Iterator[str]:
    """Problems of one media file; ``shape`` is its number of frames, height and width in FileList.csv."""
    try:
        probe = probe_video if store.dataset.kind == "video" else probe_latents
        actual = probe(path, store.dataset.channels)
    except StoreError as error:
        yield str(error)
        return
    if actual != tuple(map(int, shape)):
        yield "{} holds {} frames of {}x{}, FileList.csv states {} of {}x{}".format(path, *actual, *shape)
