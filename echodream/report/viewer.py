"""The viewer: an HTML page that plays the synthetic clip with the chosen conditions, guidance and sample number."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echodream.errors import UserError
from echodream.report.build import TEMPLATES, content_security_policy
from echodream.report.media import encode_within_size
from echodream.runs.atomic_folder import read_record
from echodream.store import Store
from echodream.store.browser_video import data_uri
from echodream.store.checksums import file_sha256
from echodream.store.schema import CHECKSUMS, FILE_COLUMN, REQUIRED_COLUMNS

GENERATOR = "echodream viewer"
"""Value of the meta element "generator" of the page."""
MAX_BYTES = 24_000_000
"""Maximum total size of the encoded videos of the page, in bytes."""
_MIN_SIDE = 192
"""Minimum height and width in pixels; smaller frames are enlarged: x264 is not deterministic for tiny frames."""
_INPUT_LABELS = {"EF": "Ejection fraction in %", "HeartRate": "Heart rate in 1/min", "sample": "Sample"}
_NON_CONDITION_COLUMNS = {
    *(*REQUIRED_COLUMNS, FILE_COLUMN, "class_id", "class_name", "Source", "Joins", "ED", "ES"),
    *("Seed", "Sampler", "Spacing", "Steps", "Guidance", "PrivacyScore", "PrivacyP"),
}
"""Columns of FileList.csv that are not conditions, or that the page shows in another form."""


@dataclass
class ViewerClip:
    """A clip of the viewer. ``settings``: conditions, guidance scales and sample number."""

    store: Store
    name: str
    fps: float
    passed_filter: bool
    settings: dict[str, Any]
    nearest_row: Mapping[str, Any] | None = None
    """Row of the filter's scores with the nearest training patient."""


@dataclass
class ViewerPage:
    """All clips of the page, and the ``statements`` of the filters that the clips passed."""

    study: str
    clips: list[ViewerClip] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    @property
    def unfiltered_count(self) -> int:
        """Number of clips that did not pass the filter with its calibrated rule, or were not filtered."""
        return sum(not clip.passed_filter for clip in self.clips)

    def add_store(self, store: Store, nearest: "FilterScores | None" = None) -> None:
        """Add all recordings of ``store``, which has decoded samples, with the training patients of ``nearest``."""
        if not store.dataset.synthetic or store.dataset.kind != "video":
            raise UserError(f"videos={store.root} has no synthetic videos: give stores that stage=decode wrote")
        source = store.dataset.settings.get("source")
        origin = next(iter(_stores_in_same_folder(store, source)), store)  # the latents that ``store`` was decoded from
        decision = origin.dataset.settings.get("decision")
        passed = (
            isinstance(decision, Mapping)
            and decision.get("passed") is True
            and decision.get("rule") == "calibrated"  # other rules have no guarantee
        )
        statement = str(decision.get("statement", "")) if isinstance(decision, Mapping) and passed else ""
        if statement and statement not in self.statements:
            self.statements.append(statement)
        rows = {} if nearest is None else nearest.score_rows(origin)
        images = _stores_in_same_folder(store, origin.dataset.sampling_settings.get("source"))
        image_rows = images[0].rows() if images else {}  # with the conditions of the image model
        for name, row in store.rows().items():
            settings = {**_sample_settings(image_rows.get(str(row.get("Source")), {})), **_sample_settings(row)}
            self.clips.append(ViewerClip(store, name, float(row["FPS"]), passed, settings, rows.get(name)))

    def assign_sample_numbers(self) -> None:
        """Number clips with equal settings from 1; the number is the setting "sample"."""
        counts: Counter[str] = Counter()
        for clip in self.clips:
            key = json.dumps(clip.settings, sort_keys=True)
            counts[key] += 1
            clip.settings["sample"] = counts[key]


@dataclass(frozen=True)
class FilterScores:
    """Scores in ``folder``, written by ``stage=filter`` (``private=``), and the recordings ``real`` of the patients."""

    folder: Path
    real: Store

    @cached_property
    def recordings(self) -> dict[str, dict[str, Any]]:
        """Rows of FileList.csv of ``real``, by FileName."""
        return self.real.rows()

    def score_rows(self, samples: Store) -> dict[str, dict[str, Any]]:
        """Rows of scores.csv by FileName; empty unless ``samples`` are the input or output of the filter."""
        record = read_record(self.folder / "filter.json")
        if record is None:
            raise UserError(f"nearest={self.folder} has no filter.json: give the folder private= of stage=filter")
        if record.get("source") not in (samples.checksum, samples.dataset.settings.get("source")):
            return {}
        path, types = self.folder / "scores.csv", {"FileName": str, "NearestPatient": str, "NearestRecording": str}
        try:
            table = pd.read_csv(path, dtype=types, keep_default_na=False).set_index("FileName", drop=False)
            rows = {str(name): {str(key): cell for key, cell in row.items()} for name, row in table.iterrows()}
            wanted = {str(row["NearestRecording"]) for row in rows.values()}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read: run stage=filter again") from error
        if absent := sorted(wanted - set(self.recordings)):
            problem = f"real={self.real.root} lacks the recording {absent[0]} of {path}"
            raise UserError(f"{problem}: give real= of the study that stage=filter used")
        return rows

    def frames(self, row: Mapping[str, Any], count: int) -> tuple[np.ndarray, float]:
        """Up to ``count`` frames around the nearest frame of the nearest patient, and their frame rate."""
        recording = self.recordings[str(row["NearestRecording"])]
        total = int(recording["NumberOfFrames"])
        start = min(max(0, int(row["NearestFrame"]) - count // 2), max(0, total - count))
        names = range(start, min(total, start + count))
        return self.real.frames(str(row["NearestRecording"]), names), float(recording["FPS"])


def _stores_in_same_folder(store: Store, checksum: object) -> list[Store]:
    """The stores with the ``checksum`` in the folder of ``store``."""
    paths = sorted(store.root.parent.glob(f"*/{CHECKSUMS}"))
    return [Store(path.parent) for path in paths if file_sha256(path) == checksum]


def _sample_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions and guidance of a sample by name, from its row of FileList.csv."""
    cells = {name: None if cell != cell else cell for name, cell in row.items()}
    class_name = cells.get("class_name") or cells.get("class_id")
    settings = {} if class_name is None else {"Class": class_name}
    settings |= {name: cell for name, cell in cells.items() if name not in _NON_CONDITION_COLUMNS}
    for part in str(cells.get("Guidance") or "").split():
        name, _, scale = part.partition("=")
        settings[f"Guidance: {name}"] = float(scale) if scale.replace(".", "").isdigit() else scale
    return settings if cells.get("Seed") is None else {**settings, "Seed": cells["Seed"]}


def viewer_controls(clips: Sequence[ViewerClip]) -> list[dict[str, Any]]:
    """Name, label and sorted values of each setting with several values; ``slider``: more than 8 numbers.

    Conditions whose guidance scales are equal in every clip have one control.
    """
    controls: list[dict[str, Any]] = []
    scales: set[tuple[Any, ...]] = set()
    for name in dict.fromkeys(name for clip in clips for name in clip.settings):
        values = {clip.settings.get(name) for clip in clips}
        if len(values) < 2:
            continue
        if name.startswith("Guidance"):
            if (each := tuple(clip.settings.get(name) for clip in clips)) in scales:
                continue
            scales.add(each)
        is_number = all(isinstance(value, int | float) for value in values)
        ordered = sorted(values, key=lambda value: (value is None, value if is_number else str(value)))
        slider = is_number and len(values) > 8
        texts = ["none" if value is None else f"{value:g}" if is_number else str(value) for value in ordered]
        controls.append(
            {"name": name, "label": _INPUT_LABELS.get(name, name), "values": ordered, "texts": texts, "slider": slider}
        )
    return controls


def render_viewer(page: ViewerPage, nearest: FilterScores | None = None) -> str:
    """The page as one HTML file, whose content security policy forbids all requests."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    controls = viewer_controls(page.clips)
    shown = [_clip_frames(clip, nearest) for clip in page.clips]
    videos = encode_within_size(
        [video for pair in shown for video in pair], MAX_BYTES, "lower values=, repeats=, scales= or frames="
    )
    uris = iter(data_uri(video, "video/mp4") for video in videos)
    clips = []
    for clip, pair in zip(page.clips, shown, strict=True):
        entry = {
            "choice": [control["values"].index(clip.settings.get(control["name"])) for control in controls],
            "name": clip.name,
            "passed": clip.passed_filter,
            "video": next(uris),
        }
        if len(pair) > 1 and clip.nearest_row is not None:
            similarity = f"{float(clip.nearest_row['Score']):.3f}"
            entry["nearest"] = {"patient": clip.nearest_row["NearestPatient"], "score": similarity, "video": next(uris)}
        clips.append(entry)
    texts = {name: (TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "viewer.css", "viewer.js")}
    style, script = texts["page.css"] + texts["viewer.css"], texts["viewer.js"]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    content = json.dumps({"controls": [control["name"] for control in controls], "clips": clips})
    return environment.get_template("viewer.html").render(
        page=page,
        controls=controls,
        is_private=nearest is not None,
        content=content.replace("<", "\\u003c"),
        style=style,
        script=script,
        policy=content_security_policy(style, script),
        generator=GENERATOR,
    )


def _clip_frames(clip: ViewerClip, nearest: FilterScores | None) -> list[tuple[np.ndarray, float]]:
    """Enlarged frames and frame rate of ``clip``, and of its nearest training patient."""
    frames = clip.store.frames(clip.name)
    shown = [(frames, clip.fps)]
    if nearest is not None and clip.nearest_row is not None:
        shown.append(nearest.frames(clip.nearest_row, len(frames)))
    scale = math.ceil(_MIN_SIDE / min(frames.shape[1:3])) if min(frames.shape[1:3]) < _MIN_SIDE else 1
    return [(pixels.repeat(scale, axis=1).repeat(scale, axis=2), rate) for pixels, rate in shown]
