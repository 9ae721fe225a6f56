"""Converts raw recordings to media files of a Store in worker processes; a damaged file does not stop the command."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as WorkerTimeout
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from echodream.errors import Rejected, UserError
from echodream.ingest.preprocessing import Preprocessing, check_video, preprocess
from echodream.ingest.source import Limits, Recording, Source
from echodream.process_pool import WORKERS_ENDED_MESSAGE, without_main_script
from echodream.store.near_duplicates import hashed_frames
from echodream.store.video import write_video

MAX_WORKER_BYTES = 16 << 30
"""Largest address space of a worker process in bytes, on Linux."""


@dataclass(frozen=True)
class ConversionJob:
    """Inputs of a worker process that converts one recording to one media file."""

    source: Source
    recording: Recording
    split: str
    preprocessing: Preprocessing
    limits: Limits
    media_file: Path


ConvertedRecording = tuple[dict[str, Any], np.ndarray]
"""Row of a recording in FileList.csv, and small frames of this recording (``hashed_frames``)."""


def convert_recording(job: ConversionJob) -> ConvertedRecording | str:
    """Read, preprocess and write one recording. Returns the converted recording, or the reason for rejection."""
    try:
        video = job.source.read(job.recording, job.limits)
        check_video(video)
        job.limits.check(*video.frames.shape)
        ready = preprocess(video, job.preprocessing, job.limits.max_bytes)
        if len(ready.frames) < job.limits.min_frames:
            return f"too short: {len(ready.frames)} frames at {ready.fps:g} fps, {job.limits.min_frames} are needed"
        write_video(job.media_file, ready.frames, ready.fps)
    except Rejected as reason:
        return str(reason)
    except MemoryError:
        return "too large: it needs more memory than a worker may use"
    frames, height, width, _ = ready.frames.shape
    required = {
        "FileName": job.recording.name,
        "Split": job.split,
        "PatientID": job.recording.patient,
        "NumberOfFrames": frames,
        "FPS": ready.fps,
        "FrameHeight": height,
        "FrameWidth": width,
        "RawFrames": len(video.frames),
    }
    if len(video.frames) > 1:  # an image has no duration
        required["RawSeconds"] = float(video.times[-1]) + 1 / video.fps
    # ``required`` is merged twice: its columns come first, and study columns cannot replace their values
    row = {**required, **job.recording.columns, **video.columns, **ready.columns, **required}
    return row, hashed_frames(ready.frames)


def convert_recordings(
    jobs: Sequence[ConversionJob], workers: int | None, timeout: float
) -> Iterator[tuple[Recording, ConvertedRecording | str]]:
    """Run ``convert_recording`` on all ``jobs``, and yield each recording with its result, in order of completion.

    If a worker process crashes or needs more than ``timeout`` seconds, only the recording of this process is rejected.
    """
    if workers == 0:
        yield from ((job.recording, convert_recording(job)) for job in jobs)
        return
    if not jobs:
        return
    import multiprocessing

    from pebble import ProcessExpired, ProcessPool

    count = min(workers or os.cpu_count() or 1, len(jobs))
    context = multiprocessing.get_context("spawn")
    with without_main_script(), ProcessPool(count, context=context, initializer=_start_worker) as pool:
        try:
            futures: dict[Future, Recording] = {
                pool.schedule(convert_recording, args=[job], timeout=timeout): job.recording for job in jobs
            }
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except WorkerTimeout:
                    yield futures[future], f"took longer than {timeout:g} s to read"
                except ProcessExpired as error:
                    yield futures[future], f"unreadable: the decoder crashed (exit code {error.exitcode})"
                except BrokenProcessPool as error:
                    raise UserError(WORKERS_ENDED_MESSAGE) from error
                except (UserError, OSError):  # the disk or the settings failed, so other recordings would fail too
                    raise
                except Exception as error:  # noqa: BLE001 - an unexpected error rejects one file, not the study
                    kind = type(error).__name__
                    yield futures[future], f"unreadable: unexpected {kind} (workers=0 HYDRA_FULL_ERROR=1 shows where)"
        except BaseException:
            pool.stop()
            raise


def _start_worker() -> None:
    """Make a worker process ignore keyboard interrupts, limit its memory, and end with its parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import resource

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent process
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_WORKER_BYTES, hard))
