"""``stage=verify``: check a folder against the specification of a Store."""

import itertools

from echodream import validation
from echodream.config.stage_signature import InputPath
from echodream.errors import UserError
from echodream.runs.summary import Summary
from echodream.store import Store, find_problems
from echodream.store.near_duplicates import find_shared_frames, pairs_across_splits, summarize_shared_frames


def verify(*, src: InputPath, deep: bool = False, command: str, code_version: str) -> Summary:
    """Check the store at ``src`` against docs/format.md, including all checksums, and list the problems.

    ``deep``: also search for recordings of two patients that share frames. Shared frames are a leak if the two
    patients are in different splits.
    """
    validation.true_or_false("deep", deep)
    del command, code_version  # nothing is written
    problems = list(itertools.islice(find_problems(src), 1000))
    if problems:
        more = f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
        facts = {f"problem {number}": text for number, text in enumerate(problems[:20], 1)} if more else {}
        return Summary(f"verify: {src} is not a valid store", facts, problems[0] + more)
    store = Store(src)
    dataset = store.dataset
    size = f"{dataset.channels} x {dataset.height or 'any'} x {dataset.width or 'any'}"
    counts = f"{store.table['PatientID'].nunique()} patients, {store.table['NumberOfFrames'].sum()} frames"
    kind, recordings = f"{dataset.kind}, {size}, {dataset.fidelity}", f"{len(store)}, {counts}"
    facts = {"kind": kind, "recordings": recordings, "made by": dataset.command}
    if not deep:
        return Summary(f"verify: {src} is a valid store", facts)
    if dataset.kind != "video":
        raise UserError(f"deep=true compares frames, but {src} is a {dataset.kind} store: give the videos with src=")
    pairs = find_shared_frames(store)
    facts["shared frames"] = summarize_shared_frames(pairs)
    if not (leaks := pairs_across_splits(pairs)):
        return Summary(f"verify: {src} is a valid store", facts)
    remedy = "give their recordings one PatientID, or remove copies, and ingest again"
    problem = f"{len(leaks)} pairs of patients in two splits share frames ({leaks[0]}): {remedy}"
    return Summary(f"verify: {src} has a patient in two splits", facts, problem)
