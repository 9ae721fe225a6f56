"""``stage=keyframes``: detect end-diastolic (ED) and end-systolic (ES) frames; add them to a copy of a Store."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError, shortened_list
from echodream.metrics.key_frames import KeyFrameMatch, KeyFrames, detect_key_frames, match_key_frames
from echodream.process_pool import check_workers, map_in_processes
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter
from echodream.store.schema import partial_path
from echodream.store.video import read_video

DETECTION_VERSION = 1
"""Version of the detection algorithm, which dataset.json records."""
STATUS_COLUMN = "KeyFrames"
"""Column of FileList.csv with "found", or the reason why a recording has no key frames."""
TOLERANCE = 1
"""Maximum distance, in frames, between a detected key frame and a matching key frame of the source."""


@dataclass(frozen=True)
class DetectionJob:
    """Arguments of a worker process that detects the key frames of one recording."""

    name: str
    path: Path
    channels: int
    frames: int
    fps: float


def keyframes(
    *, src: InputPath, onto: InputPath, dst: OutputPath, workers: int | None, command: str, code_version: str
) -> Summary:
    """Detect ED and ES in each recording of the video store ``src``, and write them to a copy of the store ``onto``.

    ``onto`` has the recordings of ``src`` as videos or latents. The copy has hard links to its media files if possible,
    and new key frames. The summary compares the detected key frames with those of ``src``. Raises ``UserError`` if no
    recording has a heartbeat, and if ``onto`` has other recordings than ``src``.
    """
    check_workers(workers)
    videos = Store(src, kind="video")
    store = videos if Path(onto) == Path(src) else Store(onto)
    _check_stores(videos, store, dst)
    sources = {"videos": videos.checksum, "onto": store.checksum}
    settings = {**store.dataset.settings, "keyframes": {"version": DETECTION_VERSION, **sources}}
    dataset = replace(store.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = store.rows()
    with StoreWriter(dst, dataset) as writer:
        if not writer.complete:
            table = videos.table[["FileName", "NumberOfFrames", "FPS"]]
            jobs = [
                DetectionJob(name, videos.path(name), videos.dataset.channels, frames, fps)
                for name, frames, fps in table.itertuples(index=False)
                if name in rows and name not in writer.done
            ]
            results = map_in_processes(detect_in_recording, jobs, workers, "key frames")
            for job, key_frames in zip(jobs, results, strict=True):
                ed, es = (" ".join(map(str, frames)) for frames in (key_frames.ed, key_frames.es))
                columns = {"ED": ed, "ES": es, STATUS_COLUMN: key_frames.problem or "found"}
                writer.copy(store.path(job.name), {**rows[job.name], **columns}, link=True)
            if any(row[STATUS_COLUMN] == "found" for row in writer.rows.values()):
                writer.finish(list(rows), store.dataset.statistics)
    if not writer.complete and not Path(dst).exists():
        shutil.rmtree(partial_path(Path(dst)), ignore_errors=True)
        problems = [str(row[STATUS_COLUMN]) for row in writer.rows.values()]
        raise UserError(
            f"none of the {len(problems)} recordings of src={videos.root} shows a beating heart "
            f"({max(set(problems), key=problems.count)}): give recordings of hearts with more than one beat"
        )
    return Summary(f"keyframes: {dst} {writer.state}", _summary_lines(videos, Store(dst)))


def detect_in_recording(job: DetectionJob) -> KeyFrames:
    """Detect the key frames of the recording of ``job``."""
    pixels = read_video(job.path, job.channels, None, job.frames)
    return detect_key_frames(pixels.mean(axis=-1).round().astype("uint8"), job.fps)


def _check_stores(videos: Store, store: Store, dst: str) -> None:
    """Raise ``UserError`` unless all recordings of ``store`` are in ``videos``, with the same numbers of frames."""
    if not len(videos):
        raise UserError(f"src={videos.root} has no recording: give another store")
    if Path(dst).resolve() in (videos.root.resolve(), store.root.resolve()):
        raise UserError(f"dst={dst} is also src= or onto=: choose another dst=")
    tables = (each.table.set_index("FileName") for each in (videos, store))
    video_frames, store_frames = (table["NumberOfFrames"].to_dict() for table in tables)
    if wrong := [name for name, count in store_frames.items() if video_frames.get(name) != count]:
        raise UserError(
            f"onto={store.root} has {wrong[0]} with {store_frames[wrong[0]]} frames, but src={videos.root} has "
            f"{video_frames.get(wrong[0], 'no such recording')}: give the latents that were encoded from these videos"
        )


def _summary_lines(videos: Store, result: Store) -> dict[str, object]:
    """Lines of the summary: numbers of key frames, failed recordings, and agreement with key frames of ``videos``."""
    failed = result.table[result.table[STATUS_COLUMN] != "found"]
    lines: dict[str, object] = {"recordings": f"{len(result)}, {len(result) - len(failed)} with key frames"}
    for problem, names in failed.groupby(STATUS_COLUMN)["FileName"]:
        lines[f"without: {problem}"] = f"{len(names)}: {shortened_list(names.tolist())}"
    for kind in ("ED", "ES"):
        lines[kind] = str(sum(len(_frame_numbers(text)) for text in result.table[kind]))
        if kind not in videos.table:
            continue
        recorded = videos.table[["FileName", kind]].rename(columns={kind: "key frames of src"})
        for split, rows in result.table.merge(recorded, on="FileName").groupby("Split", sort=False):
            pairs = zip(rows[kind].map(_frame_numbers), rows["key frames of src"].map(_frame_numbers), strict=True)
            if matches := [match_key_frames(frames, reference, TOLERANCE) for frames, reference in pairs if reference]:
                lines[f"{kind}, {split}"] = _describe_matches(matches)
    return lines


def _describe_matches(matches: Sequence[KeyFrameMatch]) -> str:
    names = ("matched", "missed", "spurious")
    matched, missed, spurious = (sum(getattr(match, name) for match in matches) for name in names)
    share = f"{100 * matched / (matched + missed):.1f} % of {matched + missed} key frames of src"
    detected = f"{share} in {len(matches)} recordings were detected within {TOLERANCE} frame"
    return f"{detected}, {missed} missed, {spurious} other detections"


def _frame_numbers(text: object) -> list[int]:
    return [int(word) for word in str(text).split() if word.isdecimal()]
