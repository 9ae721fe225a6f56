"""Functions for notebooks and scripts (docs/python.md), which run the code of the stages."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodream import validation
from echodream.errors import UserError
from echodream.store import Store

if TYPE_CHECKING:
    from echodream.loaded_models import LoadedModel

HUB_PREFIX = "hub:"


def open_store(folder: str | Path) -> Store:
    """Open the store in ``folder``, with ``len``, ``table`` (pandas), ``frames(name)`` and ``latents(name)``.

    Raises ``StoreError`` if ``folder`` is not a store.
    """
    return Store(folder)


class Clips:
    """Video clips that a notebook plays, created by ``play``."""

    def __init__(self, frames: np.ndarray, fps: float, captions: Sequence[str]) -> None:
        self.frames, self.fps, self.captions = frames, fps, captions

    def _repr_html_(self) -> str:
        from echodream.store.browser_video import NOTEBOOK_CLIPS, notebook_html

        clips = zip(self.captions, self.frames, [self.fps] * len(self.frames), strict=True)
        return notebook_html(f"{len(self.frames)} clips", islice(clips, NOTEBOOK_CLIPS), {})


def play(frames: np.ndarray, fps: float = 25.0, captions: Sequence[str] | None = None) -> Clips:
    """Play the first clips of ``frames`` in a notebook: uint8 (F, H, W, C) or (N, F, H, W, C), with C = 1 or 3."""
    validation.frame_rate("fps", fps)
    is_pixels = isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim in (4, 5)
    if not is_pixels or frames.shape[-1] not in (1, 3) or not frames.size:
        raise UserError("frames are not pixels: give uint8 (F, H, W, C) or (N, F, H, W, C), with 1 or 3 channels")
    clips = frames if frames.ndim == 5 else frames[None]
    names = [f"clip {number}" for number in range(len(clips))] if captions is None else list(captions)
    if len(names) != len(clips):
        raise UserError(f"{len(names)} captions and {len(clips)} clips: give one caption for each clip")
    return Clips(clips, fps, names)


def load(source: str | Path, *, revision: str | None = None, device: str | None = None) -> "LoadedModel":
    """Load a trained model: an ``Autoencoder``, ``Generator``, ``IdentityModel`` or ``ClassifierModel``.

    ``source``: folder of an artifact or of an AutoencoderKL of diffusers, or `hub:<namespace>/<name>` for a model on
    the Hugging Face hub. ``revision``: branch, tag or commit of a hub model. ``device``: cpu or cuda; None: a GPU if
    there is one. Raises ``UserError`` if the model does not exist.
    """
    if str(source).startswith(HUB_PREFIX):
        from echodream.publishing.hub import download

        folder = download(str(source).removeprefix(HUB_PREFIX), "model", revision)
    elif revision is not None:
        raise UserError(f"revision={revision} is for models of the hub: give {HUB_PREFIX}<namespace>/<name>")
    else:
        folder = Path(source)
    from echodream.loaded_models import load_model

    return load_model(folder, device)


def run(program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run the command ``program``.py ("train" or "sample") with ``arguments`` in this process.

    For example ``run("sample", ["stage=encode", "data=phantom"])``. Returns the summary of the stage: "title", "dst"
    and the results that the stage prints. For a training run, returns "dst" and the test metrics. If a second stage
    follows, "then" has the summary of the second stage. Paths are relative to the working directory. Raises
    ``UserError`` where the command line prints an error.
    """
    validation.one_of("program", program, ("train", "sample"))
    arguments = list(validation.list_of_names("arguments", arguments))
    from echodream import engine
    from echodream.config.composition import composed_command

    with composed_command(program, arguments) as cfg:
        if program == "train":
            return {"dst": str(cfg.dst), **engine.train(cfg)}
        results = [
            {"title": summary.title, "dst": str(stage.arguments.get("dst", "")), **summary.facts}
            for stage, summary in engine.run_stages(cfg)
        ]
    return results[0] if len(results) == 1 else {**results[0], "then": results[1]}
