"""The record audit.json of ``stage=audit``: all measures, and the reasons for missing measures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echodream.auditing.embedding_sets import AuditSets, EmbeddingSet
from echodream.auditing.inputs import AuditInputs
from echodream.auditing.leakage import leakage_measures
from echodream.auditing.measure import PRIVACY, Measure
from echodream.auditing.planted_copies import KINDS, SHARES
from echodream.auditing.quality import QUALITY_MEASURES
from echodream.datamodules.recordings import Recordings
from echodream.errors import UserError
from echodream.privacy.decision import SCOPE
from echodream.progress import progress_bar
from echodream.runs.summary import Summary

STATEMENT = (
    "This audit measured one synthetic set with one identity network; intervals are 95 % intervals over patients or "
    "samples. Leaks may exist that the audit does not find. A harmless value of one measure, of DCR in particular "
    "(arXiv 2505.01524), does not prove privacy. Only the filter states a bound, for its declared transforms. "
    f"{SCOPE}"
)
UNKNOWN_GENERATOR = "the generator of these samples is not known"
UNKNOWN = (
    "The generator of the samples is not known. If it was trained on the held-out patients, too, the measures that "
    "compare them with the training patients miss what it reveals about both."
)
"""What an audit of samples of another program cannot know."""


def measure_all(spaces: Sequence[AuditSets]) -> tuple[list[Measure], dict[str, str]]:
    """All measures, and the reason for each missing measure; ``spaces[0]`` has embeddings of the identity network."""
    tasks = [(name, measure, sets) for sets in spaces for name, measure in leakage_measures(sets)]
    tasks += [(name, measure, spaces[0]) for name, measure in QUALITY_MEASURES.items()]
    measures: list[Measure] = []
    missing = {}
    for name, measure, sets in progress_bar(tasks, "measures", leave=False):
        try:
            measures += measure(sets)
        except UserError as error:  # too few patients or frames; networks and stores are already checked
            missing[name] = str(error)
    return measures, missing


def build_record(
    inputs: AuditInputs, sets: AuditSets, measures: Sequence[Measure], missing: Mapping[str, str]
) -> dict[str, Any]:
    """Sizes of the compared sets, measures, and reasons for missing measures."""
    compared: dict[str, tuple[Recordings, EmbeddingSet]] = {
        "samples": (inputs.samples, sets.samples),
        "training": (inputs.train, sets.train),
        "held out": (inputs.held_out, sets.held_out),
    }
    return {
        "statement": STATEMENT if inputs.generator_known else f"{STATEMENT} {UNKNOWN}",
        **({} if inputs.generator_known else {"unknown": UNKNOWN}),
        "sizes": {
            name: {
                "units": len(embedding_set),
                "recordings": len(recordings),
                "frames of each as a sample": int(embedding_set.sample_frames.shape[1]),
                "frames of each": int(embedding_set.all_frames.shape[1]),
            }
            for name, (recordings, embedding_set) in compared.items()
        },
        "similarity": sets.similarity,
        "measures": [asdict(measure) for measure in measures],
        "not measured": dict(missing),
    }


def summarize(path: Path, state: str, record: Mapping[str, Any]) -> Summary:
    """Summary of the audit ``record`` at ``path``."""
    sizes = record["sizes"]
    counts = ", ".join(f"{sizes[name]['units']} {name}" for name in ("samples", "training", "held out"))
    lines: dict[str, object] = {"compared": counts}
    for entry in record["measures"]:
        mark = "  <- stands out" if entry["stands_out"] else ""
        lines[entry["name"]] = f"{_interval_text(entry['value'])}, expected {_interval_text(entry['expected'])}{mark}"
    for name, reason in record["not measured"].items():
        lines[name] = f"not measured: {reason}"
    if unknown := record.get("unknown"):
        lines["generator"] = unknown
    findings = [entry["name"] for entry in record["measures"] if entry["stands_out"] and entry["about"] == PRIVACY]
    if difference := group_difference(record["measures"]):
        lines["patients"] = difference
    lines |= _power_lines(record)
    message = f"{len(findings)} of the measures stand out: {', '.join(findings)}"
    lines["privacy"] = message if findings else "no measure stands out, which does not prove privacy"
    return Summary(f"audit: {path} {state}", lines)


def group_difference(measures: Sequence[Mapping[str, Any]]) -> str:
    """A sentence, if a control of membership inference finds a difference without the generator and the samples."""
    controls = {entry["name"]: entry["details"] for entry in measures if entry["details"].get("groups differ")}
    if not controls:
        return ""
    values = "; ".join(f"{name}: {_interval_text(details['control'])}" for name, details in controls.items())
    return (
        "Training and new patients differ by themselves: a control that cannot know who was in training has an AUC "
        f"other than .5 ({values}). These attacks are compared with their controls."
    )


def _power_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """The smallest share of planted copies of each kind that a measure finds, and the measures without power."""
    powers = {entry["name"]: entry["power"] for entry in record["measures"] if entry.get("power")}
    lines: dict[str, object] = {}
    for kind in (record.get("power") or {}).get("copies", {}):
        shares = {name: power[kind] for name, power in powers.items() if power.get(kind) is not None}
        if not shares:
            lines[f"power, {KINDS[kind]} copies"] = f"none: no measure finds {100 * SHARES[-1]:g} % of copies"
            continue
        best = min(shares.values())
        finders = ", ".join(name for name, share in shares.items() if share == best)
        lines[f"power, {KINDS[kind]} copies"] = f"{100 * best:g} % of the samples are found, by {finders}"
    if powerless := [name for name, power in powers.items() if all(share is None for share in power.values())]:
        lines["no power"] = f"at {100 * SHARES[-1]:g} % of copies: {', '.join(powerless)}"
    return lines


def _interval_text(interval: Mapping[str, float]) -> str:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    return f"{value:.3g}" if low == high else f"{value:.3g} [{low:.3g}, {high:.3g}]"
