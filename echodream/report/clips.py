"""Videos of the page: random real and synthetic recordings, and samples with their nearest training patients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.report.media import encode_within_size
from echodream.report.sources import Sources
from echodream.store import Store
from echodream.store.browser_video import data_uri

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 9_500_000
"""Maximum total size of the encoded videos of a page, in bytes, before base64, which adds one third."""
_REMEDY = "lower look.per_class, look.pairs or look.seconds"
MAX_CLASSES = 6
ALL_RECORDINGS = "All recordings"
"""Name of the single group of recordings without classes."""


@dataclass(frozen=True)
class ClipSettings:
    """Number and length of the videos on the page (``look.*``)."""

    per_class: int
    """Number of real and of synthetic videos of each class; a shared page has twice as many synthetic videos."""
    pairs: int
    """Number of samples that are shown with their nearest training patient."""
    seconds: float
    """Maximum length of a video, in seconds."""
    seed: int

    def __post_init__(self) -> None:
        for name, most in (("per_class", 12), ("pairs", 48), ("seed", 2**63 - 1)):
            validation.whole_number(f"look.{name}", getattr(self, name), 0, most)
        validation.number("look.seconds", self.seconds, maximum=60, above=0)


@dataclass
class Clip:
    """One video of the page: ``count`` frames of a recording, from frame ``start``."""

    store: Store
    name: str
    label: str
    """Text for screen readers."""
    caption: str
    start: int = 0
    count: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    uri: str = ""


@dataclass(frozen=True)
class ClipGroup:
    """Videos of one class."""

    name: str
    real: Sequence[Clip]
    synthetic: Sequence[Clip]


@dataclass(frozen=True)
class NearestPair:
    """A sample and the recording of its nearest training patient, with their ``similarity``."""

    synthetic: Clip
    real: Clip
    similarity: float
    nearer_patients: int
    """Number of new patients who are at least as similar to a training patient as the sample is."""
    new_patients: int
    """Number of new patients in the comparison; 0 if the filter compared no new patients."""


@dataclass
class PageClips:
    """All videos of the page."""

    groups: list[ClipGroup] = field(default_factory=list)
    pairs: list[NearestPair] = field(default_factory=list)
    classes_left_out: int = 0
    has_shortened_clips: bool = False
    """Whether at least one recording is longer than its video."""

    def all_clips(self) -> Iterator[Clip]:
        for group in self.groups:
            yield from (*group.real, *group.synthetic)
        for pair in self.pairs:
            yield from (pair.synthetic, pair.real)


def choose_clips(sources: Sources, settings: ClipSettings) -> PageClips:
    """The encoded videos of a page; a shared page has only synthetic videos, an unfinished page only real videos."""
    page_clips = PageClips()
    if sources.synthetic is not None:
        _choose_groups(page_clips, sources.synthetic.table, sources, settings)
        page_clips.pairs = _choose_pairs(sources, settings)
    elif sources.real is not None and sources.is_unfinished and not sources.share:
        _choose_groups(page_clips, sources.real.table[sources.real.table["Split"] == "TEST"], sources, settings)
    clips = list(page_clips.all_clips())
    for clip in clips:
        _choose_frames(clip, settings, page_clips)
    frames = [(clip.store.frames(clip.name, range(clip.start, clip.start + clip.count)), clip.fps) for clip in clips]
    for clip, video, (pixels, _) in zip(clips, encode_within_size(frames, MAX_BYTES, _REMEDY), frames, strict=True):
        clip.uri, (clip.height, clip.width) = data_uri(video, "video/mp4"), pixels.shape[1:3]
    return page_clips


def _choose_groups(page_clips: PageClips, table: "pd.DataFrame", sources: Sources, settings: ClipSettings) -> None:
    """Add random synthetic and real videos of the most frequent classes of ``table`` to ``page_clips``."""
    if not settings.per_class:
        return
    classes = _recording_groups(table)
    names = sorted(classes.value_counts().index[:MAX_CLASSES], key=str)
    page_clips.classes_left_out = int(classes.nunique()) - len(names)
    for name in names:
        real_clips: list[Clip] = []
        synthetic_clips: list[Clip] = []
        if sources.synthetic is not None:
            rows, count = table[classes == name], settings.per_class * (1 + sources.share)
            synthetic_clips = _choose_clips(sources.synthetic, rows, "Synthetic", str(name), count, settings.seed)
        if sources.real is not None and not sources.share:
            test = sources.real.table[sources.real.table["Split"] == "TEST"]
            rows = test if name == ALL_RECORDINGS else test[_recording_groups(test) == name]
            rows = rows.drop_duplicates("PatientID")
            real_clips = _choose_clips(sources.real, rows, "Real", str(name), settings.per_class, settings.seed)
        page_clips.groups.append(ClipGroup(str(name), real_clips, synthetic_clips))


def _recording_groups(table: "pd.DataFrame") -> "pd.Series":
    """The class of each recording; ``ALL_RECORDINGS`` for every recording if a class is missing."""
    for column in ("class_name", "class_id"):
        if column in table and table[column].notna().all():
            values = table[column].astype(str)
            return values if column == "class_name" else "class " + values
    return table["Split"].map(lambda _: ALL_RECORDINGS)


def _choose_clips(store: Store, rows: "pd.DataFrame", kind: str, class_name: str, count: int, seed: int) -> list[Clip]:
    """Clips of ``count`` random ``rows``; ``kind`` is "Real" or "Synthetic". Only synthetic clips have a caption."""
    names = sorted(rows["FileName"])
    chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:count]
    return [
        Clip(store, names[index], f"{kind} video {number}, {class_name}", names[index] if kind == "Synthetic" else "")
        for number, index in enumerate(chosen.tolist(), 1)
    ]


def _choose_frames(clip: Clip, settings: ClipSettings, page_clips: PageClips) -> None:
    """Set the frame range of ``clip``, which begins at ``clip.start``, or earlier if the recording is too short."""
    row = clip.store.table[clip.store.table["FileName"] == clip.name].iloc[0]
    total, clip.fps = int(row["NumberOfFrames"]), float(row["FPS"])
    clip.count = max(1, min(total, int(settings.seconds * clip.fps)))
    clip.start = max(0, min(clip.start, total - clip.count))
    page_clips.has_shortened_clips |= clip.count < total


def _choose_pairs(sources: Sources, settings: ClipSettings) -> list[NearestPair]:
    """The passed samples that are most similar to a training patient, each with a recording of that patient."""
    synthetic, real, kind = sources.synthetic, sources.real, sources.passed_filter_kind()
    if sources.share or synthetic is None or real is None or kind is None or not settings.pairs:
        return []
    record = sources.records.get(f"filter_{kind}")
    if record is None or not sources.paths[f"filter_{kind}"].with_name("scores.csv").is_file():
        return []
    scores = sources.scores(kind)
    with sources.report_parse_errors(f"filter_{kind}"):
        decision = record["decision"]
        patients = int(decision["sizes"]["calibration_patients"]) if "sizes" in decision else 0
        scores = scores[scores["FileName"].isin(set(synthetic.table["FileName"]))]
        nearest = scores.sort_values(["Score", "FileName"], ascending=[False, True], kind="stable")
        rows = nearest.head(settings.pairs).to_dict("records")
        recordings = set(real.table["FileName"])
        if absent := [row["NearestRecording"] for row in rows if row["NearestRecording"] not in recordings]:
            raise UserError(
                f"real={real.root} lacks the recording {absent[0]}, which the filter's record names: give the study "
                "that the filter was run with"
            )
        networks = int(decision.get("networks", 1))
        return [_nearest_pair(synthetic, real, row, patients, networks) for row in rows]


def _nearest_pair(synthetic: Store, real: Store, row: dict[Any, Any], patients: int, networks: int) -> NearestPair:
    name, patient = str(row["FileName"]), str(row["NearestPatient"])
    length = int(synthetic.table["NumberOfFrames"][synthetic.table["FileName"] == name].iloc[0])
    frame = int(row["NearestFrame"])
    sample = Clip(synthetic, name, f"Synthetic video {name}", name)
    label, caption = f"Real recording of patient {patient}", f"{patient}, frame {frame}"
    recording = Clip(real, str(row["NearestRecording"]), label, caption, start=max(0, frame - length // 2))
    p_value = str(row.get("PValue", ""))  # empty if the filter compared no new patients
    nearer_patients = max(0, round(float(p_value) / networks * (patients + 1)) - 1) if p_value else 0
    return NearestPair(sample, recording, float(row["Score"]), nearer_patients, patients if p_value else 0)
