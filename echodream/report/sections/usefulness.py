"""Section "Usefulness": models trained on real videos, synthetic videos or both, tested on the same real patients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from echodream.metrics.bootstrap import Interval
from echodream.report.glossary import metric_label, metric_meaning
from echodream.report.number_format import (
    axis_end,
    capitalized,
    format_count,
    format_ends,
    format_percent,
    format_value,
)
from echodream.report.section import PageContext, Section, SectionContent
from echodream.report.sources import Sources
from echodream.report.tables import PROPORTION_AXIS, Row, Table, Verdict, parse_interval

TRAINING_SETS = {"real": "real", "synthetic": "synthetic", "both": "real and synthetic"}
"""Training sets of a task in utility.json, and their names on the page."""
GOOD_RATIO = 0.9
"""Lower end of the interval of the ratio synthetic / real from which the verdict is good."""
CHANCE_LEVELS = {"auc": 0.5, "roc": 0.5, "r2": 0.0}
"""Values of the main metrics at chance level, by the first letters of their names."""
EQUAL_TO_REAL = Interval(1, 1, 1)


def verdict(sources: Sources) -> Verdict:
    """The verdict on the task whose ratio synthetic / real has the lowest lower interval end, for the main metric."""
    if "utility" not in sources.records:
        message = "Models trained on the synthetic set have not been tested on real patients."
        return sources.unknown_verdict("Usefulness", "utility", message)
    with sources.report_parse_errors("utility"):
        record = sources.records["utility"]
        ratios = _synthetic_to_real_ratios(record)
        if not ratios:
            message = "Models trained on the synthetic set have not been compared with models trained on real patients."
            return sources.unknown_verdict("Usefulness", "utility", message)
        task, metric, ratio = min(ratios, key=lambda each: (each[2].low, each[2].value))
        entry = record["tasks"][task]
        sizes = (entry.get("test"), (record.get("sizes") or {}).get("test"))
        patients = next((int(size["patients"]) for size in sizes if size and size.get("patients")), None)
        notes = [str(entry["note"])] if entry.get("note") else []
        chance_tasks = [name for name, metric, _ in ratios if _includes_chance(record["tasks"][name], metric)]
    ends = f" (95 % interval {format_ends(ratio)})" if ratio.low < ratio.high else ""
    weakest = f" in {task}" + (f", the weakest of {len(ratios)} tasks" if len(ratios) > 1 else "")
    sentence = (
        f"Trained on synthetic videos alone, a model reaches {format_value(ratio)} times the {metric_label(metric)} of "
        f"one trained on real videos{weakest}{ends}."
    )
    test_set = format_count(patients, "real patient") if patients else "real patients"
    end = axis_end(max(1.1, *(ratio.high for _, _, ratio in ratios)))
    rows = [
        Row(name, ratio, EQUAL_TO_REAL, f"{metric_label(metric)}, synthetic over real", scale=(0.0, end))
        for name, metric, ratio in ratios
    ]
    numbers = {f"{name} {metric} ratio": asdict(ratio) for name, metric, ratio in ratios}
    state, label, limits = _verdict_state([ratio for _, _, ratio in ratios], chance_tasks)
    return Verdict(
        "Usefulness",
        state,
        label,
        "" if chance_tasks else format_value(ratio),
        "" if chance_tasks else "of real",
        "" if chance_tasks else sentence,
        [*limits, f"Both models were tested on the same {test_set}, not used for training or model selection.", *notes],
        rows,
        numbers=numbers,
    )


def _verdict_state(ratios: Sequence[Interval], chance_tasks: Sequence[str]) -> tuple[str, str, list[str]]:
    """State, label and limits of the verdict; ``chance_tasks``: tasks in which the real model is at chance level."""
    if chance_tasks:
        limit = (
            f"In {', '.join(chance_tasks)} the model trained on real videos is not better than chance on these test "
            "patients, so the ratio to this model has no meaning."
        )
        return "note", "Real training is at chance", [limit]
    intervals = [ratio for ratio in ratios if ratio.low < ratio.high]
    low, high = (min((getattr(ratio, end) for ratio in intervals), default=math.inf) for end in ("low", "high"))
    limits = []
    if len(intervals) < len(ratios):
        limits.append("A ratio has no interval: there are too few patients to estimate its uncertainty.")
    if low < GOOD_RATIO:
        limits.insert(0, f"The interval includes a loss of {format_percent(1 - low)}.")
        return "note", "Not settled" if high >= 1 else "Below real data", limits
    return ("note", "Too few patients to tell", limits) if limits else ("good", "At most a tenth is lost", [])


def _includes_chance(entry: Mapping[str, Any], metric: str) -> bool:
    """Whether the interval of the model trained on real videos includes chance level."""
    chance = next((value for start, value in CHANCE_LEVELS.items() if metric.lower().startswith(start)), None)
    real = parse_interval((entry.get("real") or {}).get(metric))
    return chance is not None and real is not None and real.low <= chance


def _synthetic_to_real_ratios(record: Mapping[str, Any]) -> list[tuple[str, str, Interval]]:
    """Task, main metric and ratio synthetic / real, for every task with a ratio."""
    rows = []
    for task, entry in record["tasks"].items():
        ratios = (entry.get("ratio") or {}).get("synthetic") or {}
        if (metric := _main_metric(ratios)) and (ratio := parse_interval(ratios[metric])) is not None:
            rows.append((str(task), metric, ratio))
    return rows


def _main_metric(metrics: Mapping[str, Any]) -> str | None:
    """Name of the main metric: AUC or R2 if measured, else the first metric."""
    known = [name for start in CHANCE_LEVELS for name in metrics if str(name).lower().startswith(start)]
    return next(iter([*known, *metrics]), None)


def build(context: PageContext) -> SectionContent:
    """Tables of all tasks of the utility record."""
    sources = context.sources
    measured = "utility" in sources.records
    overview, tables = (overview_tables(sources), _task_tables(sources)) if measured else ([], [])
    missing = {}
    if not tables:
        message = "Models trained on real and on synthetic videos have not been compared."
        missing["utility"] = sources.missing_record("utility", message)
    return SectionContent({"overview": overview, "tables": tables}, {"usefulness": tables}, missing_records=missing)


def overview_tables(sources: Sources) -> list[Table]:
    """Tables of the main metric of every task by training set, and of its ratio to training on real videos."""
    rows: list[Row] = []
    ratios: list[Row] = []
    notes: list[str] = []
    with sources.report_parse_errors("utility"):
        for task, entry in sources.records["utility"]["tasks"].items():
            metric = str(_main_metric(entry[next(key for key in TRAINING_SETS if key in entry)]))
            keys = [key for key in TRAINING_SETS if metric in entry.get(key, {})]
            metric_rows = _metric_rows(metric, entry, keys, f"{task}: {metric_label(metric)}, trained on ")
            meanings = {row.meaning for row in rows}
            rows += [replace(row, meaning="" if row.meaning in meanings else row.meaning) for row in metric_rows]
            notes += [f"{task}: {entry['note']}"] if entry.get("note") else []
            for key in ("synthetic", "both"):
                ratio = parse_interval(((entry.get("ratio") or {}).get(key) or {}).get(metric))
                if ratio is not None:
                    ratios.append(Row(f"{task}: {TRAINING_SETS[key]}, over real", ratio, EQUAL_TO_REAL, color=key))
    tables = [Table("On real test patients", ("Trained on", "Value", ""), rows, " ".join(notes))] if rows else []
    if ratios:
        end = axis_end(max(1.1, *(row.value.high for row in ratios)))
        ratios = [replace(row, scale=(0.0, end)) for row in ratios]
        title, columns = "Over a model trained on real videos", ("Trained on", "Ratio", "")
        tables.append(Table(title, columns, ratios, "1 is as good as real."))
    return tables


def _task_tables(sources: Sources) -> list[Table]:
    """One table of all metrics per task."""
    tables = []
    with sources.report_parse_errors("utility"):
        for task, entry in sources.records["utility"]["tasks"].items():
            keys = [key for key in TRAINING_SETS if isinstance(entry.get(key), Mapping)]
            metrics = list(dict.fromkeys(metric for key in keys for metric in entry[key]))
            main = _main_metric(dict.fromkeys(metrics, 0))
            rows: list[Row] = []
            for metric in sorted(metrics, key=lambda metric: metric != main):
                measured = [key for key in keys if metric in entry[key]]
                rows += _metric_rows(metric, entry, measured, f"{metric_label(metric)}, ")
            if rows:
                columns = ("Metric, and training set", "On real test patients", "")
                tables.append(Table(str(task), columns, rows))
    return tables


def _metric_rows(metric: str, entry: Mapping[str, Any], keys: Sequence[str], prefix: str) -> list[Row]:
    """One row of ``metric`` for each of the training sets ``keys``; the first row explains the metric."""
    values = {key: parse_interval(entry[key][metric]) for key in keys}
    ends = [end for value in values.values() if value for end in (value.low, value.high)]
    if not ends:
        return []
    scale = PROPORTION_AXIS if min(ends) >= 0 and max(ends) <= 1 else (min(0.0, *ends), axis_end(max(*ends, 1e-9)))
    return [
        Row(
            capitalized(prefix) + TRAINING_SETS[key],
            value,
            meaning=metric_meaning(metric) if key == keys[0] else "",
            scale=scale,
            color=key,
        )
        for key, value in values.items()
        if value is not None
    ]


SECTION = Section("usefulness", "Usefulness", build, verdict)
