"""An evaluation protocol is written, gives the same metrics when repeated, and refuses other settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from echodream.errors import UserError
from tests.support.evaluate_study import classifier, evaluate, study, write

__all__ = ["study"]


@pytest.fixture(scope="module")
def first(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Path of an evaluation protocol, and the metrics of the evaluation that wrote this protocol."""
    kept = tmp_path_factory.mktemp("kept") / "protocol.json"
    found, _ = evaluate(study, f"images={study}/images", "most=30", "seed=4", "neighbours=2")
    kept.write_text((study / "report" / "protocol.json").read_text())
    return kept, found


@pytest.mark.slow
def test_a_repeated_protocol_gives_the_same_metrics(study: Path, first: tuple[Path, dict[str, Any]]) -> None:
    protocol, before = first
    rules = ["most=30", "seed=4", "neighbours=2"]
    again, _ = evaluate(study, f"images={study}/images", *rules, f"protocol={protocol}")
    assert again == before
    assert before["protocol"]["count"] == {"images": 30, "videos": 18}
    assert before["protocol"]["extractors"]["classifier"]["clips"] == [{"frames": 4, "stride": 3, "start": "centre"}]
    facts = json.loads((study / "classifier" / "artifact.json").read_text())
    assert before["protocol"]["extractors"]["classifier"]["weights"] == facts["fingerprint"]


@pytest.mark.slow
def test_n_is_that_of_the_protocol(study: Path, first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    rules = json.loads(first[0].read_text())
    rules["count"] = {"videos": 11}
    (tmp_path / "p.json").write_text(json.dumps(rules))
    given = ["most=30", "seed=4", "neighbours=2", f"protocol={tmp_path}/p.json"]
    found, _ = evaluate(study, *given)
    assert found["videos"]["kernel[classifier]"]["count"] == 11
    assert found["protocol"]["count"] == {"videos": 11}
    with pytest.raises(UserError, match=r"p.json has no images: give images=null, or another protocol"):
        evaluate(study, f"images={study}/images", *given)


@pytest.mark.slow
def test_settings_that_differ_from_the_protocol_are_refused(
    study: Path, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write(tmp_path / "few", ["TRAIN"] * 4, 100, synthetic=True)
    write(tmp_path / "other", ["TRAIN"] * 4 + ["TEST"] * 3, 300)
    classifier(tmp_path / "classifier", frames=5)
    classifier(tmp_path / "spread" / "classifier", start="spread")
    (tmp_path / "broken.json").write_text('{"version": 2}')
    for name, change in (
        ("list", {"extractors": []}),
        ("number", {"extractors": {"a": 3}}),
        ("n", {"count": {"a": "x"}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({**json.loads(first[0].read_text()), **change}))
    rules = ["most=30", "seed=4", "neighbours=2", f"protocol={first[0]}"]
    for overrides, says in (
        (["seed=5"], r"has seed=4, here it is 5: give seed=4"),
        (["most=40"], r"has most=30, here it is 40: give most=30"),
        ([f"videos={tmp_path}/few"], r"has 18 videos in each set, but only 4 are available: generate more"),
        ([f"real={tmp_path}/other"], r"compares with other real recordings than real="),
        ([f"artifact={tmp_path}/classifier"], r"uses classifier with clips .*\"frames\": 4.*, here it is .*5"),
        ([f"extractors=[encoder:{study}/classifier,encoder:{study}/../study0/x]"], r"is not a readable classifier"),
        ([f"protocol={tmp_path}/absent.json"], r"absent.json cannot be read: give a protocol.json"),
        ([f"artifact={tmp_path}/spread/classifier"], r"uses classifier with clips .*\"centre\".*, here it is .*spread"),
        ([f"protocol={tmp_path}/broken.json"], r"broken.json is not a protocol of version 3"),
        ([f"protocol={tmp_path}/list.json"], r"list.json is not a protocol of version 3"),
        ([f"protocol={tmp_path}/number.json"], r"number.json is not a protocol of version 3"),
        ([f"protocol={tmp_path}/n.json"], r"n.json is not a protocol of version 3"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(study, *rules, *overrides)


@pytest.mark.slow
def test_other_extractors_than_in_the_protocol_are_refused(
    study: Path, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    classifier(tmp_path / "second")
    rules = ["most=30", "seed=4", "neighbours=2", f"protocol={first[0]}"]
    both = f"extractors=[encoder:{study}/classifier,encoder:{tmp_path}/second]"
    with pytest.raises(UserError, match=r"does not use the extractor second: remove second from extractors="):
        evaluate(study, *rules, both)
    with pytest.raises(UserError, match=r"uses the extractor classifier: add classifier and its file to extractors="):
        evaluate(study, *rules, f"extractors=[encoder:{tmp_path}/second]")


@pytest.mark.slow
def test_a_rerun_is_skipped_although_the_folder_has_other_files(study: Path, tmp_path: Path) -> None:
    notes = f"notes={tmp_path}/notes"
    evaluate(study, notes)
    (study / "report" / "utility.json").write_text("{}")
    assert "already complete, nothing to do" in evaluate(study, notes)[1]
    (study / "report" / "protocol.json").unlink()
    assert "already complete" not in evaluate(study, notes)[1]
    assert (study / "report" / "protocol.json").is_file()
