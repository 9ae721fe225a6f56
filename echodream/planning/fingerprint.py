"""Content of a study before training: patients, lengths, frame rates, sizes, and warnings about them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.errors import Rejected, UserError
from echodream.ingest.patients import check_patients
from echodream.ingest.source import Limits, Source, Video
from echodream.ingest.split import SplitRatios, assign_splits
from echodream.progress import progress_bar
from echodream.store import Store
from echodream.store.schema import SPLITS

MIN_PATIENTS_PER_CLASS = 10
_RATE_TOLERANCE, _ASPECT_TOLERANCE, _LENGTH_RATIO, _LARGE_SHARE = 1.1, 1.1, 3.0, 0.2


@dataclass(frozen=True)
class Fingerprint:
    """Recordings of a study. ``table`` has the columns that stage=ingest would write to FileList.csv.

    ``rates`` and ``sizes``: frames per second and (height, width) of the recordings that were read, before
    preprocessing. ``reading_warnings``: warnings about raw files, one sentence each.
    """

    table: pd.DataFrame
    rates: Sequence[float]
    sizes: Sequence[tuple[int, int]]
    reading_warnings: list[str] = field(default_factory=list)

    def patients(self, split: str | None = None) -> list[str]:
        """Sorted names of the patients in ``split``; None: in all splits."""
        rows = self.table if split is None else self.table[self.table["Split"] == split]
        return sorted(set(rows["PatientID"].astype(str)))

    @property
    def lengths(self) -> np.ndarray:
        """Number of frames of each recording after preprocessing: int64, (N,)."""
        return self.table["NumberOfFrames"].to_numpy(np.int64)

    def as_json(self) -> dict[str, Any]:
        """Counts for plan.json, without names of patients."""
        per_patient = self.table.groupby("PatientID").size()
        first = self.table.drop_duplicates("PatientID")
        classes: Any = first.groupby("class_name") if self._has_classes else ()
        return {
            "recordings": len(self.table),
            "patients": self._count_by_split(first),
            "patients by class": {str(name): self._count_by_split(rows) for name, rows in classes},
            "recordings per patient": _min_median_max(per_patient),
            "frames": _min_median_max(self.lengths),
            "frames per second": sorted({round(rate, 3) for rate in self.rates}),
            "sizes": _size_texts(self.sizes),
            "sizes after preprocessing": _size_texts(
                zip(self.table["FrameHeight"], self.table["FrameWidth"], strict=True)
            ),
        }

    @property
    def _has_classes(self) -> bool:
        return "class_name" in self.table and bool(self.table["class_name"].notna().any())

    @staticmethod
    def _count_by_split(patients: pd.DataFrame) -> dict[str, int]:
        return {split: int((patients["Split"] == split).sum()) for split in SPLITS}

    def problems(self, clip: int | None) -> list[str]:
        """Warnings about the study, one sentence each. ``clip``: number of frames of a training clip of the lvdm."""
        texts, content = list(self.reading_warnings), self.as_json()
        for name, counts in content["patients by class"].items():
            total, absent = sum(counts.values()), [split for split, count in counts.items() if not count]
            if total < MIN_PATIENTS_PER_CLASS:
                texts.append(
                    f"class {name} has {total} patients: with fewer than {MIN_PATIENTS_PER_CLASS}, merge it or add some"
                )
            elif absent:
                texts.append(f"class {name} has no patient in {' and '.join(absent)}: change data.split")
        if not content["patients by class"]:
            texts.append("no recording has a class_name: the generators have no class, and utility cannot be measured")
        elif "class_id" not in self.table:
            texts.append("classes have no numbers, which generators and classifiers need: set data.source.classes")
        if content["recordings per patient"][2] == 1 < len(self.table):
            texts.append("no patient has two recordings: re-identification is learned from single recordings only")
        shares = self.table["PatientID"].value_counts(normalize=True)
        if len(shares) > MIN_PATIENTS_PER_CLASS / 2 and shares.iloc[0] > _LARGE_SHARE:
            texts.append(f"one patient has {100 * shares.iloc[0]:.0f} % of the recordings, and will dominate training")
        lengths = self.lengths
        if clip is not None and (short := int((lengths < clip).sum())) and lengths.max() > 1:
            texts.append(
                f"{short} of {len(lengths)} recordings are shorter than the {clip} frames of a clip: "
                "lower view.frames of model=lvdm"
            )
        low, high = np.quantile(lengths, [0.05, 0.95])
        if high > _LENGTH_RATIO * low:
            texts.append(f"lengths vary from {low:.0f} to {high:.0f} frames: long recordings dominate the training")
        if self.rates and max(self.rates) > _RATE_TOLERANCE * min(self.rates):
            rates = f"frame rates vary from {min(self.rates):g} to {max(self.rates):g} per second"
            texts.append(f"{rates}: slow recordings get repeated frames, check data.fps")
        aspects = [width / height for height, width in self.sizes]
        if aspects and max(aspects) > _ASPECT_TOLERANCE * min(aspects):
            texts.append(
                f"{len(set(self.sizes))} sizes of different aspect ratios: set data.fit=pad or data.crop=sector"
            )
        return texts


def _size_texts(sizes: Iterable[tuple[int, int]]) -> list[str]:
    """Sorted texts, such as 640x480 (width x height), of the different ``sizes``, (height, width)."""
    return sorted({f"{width}x{height}" for height, width in sizes})


def _min_median_max(values: Any) -> list[float]:
    """Minimum, median and maximum of ``values``."""
    return [float(number) for number in np.quantile(np.asarray(values), [0, 0.5, 1])]


def fingerprint_store(folder: Path) -> Fingerprint:
    """The fingerprint of a store of videos. Raises ``UserError`` if ``folder`` has no such store."""
    table = Store(folder, kind="video").table
    sizes = list(zip(table["FrameHeight"], table["FrameWidth"], strict=True))
    return Fingerprint(table, table["FPS"].tolist(), [(int(height), int(width)) for height, width in sizes])


def fingerprint_raw(
    source: Source,
    raw: Path | None,
    ratios: SplitRatios,
    limits: Limits,
    prepared: Mapping[str, Any],
    count: int,
    seed: int,
) -> Fingerprint:
    """The fingerprint of raw files: all recordings are listed, and ``count`` random recordings are read.

    ``prepared``: fps and size after preprocessing (conf/data); None keeps the value of each file. Recordings that are
    not read get the lengths of random recordings that were read. Raises ``UserError`` if no recording can be read.
    """
    listed = source.recordings(raw)
    recordings = [recording for recording in listed if recording.problem is None]
    reading_warnings = []
    if refused := sum(recording.counted for recording in listed) - len(recordings):
        reading_warnings.append(f"{refused} of {len(listed)} files cannot be used, or have no row in the csv")
    try:
        check_patients(recordings)
    except UserError as error:
        reading_warnings.append(str(error))
    splits = assign_splits(recordings, ratios)
    rng = np.random.default_rng(seed)
    videos, rejected = list[Video](), list[str]()
    order = rng.permutation(len(recordings))[:count]
    for index in progress_bar(order.tolist(), "read", unit="rec"):
        try:
            videos.append(source.read(recordings[index], limits))
        except Rejected as error:
            rejected.append(str(error))
    if rejected:
        reading_warnings.append(
            f"{len(rejected)} of {len(order)} recordings that were read are rejected; the first: {rejected[0]}"
        )
    if not videos:
        raise UserError(f"raw={raw} holds no recording that can be read: check raw= and data=")
    fps, size = prepared["fps"], prepared["size"]
    height, width = (size, size) if size is None or isinstance(size, int) else size
    chosen = rng.integers(len(videos), size=len(recordings))
    rows = [
        {
            "FileName": recording.name,
            "Split": splits[recording.patient],
            "PatientID": recording.patient,
            "NumberOfFrames": max(1, round(len(video.frames) * (1 if fps is None else fps / video.fps))),
            "FPS": float(fps or video.fps),
            "FrameHeight": height or video.frames.shape[1],
            "FrameWidth": width or video.frames.shape[2],
            **recording.columns,
        }
        for recording, video in zip(recordings, (videos[index] for index in chosen), strict=True)
    ]
    sizes = [(video.frames.shape[1], video.frames.shape[2]) for video in videos]
    return Fingerprint(pd.DataFrame(rows), [video.fps for video in videos], sizes, reading_warnings)
