"""Fingerprint of a study: exact counts, and one warning for each problem in the test data, without other warnings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from echodream.errors import Rejected, UserError
from echodream.ingest.source import Limits, PatientEvidence, Recording, Video
from echodream.ingest.split import SplitRatios
from echodream.planning.fingerprint import Fingerprint, fingerprint_raw, fingerprint_store
from tests.support.stores import make_video_store, study


def table(**changes: Any) -> pd.DataFrame:
    """Table of 24 patients in two classes, with two recordings each and the splits TRAIN, VAL and TEST."""
    rows = [
        {
            "FileName": f"r{patient}-{number}",
            "PatientID": f"secret{patient}",
            "Split": ("TRAIN", "TRAIN", "VAL", "TEST")[patient // 2 % 4],
            "class_name": ("sick", "well")[patient % 2],
            "class_id": patient % 2,
            "NumberOfFrames": 60 + patient,
            "FPS": 30.0,
            "FrameHeight": 64,
            "FrameWidth": 48,
        }
        for patient in range(24)
        for number in range(2)
    ]
    return pd.DataFrame(rows).assign(**changes)


SIZES = [(100, 120), (120, 144)]


def test_counts_are_exact_and_name_no_patient() -> None:
    content = Fingerprint(table(), [30.0], SIZES).as_json()
    assert content == {
        "recordings": 48,
        "patients": {"TRAIN": 12, "VAL": 6, "TEST": 6},
        "patients by class": {
            "sick": {"TRAIN": 6, "VAL": 3, "TEST": 3},
            "well": {"TRAIN": 6, "VAL": 3, "TEST": 3},
        },
        "recordings per patient": [2.0, 2.0, 2.0],
        "frames": [60.0, 71.5, 83.0],
        "frames per second": [30.0],
        "sizes": ["120x100", "144x120"],
        "sizes after preprocessing": ["48x64"],
    }


def test_nothing_is_unwise_about_a_plain_study() -> None:
    assert Fingerprint(table(), [30.0, 31.0], SIZES).problems(clip=60) == []


def rare(given: pd.DataFrame) -> pd.DataFrame:
    few = given["PatientID"].isin([f"secret{patient}" for patient in range(0, 18, 2)])
    return given.assign(class_name=given["class_name"].where(~few, "rare"))


def absent(given: pd.DataFrame) -> pd.DataFrame:
    moved = (given["class_name"] == "well") & (given["Split"] == "TEST")
    return given.assign(Split=given["Split"].where(~moved, "VAL"))


def dominant(given: pd.DataFrame) -> pd.DataFrame:
    more = pd.concat([given.iloc[:1].assign(FileName=f"more-{number}") for number in range(20)])
    return pd.concat([given, more])


@pytest.mark.parametrize(
    ("changed", "rates", "sizes", "clip", "sentences"),
    [
        (table(class_name=None), [30.0], SIZES, None, ["no recording has a class_name"]),
        (table().drop(columns="class_id"), [30.0], SIZES, None, ["classes have no numbers"]),
        (rare(table()), [30.0], SIZES, None, ["class rare has 9 patients", "class sick has 3 patients"]),
        (absent(table()), [30.0], SIZES, None, ["class well has no patient in TEST: change data.split"]),
        (table().iloc[::2], [30.0], SIZES, None, ["no patient has two recordings"]),
        (dominant(table()), [30.0], SIZES, None, ["one patient has 32 % of the recordings"]),
        (table(), [30.0], SIZES, 62, ["4 of 48 recordings are shorter than the 62 frames of a clip"]),
        (table(NumberOfFrames=[20] * 24 + [70] * 24), [30.0], SIZES, None, ["lengths vary from 20 to 70 frames"]),
        (table(), [25.0, 30.0, 50.0], SIZES, None, ["frame rates vary from 25 to 50 per second"]),
        (table(), [30.0], [(100, 120), (100, 100)], None, ["2 sizes of different aspect ratios"]),
    ],
)
def test_what_is_planted_as_unwise_is_named(
    changed: pd.DataFrame, rates: list[float], sizes: list[tuple[int, int]], clip: int | None, sentences: list[str]
) -> None:
    found = Fingerprint(changed, rates, sizes).problems(clip)
    assert len(found) == len(sentences)
    for sentence, text in zip(sentences, found, strict=True):
        assert text.startswith(sentence)
        assert "secret" not in text


def test_a_store_is_read_from_its_table(tmp_path: Path) -> None:
    make_video_store(tmp_path / "videos", study())
    found = fingerprint_store(tmp_path / "videos")
    assert found.patients("TRAIN") == ["A", "B", "C"]
    assert found.lengths.tolist() == [11, 12, 13, 9, 8, 6, 10]
    assert set(found.sizes) == {(5, 7)}


class Files:
    """Source of 20 patients, two recordings each, at 50 frames per second. One file has no csv row, one is damaged."""

    def recordings(self, raw: Path | None) -> list[Recording]:
        evidence = PatientEvidence("Doe", "id", "", {})
        listed = [
            Recording(
                f"r{patient}-{number}", f"P{patient}", columns={"class_name": "ab"[patient % 2]}, evidence=evidence
            )
            for patient in range(20)
            for number in range(2)
        ]
        extra = [
            Recording("x", "P0", problem="no row in the csv"),
            Recording("README", "", problem="text", counted=False),
        ]
        return [*listed, *extra]

    def read(self, recording: Recording, limits: Limits) -> Video:
        if recording.name == "r3-1":
            raise Rejected("damaged")
        frames = 100 if recording.name.endswith("0") else 200
        return Video(np.zeros((frames, 30, 40, 1), np.uint8), np.arange(frames) / 50, 50.0)


def raw(count: int, **prepared: Any) -> Fingerprint:
    settings: Mapping[str, Any] = {"fps": 25.0, "size": 32, **prepared}
    return fingerprint_raw(Files(), Path("raw"), SplitRatios(), Limits(), settings, count, 0)


def test_raw_files_are_listed_and_some_are_read() -> None:
    found = raw(40)
    assert len(found.table) == 40
    assert {split: len(found.patients(split)) for split in ("TRAIN", "VAL", "TEST")} == {
        "TRAIN": 14,
        "VAL": 3,
        "TEST": 3,
    }
    assert set(found.table["NumberOfFrames"]) == {50, 100}  # number of frames after resampling to 25 per second
    assert set(found.table["FPS"]) == {25.0}
    assert set(found.table["FrameHeight"]) == {32}
    assert len(found.rates) == 39
    assert found.reading_warnings[0].startswith("1 of 42 files cannot be used")
    assert found.reading_warnings[-1] == "1 of 40 recordings that were read are rejected; the first: damaged"
    assert all("Doe" not in text for text in found.reading_warnings)
    kept = raw(3, fps=None, size=None)
    assert set(kept.table["NumberOfFrames"]) <= {100, 200}
    assert set(zip(kept.table["FrameHeight"], kept.table["FrameWidth"], strict=True)) == {(30, 40)}


def test_without_a_readable_recording_there_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Video:
        raise Rejected("damaged")

    monkeypatch.setattr(Files, "read", refuse)
    with pytest.raises(UserError, match="holds no recording that can be read"):
        raw(5)
