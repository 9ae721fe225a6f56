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
    """Recordings of a study. ``table`` has the columns of a store of videos, as ingest would write it.

    ``rates`` and ``sizes``: frames per second and (height, width) of the recordings that were read, before
    preprocessing. ``unwise``: warnings from the listing, one sentence each.
    """

    table: pd.DataFrame
    rates: Sequence[float]
    sizes: Sequence[tuple[int, int]]
    unwise: list[str] = field(default_factory=list)

    def patients(self, split: str | None = None) -> list[str]:
        """Names of the patients, of all splits or of ``split``, sorted."""
        rows = self.table if split is None else self.table[self.table["Split"] == split]
        return sorted(set(rows["PatientID"].astype(str)))

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each recording after preprocessing: int64, (N,)."""
        return self.table["NumberOfFrames"].to_numpy(np.int64)

    def as_json(self) -> dict[str, Any]:
        """Counts for plan.json, without names of patients."""
        per_patient = self.table.groupby("PatientID").size()
        first = self.table.drop_duplicates("PatientID")
        classes = {str(name): self._splits(rows) for name, rows in first.groupby("class_name")} if self._classes else {}
        return {
            "recordings": len(self.table),
            "patients": self._splits(first),
            "patients by class": classes,
            "recordings per patient": _min_median_max(per_patient),
            "frames": _min_median_max(self.lengths),
            "frames per second": sorted({round(rate, 3) for rate in self.rates}),
            "sizes": _size_texts(self.sizes),
            "sizes after preprocessing": _size_texts(
                zip(self.table["FrameHeight"], self.table["FrameWidth"], strict=True)
            ),
        }

    @property
    def _classes(self) -> bool:
        return "class_name" in self.table and bool(self.table["class_name"].notna().any())

    @staticmethod
    def _splits(patients: pd.DataFrame) -> dict[str, int]:
        return {split: int((patients["Split"] == split).sum()) for split in SPLITS}

    def problems(self, clip: int | None) -> list[str]:
        """Warnings about the study, one sentence each. ``clip``: frames of a training clip of the lvdm."""
        found, content = list(self.unwise), self.as_json()
        for name, counts in content["patients by class"].items():
            total, absent = sum(counts.values()), [split for split, count in counts.items() if not count]
            if total < MIN_PATIENTS_PER_CLASS:
                found.append(
                    f"class {name} has {total} patients: with fewer than {MIN_PATIENTS_PER_CLASS}, merge it or add some"
                )
            elif absent:
                found.append(f"class {name} has no patient in {' and '.join(absent)}: change data.split")
        if not content["patients by class"]:
            found.append("no recording has a class_name: the generators have no class, and utility cannot be measured")
        elif "class_id" not in self.table:
            found.append("classes have no numbers, which generators and classifiers need: set data.source.classes")
        if content["recordings per patient"][2] == 1 < len(self.table):
            found.append("no patient has two recordings: the re-identification model learns from frames of one only")
        shares = self.table["PatientID"].value_counts(normalize=True)
        if len(shares) > MIN_PATIENTS_PER_CLASS / 2 and shares.iloc[0] > _LARGE_SHARE:
            found.append(f"one patient has {100 * shares.iloc[0]:.0f} % of the recordings: the models will learn them")
        lengths = self.lengths
        if clip is not None and (short := int((lengths < clip).sum())) and lengths.max() > 1:
            found.append(
                f"{short} of {len(lengths)} recordings are shorter than the {clip} frames of a clip: "
                "lower view.frames of model=lvdm"
            )
        low, high = np.quantile(lengths, [0.05, 0.95])
        if high > _LENGTH_RATIO * low:
            found.append(f"lengths vary from {low:.0f} to {high:.0f} frames: long recordings dominate the training")
        if self.rates and max(self.rates) > _RATE_TOLERANCE * min(self.rates):
            rates = f"frame rates vary from {min(self.rates):g} to {max(self.rates):g} per second"
            found.append(f"{rates}: slow recordings get repeated frames, check data.fps")
        aspects = [width / height for height, width in self.sizes]
        if aspects and max(aspects) > _ASPECT_TOLERANCE * min(aspects):
            found.append(
                f"{len(set(self.sizes))} sizes of different aspect ratios: set data.fit=pad or data.crop=sector"
            )
        return found


def _size_texts(sizes: Iterable[tuple[int, int]]) -> list[str]:
    """The sizes that occur, each as text, width x height, from (height, width)."""
    return sorted({f"{width}x{height}" for height, width in sizes})


def _min_median_max(values: Any) -> list[float]:
    """Minimum, median and maximum."""
    return [float(number) for number in np.quantile(np.asarray(values), [0, 0.5, 1])]


def fingerprint_store(folder: Path) -> Fingerprint:
    """The fingerprint of a store of videos. Raises ``UserError`` if there is none."""
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
    """The fingerprint of raw files: all are listed, and ``count`` random ones are read.

    ``prepared``: fps and size of conf/data, which preprocessing sets; None keeps those of the files. Recordings that
    are not read get the lengths of random recordings that were read. Raises ``UserError`` if no recording can be read.
    """
    listed = source.recordings(raw)
    recordings = [recording for recording in listed if recording.problem is None]
    unwise = []
    if refused := sum(recording.counted for recording in listed) - len(recordings):
        unwise.append(f"{refused} of {len(listed)} files cannot be used, or have no row in the csv")
    try:
        check_patients(recordings)
    except UserError as error:
        unwise.append(str(error))
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
        unwise.append(
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
    return Fingerprint(pd.DataFrame(rows), [video.fps for video in videos], sizes, unwise)
