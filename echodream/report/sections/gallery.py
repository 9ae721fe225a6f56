"""The recordings that a page shows: real and synthetic ones at random, and samples beside their nearest patient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.report.media import data_uri, encode_within
from echodream.report.sources import Sources
from echodream.store import Store

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES = 9_500_000
"""Of all videos of a page; as text they take a third more."""
MOST_CLASSES = 6
ALL = "All recordings"
"""The name of a group where there are no classes."""


@dataclass(frozen=True)
class Look:
    """How much of the recordings a page shows."""

    per_class: int
    """Real videos of each class, and synthetic ones; where there are no real ones, twice as many of these."""
    pairs: int
    """Samples shown beside the patient they are nearest to."""
    seconds: float
    """Of each recording, at most."""
    seed: int

    def __post_init__(self) -> None:
        for name, most in (("per_class", 12), ("pairs", 48), ("seed", 2**63 - 1)):
            validation.whole_number(f"look.{name}", getattr(self, name), 0, most)
        validation.number("look.seconds", self.seconds, maximum=60, above=0)


@dataclass
class Clip:
    """One video of a page."""

    store: Store
    name: str
    side: str
    """real or synthetic."""
    label: str
    """What a screen reader says of it."""
    caption: str
    start: int = 0
    count: int = 0
    """Frames; of the whole recording from ``start`` to ``start + count``."""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    uri: str = ""


@dataclass(frozen=True)
class Group:
    """A class, and some of its recordings."""

    name: str
    real: Sequence[Clip]
    synthetic: Sequence[Clip]


@dataclass(frozen=True)
class Pair:
    """A sample and the patient whom it is nearest to."""

    synthetic: Clip
    real: Clip
    score: float
    nearer: int
    """New patients who are at least as close to a training patient."""
    patients: int
    """New patients."""


@dataclass
class Gallery:
    """All videos of a page."""

    groups: list[Group] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    left_out: int = 0
    """Classes that are not shown."""
    cut: bool = False
    """Whether some recording is longer than what is shown."""

    def clips(self) -> Iterator[Clip]:
        for group in self.groups:
            yield from (*group.real, *group.synthetic)
        for pair in self.pairs:
            yield from (pair.synthetic, pair.real)


def gallery(sources: Sources, look: Look) -> Gallery:
    """Choose recordings and make videos of them. A page that is to be shared has synthetic ones alone."""
    found = Gallery()
    if sources.synthetic is not None:
        _choose_groups(found, sources, look)
        if not sources.share:
            found.pairs = _choose_pairs(sources, look)
    clips = list(found.clips())
    for clip in clips:
        _place(clip, look, found)
    read = [(clip.store.frames(clip.name, range(clip.start, clip.start + clip.count)), clip.fps) for clip in clips]
    for clip, video, (frames, _) in zip(clips, encode_within(read, MOST_BYTES), read, strict=True):
        clip.uri, (clip.height, clip.width) = data_uri(video), frames.shape[1:3]
    return found


def _choose_groups(found: Gallery, sources: Sources, look: Look) -> None:
    ours, theirs = sources.synthetic, None if sources.share else sources.real
    if ours is None or not look.per_class:
        return
    made = _classes(ours.table)
    names = sorted(made.value_counts().index[:MOST_CLASSES], key=str)
    found.left_out = int(made.nunique()) - len(names)
    test = None if theirs is None else theirs.table[theirs.table["Split"] == "TEST"]
    known = None if test is None else _classes(test)
    for name in names:
        synthetic = _drawn(
            ours, ours.table[made == name], str(name), "synthetic", look.per_class * (1 + sources.share), look.seed
        )
        real: list[Clip] = []
        if theirs is not None and test is not None and known is not None:
            same = test if name == ALL else test[known == name]
            real = _drawn(theirs, same.drop_duplicates("PatientID"), str(name), "real", look.per_class, look.seed)
        found.groups.append(Group(str(name), real, synthetic))


def _classes(table: "pd.DataFrame") -> "pd.Series":
    """What recordings are grouped by."""
    for column in ("class_name", "class_id"):
        if column in table and table[column].notna().all():
            named = table[column].astype(str)
            return named if column == "class_name" else "class " + named
    return table["Split"].map(lambda _: ALL)


def _drawn(store: Store, rows: "pd.DataFrame", group: str, side: str, many: int, seed: int) -> list[Clip]:
    """``many`` of the rows at random; in which order they stand decides nothing."""
    names = sorted(rows["FileName"])
    chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:many]
    return [
        Clip(
            store,
            names[place],
            side,
            f"{side.capitalize()} video {number}, {group}",
            names[place] if side == "synthetic" else "",
        )
        for number, place in enumerate(chosen.tolist(), 1)
    ]


def _place(clip: Clip, look: Look, found: Gallery) -> None:
    """Which frames are shown: those from ``start`` on, moved to the front where too few follow."""
    row = clip.store.table[clip.store.table["FileName"] == clip.name].iloc[0]
    total, clip.fps = int(row["NumberOfFrames"]), float(row["FPS"])
    clip.count = clip.count or max(1, min(total, int(look.seconds * clip.fps)))
    clip.count = min(clip.count, total)
    clip.start = max(0, min(clip.start, total - clip.count))
    found.cut |= clip.count < total


def _choose_pairs(sources: Sources, look: Look) -> list[Pair]:
    """The samples that came nearest to a training patient, of those that passed."""
    ours, theirs, on = sources.synthetic, sources.real, sources.filtered()
    if ours is None or theirs is None or on is None or f"filter_{on}" not in sources.records or not look.pairs:
        return []
    if not sources.paths[f"filter_{on}"].with_name("scores.csv").is_file():
        return []
    table = sources.scores(on)
    with sources.reading(f"filter_{on}"):
        decision = sources.records[f"filter_{on}"]["decision"]
        patients = int(decision["sizes"]["calibration_patients"]) if "sizes" in decision else 0
        table = table[table["FileName"].isin(set(ours.table["FileName"]))]
        nearest = table.sort_values(["Score", "FileName"], ascending=[False, True], kind="stable").head(look.pairs)
        rows = nearest.to_dict("records")
        known = set(theirs.table["FileName"])
        if lost := [row["NearestRecording"] for row in rows if row["NearestRecording"] not in known]:
            raise UserError(
                f"real={theirs.root} has no recording {lost[0]}, which the filter compared with: give its study"
            )
        return [_pair(ours, theirs, row, patients) for row in rows]


def _pair(ours: Store, theirs: Store, row: dict[Any, Any], patients: int) -> Pair:
    name, whose = str(row["FileName"]), str(row["NearestPatient"])
    length = int(ours.table["NumberOfFrames"][ours.table["FileName"] == name].iloc[0])
    frame = int(row["NearestFrame"])
    sample = Clip(ours, name, "synthetic", f"Synthetic video {name}", name)
    seen = Clip(
        theirs, str(row["NearestRecording"]), "real", f"Real recording of patient {whose}", f"{whose}, frame {frame}"
    )
    seen.start = max(0, frame - length // 2)
    told = str(row.get("PValue", ""))  # empty where no new patients were compared
    nearer = max(0, round(float(told) * (patients + 1)) - 1) if told else 0
    return Pair(sample, seen, float(row["Score"]), nearer, patients if told else 0)
