"""The part of a page on usefulness: models trained on real, synthetic or both, tested on the same real patients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from echodream.metrics.bootstrap import Interval
from echodream.report.figures import SHARE, Row, Table, Verdict, between, count, interval, percent, round_up, within
from echodream.report.glossary import label, meaning
from echodream.report.sources import Sources

SIDES = (("real", "real"), ("synthetic", "synthetic"), ("both", "real and synthetic"))
GOOD = 0.9
"""The ratio to real that the lower end of the interval must reach for a good word."""
_FIRST = ("auc", "roc", "r2")
_GUESS = {"auc": 0.5, "roc": 0.5, "r2": 0.0}
"""What a model that has learnt nothing gets."""


def verdict(sources: Sources) -> Verdict:
    """The ratio of synthetic to real of the task that does worst, by the lower end of its interval."""
    if "utility" not in sources.records:
        what = "Whether a model trained on the synthetic set works on real patients has not been tested."
        return Verdict("Usefulness", "missing", "Not known", missing=[sources.missing("utility", what)])
    with sources.reading("utility"):
        rows = list(_ratios(sources.records["utility"]))
        if not rows:
            what = "No model trained on the synthetic set has been compared with one trained on real patients."
            return Verdict("Usefulness", "missing", "Not known", missing=[sources.missing("utility", what)])
        task, metric, ratio = min(rows, key=lambda row: (row[2].low, row[2].value))
        entry = sources.records["utility"]["tasks"][task]
        patients = (entry.get("test") or {}).get("patients") or _patients(sources.records["utility"])
        notes = [str(entry["note"])] if entry.get("note") else []
        blind = [name for name, of, _ in rows if _no_better_than_a_guess(sources.records["utility"]["tasks"][name], of)]
    ends = f" (95 % interval {between(ratio)})" if ratio.low < ratio.high else ""
    worst = f" in {task}" + (f", the weakest of {len(rows)} tasks" if len(rows) > 1 else "")
    sentence = (
        f"Trained on synthetic videos alone, a model reaches {within(ratio)} times the {label(metric)} of one "
        f"trained on real videos{worst}{ends}."
    )
    people = count(patients, "real patient") if patients else "real patients"
    tested = f"Both were tested on the same {people}, whom no model had seen."
    top = round_up(max(1.1, *(row[2].high for row in rows)))
    lines = [
        Row(name, found, Interval(1, 1, 1), scale=(0.0, top), means=f"{label(of)}, synthetic over real")
        for name, of, found in rows
    ]
    numbers = {f"{name} {of} ratio": {"value": r.value, "low": r.low, "high": r.high} for name, of, r in rows}
    state, word, limits = _state([row[2] for row in rows], blind)
    return Verdict(
        "Usefulness",
        state,
        word,
        within(ratio),
        "of real",
        sentence,
        [*limits, tested, *notes],
        lines,
        numbers=numbers,
    )


def _state(ratios: Sequence[Interval], blind: Sequence[str]) -> tuple[str, str, list[str]]:
    """State and word of the ratios of all tasks, and what they leave open; ``blind`` tasks are not learnt from real."""
    if blind:
        line = f"The model trained on real videos is itself no better than a guess in {', '.join(blind)}, as far as "
        return "note", "Not tested", [line + "these patients tell: reaching it says nothing."]
    found = [ratio for ratio in ratios if ratio.low < ratio.high]
    low, high = (min((getattr(ratio, end) for ratio in found), default=math.inf) for end in ("low", "high"))
    left = []
    if len(found) < len(ratios):
        left.append("A ratio stands without an interval: the patients are too few to say how far off it may be.")
    if low < GOOD:
        left.insert(0, f"A loss of {percent(1 - low)} lies inside the interval, and is not excluded.")
        return "note", "Not settled" if high >= 1 else "Below real data", left
    return ("note", "Too few patients to tell", left) if left else ("good", "At most a tenth is lost", [])


def _no_better_than_a_guess(entry: Mapping[str, Any], metric: str) -> bool:
    """Whether the interval of the model trained on real videos reaches down to what a guess gets."""
    guess = next((value for start, value in _GUESS.items() if metric.lower().startswith(start)), None)
    found = interval((entry.get("real") or {}).get(metric))
    return guess is not None and found is not None and found.low <= guess


def _ratios(record: Mapping[str, Any]) -> "list[tuple[str, str, Interval]]":
    """The task, its first metric and the ratio of synthetic to real, of each task that has one."""
    found = []
    for task, entry in record["tasks"].items():
        ratios = (entry.get("ratio") or {}).get("synthetic") or {}
        if name := first_metric(ratios):
            ratio = interval(ratios[name])
            if ratio is not None:
                found.append((str(task), name, ratio))
    return found


def first_metric(metrics: Mapping[str, Any]) -> str | None:
    """The one to look at first: AUC, or R2."""
    known = [name for start in _FIRST for name in metrics if str(name).lower().startswith(start)]
    return next(iter([*known, *metrics]), None)


def _patients(record: Mapping[str, Any]) -> int | None:
    found = ((record.get("sizes") or {}).get("test") or {}).get("patients")
    return int(found) if found is not None else None


def overview(sources: Sources) -> list[Table]:
    """The first metric of all tasks, for each side; and how many times that of real the other sides reach."""
    rows: list[Row] = []
    ratios: list[Row] = []
    notes: list[str] = []
    with sources.reading("utility"):
        for task, entry in sources.records["utility"]["tasks"].items():
            name = first_metric(entry[next(key for key, _ in SIDES if key in entry)])
            sides = [(key, said) for key, said in SIDES if name in entry.get(key, {})]
            lines = _metric_rows(str(name), entry, sides, f"{task}: {label(str(name))}, trained on ")
            told = {row.means for row in rows}
            rows += [replace(row, means="" if row.means in told else row.means) for row in lines]
            notes += [f"{task}: {entry['note']}"] if entry.get("note") else []
            for key, said in SIDES[1:]:
                times = interval(((entry.get("ratio") or {}).get(key) or {}).get(name))
                if times is not None:
                    ratios.append(Row(f"{task}: {said}, over real", times, Interval(1, 1, 1), side=key))
    found = [Table("On real test patients", ("Trained on", "Value", ""), rows, " ".join(notes))] if rows else []
    if ratios:
        end = round_up(max(1.1, *(row.value.high for row in ratios)))
        ratios = [replace(row, scale=(0.0, end)) for row in ratios]
        found.append(
            Table("Over a model trained on real videos", ("Trained on", "Times", ""), ratios, "1 is as good as real.")
        )
    return found


def tables(sources: Sources) -> list[Table]:
    """One for each task with every metric."""
    found = []
    with sources.reading("utility"):
        for task, entry in sources.records["utility"]["tasks"].items():
            sides = [(key, said) for key, said in SIDES if isinstance(entry.get(key), Mapping)]
            names = list(dict.fromkeys(name for key, _ in sides for name in entry[key]))
            first = first_metric(dict.fromkeys(names, 0))
            rows: list[Row] = []
            for name in sorted(names, key=lambda name: name != first):
                rows += _metric_rows(
                    name, entry, [side for side in sides if name in entry[side[0]]], f"{label(name)}, "
                )
            if rows:
                heads = ("Metric, and what the model was trained on", "On real test patients", "")
                found.append(Table(str(task), heads, rows))
    return found


def _metric_rows(name: str, entry: Mapping[str, Any], sides: Sequence[tuple[str, str]], before: str) -> list[Row]:
    """A row for each side; the meaning stands in the first."""
    values = [(key, said, interval(entry[key][name])) for key, said in sides]
    ends = [end for _, _, value in values if value for end in (value.low, value.high)]
    if not ends:
        return []
    scale = SHARE if min(ends) >= 0 and max(ends) <= 1 else (min(0.0, *ends), round_up(max(*ends, 1e-9)))
    return [
        Row(
            before[:1].upper() + before[1:] + said,
            value,
            means=meaning(name) if key == values[0][0] else "",
            scale=scale,
            side=key,
        )
        for key, said, value in values
        if value is not None
    ]
