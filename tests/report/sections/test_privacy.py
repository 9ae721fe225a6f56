"""Section "Privacy": the audit's power is in a table, also of measures that find nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from echodream.report.sections import privacy
from echodream.report.sources import Sources

INTERVAL = {"value": 0.1, "low": 0.05, "high": 0.2}
COPIES = {"exact": {"about": "exact", "number": 10}}


def measure(name: str, power: dict[str, float | None] | None, **more: Any) -> dict[str, Any]:
    found = {"name": name, "about": "privacy", "means": "share", "harmless": "0", "details": {}, "stands_out": False}
    return {**found, "value": INTERVAL, "expected": INTERVAL, "power": power, **more}


def page_sources(folder: Path, record: dict[str, Any]) -> Sources:
    path = folder / "audit.json"
    path.write_text(json.dumps(record))
    sources = object.__new__(Sources)
    sources.__dict__.update(records={"audit_image": record}, paths={"audit_image": path})
    return sources


def tables(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    return {table.title: table for table in privacy.audit_tables(page_sources(folder, record), "audit_image")}


@pytest.mark.parametrize("with_power", [True, False])
def test_power_of_each_privacy_measure_is_shown_if_it_was_measured(tmp_path: Path, with_power: bool) -> None:
    measures = [
        measure("singled out", {"exact": 0.01, "redrawn": 0.1}),
        measure("blind", {"exact": None, "redrawn": None}),
        measure("found already", None, stands_out=True),
        measure("membership", None),
        measure("recall", None, about="quality"),
    ]
    found = tables(tmp_path, {"measures": measures, "power": {"copies": COPIES} if with_power else None})
    assert ("What can this audit find?" in found) == with_power
    assert len(found["Is information on patients leaked?"].rows) == 4
    if with_power:
        rows = {row.name: row for row in found["What can this audit find?"].rows}
        assert rows["Singled out"].value_text == "exact 1 %, redrawn 10 %"
        assert rows["Singled out"].value.value == 0.01
        assert rows["Blind"].value_text == "exact none, redrawn none"
        assert rows["Found already"].value_text == "stands out without copies"
        assert "not tested" in rows["Membership"].value_text
        assert len(rows) == 4
        assert "no power at 10 %" in found["What can this audit find?"].note


@pytest.mark.parametrize("differ", [True, False])
def test_the_page_says_if_training_and_new_patients_differ_by_themselves(tmp_path: Path, differ: bool) -> None:
    details = {"groups differ": differ, "control": {"value": 0.31, "low": 0.15, "high": 0.47}}
    record = {"measures": [measure("membership inference (lvdm), AUC", None, details=details), measure("recall", None)]}
    said = privacy._read_audit(page_sources(tmp_path, record), "audit_image")["difference"]
    assert ("differ by themselves" in said) == differ
    assert ("membership inference (lvdm), AUC: 0.31 [0.15, 0.47]" in said) == differ
