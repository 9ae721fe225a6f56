"""``stage=viewer``: generate samples over a grid of conditions, and write a page that plays the selected sample."""

import csv
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.diffusion.conditioning.conditioner import REFERENCE
from echodream.diffusion.model import DiffusionModel, load_diffusion_model
from echodream.errors import UserError
from echodream.report.viewer import GENERATOR, FilterScores, ViewerPage, render_viewer, viewer_controls
from echodream.runs.atomic_folder import write_text
from echodream.runs.summary import Summary
from echodream.stages.decode import decode
from echodream.stages.image import image
from echodream.stages.report import PAGE_FILE, check_target
from echodream.stages.video import video
from echodream.store import Store

MAX_CLIPS = 600
"""Maximum number of clips on a page."""


def viewer(
    *,
    study: str,
    videos: str | None,
    samples: OutputPath,
    dst: OutputPath,
    models: Mapping[str, InputPath],
    values: int,
    repeats: int,
    scales: Sequence[float],
    frames: int,
    steps: int | None,
    grey: bool,
    batch: int,
    nearest: InputPath | None,
    real: InputPath,
    seed: int,
    guidance: Mapping[str, Any],
    trainer: Callable[..., pl.Trainer],
    command: str,
    code_version: str,
) -> Summary:
    """Write ``dst``/index.html with the decoded samples of the store ``videos``, or of a grid.

    ``videos`` can be a pattern with ``*`` that matches several stores.

    The grid has ``repeats`` samples for each combination of condition values of the ``models`` "lidm" and "lvdm", and
    for each guidance scale in ``scales``. Numeric conditions have ``values`` values. Clips have ``frames`` frames. The
    stores are written to ``samples``, one folder for each scale; incomplete stores are continued. ``nearest``: folder
    with the scores of the filter; the page then shows the nearest training patients, which are recordings of ``real``.
    Raises ``UserError`` without samples.
    """
    target = Path(dst) / PAGE_FILE
    check_target(target, False, GENERATOR, "viewer page")
    patients = None if nearest is None else FilterScores(Path(nearest), Store(real, kind="video"))
    if videos is None:
        grid = _SampleGrid(models, values, repeats, frames, steps, grey, batch, seed, guidance, trainer)
        try:
            stores = grid.write(Path(samples), scales, command, code_version)
        except UserError as error:  # for example, a store with other settings exists
            raise UserError(str(error).replace("another dst=", "another samples=")) from error
    else:
        stores = [Store(path, kind="video") for path in _matching_folders(videos)]
    if (count := sum(len(store) for store in stores)) > MAX_CLIPS:
        raise UserError(
            f"{count} clips are more than {MAX_CLIPS} on one page: lower values=, repeats=, scales= or videos="
        )
    page = ViewerPage(study)
    for store in stores:
        page.add_store(store, patients)
    if nearest is not None and not any(clip.nearest_row for clip in page.clips):
        raise UserError(
            f"nearest={nearest} has no scores of these samples: run stage=filter on them, with this private="
        )
    page.assign_sample_numbers()
    text = render_viewer(page, patients)
    write_text(target, text)
    filtered = f"{len(page.clips) - page.unfiltered_count} of {len(page.clips)} clips"
    facts: dict[str, object] = {
        "clips": len(page.clips),
        "controls": ", ".join(control["label"] for control in viewer_controls(page.clips)) or "none",
        "passed the privacy filter": filtered + (", not for sharing" if page.unfiltered_count else ""),
        "size": f"{len(text) / 1e6:.1f} MB",
    }
    if nearest is not None:
        facts["private"] = "shows frames of real patients, must not be shared"
    return Summary(f"viewer: {target} done", facts)


def _matching_folders(pattern: str) -> list[Path]:
    """Folders that match ``pattern``, a path in which ``*`` is possible."""
    path = Path(pattern)
    folders = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) if "*" in pattern else [path]
    if not folders:
        raise UserError(f"videos={pattern} matches no folder: give stores that stage=decode wrote")
    return folders


@dataclass
class _SampleGrid:
    """Samples of all combinations of conditions. Fields are settings of ``viewer``; ``folders`` are its ``models``."""

    folders: Mapping[str, str]
    values: int
    repeats: int
    frames: int
    steps: int | None
    grey: bool
    batch: int
    seed: int
    guidance: Mapping[str, Any]
    trainer: Callable[..., pl.Trainer]

    def __post_init__(self) -> None:
        validation.whole_number("values", self.values)
        validation.whole_number("repeats", self.repeats)
        self.models = {"lidm": load_diffusion_model(self.folders["lidm"], "lidm")}
        if Path(self.folders["lvdm"]).is_dir():
            self.models["lvdm"] = load_diffusion_model(self.folders["lvdm"], "lvdm")
        columns = [model.conditioner.grid_values(self.values) for model in self.models.values()]
        self.columns = {name: cells for each in columns for name, cells in each.items()}

    def write(self, folder: Path, scales: Sequence[float], command: str, code_version: str) -> list[Store]:
        """Write the decoded samples to ``folder``, one store for each guidance scale; returns the stores."""
        has_conditions = any(self._guided_conditions(model) for model in self.models.values())
        scales = [validation.number("scales", scale) for scale in scales] if has_conditions else [1]
        if not scales:
            raise UserError("scales=[] is not possible: give one or more scales of guidance, such as [1, 2]")
        combinations = list(itertools.product(*self.columns.values()))
        if (count := len(combinations) * self.repeats * len(scales)) > MAX_CLIPS:
            raise UserError(f"{count} clips are more than {MAX_CLIPS} on one page: lower values=, repeats= or scales=")
        labels, stores = self._write_labels(folder, combinations), list[Store]()
        origin = {"command": command, "code_version": code_version}
        common: dict[str, Any] = {"workers": 0, "trainer": self.trainer, **origin}
        sampling = {
            "seed": self.seed,
            "steps": self.steps,
            "sampler": None,
            "spacing": None,
            "clip": None,
            "batch": self.batch,
            "compile": False,
            "channels_last": False,
            **common,
        }
        for scale in scales:
            scale_folder = folder / f"guidance_{scale:g}"
            images, clips, decoded = (str(scale_folder / name) for name in ("images", "clips", "videos"))
            image(
                dst=images,
                artifact=self.folders["lidm"],
                n=None if "lidm" in labels else len(combinations) * self.repeats,
                labels=labels.get("lidm", "uniform"),
                training="",
                guidance=self._scaled_guidance("lidm", scale),
                **sampling,
            )
            if "lvdm" in self.models:
                video(
                    src=images,
                    dst=clips,
                    artifact=self.folders["lvdm"],
                    n=None,
                    repeat=False,
                    labels=labels.get("lvdm"),
                    guidance=self._scaled_guidance("lvdm", scale),
                    frames=self.frames,
                    join="crossfade",
                    overlap=None,
                    windows="auto",
                    **sampling,
                )
            source = clips if "lvdm" in self.models else images
            decode(
                src=source,
                dst=decoded,
                artifact=self.folders["vae"],
                reference=None,
                plausibility=None,
                grey=self.grey,
                budget=64,
                **common,
            )
            stores.append(Store(decoded))
        return stores

    def _write_labels(self, folder: Path, combinations: Sequence[Sequence[Any]]) -> dict[str, str]:
        """Write a csv with the conditions of each sample for each model with conditions; returns the paths by model."""
        paths = {}
        for name, columns in ((name, model.conditioner.columns) for name, model in self.models.items()):
            if columns:
                text, paths[name] = io.StringIO(), str(folder / f"labels_{name}.csv")
                writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                for row in combinations:
                    writer.writerows([dict(zip(self.columns, row, strict=True))] * self.repeats)
                write_text(Path(paths[name]), text.getvalue())
        return paths

    def _scaled_guidance(self, name: str, scale: float) -> dict[str, Any]:
        """``guidance`` with ``scale`` for all conditions of the model ``name`` except the reference frames."""
        return {**self.guidance, **dict.fromkeys(self._guided_conditions(self.models[name]), scale)}

    @staticmethod
    def _guided_conditions(model: DiffusionModel) -> list[str]:
        return [name for name in model.conditioner.names if name != REFERENCE]
