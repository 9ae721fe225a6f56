"""Section "Privacy" of the report: power of the audit, verdicts, and measures grouped by risk."""

import json
from pathlib import Path
from typing import Any

import pytest

from echodream.report.number_format import capitalized
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
        measure("training patients singled out", {"exact": 0.01, "redrawn": 0.1}),
        measure("blind", {"exact": None, "redrawn": None}),
        measure("found already", None, stands_out=True),
        measure("membership", None),
        measure("recall", None, about="quality"),
    ]
    found = tables(tmp_path, {"measures": measures, "power": {"copies": COPIES} if with_power else None})
    assert ("What can this audit find?" in found) == with_power
    assert [len(found[title].rows) for title in ("Singling out", "Inference: membership")] == [1, 1]
    assert len(found["Similarity to training patients"].rows) == 2
    if with_power:
        rows = {row.name: row for row in found["What can this audit find?"].rows}
        assert rows["Training patients singled out"].value_text == "exact 1 %, redrawn 10 %"
        assert rows["Training patients singled out"].value.value == 0.01
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


def test_the_verdict_says_how_often_two_networks_disagree() -> None:
    row = {"transform": "exact", "controls": 60, "passes": 0, "bound": 0.05}
    settings = {"alpha": 0.05, "beta": 0.05, "delta": 0.05}
    decision = {"rule": "calibrated", "passed": True, "statement": "s", "drawn": 50, "kept": 44, "tau": 0.9}
    decision |= {"settings": settings, "table": [row], "networks": 2}
    share = {"value": 0.1, "low": 0.03, "high": 0.22}
    votes = {"samples": 50, "by_all": 1, "by_some": 5, "share": share}
    for networks, expected in ((votes, 1), (None, 0)):
        notes = privacy._guarantee_verdict({"decision": decision | {"disagreement": networks}}, "image").notes
        assert sum("2 networks disagree on 5 of 50 samples" in note for note in notes) == expected


def test_the_verdict_has_the_bound_of_a_generator_with_canaries(tmp_path: Path) -> None:
    sources = page_sources(tmp_path, {})
    assert privacy.canary_statements(sources) == []
    sources.records["canaries_video"] = {"statement": "epsilon is at least 0.7"}  # type: ignore[index]
    assert privacy.canary_statements(sources) == ["epsilon is at least 0.7"]


def test_the_verdict_has_the_guarantee_of_the_generators_that_were_audited(tmp_path: Path) -> None:
    sources = page_sources(tmp_path, {"generator": "ab" * 32})
    sources.__dict__["folders"] = {}
    assert privacy.training_guarantees(sources) == []
    sources.__dict__["folders"] = {"models": tmp_path}
    budget = {"epsilon": 7.9, "delta": 1e-5, "accountant": "opacus 1.6.0 prv"}
    for name, fingerprint, record in (("lidm", "ab", budget), ("lvdm", "cd", budget)):
        path = tmp_path / name / "artifact.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"fingerprint": fingerprint * 32, "privacy": record}))
    (said,) = privacy.training_guarantees(sources)
    assert said.startswith(
        "The training of this lidm is differentially private for patients: epsilon 7.9 at delta 1e-05"
    )


def test_measures_are_grouped_by_risk_and_similarity_comes_last(tmp_path: Path) -> None:
    """The groups follow the order of risks in opinion WP 216; each measure is in exactly one group."""
    names = {
        "nearest in training (DCR)": "Similarity to training patients",
        "attribute disclosure, EF by latents": "Inference: attributes",
        "membership by the nearest sample, AUC by latents": "Inference: membership",
        "membership inference (lidm), AUC": "Inference: membership",
        "linkability, residual risk": "Linkability",
        "training patients singled out by latents": "Singling out",
        "a measure of tomorrow": "Similarity to training patients",
    }
    found = tables(tmp_path, {"measures": [measure(name, None) for name in names]})
    assert [*found] == [*privacy.RISKS]
    for name, title in names.items():
        assert [row.name for row in found[title].rows].count(capitalized(name)) == 1
        assert sum(row.name == capitalized(name) for table in found.values() for row in table.rows) == 1
    assert all(table.note for table in found.values())


def certificate(transform: str, passes: int, controls: int, bound: float) -> dict[str, Any]:
    return {"transform": transform, "passes": passes, "controls": controls, "bound": bound, "lower": 0.0} | {
        "rate": passes / controls if controls else None
    }


@pytest.mark.parametrize("copies", [40, 0])
def test_what_a_generator_memorizes_is_one_row_outside_of_the_guarantee(tmp_path: Path, copies: int) -> None:
    decision = {"table": [certificate("flip", 0, 120, 0.025)], "settings": {"beta": 0.05}, "reported": []}
    memoriser = {
        "settings": {"patients": 8},
        "table": [certificate("memorized copies", 1, copies, 0.12), certificate("half-memorized copies", 2, 10, 0.5)],
        "together": certificate("both", 3 if copies else 0, copies + 10 if copies else 0, 0.15),
    }
    record = {"decision": decision, "controls": {}, "memoriser": memoriser}
    sources = object.__new__(Sources)
    sources.__dict__.update(records={"filter_image": record}, paths={"filter_image": tmp_path / "filter.json"})
    found = {table.title: table for table in privacy.copy_tables(sources, "image")}
    assert len(found["Covered by the guarantee"].rows) == 1
    if not copies:  # no sample was classified as a copy
        assert "Not covered by the guarantee" not in found
        return
    (row,) = found["Not covered by the guarantee"].rows
    assert row.name == "Samples of a generator that memorizes 8 patients"
    assert (row.value_text, row.reference_text) == ("3 of 50", "15\u00a0%")
    assert row.meaning == "Memorized copies: 1 of 40 pass; half-memorized copies: 2 of 10 pass."
