"""A folder of video files, GIFs and image sequences, with an optional csv."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from echodream import validation
from echodream.errors import Rejected
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.listing import ListedRecording, RawFile, parent_folder
from echodream.ingest.media_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_gif, read_image_sequence, read_video_file
from echodream.ingest.source import Limits, Recording, Video

_ALONE = "an image without others whose names differ from it in one number: number the frames, or use data=images"


@dataclass(frozen=True)
class Videos(FolderSource):
    """All mp4, avi, mov, mpeg, mpg, mkv, webm, m4v, wmv and gif files below ``raw``, and folders of numbered images.

    Two or more png, jpg, bmp or tif images of a folder whose names differ only in a number are one recording, in the
    order of these numbers, with the FileName of the folder. FileName, csv and patients: see ``FolderSource``. A column
    FPS in the csv replaces the time stamps of a file.
    """

    image_fps: float = 30.0
    """Frames per second of image sequences."""

    kind: ClassVar[str] = "videos"
    expected_files: ClassVar[str] = "video file, GIF or numbered images"
    special: ClassVar[tuple[str, ...]] = (*FolderSource.special, "FPS")

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.frame_rate("image_fps", self.image_fps)

    def read(self, recording: Recording, limits: Limits) -> Video:
        assert isinstance(recording, ListedRecording)
        suffix = recording.file.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            return read_image_sequence(_series_files(recording.file), limits, recording.fps or self.image_fps)
        return (read_gif if suffix == ".gif" else read_video_file)(recording.file, limits, recording.fps)

    def file_sizes(self, entry: RawFile) -> tuple[int, ...]:
        """Sizes in bytes of the images of a series."""
        series = entry.path.suffix.lower() in IMAGE_SUFFIXES
        return tuple(path.stat().st_size for path in _series_files(entry.path)) if series else ()

    def group(self, entries: Iterable[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Key -> file of a recording (the first image of a sequence), and the files that are not recordings."""
        found: dict[str, RawFile] = {}
        others: list[RawFile] = []
        folders: dict[str, dict[Path, RawFile]] = {}
        for entry in entries:
            suffix = entry.path.suffix.lower()
            if entry.path.name.startswith("."):
                others.append(entry)
            elif suffix in VIDEO_SUFFIXES or suffix == ".gif":
                found[entry.relative] = entry
            elif suffix in IMAGE_SUFFIXES and not entry.problem and not entry.path.is_symlink():
                folders.setdefault(parent_folder(entry.relative), {})[entry.path] = entry
            else:
                others.append(entry)
        for folder, images in folders.items():
            name = folder or f"./{root.resolve().name}"
            series = _group_series(images)
            sequences = {key: paths for key, paths in series.items() if len(paths) > 1}
            for pattern, paths in sequences.items():
                label = pattern.replace("\0.", ".").replace("\0", "#")
                key = name if len(sequences) == 1 else f"{name}/{label}"
                found[key if key not in found else f"{name}/{paths[0].name}"] = images[paths[0]]
            alone = {path for paths in series.values() for path in paths if len(paths) == 1}
            others += [replace(images[path], problem=_ALONE) for path in images if path in alone]
        return found, others


def _group_series(images: Iterable[Path]) -> dict[str, list[Path]]:
    """Name with "\\0" for the number -> images of one folder whose names differ only in that number, in its order.

    The number is the last one that differs between names with the same text: 1 and 2 in ``frame (1).png``,
    ``frame (2).png`` and in ``p7_1_v3.png``, ``p7_2_v3.png``. An image without a number is a series of its own.
    """
    alike: dict[tuple[str, ...], list[tuple[list[str], Path]]] = {}
    for path in images:
        parts = re.split(r"(\d+)", path.stem)
        alike.setdefault((*parts[::2], path.suffix.lower()), []).append((parts, path))
    series: dict[str, list[tuple[int, str, Path]]] = {}
    for (*texts, suffix), names in alike.items():
        places = range(1, 2 * len(texts) - 1, 2)
        differing = [place for place in places if len({int(parts[place]) for parts, _ in names}) > 1]
        for parts, path in names:
            place = max(differing or places, default=None)
            pattern = path.name if place is None else "".join((*parts[:place], "\0", *parts[place + 1 :], suffix))
            series.setdefault(pattern, []).append((int(parts[place]) if place else 0, path.name, path))
    return {pattern: [path for _, _, path in sorted(numbered)] for pattern, numbered in series.items()}


def _series_files(first: Path) -> list[Path]:
    """The images of the series of which ``first`` is one, in order. Links are left out."""
    try:
        files = (path for path in first.parent.iterdir() if path.is_file() and not path.is_symlink())
        images = [path for path in files if path.suffix.lower() == first.suffix.lower() and path.name[0] != "."]
    except OSError as error:
        raise Rejected("unreadable: the folder of images cannot be read") from error
    return next((paths for paths in _group_series(images).values() if first in paths), [first])
