"""Ledger of filter decisions: a repeated decision counts once; decisions with other networks are counted apart."""

import json
from pathlib import Path

from echodream.filtering.ledger import AttemptCounts, LedgerEntry, register_decision


def entry(rule: float = 0.05, on: str = "image", **evidence: str) -> LedgerEntry:
    return LedgerEntry(
        {"real": "r", "reid": "a", "generator": "g", **evidence}, {"rule": {"alpha": rule}, "on": on}, on
    )


def test_equal_decisions_count_once_and_other_networks_apart(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"

    def count(one: LedgerEntry) -> AttemptCounts:
        return register_decision(folder, one, passed=True, code_version="1")

    assert count(entry()) == AttemptCounts(1, 0)
    assert count(entry(0.1)) == AttemptCounts(2, 0)
    assert count(entry()) == AttemptCounts(2, 0)
    assert count(entry(reid="b")) == AttemptCounts(1, 2)
    assert count(entry(generator="h")) == AttemptCounts(1, 3)
    assert count(entry()) == AttemptCounts(2, 2)
    assert count(entry(on="video", generator="v")) == AttemptCounts(1, 0)  # decisions on images do not count for videos
    assert count(entry(real="s")) == AttemptCounts(1, 0)
    assert len([*folder.iterdir()]) == 6


def test_an_entry_has_the_settings_and_is_kept_as_it_was(tmp_path: Path) -> None:
    register_decision(tmp_path, entry(), passed=False, code_version="1")
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    assert json.loads(before) == {
        "evidence": {"real": "r", "reid": "a", "generator": "g"},
        "decision": {"rule": {"alpha": 0.05}, "on": "image"},
        "on": "image",
        "passed": False,
        "code_version": "1",
    }
    register_decision(tmp_path, entry(), passed=False, code_version="2")
    assert path.read_bytes() == before


def test_a_file_that_is_no_entry_is_no_decision(tmp_path: Path) -> None:
    (tmp_path / "0123.json").write_text("[")
    (tmp_path / ".new-abc.json").write_text("{}")
    assert register_decision(tmp_path, entry(), passed=True, code_version="1") == AttemptCounts(1, 0)
