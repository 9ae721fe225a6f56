"""``stage=verify``: check a folder against the specification of a Store."""

import itertools

from echodream.config.stage_signature import InputPath
from echodream.runs.summary import Summary
from echodream.store import Store, find_problems


def verify(*, src: InputPath, command: str, code_version: str) -> Summary:
    """Check the store at ``src`` against docs/format.md, including all checksums, and list the problems."""
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
    return Summary(f"verify: {src} is a valid store", facts)
