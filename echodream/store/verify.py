"""Verification of a Store against its specification, docs/format.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from echodream.store import schema
from echodream.store.checksums import file_sha256, read_checksums
from echodream.store.latents import probe_latents
from echodream.store.reader import Store
from echodream.store.schema import StoreError
from echodream.store.table import read_text_table
from echodream.store.video import probe_video

TABLES_AND_METADATA = (schema.FILE_LIST, schema.REJECTED, schema.DATASET)
"""Files in SHA256SUMS that are not media files."""


def verify(root: str | Path) -> Store:
    """Open the store ``root`` after a check of all files. Raises ``StoreError`` with the first problem."""
    if problems := list(find_problems(root)):
        raise StoreError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    return Store(root)


def find_problems(root: str | Path) -> Iterator[str]:
    """Yield a sentence for each problem of the store ``root``, after a check of all files and checksums."""
    root = Path(root)
    try:
        store = Store(root)
        sums = read_checksums(root)
        read_text_table(root / schema.REJECTED, schema.REJECTED_COLUMNS)
    except StoreError as error:
        yield str(error)
        return
    yield from _unexpected_files(store)
    rows = store.table[["FileName", "NumberOfFrames", "FrameHeight", "FrameWidth"]].itertuples(index=False, name=None)
    for name, *shape in rows:
        path = schema.media_path(root, store.dataset.kind, name)
        checksum = sums.pop(path.relative_to(root).as_posix(), None)
        if problem := _file_problem(path, checksum) or _media_problem(store, name, path, shape):
            yield problem
    for table in TABLES_AND_METADATA:
        if problem := _file_problem(root / table, sums.pop(table, None)):
            yield problem
    for name in sums:
        yield f"{root / schema.CHECKSUMS} lists {name[:80]!r}, which is not in FileList.csv"


def require_intact(root: str | Path) -> None:
    """Raise ``StoreError`` unless every file of the store ``root`` has its checksum in SHA256SUMS."""
    root = Path(root)
    for name, checksum in read_checksums(root).items():
        if problem := _file_problem(root / name, checksum):
            raise StoreError(f"{problem}; restore the file, or create the store again")


def _unexpected_files(store: Store) -> Iterator[str]:
    """Yield a problem for each file or folder that is not part of a store."""
    folder, suffix = schema.MEDIA_FILES[store.dataset.kind]
    known = {folder, schema.CHECKSUMS, *TABLES_AND_METADATA}
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


def _file_problem(path: Path, checksum: str | None) -> str | None:
    if path.is_symlink():
        return f"{path} is a link: a store holds regular files only"
    if not path.is_file():
        return f"{path} is missing, or not a regular file"
    if checksum is None:
        return f"{path} has no line in SHA256SUMS"
    if file_sha256(path) != checksum:
        return f"{path} has changed since the store was written: its checksum differs"
    return None


def _media_problem(store: Store, name: str, path: Path, shape: Sequence[int]) -> str | None:
    """Problem of a media file; ``shape`` is its number of frames, height and width in FileList.csv."""
    expected = (store.dataset.height, store.dataset.width)
    if any(side not in (None, actual) for side, actual in zip(expected, shape[1:], strict=True)):
        height, width = (side or "any" for side in expected)
        return f"{store.root / schema.FILE_LIST}: {name} is {shape[2]}x{shape[1]}, dataset.json states {width}x{height}"
    try:
        actual = (probe_video if store.dataset.kind == "video" else probe_latents)(path, store.dataset.channels)
    except StoreError as error:
        return str(error)
    if actual != tuple(shape):
        return "{} has {} frames of {}x{}, FileList.csv states {} of {}x{}".format(path, *actual, *shape)
    return None
