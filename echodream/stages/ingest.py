"""``stage=ingest``: a raw study becomes a Store of videos."""

import ctypes
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from echodream import validation
from echodream.errors import Rejected, UserError
from echodream.ingest.preprocessing import Preprocessing, check_video, preprocess
from echodream.ingest.source import Limits, Recording, Source
from echodream.ingest.split import SplitRatios, assign_splits
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.schema import is_valid_name
from echodream.store.table import clean_text
from echodream.store.video import write_video


@dataclass(frozen=True)
class Job:
    """All that a worker process needs to turn one recording into one media file."""

    source: Source
    recording: Recording
    split: str
    prepare: Preprocessing
    limits: Limits
    media: Path


def ingest(
    *,
    source: Source,
    preprocess: Preprocessing,
    split: SplitRatios,
    limits: Limits,
    raw: str | None,
    dst: str,
    max_rejected: float,
    workers: int | None,
    timeout: float,
    command: str,
    code_version: str,
) -> Summary:
    """Read the study at ``raw`` with ``source`` and write the video store ``dst``.

    Each recording is read in one of ``workers`` processes (None: one per core; 0: in this process) and given up after
    ``timeout`` seconds. What cannot be used stands in ``rejected.csv``; when that is more than the share
    ``max_rejected`` of the recordings, the store does not get its final name.
    """
    if workers is not None:
        validation.whole_number("workers", workers, 0, note=", or null for one process per core")
    validation.share("max_rejected", max_rejected)
    validation.positive_number("timeout", timeout)
    if raw is not None and Path(dst).resolve().is_relative_to(Path(raw).resolve()):
        raise UserError(f"dst={dst} lies inside raw={raw}: choose another dst=")
    recordings = [
        r if r.problem is None else replace(r, name=clean_text(r.name))
        for r in source.recordings(Path(raw) if raw is not None else None)
    ]
    _check_listing(recordings, raw)
    splits = assign_splits([recording for recording in recordings if recording.problem is None], split)
    settings = {
        "source": {"class": type(source).__name__, **_plain(source)},
        "prepare": _plain(preprocess),
        "split": _plain(split),
        "limits": _plain(limits),
        "listing": _fingerprint(recordings, splits),
    }
    size = preprocess.size if isinstance(preprocess.size, tuple) else (None, None)
    dataset = Dataset(
        kind="video",
        channels=1 if preprocess.grey else 3,
        height=size[0],
        width=size[1],
        settings=settings,
        command=command,
        code_version=code_version,
    )
    with StoreWriter(dst, dataset) as writer:
        if writer.complete:
            return _summary(Store(dst), "already complete, nothing to do")
        _refuse_listed(writer, recordings)
        jobs = [
            Job(source, r, splits[r.patient], preprocess, limits, writer.scratch_path(r.name))
            for r in recordings
            if r.name not in writer.done
        ]
        resumed = len(writer.rows)
        for recording, outcome in tqdm(_run(jobs, workers, timeout), "ingest", len(jobs), unit="rec", disable=None):
            if isinstance(outcome, str):
                writer.reject(recording.name, outcome)
            else:
                writer.commit(outcome, writer.scratch_path(recording.name))
        if problem := _too_many_lost(writer, recordings, max_rejected):
            return Summary(f"ingest: {dst} is not complete", _reasons(writer), problem)
        store = writer.finish([recording.name for recording in recordings])
    return _summary(store, f"done{f', {resumed} recordings were already there' if resumed else ''}", _reasons(writer))


def convert(job: Job) -> dict[str, Any] | str:
    """Read, prepare and write one recording: its row in FileList.csv, or the reason why it has none."""
    try:
        video = job.source.read(job.recording, job.limits)
        check_video(video)
        job.limits.check(*video.frames.shape)
        ready = preprocess(video, job.prepare, job.limits.max_bytes)
        if len(ready.frames) < job.limits.min_frames:
            return f"too short: {len(ready.frames)} frames at {ready.fps:g} fps, {job.limits.min_frames} are needed"
        write_video(job.media, ready.frames, ready.fps)
    except Rejected as reason:
        return str(reason)
    except MemoryError:
        return "too large: it needs more memory than a worker may take"
    frames, height, width, _ = ready.frames.shape
    own = {
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
        own["RawSeconds"] = float(video.times[-1]) + 1 / video.fps
    return {**own, **job.recording.columns, **video.columns, **ready.marks, **own}  # no study column replaces these


def _run(jobs: Sequence[Job], workers: int | None, timeout: float) -> Iterator[tuple[Recording, dict[str, Any] | str]]:
    """Convert all ``jobs``, each outcome as it comes; a worker that dies or hangs costs only its recording."""
    if workers == 0:
        yield from ((job.recording, convert(job)) for job in jobs)
        return
    if not jobs:
        return
    import multiprocessing

    from pebble import ProcessExpired, ProcessPool

    count = min(workers or os.cpu_count() or 1, len(jobs))
    with ProcessPool(count, context=multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        try:
            futures: dict[Future, Recording] = {
                pool.schedule(convert, args=[job], timeout=timeout): job.recording for job in jobs
            }
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except TookTooLong:
                    yield futures[future], f"took longer than {timeout:g} s to read"
                except ProcessExpired as error:
                    yield futures[future], f"unreadable: the decoder crashed (exit code {error.exitcode})"
                except (UserError, OSError):  # the disk, or the command: no fault of this recording
                    raise
                except Exception as error:  # noqa: BLE001 - one odd file must not stop ten thousand; it is recorded
                    what = type(error).__name__
                    yield futures[future], f"unreadable: unexpected {what} (workers=0 HYDRA_FULL_ERROR=1 shows where)"
        except BaseException:
            pool.stop()
            raise


def _start_worker() -> None:
    """One thread, a bound on memory, quiet libraries, and no life without the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import resource

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, hard))


def _check_listing(recordings: Sequence[Recording], raw: str | None) -> None:
    if not any(recording.problem is None for recording in recordings):
        first = next((f"; the first of {len(recordings)} files: {r.problem}" for r in recordings), "")
        raise UserError(f"raw={raw} holds no recording that can be read{first}: check raw= and data=")
    seen: set[str] = set()
    for recording in recordings:
        if recording.problem is None and not is_valid_name(recording.name):
            raise UserError(f"FileName {recording.name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        if recording.name.casefold() in seen:
            raise UserError(f"two recordings are called {recording.name!r}: rename one of the raw files")
        seen.add(recording.name.casefold())


def _refuse_listed(writer: StoreWriter, recordings: Sequence[Recording]) -> None:
    for recording in recordings:
        if recording.problem is not None and recording.name not in writer.done:
            writer.reject(recording.name, recording.problem, counted=recording.counted)


def _too_many_lost(writer: StoreWriter, recordings: Sequence[Recording], max_rejected: float) -> str | None:
    total = sum(recording.counted for recording in recordings)
    lost = sum(row["Counted"] == "true" for row in writer.rejected.values())
    if lost <= max_rejected * total and writer.rows:
        return None
    return (
        f"{lost} of {total} recordings cannot be used, more than max_rejected={max_rejected:g}: mend them "
        f"and remove {writer.root}.partial, or rerun with a larger max_rejected"
    )


def _reasons(writer: StoreWriter, most: int = 8) -> dict[str, object]:
    """The reasons for rejection with their counts, and the first few names."""
    named: dict[str, list[str]] = {}
    for row in writer.rejected.values():
        named.setdefault(row["Reason"], []).append(row["FileName"])
    rows = sorted(named.items(), key=lambda item: -len(item[1]))
    lines = [f"{len(names)} x {reason}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}" for reason, names in rows]
    return {"rejected": "\n    ".join([str(len(writer.rejected)), *lines[:most], *["..."] * (len(lines) > most)])}


def _summary(store: Store, state: str, rejected: dict[str, object] | None = None) -> Summary:
    table = store.table
    splits = Counter(table["Split"])
    facts: dict[str, object] = {
        "recordings": ", ".join([str(len(table)), *(f"{name} {splits[name]}" for name in splits)]),
        "patients": table["PatientID"].nunique(),
    }
    if (table["NumberOfFrames"] == 1).all():
        facts["frames"] = "one of each: images"
    else:
        seconds = (table["NumberOfFrames"] / table["FPS"]).sum()
        facts["frames"] = f"{table['NumberOfFrames'].sum()} ({seconds:.0f} s)"
    if "class_name" in table:
        facts["classes"] = ", ".join(f"{name} {count}" for name, count in sorted(Counter(table["class_name"]).items()))
    return Summary(f"ingest: {store.root} {state}", {**facts, **(rejected or {})})


def _plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON values, without the fields that are marked as private."""
    private = {field.name for field in fields(settings) if field.metadata.get("private")}
    shown = {name: value for name, value in asdict(settings).items() if name not in private}
    return json.loads(json.dumps(shown, default=str))


def _fingerprint(recordings: Sequence[Recording], splits: dict[str, str]) -> str:
    """SHA-256 of what will be made, so that a half-written store is not continued from another listing or other files.

    No path is in it: a raw folder that was moved is the same study.
    """
    rows = []
    for recording in recordings:
        known = {field.name: getattr(recording, field.name) for field in fields(recording)}
        if recording.problem is not None:  # a pipe or a link that leaves the raw folder: never opened
            known = {name: value for name, value in known.items() if not isinstance(value, Path)}
        rows.append({**known, "split": splits.get(recording.patient)})
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=_json).encode()).hexdigest()


def _json(value: Any) -> Any:
    """A value of a recording that JSON does not know; a file as what is in it."""
    if isinstance(value, Path):
        return _digest(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _digest(path: Path, piece: int = 1 << 16) -> list[Any] | None:
    """Size of a file and SHA-256 of its first and last 64 KiB; the sizes of the files in a folder; None if neither."""
    try:
        if path.is_dir():
            return sorted(child.stat().st_size for child in path.rglob("*") if child.is_file())
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            ends = hashlib.sha256()
            for start in (0, max(0, size - piece)):
                file.seek(start)
                ends.update(file.read(piece))
    except OSError:  # its reader will say so
        return None
    return [size, ends.hexdigest()]
