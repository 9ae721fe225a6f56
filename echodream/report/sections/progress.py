"""Section "So far" of a page that is written before synthetic videos exist: finished and missing parts of the study."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echodream.artifact import METADATA_FILE
from echodream.report.media import data_uri
from echodream.report.number_format import format_count, format_number
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sections.lineage import read_entries
from echodream.report.sources import Sources
from echodream.report.tables import StillImage
from echodream.runs.atomic_folder import read_record
from echodream.store import Store
from echodream.store.schema import DATASET

PART_NAMES = {
    "data/videos": "Recordings of the patients",
    "models/vae": "Autoencoder",
    "data/latents": "Encoded recordings",
    "models/lidm": "Image model",
    "samples/images": "Sampled images",
    "models/reid": "Identity network of the privacy filter",
    "filter_image": "Privacy filter of the images",
    "models/lvdm": "Video model",
    "samples/video_latents": "Sampled videos",
    "filter_video": "Privacy filter of the videos",
    "samples/videos": "Decoded videos",
    "utility": "Usefulness for training",
    "evaluation": "Comparison with real patients",
}
"""Stores, artifacts and records of a study, in the order in which they are made."""
PICTURE_CAPTIONS = {
    "vae": "Autoencoder: frames of validation patients, their reconstructions, and four times the difference",
    "lidm": "Image model: samples of the last validation in training, before the privacy filter",
    "lvdm": "Video model: samples of the last validation in training, before the privacy filter",
}
"""Captions of the pictures that trainings write to their runs, by model."""
METRIC_TEXTS = {"psnr": "PSNR {} dB", "ssim": "SSIM {}", "auc": "AUC {}"}
"""Metrics of an artifact that are shown, with their texts."""


@dataclass(frozen=True)
class StudyPart:
    """A part of the study, such as the autoencoder.

    ``numbers``: text with the number of recordings of a store, or the test metrics of a model; empty if unknown.
    """

    name: str
    is_made: bool
    numbers: str = ""


def build(context: PageContext) -> SectionContent | None:
    """The parts of the study and, on a private page, the newest images of each training; None for a finished study."""
    sources = context.sources
    if not sources.is_unfinished:
        return None
    made = {name for name, _ in read_entries(sources)} | sources.records.keys()
    numbers = {key: _numbers_text(sources, key) for key in PART_NAMES if key in made}
    parts = [StudyPart(name, key in made, numbers.get(key, "")) for key, name in PART_NAMES.items()]
    metrics = {"parts": {part.name: "made" if part.is_made else "not yet made" for part in parts}}
    return SectionContent({"parts": parts, "pictures": _pictures(sources)}, metrics={"progress": metrics})


def _numbers_text(sources: Sources, key: str) -> str:
    """The number of recordings of a store, or the test metrics of an artifact."""
    kind, _, name = key.partition("/")
    if kind not in sources.folders:
        return ""
    folder = sources.folders[kind] / name
    if (folder / DATASET).is_file():
        return format_count(len(Store(folder)), "recording")
    found: Mapping[str, Any] = (read_record(folder / METADATA_FILE) or {}).get("metrics") or {}
    shown = {text: found[metric] for metric, text in METRIC_TEXTS.items() if metric in found}
    return ", ".join(text.format(format_number(value)) for text, value in shown.items() if math.isfinite(value))


def _pictures(sources: Sources) -> list[StillImage]:
    """The newest picture of each training in the folder of runs; a shared page has none."""
    from PIL import Image

    still_images = []
    for model, caption in PICTURE_CAPTIONS.items() if sources.runs is not None and not sources.share else ():
        files = list((sources.runs or Path()).glob(f"{model}/*/pictures/*.png"))
        if files:
            content = max(files, key=lambda path: (path.stat().st_mtime_ns, path)).read_bytes()
            width, height = Image.open(io.BytesIO(content)).size
            still_images.append(StillImage(caption, data_uri(content, "image/png"), width, height))
    return still_images


SECTION = Section("progress", "So far", build)
