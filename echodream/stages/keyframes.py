"""``stage=keyframes``: a Store becomes a Store with the frames of end diastole and end systole, found in the pixels."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError
from echodream.metrics.key_frames import KeyFrameMatch, KeyFrames, detect_key_frames, match_key_frames
from echodream.runs.atomic_folder import share_file
from echodream.runs.summary import Summary
from echodream.store import Store, StoreWriter
from echodream.store.schema import media_path, partial_path
from echodream.store.video import read_video

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Of how key frames are found; in dataset.json, so that a store of an older way is not taken for one of a newer."""
FOUND = "KeyFrames"
"""The column that says "found", or why there are none."""
WITHIN = 1
"""Frames between a mark that is found and one that was there, for the two to be the same."""


@dataclass(frozen=True)
class Job:
    """One recording to be looked at."""

    name: str
    path: Path
    channels: int
    frames: int
    fps: float


def keyframes(
    *, src: InputPath, onto: InputPath, dst: OutputPath, workers: int | None, command: str, code_version: str
) -> Summary:
    """Find ED and ES in each recording of the video store ``src`` and write them to a copy of the store ``onto``.

    ``onto`` holds the same recordings, as videos or as latents. The copy shares its media files with it where the file
    system can do that. Marks that ``onto`` had are replaced; the summary compares those of ``src`` with what was found.
    Raises ``UserError`` when no recording shows a beat, or for stores that do not belong to each other.
    """

    if workers is not None:
        validation.whole_number("workers", workers, 0, note=", or null for one process per core")
    store = Store(src, kind="video")
    other = store if Path(onto) == Path(src) else Store(onto)
    _check(store, other, dst)
    sources = {"videos": store.checksum, "onto": other.checksum}
    settings = {**other.dataset.settings, "keyframes": {"version": VERSION, **sources}}  # where it comes from stays
    dataset = replace(other.dataset, settings=settings, command=command, code_version=code_version, statistics=None)
    rows = other.rows()
    with StoreWriter(dst, dataset) as writer:
        complete = writer.complete
        if not complete:
            jobs = [job for job in _jobs(store) if job.name in rows and job.name not in writer.done]
            seen = tqdm(_run(jobs, workers), "key frames", len(jobs), unit="rec", disable=None)
            for job, found in zip(jobs, seen, strict=True):
                media = writer.scratch_path(job.name)
                share_file(media_path(other.root, other.dataset.kind, job.name), media)
                writer.commit(_marked(rows[job.name], found), media)
            if any(row[FOUND] == "found" for row in writer.rows.values()):
                writer.finish(list(rows), other.dataset.statistics)
    if not complete and not Path(dst).exists():
        shutil.rmtree(partial_path(Path(dst)), ignore_errors=True)
        raise UserError(_nothing(store, [str(row[FOUND]) for row in writer.rows.values()]))
    state = "already complete, nothing to do" if complete else "done"
    return Summary(f"keyframes: {dst} {state}", _facts(store, Store(dst)))


def look(job: Job) -> KeyFrames:
    """Find the key frames of one recording."""
    pixels = read_video(job.path, job.channels, None, job.frames)
    return detect_key_frames(pixels.mean(axis=-1).round().astype("uint8"), job.fps)


def _jobs(store: Store) -> list[Job]:
    columns = (store.table[name].tolist() for name in ("FileName", "NumberOfFrames", "FPS"))
    channels = store.dataset.channels
    return [Job(name, store.path(name), channels, frames, fps) for name, frames, fps in zip(*columns, strict=True)]


def _run(jobs: Sequence[Job], workers: int | None) -> Iterator[KeyFrames]:
    if workers == 0 or len(jobs) < 2:
        yield from map(look, jobs)
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(look, jobs)


def _check(store: Store, other: Store, dst: str) -> None:
    if not len(store):
        raise UserError(f"src={store.root} holds no recording: there is nothing to look at")
    if Path(dst).resolve() in (store.root.resolve(), other.root.resolve()):
        raise UserError(f"dst={dst} is a store that is read: a store is never changed, choose another dst=")
    frames = [dict(zip(one.table["FileName"], one.table["NumberOfFrames"], strict=True)) for one in (store, other)]
    if wrong := [name for name, count in frames[1].items() if frames[0].get(name) != count]:
        raise UserError(
            f"onto={other.root} has {wrong[0]} with {frames[1][wrong[0]]} frames, and src={store.root} has "
            f"{frames[0].get(wrong[0], 'no such recording')}: give the latents that were made of these videos"
        )


def _marked(row: Mapping[str, Any], found: KeyFrames) -> dict[str, Any]:
    marks = {name: " ".join(map(str, frames)) for name, frames in (("ED", found.ed), ("ES", found.es))}
    return {**row, **marks, FOUND: found.problem or "found"}


def _nothing(store: Store, problems: Sequence[str]) -> str:
    most = max(set(problems), key=problems.count)
    return (
        f"none of the {len(problems)} recordings of src={store.root} shows a beating heart ({most}): "
        "nothing was written; give recordings of hearts, of more than one beat"
    )


def _facts(store: Store, made: Store) -> dict[str, object]:
    without = made.table[made.table[FOUND] != "found"]
    facts: dict[str, object] = {"recordings": f"{len(made)}, {len(made) - len(without)} with key frames"}
    for problem, part in without.groupby(FOUND, sort=True):
        more = f" and {len(part) - 5} more" if len(part) > 5 else ""
        facts[f"without: {problem}"] = f"{len(part)}: {', '.join(part['FileName'][:5])}{more}"
    for kind in ("ED", "ES"):
        facts[kind] = str(sum(len(_numbers(text)) for text in made.table[kind]))
        if kind in store.table:
            for split in made.table["Split"].unique():
                if pairs := _against(store, made.table[made.table["Split"] == split], kind):
                    facts[f"{kind}, {split}"] = _told(pairs)
    return facts


def _against(store: Store, made: "pd.DataFrame", kind: str) -> list[KeyFrameMatch]:
    """What was found beside the marks that ``store`` has of its own, for each recording that has some."""
    own = {name: _numbers(text) for name, text in zip(store.table["FileName"], store.table[kind], strict=True)}
    found = zip(made["FileName"], made[kind], strict=True)
    return [match_key_frames(_numbers(text), own[name], WITHIN) for name, text in found if own.get(name)]


def _told(pairs: Sequence[KeyFrameMatch]) -> str:
    hits, missed, invented = (sum(getattr(pair, part) for pair in pairs) for part in ("hits", "missed", "invented"))
    return (
        f"of {hits + missed} marks that src has in {len(pairs)} recordings {100 * hits / (hits + missed):.1f} % were "
        f"found within {WITHIN} frame, {missed} missed, {invented} more found"
    )


def _numbers(text: object) -> list[int]:
    return [int(word) for word in str(text).split() if word.isdecimal()]
