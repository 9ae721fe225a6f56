"""Tests of stage=report: content of the page, omissions of a shared page, and results reported as missing."""

import base64
import io
import json
import os
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from echodream.config.paths import CONF_DIR
from echodream.errors import UserError
from echodream.report import build, clips
from echodream.report.sources import Sources
from echodream.runs.instantiate_stage import stage_call
from echodream.runs.redaction import redact_absolute_paths
from echodream.stages.report import _refuse_patient_names
from echodream.store import Store
from tests.support.tiny_report import STATEMENT, records, run, study, synthetic_stores, texture

PAGE = "reports/phantom/index.html"
SHARED = "reports/phantom/share/index.html"
WRITTEN = ("card.json", "card.schema.json", "index.html", "metrics.json")
"""Files that stage=report writes, in alphabetical order."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    """A copy of the study that a test may change."""
    shutil.copytree(whole, tmp_path / "study", ignore=shutil.ignore_patterns("share", *WRITTEN))
    return tmp_path / "study"


def page(root: Path, *overrides: str, path: str = PAGE) -> str:
    run(root, *overrides)
    return (root / path).read_text("utf-8")


def words(html: str) -> str:
    """The visible text of the page, with single spaces."""
    parts: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            parts.append(data)

    Reader().feed(re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL))
    return re.sub(r"\s+", " ", " ".join(parts))


def videos_of(html: str) -> list[np.ndarray]:
    """All videos of a page, decoded: gray (F, H, W)."""
    found = []
    for text in re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", html):
        with av.open(io.BytesIO(base64.b64decode(text))) as container:
            found.append(np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]))
    return found


def likest(frame: np.ndarray, frames: np.ndarray) -> float:
    """The highest correlation of ``frame``, (H, W), with any of ``frames``, (N, H, W)."""
    one, others = (x.reshape(len(x), -1).astype(float) for x in (frame[None], frames))
    one, others = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (one, others))
    return float((others @ one[0] / one.shape[1]).max())


def all_frames(store: Store) -> np.ndarray:
    return np.concatenate([store.frames(name)[..., 0] for name in store.table["FileName"]])


def holds_real(root: Path, html: str) -> list[bool]:
    """For each video of the page, whether any frame shows a real patient."""
    real = all_frames(Store(root / "data/phantom/videos"))
    return [max(likest(frame, real) for frame in clip) > 0.9 for clip in videos_of(html)]


@pytest.mark.slow
def test_private_page_shows_real_and_synthetic_videos_and_nearest_patients(whole: Path) -> None:
    html = page(whole)
    shown = holds_real(whole, html)
    assert len(shown) == 2 * (2 + 3) + 2 * 6  # 2 classes with 2 real and 3 synthetic videos; 6 pairs
    assert sum(shown) == 2 * 2 + 6
    text = words(html)
    assert "Private." in text
    assert "Doe-005q, frame 5" in text  # nearest frame of the passed sample with the highest score
    assert "Similarity 0.65 . 2 of 4 new patients are at least as similar" in text
    assert "Doe-001q, frame 2" not in text  # nearest frame of a rejected sample


def test_shared_page_has_no_frame_and_no_name_of_a_patient(whole: Path) -> None:
    html = page(whole, "share=true", path=SHARED)
    shown = holds_real(whole, html)
    assert len(shown) == 6
    assert not any(shown)
    synthetic = all_frames(Store(whole / "samples/phantom/videos"))
    assert all(likest(clip[0], synthetic) > 0.9 for clip in videos_of(html))  # correlation detects shown frames
    both = html + "".join((whole / SHARED).with_name(name).read_text() for name in ("metrics.json", "card.json"))
    for row in Store(whole / "data/phantom/videos").table.to_dict("records"):
        assert row["FileName"] not in both
        assert row["PatientID"] not in both
    assert "Private." not in words(html)
    assert "For sharing." in words(html)
    assert STATEMENT in words(html)
    assert sorted(path.name for path in (whole / SHARED).parent.iterdir()) == [*WRITTEN]


def test_real_frames_in_a_shared_page_are_detected(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted error: the shared page selects videos as a private page does, including videos of real patients."""

    def choose_for_private_page(sources: Sources, settings: clips.ClipSettings) -> clips.PageClips:
        return clips.choose_clips(replace(sources, share=False), settings)

    monkeypatch.setattr(build, "choose_clips", choose_for_private_page)
    with pytest.raises(UserError, match="would contain"):  # the captions contain names of patients
        run(mine, "share=true")
    html = page(mine, "share=true", "look.pairs=0", path=SHARED)
    assert sum(holds_real(mine, html)) == 4


def test_shared_page_with_a_patient_name_is_refused(mine: Path) -> None:
    shutil.rmtree(mine / "samples")
    synthetic_stores(mine / "samples/phantom", command="python sample.py stage=decode labels=of/Doe-003q.csv")
    run(mine)
    with pytest.raises(UserError, match=r"would contain .Doe-003q.*no page was written"):
        run(mine, "share=true")
    assert not (mine / SHARED).parent.exists()


def test_shared_page_has_no_absolute_paths(mine: Path) -> None:
    shutil.rmtree(mine / "samples")
    synthetic_stores(
        mine / "samples/phantom", command="python sample.py stage=decode src=/ward/DOE_JANE/x dst=samples/a/b"
    )
    assert "/ward/DOE_JANE" in page(mine)
    shared = page(mine, "share=true", path=SHARED)
    assert "DOE_JANE" not in shared
    assert "src=... dst=samples/a/b" in shared


@pytest.mark.slow
@pytest.mark.parametrize("passed", [True, False])
def test_only_samples_that_passed_the_filter_are_shared(mine: Path, passed: bool) -> None:
    """Videos that were not filtered, or whose filter decision failed, cannot be shown on a shared page."""
    other = mine / "other"
    synthetic_stores(other, count=4, passed=passed)
    if passed:
        shutil.rmtree(other / "private_videos")
    else:
        shutil.rmtree(mine / "samples")
        (mine / "samples").mkdir()
        shutil.copytree(other, mine / "samples/phantom")
    videos = f"videos={other}/videos"
    with pytest.raises(UserError, match=r"was not made from samples that passed the filter"):
        run(mine, "share=true", videos)
    text = words(page(mine, videos))
    assert "Not for these videos" in text
    assert "The videos on this page are not those that passed the filter" in text
    assert "of copies pass" not in text


def test_a_shared_page_needs_the_study_to_check_against(mine: Path) -> None:
    shutil.rmtree(mine / "data")
    with pytest.raises(UserError, match="share=true needs real="):
        run(mine, "share=true")
    assert "There are no real videos for comparison" in words(page(mine))


def test_verdict_has_the_numbers_of_the_records(whole: Path) -> None:
    text = words(page(whole))
    assert "Guarantee holds ≤ 5 % of copies pass" in text
    assert STATEMENT in text
    assert "made in any of 2 declared ways, passes the filter" in text  # "weakest of all" is not counted
    assert "Stated with 95 % confidence, from copies of 120 training patients." in text
    assert "reaches 0.90 times the AUC of one trained on real videos in ASD (95 % interval 0.80 to 0.97)" in text
    assert "Below real data" in text
    assert "Synthetic videos are 2.0 times as far from real test patients" in text
    assert "by frechet[lite0]: 2.00 (1.50 to 2.50) against 1.00 (0.80 to 1.20)." in text
    assert "Visibly different" in text
    assert "Few videos." in text
    assert (
        "predicts the requested class for 94 % of synthetic videos, and their true class for 100 % of real ones" in text
    )
    assert "Seam ratio Change where generated windows join" in text
    assert "99 of 120 88 %" in text
    numbers = json.loads((whole / "reports/phantom/metrics.json").read_text())
    assert numbers["verdict"]["privacy"]["beta"] == 0.05
    assert numbers["verdict"]["usefulness"]["ASD auc ratio"] == {"value": 0.9, "low": 0.8, "high": 0.97}
    assert [row["name"] for row in numbers["tables"]["fidelity"]["Likeness of videos"]] == ["kernel[classifier]"]
    (distance,) = numbers["tables"]["fidelity"]["Distance of videos"]
    assert distance["value"] == {"value": 2.0, "low": 1.5, "high": 2.5}
    assert numbers["funnel"] == {"videos": {"drawn": 8, "rejected": 2, "kept": 6}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tries": 2}, "Stated with 90 % confidence (95 % for each of 2 decisions)"),
        ({"tries": 1, "frames": 4, "frames_per_sample": 64}, "The filter compares 4 of the 64 frames of each video."),
        (
            {"tries": 1, "copies": {"samples": 6, "rejected": 2, "expected": 0.158, "bound": 1}},
            "Of the 6 samples that passed, at most 0.16 are expected to be such copies; "
            "with 95 % confidence, at most 1",
        ),
        (
            {"passed": False, "statement": "Nothing may pass: too few."},
            "No sample passed Nothing may pass: too few.",
        ),
        ({"rule": "percentile", "statement": "No guarantee: so it is."}, "No guarantee No guarantee: so it is."),
    ],
)
def test_verdict_of_weaker_decisions(mine: Path, changed: dict[str, Any], said: str) -> None:
    shutil.rmtree(mine / "reports")
    records(mine / "reports/phantom", **changed)
    text = words(page(mine))
    assert said in text
    assert ("Guarantee holds" in text) == ("tries" in changed)


@pytest.mark.slow
def test_a_measure_that_stands_out_is_part_of_the_verdict(mine: Path) -> None:
    path = mine / "reports/phantom/audit/audit.json"
    record = json.loads(path.read_text())
    assert "none of 1 privacy measures stands out. This proves nothing." in words(page(mine))
    record["measures"][0]["stands_out"] = True
    record["not measured"] = {"membership inference": "too few patients"}
    path.write_text(json.dumps(record))
    text = words(page(mine))
    assert "Guarantee holds; the audit has a finding" in text
    assert "Not measured. membership inference: too few patients" in text
    assert "1 of 1 privacy measures stands out: authenticity 0.10 (0.05 to 0.20)" in text


@pytest.mark.slow
def test_missing_records_are_shown_with_their_commands(mine: Path) -> None:
    shutil.rmtree(mine / "reports")
    html = page(mine)
    for stage in ("filter", "audit", "utility", "evaluate"):
        assert f"python sample.py stage={stage} data=phantom" in html
    assert "<tbody" not in html.split('id="card"')[0]  # no empty table above the card
    assert not re.search(r"<tbody[^>]*>\s*</tbody>", html)
    shutil.rmtree(mine / "samples")
    shutil.rmtree(mine / "reports")
    with pytest.raises(UserError, match="there is nothing to report"):
        run(mine, "videos=null")
    with pytest.raises(UserError, match="there is nothing to report"):
        run(mine, "real=null")
    records(mine / "reports/phantom")
    assert "python sample.py stage=decode data=phantom" in page(mine)


def test_a_page_before_the_synthetic_videos_says_what_is_not_yet_made(mine: Path) -> None:
    """The early page has real videos and the newest training pictures, and does not change the final page."""
    final = page(mine).encode()
    for folder in ("samples", "reports"):
        (mine / folder).rename(mine / f"{folder}_final")
    red, blue = (Image.new("RGB", (30, 20), color) for color in ("red", "blue"))
    for run_folder, image in (("2026-01-02", red), ("2026-01-01", blue)):
        pictures = mine / "runs/phantom/vae" / run_folder / "pictures"
        pictures.mkdir(parents=True)
        image.save(pictures / "reconstruction_00004.png")
    os.utime(mine / "runs/phantom/vae/2026-01-01/pictures/reconstruction_00004.png", (2e9, 2e9))
    html = page(mine, "early=true")
    text = words(html)
    assert "This page is not complete." in text
    for part in ("Autoencoder", "Sampled images", "Privacy filter of the images", "Comparison with real patients"):
        assert re.search(rf"{part} not yet made", text), part
    assert "Recordings of the patients made: 10 recordings" in text
    assert holds_real(mine, html) == [True] * 4
    (picture,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).getpixel((0, 0)) == (0, 0, 255)
    made = json.loads((mine / PAGE).with_name("metrics.json").read_text())["progress"]["parts"]
    assert [name for name, state in made.items() if state == "made"] == ["Recordings of the patients"]
    shared = page(mine, "share=true", path=SHARED)
    assert not videos_of(shared)
    assert "image/png" not in shared
    (mine / "samples_final").rename(mine / "samples")
    for path in (mine / "reports_final").rglob("*"):
        target = mine / "reports" / path.relative_to(mine / "reports_final")
        if path.is_file() and path.name not in WRITTEN:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert "nothing to do" in run(mine, "early=true").title
    assert "This page is not complete." in (mine / PAGE).read_text()
    assert page(mine).encode() == final


def test_the_synthetic_data_card_is_on_the_page_and_a_file(whole: Path) -> None:
    text = words(page(whole))
    for name in ("Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency"):
        assert f" {name} " in text
    card = json.loads((whole / PAGE).with_name("card.json").read_text())
    for criterion in card["criteria"].values():
        assert criterion["question"] in text
        for figure in criterion["figures"]:
            assert f"{figure['name']} " in text
            assert re.sub(r"\s+", " ", figure["text"]) in text
        for entry in criterion["not measured"]:
            assert entry["what"] in text
    assert card["command"] == json.loads((whole / PAGE).with_name("metrics.json").read_text())["command"]


def test_evaluation_of_other_videos_gives_a_notice(mine: Path) -> None:
    path = mine / "reports/phantom/evaluation.json"
    record = json.loads(path.read_text())
    record["videos"]["store"] = {"sha256": "0" * 64}
    path.write_text(json.dumps(record))
    assert "Fidelity was measured on other synthetic videos than those of this page" in words(page(mine))


def test_names_from_tables_are_escaped(mine: Path) -> None:
    path = mine / "reports/phantom/utility.json"
    path.write_text(path.read_text().replace('"ASD"', '"<script>alert(1)</script>"'))
    html = page(mine)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.slow
def test_same_inputs_give_same_bytes_and_a_rerun_does_nothing(mine: Path) -> None:
    notes = f"notes={mine}/notes"
    run(mine, notes)
    before = {path.name: path.read_bytes() for path in (mine / "reports/phantom").glob("*.*")}
    assert "already complete, nothing to do" in run(mine, notes).title
    run(mine)
    assert {path.name: path.read_bytes() for path in (mine / "reports/phantom").glob("*.*")} == before
    assert set(before) == {*WRITTEN, "evaluation.json", "utility.json"}
    path = mine / "reports/phantom/utility.json"
    path.write_text(path.read_text().replace("0.97", "0.98"))
    assert "done" in run(mine, notes).title
    assert "0.80 to 0.98" in words((mine / PAGE).read_text("utf-8"))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("evaluation.json", "[1]", "evaluation.json is not a JSON object"),
        ("utility.json", "{", "utility.json is not a JSON object"),
        ("utility.json", '{"tasks": {"ASD": {"ratio": {"synthetic": {"auc": "high"}}}}}', "stage=utility data=phantom"),
        (
            "filter_video/filter.json",
            '{"decision": {"rule": "calibrated"}}',
            "filter.json is not a valid record",
        ),
        ("filter_video/scores.csv", "", "scores.csv cannot be read"),
        ("index.html", "<p>mine</p>", "index.html exists and is not a report"),
    ],
)
def test_unreadable_files_are_refused(mine: Path, file: str, content: str, says: str) -> None:
    (mine / "reports/phantom" / file).write_text(content)
    with pytest.raises(UserError, match=re.escape(says)):
        run(mine)
    assert not list((mine / "reports/phantom").glob(".new-*"))


@pytest.mark.parametrize(
    "wrong", ["look.per_class=-1", "look.pairs=1.5", "look.seconds=0", "look.seed=-1", "look.seed=abc", "share=maybe"]
)
def test_impossible_settings_are_refused(whole: Path, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong.split("=")[0].removeprefix("look.")):
        run(whole, wrong)


def test_real_and_synthetic_stores_cannot_be_exchanged(whole: Path) -> None:
    with pytest.raises(UserError, match="is not synthetic"):
        run(whole, f"videos={whole}/data/phantom/videos")
    with pytest.raises(UserError, match="is synthetic: give the recordings of patients"):
        run(whole, f"real={whole}/samples/phantom/videos")


@pytest.mark.slow
def test_a_page_that_would_be_too_large_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MAX_BYTES", 20_000)
    with pytest.raises(UserError, match="do not fit"):
        run(whole)


def test_textures_can_be_told_apart() -> None:
    """Frames of different patients have a low correlation; the tests of shared pages rely on this."""
    frames = np.concatenate([texture(k, 3)[..., 0] for k in (*range(10), *range(1000, 1006))])
    for place in range(0, len(frames), 3):
        others = np.delete(frames, slice(place, place + 3), axis=0)
        assert likest(frames[place], others) < 0.7


def change(path: Path, *places: tuple[Any, ...]) -> None:
    """Set values in the JSON file ``path``; each of ``places`` is a sequence of keys and the new value."""
    record = json.loads(path.read_text())
    for *keys, last, value in places:
        node = record
        for key in keys:
            node = node.setdefault(key, {})
        node[last] = value
    path.write_text(json.dumps(record))


def usefulness(root: Path, ratio: tuple[float, float, float], real: tuple[float, float, float]) -> str:
    one, other = (dict(zip(("value", "low", "high"), found, strict=True)) for found in (ratio, real))
    task = ("tasks", "ASD")
    change(
        root / "reports/phantom/utility.json", (*task, "ratio", "synthetic", "auc", one), (*task, "real", "auc", other)
    )
    return words(page(root)).split("Usefulness")[2].split("Fidelity")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "real", "said"),
    [
        ((0.97, 0.92, 1.01), (0.9, 0.8, 1.0), "At most a tenth is lost"),
        ((1.0, 1.0, 1.0), (1.0, 0.54, 1.0), "Too few patients to tell"),
        ((0.0, 0.0, 0.0), (0.88, 0.88, 0.88), "Too few patients to tell"),
        ((0.95, 0.6, 1.2), (0.9, 0.8, 1.0), "Not settled"),
        ((0.99, 0.95, 1.02), (0.55, 0.4, 0.7), "Real training is at chance"),
    ],
)
def test_usefulness_verdict_follows_the_interval(
    mine: Path, ratio: tuple[float, float, float], real: tuple[float, float, float], said: str
) -> None:
    text = usefulness(mine, ratio, real)
    assert said in text
    assert ("The interval includes a loss of 40 %" in text) == (ratio[1] == 0.6)


def test_weakest_task_has_the_lowest_lower_end(mine: Path) -> None:
    wide = {"real": {"auc": 0.9}, "ratio": {"synthetic": {"auc": {"value": 0.99, "low": 0.5, "high": 1.4}}}}
    change(mine / "reports/phantom/utility.json", ("tasks", "PAH", wide))
    narrow = usefulness(mine, (0.95, 0.93, 1.0), (0.9, 0.8, 1.0))
    assert "At most a tenth" not in narrow
    assert "in PAH, the weakest of 2 tasks" in narrow


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [
        (1.4, None, "Close to real"),
        (2.9, [2.8, 3.4], "Visibly different"),
        (3.1, [3.05, 3.2], "Not usable as images"),
        (3.5, [1.2, 5.0], "Not settled: close to real or not usable as images"),
    ],
)
def test_fidelity_verdict_is_the_grade_of_the_worst_judged_distance(
    mine: Path, value: float, spread: list[float] | None, said: str
) -> None:
    """If the grade depends on the random subset of the samples, no grade is printed as the verdict."""
    floor = {"floor": {"value": 1.0, "low": 0.8, "high": 1.2}, "warning": None}
    far, near = {"value": 9.0, "low": 8.0, "high": 10.0, **floor}, {"value": 1.0, "low": 0.9, "high": 1.1, **floor}
    judged = {"value": value, "low": value, "high": value, **floor} | ({} if spread is None else {"spread": spread})
    path = mine / "reports/phantom/evaluation.json"
    change(path, ("videos", {"frechet[classifier]": far, "frechet[lite0]": near}), ("images", {"FID": far}))
    change(path, ("videos", "temporal log-spectral distance", judged))
    text = words(page(mine))
    assert said in text
    assert ("The verdict differs between random subsets of the samples" in text) == (spread == [1.2, 5.0])
    assert ("The certified samples are not usable as images" in text) == (said == "Not usable as images")
    if said != "Close to real":
        assert f"Synthetic videos are {value} times as far" in text


@pytest.mark.slow
def test_a_distance_by_the_classifier_alone_gives_no_verdict(mine: Path) -> None:
    """A distance by classifier features ignores details that the classifier does not need, such as speckle."""
    path = mine / "reports/phantom/evaluation.json"
    near = {"value": 1.0, "low": 0.9, "high": 1.1, "floor": {"value": 1.0, "low": 0.8, "high": 1.2}, "warning": None}
    change(path, ("videos", {"frechet[classifier]": near}))
    assert "add lite0, spectrum, temporal_spectrum to extractors=" in words(page(mine))


@pytest.mark.slow
def test_filter_record_of_another_run_gives_no_guarantee(mine: Path) -> None:
    shutil.rmtree(mine / "samples")
    synthetic_stores(mine / "samples/phantom", reid="a" * 64)
    record = mine / "reports/phantom/filter_video/filter.json"
    change(record, ("reid", "a" * 64))
    assert "Guarantee holds" in words(page(mine))
    change(record, ("reid", "b" * 64))
    assert "Not for these videos" in words(page(mine))
    with pytest.raises(UserError, match="was not made from samples that passed the filter"):
        run(mine, "share=true")


@pytest.mark.slow
def test_every_record_of_another_store_gives_a_notice(mine: Path) -> None:
    reports, other = mine / "reports/phantom", "0" * 64
    assert "than those of this page" not in words(page(mine))
    models = {"synthetic": [{"stores": {"synthetic": other}}]}
    change(reports / "utility.json", ("protocol", {"real": other, "models": models}))
    (reports / "audit").rename(reports / "audit_video")
    change(reports / "audit_video/audit.json", ("source", other), ("real", other))
    change(reports / "filter_video/filter.json", ("real", other))
    text = words(page(mine))
    for said in (
        "Usefulness was measured on other real recordings",
        "Usefulness was measured on other synthetic videos",
        "The audit of videos was made on other samples",
        "The audit of videos was made on other patients",
        "The filter of videos was run on other patients",
    ):
        assert f"{said} than those of this page: run python sample.py stage=" in text


@pytest.mark.slow
def test_page_is_not_written_into_a_store_or_over_a_shared_page(mine: Path) -> None:
    store = mine / "samples/phantom/videos"
    for folder in (store, store / "page"):
        with pytest.raises(UserError, match="lies in the store"):
            run(mine, f"dst={folder}")
    page(mine, "share=true", path=SHARED)
    with pytest.raises(UserError, match="is a shared page, and a private page would replace it"):
        run(mine, f"dst={(mine / SHARED).parent}")


def test_path_with_spaces_is_redacted_completely() -> None:
    shown = redact_absolute_paths("python sample.py src=/ward/Jane Doe/x y share=true dst=~/Jane Doe")
    assert shown == "python sample.py src=... share=true dst=..."
    assert redact_absolute_paths("a: /ward/Jane Doe/x\nb: data/x\nc: [/a b/c, 3]") == "a: ...\nb: data/x\nc: [..., 3]"


@pytest.mark.parametrize(("name", "found"), [("10032725", True), ("O'Doe&1", True), ("2024", False)])
def test_patient_names_are_found_in_escaped_text(mine: Path, name: str, found: bool) -> None:
    table = pd.DataFrame({"PatientID": [name], "FileName": ["rec"]})
    sources: Any = SimpleNamespace(real=SimpleNamespace(table=table, root=mine))
    text = f"<b>{escape(name)}</b> 0.{name}"
    with pytest.raises(UserError, match="would contain") if found else nullcontext():
        _refuse_patient_names(sources, text)
    if name.isdigit():
        _refuse_patient_names(sources, f"0.{name} {name}9")


def test_task_without_numbers_and_pair_without_new_patients(mine: Path) -> None:
    change(mine / "reports/phantom/utility.json", ("tasks", "PAH", {"real": {"auc": {"value": None}}}))
    path = mine / "reports/phantom/filter_video/scores.csv"
    path.write_text(path.read_text().replace(",0.6,", ",,"))
    assert "new patients are at least as similar" not in words(page(mine))


def test_evaluate_writes_a_shared_page_to_its_own_folder() -> None:
    for share, folder in (("true", "some/where/share"), ("false", "some/where")):
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("sample", ["stage=evaluate", "data=phantom", "dst=some/where", f"share={share}"])
        assert (stage_call(cfg, "then").dst, stage_call(cfg).dst) == (Path(folder), Path("some/where"))
