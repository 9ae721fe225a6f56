"""Figures of test patients: as they are written, and of labels as a table that is read."""

import math
from collections.abc import Mapping
from typing import Any

Tested = Mapping[str, Any]
"""``figures``, each with value, low and high, NaN where there is none; how many ``recordings`` and ``patients``; and of
labels how many are positive and negative (``goals.Shares.counts``)."""


def plain(tested: Tested) -> dict[str, Any]:
    """For json, which has no NaN: null where there is no value."""
    figures = {
        name: {key: value if math.isfinite(value) else None for key, value in figure.items()}
        for name, figure in tested["figures"].items()
    }
    return {"figures": figures, **{k: tested[k] for k in ("recordings", "patients", "labels") if k in tested}}


def label_table(tested: Tested, versions: Mapping[str, Tested]) -> str:
    """A line for each label, of the originals and of each set of their versions."""
    lines = []
    for name, each in {"": tested, **versions}.items():
        what = f"images in {name}, versions of originals" if name else "original images"
        lines.append(f"  tested on {each['recordings']} {what}, of {each['patients']} TEST patients (95 % intervals)")
        lines += [f"    {label:<{_width(each)}}  {_line(label, each)}" for label in each["labels"]]
        lines.append(f"    {'mean':<{_width(each)}}  {_figures('', each)}")
    return "\n".join(lines)


def _width(tested: Tested) -> int:
    return max(map(len, [*tested["labels"], "mean"]))


def _line(label: str, tested: Tested) -> str:
    has = tested["labels"][label]
    if not has["positive"] or not has["negative"]:
        return f"not scored: {has['positive']} images say yes and {has['negative']} no, and both kinds are needed"
    of = f"{has['positive']} of {has['positive'] + has['negative']} images, {has['patients_positive']} patients"
    return f"{_figures(f'_{label}', tested)}  yes: {of}"


def _figures(which: str, tested: Tested) -> str:
    shown = {"AUC": "auc", "average precision": "average_precision"}
    return "  ".join(f"{name} {_text(tested['figures'][key + which])}" for name, key in shown.items())


def _text(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
