"""Source of a folder of video files, GIFs and image sequences, with an optional csv."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from echodream import validation
from echodream.errors import Rejected
from echodream.ingest.folder_source import FolderSource
from echodream.ingest.listing import ListedRecording, RawFile, parent_folder
from echodream.ingest.media_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_gif, read_image_sequence, read_video_file
from echodream.ingest.source import Limits, Recording, Video

_SINGLE_IMAGE_REASON = "an image outside a numbered sequence: number the frames, or use data=images"


@dataclass(frozen=True)
class Videos(FolderSource):
    """Reads all mp4, avi, mov, mpeg, mpg, mkv, webm, m4v, wmv and gif files and image sequences below ``raw``.

    An image sequence is two or more png, jpg, bmp or tif images of a folder whose names differ only in a number. The
    sequence is one recording in the order of these numbers, named after its folder. A column FPS in the csv replaces
    the time stamps of a file. See ``FolderSource`` for FileName, csv and patients.
    """

    image_fps: float = 30.0
    """Frames per second of image sequences without a frame rate in the csv."""

    kind: ClassVar[str] = "videos"
    expected_files: ClassVar[str] = "video file, GIF or numbered images"
    reserved_columns: ClassVar[tuple[str, ...]] = (*FolderSource.reserved_columns, "FPS")

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.frame_rate("image_fps", self.image_fps)

    def read(self, recording: Recording, limits: Limits) -> Video:
        assert isinstance(recording, ListedRecording)
        suffix = recording.file.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            return read_image_sequence(_sequence_files(recording.file), limits, recording.fps or self.image_fps)
        return (read_gif if suffix == ".gif" else read_video_file)(recording.file, limits, recording.fps)

    def file_sizes(self, entry: RawFile) -> tuple[int, ...]:
        """List the sizes in bytes of the images of a sequence; () for a video file."""
        is_sequence = entry.path.suffix.lower() in IMAGE_SUFFIXES
        return tuple(path.stat().st_size for path in _sequence_files(entry.path)) if is_sequence else ()

    def group_files(self, entries: Sequence[RawFile], root: Path) -> tuple[dict[str, RawFile], list[RawFile]]:
        """Separate recordings (path -> video file or first image of a sequence) from all other files."""
        recordings: dict[str, RawFile] = {}
        other_files: list[RawFile] = []
        folders: dict[str, dict[Path, RawFile]] = {}
        for entry in entries:
            suffix = entry.path.suffix.lower()
            if entry.path.name.startswith("."):
                other_files.append(entry)
            elif suffix in VIDEO_SUFFIXES or suffix == ".gif":
                recordings[entry.relative_path] = entry
            elif suffix in IMAGE_SUFFIXES and not entry.problem and not entry.path.is_symlink():
                folders.setdefault(parent_folder(entry.relative_path), {})[entry.path] = entry
            else:
                other_files.append(entry)
        for folder, images in folders.items():
            name = folder or f"./{root.resolve().name}"
            groups = _group_numbered_images(images)
            sequences = {pattern: paths for pattern, paths in groups.items() if len(paths) > 1}
            for pattern, paths in sequences.items():
                label = pattern.replace("\0.", ".").replace("\0", "#")
                key = name if len(sequences) == 1 else f"{name}/{label}"
                recordings[key if key not in recordings else f"{name}/{paths[0].name}"] = images[paths[0]]
            single = {path for paths in groups.values() for path in paths if len(paths) == 1}
            other_files += [replace(images[path], problem=_SINGLE_IMAGE_REASON) for path in images if path in single]
        return recordings, other_files


def _group_numbered_images(images: Iterable[Path]) -> dict[str, list[Path]]:
    """Group images of one folder whose names differ only in a number: name with "\\0" for the number -> ordered paths.

    The number is the last that differs between names with equal text: 1 and 2 in ``frame (1).png``, ``frame (2).png``
    and in ``p7_1_v3.png``, ``p7_2_v3.png``. An image without a number is a separate group.
    """
    same_text: dict[tuple[str, ...], list[tuple[list[str], Path]]] = {}
    for path in images:
        tokens = re.split(r"(\d+)", path.stem)
        same_text.setdefault((*tokens[::2], path.suffix.lower()), []).append((tokens, path))
    groups: dict[str, list[tuple[int, str, Path]]] = {}
    for (*texts, suffix), names in same_text.items():
        positions = range(1, 2 * len(texts) - 1, 2)
        differing = [position for position in positions if len({int(tokens[position]) for tokens, _ in names}) > 1]
        position = max(differing or positions, default=0)
        for tokens, path in names:
            pattern = "".join((*tokens[:position], "\0", *tokens[position + 1 :], suffix)) if position else path.name
            groups.setdefault(pattern, []).append((int(tokens[position]) if position else 0, path.name, path))
    return {pattern: [path for _, _, path in sorted(numbered)] for pattern, numbered in groups.items()}


def _sequence_files(first: Path) -> list[Path]:
    """List the images of the sequence that contains ``first``, in order, without links. Raises ``Rejected``."""
    try:
        files = (path for path in first.parent.iterdir() if path.is_file() and not path.is_symlink())
        images = [path for path in files if path.suffix.lower() == first.suffix.lower() and path.name[0] != "."]
    except OSError as error:
        raise Rejected("unreadable: the folder of images cannot be read") from error
    return next((paths for paths in _group_numbered_images(images).values() if first in paths), [first])
