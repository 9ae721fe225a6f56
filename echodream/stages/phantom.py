"""``stage=phantom``: the embedded study written as raw files in a real study's layout."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from echodream.errors import UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits, Recording
from echodream.phantom.layouts import LAYOUTS
from echodream.phantom.render import label
from echodream.phantom.scene import key_moments
from echodream.stages.summary import Summary


@dataclass(frozen=True)
class Job:
    """One recording to be drawn."""

    source: Phantom
    recording: Recording
    layout: str
    root: Path


def phantom(*, source: Phantom, layout: str, dst: str, workers: int | None, command: str, code_version: str) -> Summary:
    """Draw the study ``source`` and write it to ``dst`` in the raw ``layout`` of a study.

    Nothing half-written gets the final name. Raises ``UserError`` for an unknown layout or another source.
    """
    del command, code_version  # a raw tree says nothing of its origin
    if layout not in LAYOUTS:
        raise UserError(f"layout={layout} is not known; choose one of {', '.join(LAYOUTS)}")
    if not isinstance(source, Phantom):
        raise UserError("stage=phantom draws the embedded study: give data=phantom")
    root = Path(dst)
    recordings = source.recordings(None)
    if root.exists():
        return Summary(f"phantom: {dst} already complete, nothing to do")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    jobs = [Job(source, recording, layout, partial) for recording in recordings]
    rows = list(tqdm(_run(jobs, workers), "phantom", len(jobs), unit="rec", disable=None))
    LAYOUTS[layout][1](partial, rows)
    partial.rename(root)
    return Summary(f"phantom: {dst} done", {"layout": layout, "recordings": len(rows)})


def draw(job: Job) -> dict[str, Any]:
    """Write one recording; what is known of it goes to the table."""
    name = job.recording.name
    video, scene = job.source.read(job.recording, Limits()), job.source.scene(name)
    LAYOUTS[job.layout][0](job.root, name, video.frames[..., 0], label(scene), video.fps)
    moments = {mark: " ".join(repr(float(at)) for at in times) for mark, times in key_moments(scene).items()}
    return {"FileName": name, "PatientID": job.recording.patient, **job.recording.columns, **moments}


def _run(jobs: Sequence[Job], workers: int | None) -> Iterator[dict[str, Any]]:
    if workers == 0:
        yield from map(draw, jobs)
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, jobs)
