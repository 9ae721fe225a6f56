"""``stage=phantom``: write the simulated study (phantom) as raw files in the layout of a real study."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import OutputPath
from echodream.errors import UserError
from echodream.ingest.phantom import Phantom
from echodream.ingest.source import Limits, Recording
from echodream.phantom.layouts import LAYOUTS
from echodream.phantom.render import render_labels
from echodream.phantom.scene import key_frame_times
from echodream.process_pool import check_workers, map_in_processes
from echodream.runs.atomic_folder import (
    TEMPORARY_PREFIX,
    atomic_folder,
    read_record,
    require_same_settings,
    start_or_resume_folder,
    write_record,
)
from echodream.runs.summary import Summary

RECORD = ".phantom.json"
"""Hidden file with the settings. ``stage=ingest`` ignores hidden files."""
_FINISHED_FOLDER = ".done"
"""Temporary folder with a file for each finished recording: the recording's values for the tables of the study."""
_FOLDER_KIND = "a folder that stage=phantom wrote"


@dataclass(frozen=True)
class RenderingJob:
    """Arguments of a worker process that writes one recording."""

    source: Phantom
    recording: Recording
    layout: str
    root: Path


def phantom(
    *, source: Phantom, layout: str, dst: OutputPath, workers: int | None, command: str, code_version: str
) -> Summary:
    """Render the simulated study ``source`` and write it to ``dst`` in the raw ``layout`` of a real study.

    After an interruption, the same command resumes. ``workers`` processes render (None: one per core; 0: this
    process). Raises ``UserError`` for an unknown layout, a source of real files, or other content in ``dst``.
    """
    del command, code_version  # raw files of a real study record no command
    validation.one_of("layout", layout, LAYOUTS)
    if not isinstance(source, Phantom):
        raise UserError("stage=phantom writes the simulated study: use data=phantom")
    check_workers(workers)
    root, settings = Path(dst), {"layout": layout, **asdict(source)}
    with atomic_folder(root) as work:
        if work is None:
            require_same_settings(root / RECORD, settings, _FOLDER_KIND)
            return Summary(f"phantom: {root} already complete, nothing to do")
        start_or_resume_folder(work / RECORD, settings, _FOLDER_KIND)
        (work / _FINISHED_FOLDER).mkdir(exist_ok=True)
        resumed = sum(not path.name.startswith(TEMPORARY_PREFIX) for path in (work / _FINISHED_FOLDER).iterdir())
        jobs = [RenderingJob(source, recording, layout, work) for recording in source.recordings(None)]
        rows = list(map_in_processes(write_recording, jobs, workers, "phantom"))
        LAYOUTS[layout][1](work, rows)
        shutil.rmtree(work / _FINISHED_FOLDER)
    state = f"done, {resumed} recordings were already there" if resumed else "done"
    return Summary(f"phantom: {dst} {state}", {"layout": layout, "recordings": len(rows)})


def write_recording(job: RenderingJob) -> dict[str, Any]:
    """Write the recording of ``job`` unless it is finished; returns its row for the tables of the study."""
    name, done = job.recording.name, job.root / _FINISHED_FOLDER / job.recording.name
    scene = job.source.scene(name)
    if not done.exists():
        video, write = job.source.read(job.recording, Limits()), LAYOUTS[job.layout][0]
        write_record(done, write(job.root, name, video.frames[..., 0], render_labels(scene), video.fps))
    key_frames = {mark: " ".join(repr(float(at)) for at in times) for mark, times in key_frame_times(scene).items()}
    row = {"FileName": name, "PatientID": job.recording.patient, **job.recording.columns, **key_frames}
    return {**row, **(read_record(done) or {})}
