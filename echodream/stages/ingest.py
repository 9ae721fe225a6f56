"""``stage=ingest``: read the raw files of a study, and write a Store of videos."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from echodream import validation
from echodream.config.stage_signature import InputPath, OutputPath
from echodream.errors import UserError, shortened_list
from echodream.ingest import burned_in_text
from echodream.ingest.listing import listing_fingerprint
from echodream.ingest.patients import check_patients
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.pseudonym import write_file_list
from echodream.ingest.source import Limits, Recording, Source
from echodream.ingest.split import SplitRatios, assign_splits
from echodream.ingest.synthetic_set import check_matches_real_study, list_samples
from echodream.ingest.workers import ConversionJob, convert_recordings
from echodream.process_pool import check_workers
from echodream.progress import progress_bar
from echodream.runs.summary import Summary
from echodream.store import Dataset, Store, StoreWriter
from echodream.store.near_duplicates import find_shared_frames, summarize_shared_frames
from echodream.store.schema import FILE_COLUMN, is_valid_name
from echodream.store.table import clean_text


def ingest(
    *,
    source: Source,
    prepare: Preprocessing,
    split: SplitRatios,
    limits: Limits,
    raw: InputPath | None,
    dst: OutputPath,
    max_rejected: float,
    workers: int | None,
    timeout: float,
    patients_checked: Sequence[str] | str | bool = (),
    synthetic: bool = False,
    real: InputPath | None = None,
    command: str,
    code_version: str,
) -> Summary:
    """Read the study in the folder ``raw`` with ``source``, preprocess it, and write the video store ``dst``.

    ``workers`` processes read the recordings (None: one per core; 0: this process). A recording that takes more than
    ``timeout`` seconds is rejected. rejected.csv lists the rejected recordings. If more than the fraction
    ``max_rejected`` of all recordings is rejected, the store is not finished, and the command fails. With implausible
    patients it fails, too, unless ``patients_checked`` names the check of ``patients.PATIENT_CHECKS`` (True: all).

    With ``synthetic``, the files are samples of an unknown generator of another program, and the store is marked as
    synthetic. Raises ``UserError`` if the store ``real`` of the study exists and has another size, number of channels
    or frame rate.
    """
    check_workers(workers)
    validation.fraction("max_rejected", max_rejected)
    validation.positive_number("timeout", timeout)
    if validation.true_or_false("synthetic", synthetic) and real is not None:
        check_matches_real_study(prepare, Path(real))
    if raw is not None and Path(dst).resolve().is_relative_to(Path(raw).resolve()):
        raise UserError(f"dst={dst} lies inside raw={raw}: choose another dst=")
    listed = source.recordings(Path(raw) if raw is not None else None)
    if synthetic:
        listed = list_samples(source, Path(str(raw)), listed)
    recordings = [r if r.problem is None else replace(r, name=clean_text(r.name)) for r in listed]
    _write_private_list(source, recordings, {})
    _check_recordings(recordings, raw)
    check_patients(recordings, patients_checked)
    splits = assign_splits([recording for recording in recordings if recording.problem is None], split)
    preprocessing = _public_settings(prepare)
    if prepare.text is None:
        del preprocessing["text"]  # stores written before this setting existed stay complete
    settings: dict[str, Any] = {
        "source": {"class": type(source).__name__, **_public_settings(source)},
        "prepare": preprocessing,
        "split": _public_settings(split),
        "limits": _public_settings(limits),
        "listing": listing_fingerprint(recordings, splits),
    }
    if synthetic:
        settings["model"] = None  # unknown; stage=image and stage=video record their model under this key
    size = prepare.size if isinstance(prepare.size, tuple) else (None, None)
    dataset = Dataset(
        kind="video",
        channels=1 if prepare.grey else 3,
        height=size[0],
        width=size[1],
        synthetic=synthetic,
        settings=settings,
        command=command,
        code_version=code_version,
    )
    with StoreWriter(dst, dataset) as writer:
        if writer.complete:
            return _summary(Store(dst), "already complete, nothing to do", raw)
        for recording in recordings:
            if recording.problem is not None and recording.name not in writer.done:
                writer.reject(recording.name, recording.problem, counted=recording.counted)
        todo = [r for r in recordings if r.name not in writer.done]
        jobs = [ConversionJob(source, r, splits[r.patient], prepare, limits, writer.scratch_path(r.name)) for r in todo]
        resumed = len(writer.rows)
        results, small_frames = convert_recordings(jobs, workers, timeout), {}
        for recording, result in progress_bar(results, "ingest", len(jobs), "rec"):
            if isinstance(result, str):
                file = f" ({recording.columns[FILE_COLUMN]})" if synthetic else ""
                writer.reject(recording.name, f"{result}{file}")
            else:
                row, small_frames[recording.name] = result
                writer.commit(row, writer.scratch_path(recording.name))
        reasons = {name: row["Reason"] for name, row in writer.rejected.items()}
        facts = {**_rejection_counts(writer), **_write_private_list(source, recordings, reasons)}
        total = sum(recording.counted for recording in recordings)
        rejected = sum(row["Counted"] == "true" for row in writer.rejected.values())
        if rejected > max_rejected * total or not writer.rows:
            problem = f"{rejected} of {total} recordings cannot be used, more than max_rejected={max_rejected:g}"
            remedy = f"repair them and remove {writer.root}.partial, or rerun with a larger max_rejected"
            return Summary(f"ingest: {dst} is not complete", facts, f"{problem}: {remedy}")
        store = writer.finish([recording.name for recording in recordings])
    state = f"done, {resumed} recordings were already there" if resumed else "done"
    shared = summarize_shared_frames(find_shared_frames(store, small_frames))
    return _summary(store, state, raw, {**facts, "shared frames": shared})


def _write_private_list(
    source: Source, recordings: Sequence[Recording], reasons: Mapping[str, str]
) -> dict[str, object]:
    """Write the private table of pseudonyms and files if ``source`` has a key; returns an entry of the summary."""
    if (key_file := getattr(source, "key_file", None)) is None:
        return {}
    rows = [(r.name, r.path, reasons.get(r.name, r.problem or "")) for r in recordings if r.path is not None]
    path = write_file_list(Path(key_file).expanduser(), rows)
    return {"private": f"{path} names the files of the rejected recordings"} if path is not None and reasons else {}


def _check_recordings(recordings: Sequence[Recording], raw: str | None) -> None:
    """Raise ``UserError`` if no recording is readable, or if a FileName is invalid or occurs twice."""
    if not any(recording.problem is None for recording in recordings):
        first = next((f"; the first of {len(recordings)} files: {r.problem}" for r in recordings), "")
        raise UserError(f"raw={raw} holds no recording that can be read{first}: check raw= and data=")
    used: set[str] = set()
    for recording in recordings:
        if recording.problem is None and not is_valid_name(recording.name):
            raise UserError(f"FileName {recording.name[:80]!r} is not allowed: letters, digits, '.', '_' and '-' only")
        if recording.name.casefold() in used:
            raise UserError(f"two recordings are called {recording.name!r}: rename one of the raw files")
        used.add(recording.name.casefold())


def _rejection_counts(writer: StoreWriter, max_lines: int = 8) -> dict[str, object]:
    """Entry of the summary: reasons for rejection, with numbers and examples of recordings."""
    by_reason: dict[str, list[str]] = {}
    for row in writer.rejected.values():
        by_reason.setdefault(row["Reason"], []).append(row["FileName"])
    counts = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [f"{len(names)} x {reason}: {shortened_list(names, 3)}" for reason, names in counts]
    more = ["..."] * (len(lines) > max_lines)
    return {"rejected": "\n    ".join([str(len(writer.rejected)), *lines[:max_lines], *more])}


def _summary(store: Store, state: str, raw: str | None, rejected: dict[str, object] | None = None) -> Summary:
    table = store.table
    splits = [f"{name} {count}" for name, count in Counter(table["Split"]).items()]
    facts: dict[str, object] = {"recordings": ", ".join([str(len(table)), *splits])}
    if store.dataset.synthetic:
        facts["generator"] = "unknown: samples of another program; stage=filter states what is not known"
    else:
        facts["patients"] = table["PatientID"].nunique()
    if (table["NumberOfFrames"] == 1).all():
        facts["frames"] = "one per recording: images"
    else:
        seconds = (table["NumberOfFrames"] / table["FPS"]).sum()
        facts["frames"] = f"{table['NumberOfFrames'].sum()} ({seconds:.0f} s)"
    if "class_name" in table:
        facts["classes"] = ", ".join(f"{name} {count}" for name, count in sorted(Counter(table["class_name"]).items()))
    if raw is not None:  # only raw files can have text in the pixels
        facts["text"] = _describe_text(store)
    return Summary(f"ingest: {store.root} {state}", {**facts, **(rejected or {})})


def _describe_text(store: Store) -> str:
    """Entry of the summary: number and names of recordings with text in the pixels."""
    mode = store.dataset.settings.get("prepare", {}).get("text")
    if mode is None:
        needs = "" if burned_in_text.is_installed() else f" ({burned_in_text.INSTALL_COMMAND})"
        return f"not searched; text=report, blank or refuse finds names and dates in the pixels{needs}"
    names = store.table["FileName"][store.table[burned_in_text.TEXT_BOXES_COLUMN] > 0].tolist()
    result = "blanked in" if mode == "blank" else "in"
    return f"{result} {len(names)} recordings{': ' * bool(names)}{shortened_list(names, 3)}"


def _public_settings(settings: Any) -> dict[str, Any]:
    """Fields of the dataclass ``settings`` as JSON values, without private fields such as a key file."""
    private = {field.name for field in fields(settings) if field.metadata.get("private")}
    public = {name: value for name, value in asdict(settings).items() if name not in private}
    return json.loads(json.dumps(public, default=str))
