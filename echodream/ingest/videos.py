"""A folder of video files, GIFs and image sequences, with an optional csv."""

import re
from collections import Counter
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

_NUMBERED = re.compile(r"(?P<series>.*?)(?P<number>\d+)")


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
        series: dict[tuple[str, str, str], list[RawFile]] = {}
        for entry in entries:
            suffix = entry.path.suffix.lower()
            match = _NUMBERED.fullmatch(entry.path.stem)
            if entry.path.name.startswith("."):
                others.append(entry)
            elif suffix in VIDEO_SUFFIXES or suffix == ".gif":
                found[entry.relative] = entry
            elif suffix in IMAGE_SUFFIXES and match and not entry.problem:
                series.setdefault((parent_folder(entry.relative), match["series"], suffix), []).append(entry)
            else:
                others.append(entry)
        others += [images[0] for images in series.values() if len(images) == 1]
        sequences = {key: images for key, images in series.items() if len(images) > 1}
        count = Counter(folder for folder, _, _ in sequences)
        for (folder, prefix, suffix), images in sequences.items():
            name = folder or f"./{root.resolve().name}"
            key = name if count[folder] == 1 else f"{name}/{prefix}{suffix}"
            found[key] = replace(images[0], path=_series_files(images[0].path)[0])
        return found, others


def _series_files(first: Path) -> list[Path]:
    """The images in the folder of ``first`` whose names differ from it only in the number, in order of the numbers."""
    first_match = _NUMBERED.fullmatch(first.stem)
    assert first_match is not None
    series = (first_match["series"], first.suffix.lower())
    numbered: list[tuple[int, str, Path]] = []
    try:
        for path in first.parent.iterdir():
            match = _NUMBERED.fullmatch(path.stem)
            if match and (match["series"], path.suffix.lower()) == series and not path.is_symlink() and path.is_file():
                numbered.append((int(match["number"]), path.name, path))
    except OSError as error:
        raise Rejected("unreadable: the folder of images cannot be read") from error
    return [path for _, _, path in sorted(numbered)]
