"""``stage=keyframes``: detect end-diastolic (ED) and end-systolic (ES) frames; write them to a copy of a Store."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.metrics.key_frames import KeyFrameMatch, KeyFrames, detect_key_frames, match_key_frames
from echodream.runs.process_pool import check_workers, map_in_processes
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter
from echodream.store.schema import partial_path
from echodream.store.video import read_video

VERSION = 1
"""Version of the detection, recorded in dataset.json."""
STATUS = "KeyFrames"
"""Column of FileList.csv: "found", or the reason why no key frames were detected."""
TOLERANCE = 1
"""Maximum distance, in frames, of a detected key frame to a key frame of the source for a match."""


@dataclass(frozen=True)
class DetectionJob:
    """A recording to be processed by a worker."""

    name: str
    path: Path
    channels: int
    frames: int
    fps: float


def keyframes(
    *, src: InputPath, onto: InputPath, dst: OutputPath, workers: int | None, command: str, code_version: str
) -> Summary:
    """Detect ED and ES in each recording of the video store ``src``, and write them to a copy of the store ``onto``.

    ``onto`` has the same recordings, as videos or latents; media files are hard links if possible. Key frames of
    ``onto`` are replaced; the summary compares detected key frames with those of ``src``. Raises ``UserError`` if no
    recording has a heartbeat, and for stores that do not belong together.
    """
    check_workers(workers)
    videos = Store(src, kind="video")
    store = videos if Path(onto) == Path(src) else Store(onto)
    _check_stores(videos, store, dst)
    sources = {"videos": videos.checksum, "onto": store.checksum}
    settings = {**store.dataset.settings, "keyframes": {"version": VERSION, **sources}}
    dataset = replace(store.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = store.rows()
    with StoreWriter(dst, dataset) as writer:
        if not writer.complete:
            jobs = [job for job in _detection_jobs(videos) if job.name in rows and job.name not in writer.done]
            results = map_in_processes(detect, jobs, workers, "key frames")
            for job, key_frames in zip(jobs, results, strict=True):
                writer.copy(store.path(job.name), {**rows[job.name], **_key_frame_columns(key_frames)}, link=True)
            if any(row[STATUS] == "found" for row in writer.rows.values()):
                writer.finish(list(rows), store.dataset.statistics)
    if not writer.complete and not Path(dst).exists():
        shutil.rmtree(partial_path(Path(dst)), ignore_errors=True)
        problems = [str(row[STATUS]) for row in writer.rows.values()]
        raise UserError(
            f"none of the {len(problems)} recordings of src={videos.root} shows a beating heart "
            f"({max(set(problems), key=problems.count)}): nothing was written; give recordings of hearts, of more than "
            "one beat"
        )
    return Summary(f"keyframes: {dst} {writer.state}", _summary(videos, Store(dst)))


def detect(job: DetectionJob) -> KeyFrames:
    """Key frames of a recording."""
    pixels = read_video(job.path, job.channels, None, job.frames)
    return detect_key_frames(pixels.mean(axis=-1).round().astype("uint8"), job.fps)


def _detection_jobs(store: Store) -> list[DetectionJob]:
    columns = zip(*(store.table[name].tolist() for name in ("FileName", "NumberOfFrames", "FPS")), strict=True)
    return [DetectionJob(name, store.path(name), store.dataset.channels, frames, fps) for name, frames, fps in columns]


def _check_stores(videos: Store, store: Store, dst: str) -> None:
    """Raise ``UserError`` unless ``store`` has recordings of ``videos`` with equally many frames."""
    if not len(videos):
        raise UserError(f"src={videos.root} has no recording: there is nothing to detect")
    if Path(dst).resolve() in (videos.root.resolve(), store.root.resolve()):
        raise UserError(f"dst={dst} is a store that is read: a store is never changed, choose another dst=")
    tables = (each.table.set_index("FileName") for each in (videos, store))
    video_frames, store_frames = (table["NumberOfFrames"].to_dict() for table in tables)
    if wrong := [name for name, count in store_frames.items() if video_frames.get(name) != count]:
        raise UserError(
            f"onto={store.root} has {wrong[0]} with {store_frames[wrong[0]]} frames, and src={videos.root} has "
            f"{video_frames.get(wrong[0], 'no such recording')}: give the latents that were encoded from these videos"
        )


def _key_frame_columns(key_frames: KeyFrames) -> dict[str, str]:
    """Columns of FileList.csv: frame numbers separated by spaces, and the status."""
    ed, es = (" ".join(map(str, frames)) for frames in (key_frames.ed, key_frames.es))
    return {"ED": ed, "ES": es, STATUS: key_frames.problem or "found"}


def _summary(videos: Store, result: Store) -> dict[str, object]:
    """Numbers of key frames, recordings without key frames, and agreement with key frames of ``videos`` by split."""
    without = result.table[result.table[STATUS] != "found"]
    lines: dict[str, object] = {"recordings": f"{len(result)}, {len(result) - len(without)} with key frames"}
    for problem, part in without.groupby(STATUS, sort=True):
        more = f" and {len(part) - 5} more" if len(part) > 5 else ""
        lines[f"without: {problem}"] = f"{len(part)}: {', '.join(part['FileName'][:5])}{more}"
    for kind in ("ED", "ES"):
        lines[kind] = str(sum(len(_frame_numbers(text)) for text in result.table[kind]))
        if kind in videos.table:
            reference = dict(zip(videos.table["FileName"], map(_frame_numbers, videos.table[kind]), strict=True))
            for split, rows in result.table.groupby("Split", sort=False):
                marks = [reference.get(name) for name in rows["FileName"]]
                pairs = [(_frame_numbers(text), mark) for text, mark in zip(rows[kind], marks, strict=True) if mark]
                if matches := [match_key_frames(detected, mark, TOLERANCE) for detected, mark in pairs]:
                    lines[f"{kind}, {split}"] = _match_text(matches)
    return lines


def _match_text(matches: Sequence[KeyFrameMatch]) -> str:
    counts = ([getattr(match, name) for match in matches] for name in ("matched", "missed", "spurious"))
    matched, missed, spurious = map(sum, counts)
    return (
        f"of {matched + missed} marks that src has in {len(matches)} recordings "
        f"{100 * matched / (matched + missed):.1f} % were found within {TOLERANCE} frame, {missed} missed, "
        f"{spurious} more found"
    )


def _frame_numbers(text: object) -> list[int]:
    return [int(word) for word in str(text).split() if word.isdecimal()]
