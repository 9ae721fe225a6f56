"""``stage=phantom``: the embedded study written as raw files in a real study's layout."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from echodream import validation
from echodream.config.stage_signature import OutputPath
from echodream.errors import UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits, Recording
from echodream.phantom.layouts import LAYOUTS
from echodream.phantom.render import render_labels
from echodream.phantom.scene import key_moments
from echodream.runs.atomic_folder import FRESH, begin, made_whole, read_record, require_same, write_record
from echodream.runs.summary import Summary

RECORD = ".phantom.json"  # hidden: a study's listing passes over it
_DONE = ".done"  # a file for each finished recording, of what the table needs of it, while the tree is being written
_KIND = "a tree that stage=phantom made"


@dataclass(frozen=True)
class Job:
    """One recording to be drawn."""

    source: Phantom
    recording: Recording
    layout: str
    root: Path


def phantom(
    *, source: Phantom, layout: str, dst: OutputPath, workers: int | None, command: str, code_version: str
) -> Summary:
    """Draw the study ``source`` and write it to ``dst`` in the raw ``layout`` of a study.

    The tree is made as ``<dst>.partial`` and renamed at the end; after a kill the same command goes on with the
    recordings that are not finished. Raises ``UserError`` for an unknown layout or another source, when ``dst`` is
    there and holds anything else, or when another process writes it.
    """
    del command, code_version  # a raw tree says nothing of its origin
    validation.one_of("layout", layout, LAYOUTS)
    if not isinstance(source, Phantom):
        raise UserError("stage=phantom draws the embedded study: give data=phantom")
    if workers is not None:
        validation.whole_number("workers", workers, 0, note=", or null for one process per core")
    root, asked = Path(dst), {"layout": layout, **asdict(source)}
    with made_whole(root) as work:
        if work is None:
            return _already(root, asked)
        begin(work / RECORD, asked, _KIND)
        (work / _DONE).mkdir(exist_ok=True)
        there = len([path for path in (work / _DONE).iterdir() if not path.name.startswith(FRESH)])
        jobs = [Job(source, recording, layout, work) for recording in source.recordings(None)]
        rows = list(tqdm(_run(jobs, workers), "phantom", len(jobs), unit="rec", disable=None))
        LAYOUTS[layout][1](work, rows)
        shutil.rmtree(work / _DONE)
    state = f"done, {there} recordings were already there" if there else "done"
    return Summary(f"phantom: {dst} {state}", {"layout": layout, "recordings": len(rows)})


def _already(root: Path, asked: Mapping[str, Any]) -> Summary:
    require_same(root / RECORD, asked, _KIND)
    return Summary(f"phantom: {root} already complete, nothing to do")


def draw(job: Job) -> dict[str, Any]:
    """Write one recording, unless it is finished; what is known of it goes to the table."""
    name, done = job.recording.name, job.root / _DONE / job.recording.name
    scene = job.source.scene(name)
    if not done.exists():
        video = job.source.read(job.recording, Limits())
        write_record(
            done, LAYOUTS[job.layout][0](job.root, name, video.frames[..., 0], render_labels(scene), video.fps)
        )
    moments = {mark: " ".join(repr(float(at)) for at in times) for mark, times in key_moments(scene).items()}
    own = {"FileName": name, "PatientID": job.recording.patient, **job.recording.columns, **moments}
    return {**own, **(read_record(done) or {})}


def _run(jobs: Sequence[Job], workers: int | None) -> Iterator[dict[str, Any]]:
    if workers == 0:
        yield from map(draw, jobs)
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, jobs)
