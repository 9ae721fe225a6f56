import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Limits, Recording
from echodream.ingest.split import SplitRatios
from echodream.runs.summary import Summary
from echodream.stages.verify import verify
from echodream.store import Store, StoreError
from tests.support.fakes import Fake, flip, listing, noise, tree
from tests.support.ingesting import run_ingest


def run(dst: Path, source: Any, raw: Any = None, **changes: Any) -> Summary:
    defaults = {"limits": Limits(max_frames=50), "command": "python sample.py"}
    return run_ingest(dst, source, raw, **{**defaults, **changes})


def rejected(dst: Path) -> dict[str, tuple[str, str]]:
    """Content of rejected.csv: FileName -> (reason, whether the rejection counts)."""
    import csv

    with (dst / "rejected.csv").open(newline="") as file:
        return {row["FileName"]: (row["Reason"], row["Counted"]) for row in csv.DictReader(file)}


def test_every_recording_becomes_a_row_with_its_pixels(tmp_path: Path) -> None:
    summary = run(tmp_path / "store", Fake())
    assert summary.problem is None
    assert verify(src=str(tmp_path / "store"), command="", code_version="").problem is None
    store = Store(tmp_path / "store", kind="video")
    assert store.table["FileName"].tolist() == [f"rec-{index:03d}" for index in range(6)]
    assert store.table["PatientID"].tolist() == ["000", "000", "001", "001", "002", "002"]
    assert store.table["Extra"].tolist() == list(range(6))
    assert store.table["ED"].tolist() == ["0 11"] * 6
    assert store.table["EF"].tolist() == [50 + index / 7 for index in range(6)]
    assert store.table["RawSeconds"].tolist() == pytest.approx([12 / 25] * 6)
    for index in range(6):
        assert np.array_equal(store.frames(f"rec-{index:03d}"), noise(12, 20, 23, seed=index))


def test_the_summary_says_what_there_is(tmp_path: Path) -> None:
    text = str(run(tmp_path / "store", Fake(moods={"1": "rejected", "4": "rejected"}), max_rejected=0.5))
    for words in ("store done", "4, ", "2 x unreadable: no video stream: rec-001, rec-004", "a 2, c 2"):
        assert words in text


@pytest.mark.slow
def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    source = Fake(moods={"2": "rejected", "5": "black"})
    for workers in (0, 2):
        run(tmp_path / str(workers), source, workers=workers, max_rejected=0.5)
    assert tree(tmp_path / "0") == tree(tmp_path / "2")


@pytest.mark.slow
def test_what_goes_wrong_costs_one_recording_each(tmp_path: Path) -> None:
    moods = {"1": "rejected", "3": "abort", "5": "hang", "6": "memory", "7": "unlisted", "8": "readme"}
    summary = run(tmp_path / "store", Fake(10, moods=moods), workers=2, timeout=4.0, max_rejected=0.6)
    assert summary.problem is None
    assert rejected(tmp_path / "store") == {
        "rec-001": ("unreadable: no video stream", "true"),
        "rec-003": ("unreadable: the decoder crashed (exit code -6)", "true"),
        "rec-005": ("took longer than 4 s to read", "true"),
        "rec-006": ("too large: it needs more memory than a worker may use", "true"),
        "rec-007": ("no such file", "true"),
        "rec-008": ("not a recording: .txt", "false"),
    }
    assert Store(tmp_path / "store").table["FileName"].tolist() == ["rec-000", "rec-002", "rec-004", "rec-009"]


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("float", "unreadable: frames are float64"),
        ("flat", "unreadable: frames are uint8 (12, 20, 23)"),
        ("rgba", "unreadable: frames are uint8 (12, 20, 23, 4)"),
        ("times", "unreadable: the times of the frames"),
        ("late", "unreadable: the times of the frames"),
        ("nan", "unreadable: the times of the frames"),
        ("empty", "unreadable: the times of the frames"),
        ("black", "black: 100% of the frames"),
        ("huge", "too large: "),
    ],
)
def test_a_reader_that_gives_something_else_costs_one_recording(tmp_path: Path, mood: str, reason: str) -> None:
    settings = Preprocessing(fps=32, size=None)
    run(tmp_path / "store", Fake(4, moods={"2": mood}), max_rejected=0.5, prepare=settings)
    assert list(rejected(tmp_path / "store")) == ["rec-002"]
    assert rejected(tmp_path / "store")["rec-002"][0].startswith(reason)
    assert len(Store(tmp_path / "store")) == 3


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(min_frames=13), "too short: 12 frames"),
        (Limits(max_frames=11), "too long: 12 frames"),
        (Limits(min_side=21), "too small: 23x20"),
        (Limits(max_side=22), "too large: 23x20"),
        (Limits(max_bytes=5519), "too large: 5520 bytes"),
    ],
)
def test_limits_hold_whatever_the_reader_does(tmp_path: Path, limits: Limits, reason: str) -> None:
    summary = run(tmp_path / "store", Fake(2), limits=limits)
    assert summary.problem is not None
    assert reason in str(summary)
    assert listing(tmp_path) == ["store.partial"]


def test_limits_just_met_are_met(tmp_path: Path) -> None:
    assert run(tmp_path / "store", Fake(2), limits=Limits(12, 12, 20, 23, 5520)).problem is None


def test_a_recording_that_resampling_makes_too_short_is_left_out(tmp_path: Path) -> None:
    settings = Preprocessing(fps=2, size=None)
    summary = run(tmp_path / "store", Fake(2), prepare=settings)
    assert "too short: 1 frames at 2 fps" in str(summary)


def test_too_many_lost_recordings_leave_the_store_unfinished(tmp_path: Path) -> None:
    source = Fake(10, moods={"1": "rejected", "3": "unlisted", "4": "readme"})
    summary = run(tmp_path / "store", source, max_rejected=0.2)
    assert summary.problem is not None
    assert "2 of 9 recordings cannot be used, more than max_rejected=0.2" in summary.problem
    assert listing(tmp_path) == ["store.partial"]
    assert run(tmp_path / "store", source, max_rejected=2 / 9).problem is None
    assert listing(tmp_path) == ["store"]


def test_a_store_without_a_recording_is_not_finished(tmp_path: Path) -> None:
    summary = run(tmp_path / "store", Fake(2, moods={"0": "rejected", "1": "black"}), max_rejected=1.0)
    assert summary.problem is not None
    assert not (tmp_path / "store").exists()


def test_a_second_run_finds_nothing_to_do(tmp_path: Path) -> None:
    run(tmp_path / "store", Fake())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    summary = run(tmp_path / "store", Fake(), code_version="2", command="other words")
    assert "already complete, nothing to do" in summary.title
    assert summary.problem is None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"source": Fake(seed=5)}, "settings.source.seed"),
        ({"source": Fake(5)}, "settings.source.count"),
        ({"prepare": Preprocessing(fps=None, size=None, flip="vertical")}, "settings.prepare.flip"),
        ({"prepare": Preprocessing(fps=None, size=32)}, "height"),
        ({"split": SplitRatios(seed=3)}, "settings.split.seed"),
        ({"limits": Limits(max_frames=49)}, "settings.limits.max_frames"),
    ],
)
@pytest.mark.slow
def test_other_settings_need_another_destination(tmp_path: Path, changes: Mapping[str, Any], key: str) -> None:
    run(tmp_path / "store", Fake())
    arguments = {"source": Fake(), **changes}
    with pytest.raises(StoreError, match=rf"already exists with other settings \(({key}) was .*choose another dst="):
        run(tmp_path / "store", **arguments)


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("at", range(6))
def test_an_interrupted_run_goes_on_and_reads_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run(tmp_path / "whole", Fake())
    names: list[str] = []

    def read(self: Fake, recording: Recording, limits: Limits) -> Any:
        names.append(recording.name)
        if recording.name == f"rec-{at:03d}" and names.count(recording.name) == 1:
            raise Stop
        return original(self, recording, limits)

    original = Fake.read
    monkeypatch.setattr(Fake, "read", read)
    with pytest.raises(Stop):
        run(tmp_path / "store", Fake())
    summary = run(tmp_path / "store", Fake())
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")
    assert sorted(names) == sorted([*(f"rec-{index:03d}" for index in range(6)), f"rec-{at:03d}"])
    assert at == 0 or f"{at} recordings were already there" in summary.title


def test_a_file_that_was_damaged_while_the_run_was_down_is_made_again(tmp_path: Path) -> None:
    run(tmp_path / "whole", Fake())
    assert run(tmp_path / "store", Fake(moods={"5": "rejected"})).problem is not None
    for at in (0, 3):
        flip(tmp_path / f"store.partial/store/Videos/rec-{at:03d}.mkv")
    assert run(tmp_path / "store", Fake(moods={"5": "rejected"}), max_rejected=1.0).problem is None
    for name, content in tree(tmp_path / "store").items():
        assert not name.endswith("mkv") or content == tree(tmp_path / "whole")[name]


class Twice(Fake):
    def recordings(self, raw: Path | None) -> list[Recording]:
        listed = super().recordings(raw)
        return [*listed, replace(listed[0], name=listed[0].name.upper())]


class Leaving(Fake):
    def recordings(self, raw: Path | None) -> list[Recording]:
        return [replace(recording, name=f"../{recording.name}") for recording in super().recordings(raw)]


class Overwriting(Fake):
    def recordings(self, raw: Path | None) -> list[Recording]:
        columns = {"FileName": "../x", "Split": "NONE", "FPS": 7, "RawFrames": -1, "Note": "kept"}
        return [replace(recording, columns=columns) for recording in super().recordings(raw)]


def test_names_that_clash_or_leave_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two recordings are called 'REC-000'"):
        run(tmp_path / "store", Twice())
    with pytest.raises(UserError, match=r"FileName '\.\./rec-000' is not allowed"):
        run(tmp_path / "store", Leaving())
    assert listing(tmp_path) == []


def test_a_study_cannot_overwrite_the_columns_of_the_store(tmp_path: Path) -> None:
    run(tmp_path / "store", Overwriting(2))
    table = Store(tmp_path / "store").table
    assert table["FileName"].tolist() == ["rec-000", "rec-001"]
    assert table["FPS"].tolist() == [25.0, 25.0]
    assert table["RawFrames"].tolist() == [12, 12]
    assert table["Note"].tolist() == ["kept", "kept"]


def test_a_study_without_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no recording that can be read"):
        run(tmp_path / "store", Fake(0))
    with pytest.raises(UserError, match="the first of 2 files: no such file"):
        run(tmp_path / "store", Fake(2, moods={"0": "unlisted", "1": "readme"}))


def test_given_splits_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "store", Fake(split="TEST"))
    assert set(Store(tmp_path / "store").table["Split"]) == {"TEST"}


def test_verify_lists_what_is_wrong(tmp_path: Path) -> None:
    run(tmp_path / "store", Fake())
    flip(tmp_path / "store/Videos/rec-001.mkv")
    (tmp_path / "store/note").write_text("")
    summary = verify(src=str(tmp_path / "store"), command="", code_version="")
    assert summary.problem is not None
    assert summary.problem.endswith("(and 1 more, above)")
    assert "rec-001.mkv has changed" in str(summary)


def test_a_defect_in_a_reader_costs_one_recording_and_says_no_more_than_its_kind(tmp_path: Path) -> None:
    run(tmp_path / "store", Fake(4, moods={"2": "defect"}), workers=2, max_rejected=0.5)
    rejected = (tmp_path / "store" / "rejected.csv").read_text()
    assert "rec-002,unreadable: unexpected KeyError" in rejected
    assert "secret" not in rejected
    with pytest.raises(KeyError):
        run(tmp_path / "other", Fake(4, moods={"2": "defect"}), workers=0)


def test_a_full_disk_is_no_fault_of_the_recording(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "store", Fake(4, moods={"2": "full"}), workers=2, max_rejected=0.5)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": -1},
        {"workers": True},
        {"workers": "all"},
        {"workers": 1.5},
        {"max_rejected": 1.5},
        {"max_rejected": "few"},
        {"max_rejected": True},
        {"max_rejected": float("nan")},
        {"timeout": 0},
        {"timeout": "long"},
        {"timeout": None},
    ],
    ids=str,
)
def test_settings_are_refused_before_anything_is_listed(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} is .*: give "):
        run(tmp_path / "store", None, **wrong)
    assert listing(tmp_path) == []


def test_workers_do_not_import_torch() -> None:
    """Each worker process imports the module of the stage; an import of torch would take a second."""
    code = "import sys, echodream.stages.ingest, echodream.ingest.cardiacnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
