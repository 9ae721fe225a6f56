"""``stage=verify``: is this folder a Store?"""

import itertools

from echodream.config.stage_signature import InputPath
from echodream.runs.summary import Summary
from echodream.store import Store, find_problems


def verify(*, src: InputPath, command: str, code_version: str) -> Summary:
    """Check the store at ``src`` against docs/format.md, every checksum included, and list what is wrong."""
    del command, code_version  # nothing is written
    found = list(itertools.islice(find_problems(src), 1000))
    if found:
        more = f" (and {len(found) - 1} more, above)" if len(found) > 1 else ""
        facts = {f"problem {number}": text for number, text in enumerate(found[:20], 1)} if more else {}
        return Summary(f"verify: {src} is not a valid store", facts, found[0] + more)
    store = Store(src)
    dataset = store.dataset
    size = f"{dataset.channels} x {dataset.height or 'any'} x {dataset.width or 'any'}"
    counts = f"{store.table['PatientID'].nunique()} patients, {store.table['NumberOfFrames'].sum()} frames"
    facts = {
        "kind": f"{dataset.kind}, {size}, {dataset.fidelity}",
        "recordings": f"{len(store)}, {counts}",
        "made by": dataset.command,
    }
    return Summary(f"verify: {src} is a valid store", facts)
