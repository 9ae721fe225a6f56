"""Synthetic-data card: each of the seven criteria has figures from records, or states what is not measured."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echodream.errors import UserError
from echodream.report.mismatches import find_mismatches
from echodream.report.seven_cs import QUESTIONS, SCHEMA_FILE, card_record, seven_cs
from echodream.report.sources import RECORD_FILES, Sources, load_sources
from tests.support.tiny_report import STATEMENT, study

jsonschema = pytest.importorskip("jsonschema")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


def sources_of(root: Path) -> Sources:
    reports, samples = root / "reports/phantom", root / "samples/phantom"
    folders = {"audit_image": "audit", "evaluation": "evaluation.json", "utility": "utility.json"}
    records = {name: str(reports / folders.get(name, name)) for name in RECORD_FILES}
    passed = {"image": str(samples / "private"), "video": str(samples / "private_videos")}
    stores = {"real": str(root / "data/phantom/videos"), "videos": str(samples / "videos")}
    return load_sources("phantom", False, stores, passed, records, {"samples": str(samples)})


def card_of(root: Path, **settings: Any) -> dict[str, Any]:
    """The criteria of card.json, after validation against the JSON schema."""
    sources = sources_of(root)
    record = card_record(seven_cs(sources, **settings), sources, "command", "1")
    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(record)
    criteria: dict[str, Any] = record["criteria"]
    return criteria


def figures(criterion: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in criterion["figures"]}


def test_each_figure_is_that_of_its_record(whole: Path) -> None:
    criteria = card_of(whole)
    assert list(criteria) == list(QUESTIONS)
    evaluation = json.loads((whole / "reports/phantom/evaluation.json").read_text())
    distance, recorded = figures(criteria["congruence"])["frechet[lite0]"], evaluation["videos"]["frechet[lite0]"]
    assert distance["value"] == {name: recorded[name] for name in ("value", "low", "high")}
    assert distance["reference"] == {name: recorded["floor"][name] for name in ("value", "low", "high")}
    assert (distance["source"], distance["warning"]) == ("evaluation", "Few videos.")
    constraint = figures(criteria["constraint"])
    assert constraint["Heart rate"]["value"] == {"value": 70.0, "low": 66.0, "high": 74.0}
    assert constraint["Class agreement"]["value"]["value"] == 0.94
    consistency = figures(criteria["consistency"])
    assert consistency["Class agreement, ASD"]["value"]["value"] == 0.94
    assert consistency["Seam ratio"]["value"]["value"] == 1.0
    assert consistency["Decisions of the filter on these patients"]["text"] == "1 decision"
    completeness = figures(criteria["completeness"])
    assert completeness["Videos"]["text"] == "8 sampled, 2 rejected by the filter, 6 kept"
    assert completeness["Recordings of the set"]["text"] == "6 recordings, 54 frames"
    assert completeness["Classes of training patients without a sample"]["text"] == "none"
    assert completeness["ASD: synthetic, over real"]["value"] == {"value": 0.9, "low": 0.8, "high": 0.97}
    compliance = figures(criteria["compliance"])
    assert compliance["Statement of the filter"]["text"] == STATEMENT
    bound = compliance["Probability that a copy under a declared transform passes the filter"]
    assert "at most 5\u00a0%, with confidence 95\u00a0%" in bound["text"]
    assert bound["meaning"] == "Only the transforms that the statement names; not differential privacy."
    assert "6 patients, 6 recordings" in figures(criteria["comprehension"])["Training patients"]["text"]


def test_what_does_not_exist_is_not_measured(whole: Path, tmp_path: Path) -> None:
    """Without reports, criteria have no figures from reports, and name the commands that measure these figures."""
    root = Path(shutil.copytree(whole, tmp_path / "study"))
    shutil.rmtree(root / "reports")
    criteria = card_of(root)
    assert {figure["source"] for each in criteria.values() for figure in each["figures"]} == {"store", "card"}
    for name in ("congruence", "coverage", "constraint", "consistency"):
        commands = [entry["command"] for entry in criteria[name]["not measured"]]
        assert "python sample.py stage=evaluate data=phantom" in commands, name
    said = " ".join(entry["what"] for each in criteria.values() for entry in each["not measured"])
    assert "Whether models learn a task from the set is not measured." in said
    assert "no guarantee covers it" in said
    assert "python sample.py stage=audit data=phantom on=video" in json.dumps(criteria["compliance"])


def test_every_criterion_says_what_is_not_measured_in_any_study(whole: Path) -> None:
    criteria = card_of(whole)
    said = {name: " ".join(entry["what"] for entry in each["not measured"]) for name, each in criteria.items()}
    assert "temporal log-spectral distance" in said["congruence"]
    assert "the controller decides" in said["compliance"]
    assert "readers" in said["comprehension"]
    assert "from another seed or another training" in said["consistency"]


def test_figures_of_another_set_are_left_out(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "study"))
    path = root / "reports/phantom/evaluation.json"
    record = json.loads(path.read_text())
    record["videos"]["store"] = {"sha256": "0" * 64}
    path.write_text(json.dumps(record))
    criteria = card_of(root)
    assert criteria["congruence"]["figures"] == []
    (entry,) = criteria["congruence"]["not measured"]
    assert "Fidelity was measured on other synthetic videos than those of this page" in entry["what"]


def test_figures_of_images_are_checked_against_the_store_of_images(whole: Path) -> None:
    sources = sources_of(whole)
    assert sources.synthetic is not None
    own, other = {"store": {"sha256": sources.synthetic.checksum}}, {"store": {"sha256": "0" * 64}}
    for record, part, expected in (
        ({"images": own, "videos": other}, "images", []),
        ({"images": other, "videos": own}, "images", ["evaluation"]),
        ({"images": other, "videos": own}, "videos", []),
        ({"images": own, "videos": other}, "videos", ["evaluation"]),
    ):
        found = dict(find_mismatches(replace(sources, records={"evaluation": record}), part))
        assert list(found) == expected
        assert all(f"other synthetic {part} than" in sentence for sentence in found.values())


def test_a_bound_by_canaries_of_other_patients_is_named(whole: Path) -> None:
    sources = replace(sources_of(whole), folders={"data": whole / "data/phantom"})
    assert sources.real is not None
    for real, expected in ((sources.real.checksum, []), ("0" * 64, ["canaries_image"])):
        found = dict(find_mismatches(replace(sources, records={"canaries_image": {"real": real}})))
        assert list(found) == expected
        assert all("on other patients than those of this page" in sentence for sentence in found.values())


def test_only_columns_that_readers_get_are_named(whole: Path) -> None:
    columns = ["FileName", "PatientID", "NumberOfFrames", "class_id"]
    text = json.dumps(card_of(whole, columns=columns))
    assert "FileName, PatientID, NumberOfFrames, class_id" in text
    assert "PrivacyScore" not in text
    assert "PrivacyScore" in json.dumps(card_of(whole))


def test_content_that_is_missing_is_counted(whole: Path, tmp_path: Path) -> None:
    """Planted gaps: a class without samples, empty cells, and a rejected sample."""
    root = Path(shutil.copytree(whole, tmp_path / "study"))
    store = root / "samples/phantom/videos"
    (store / "rejected.csv").write_text("FileName,Reason,Counted\nvideo-9,implausible,true\n")
    path = store / "FileList.csv"
    path.write_text(path.read_text().replace("Non-ASD,0.5", "ASD,").replace("Non-ASD", "ASD"))
    found = figures(card_of(root)["completeness"])
    assert found["Left out after the filter"]["text"] == "1"
    assert found["Classes of training patients without a sample"]["text"] == "Non-ASD"
    assert found["Empty cells"]["text"] == "PrivacyScore in 3 of 6"


def test_a_damaged_record_is_one_sentence(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "study"))
    (root / "reports/phantom/audit/audit.json").write_text('{"measures": [{"about": "privacy"}]}')
    with pytest.raises(UserError, match=r"audit\.json is not a valid record .*stage=audit data=phantom again"):
        card_of(root)


@pytest.mark.parametrize("change", ["criterion", "figure", "value", "source"])
def test_the_schema_refuses_other_content(whole: Path, change: str) -> None:
    sources = sources_of(whole)
    record = card_record(seven_cs(sources), sources, "command", "1")
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    broken = copy.deepcopy(record)
    if change == "criterion":
        del broken["criteria"]["coverage"]
    elif change == "figure":
        broken["criteria"]["compliance"]["figures"][0].pop("text")
    elif change == "value":
        broken["criteria"]["congruence"]["figures"][0]["value"]["value"] = "2"
    else:
        broken["criteria"]["compliance"]["figures"][0]["source"] = "rumor"
    assert validator.is_valid(record)
    assert not validator.is_valid(broken)
