"""stage=phantom: the embedded study as a raw tree, which comes in again as the same recordings."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from echodream.errors import UserError
from echodream.ingest.cardiacnet import CardiacNet
from echodream.ingest.phantom import Phantom
from echodream.ingest.prepare import Prepare
from echodream.ingest.source import Limits, Source
from echodream.ingest.split import Ratios
from echodream.stages.ingest import ingest
from echodream.stages.phantom import phantom
from echodream.store import Store

STUDY = Phantom(patients=8, size=48, seconds=(0.5, 0.8))


def draw(dst: Path, source: Any = STUDY, layout: str = "cardiacnet", workers: int = 0) -> str:
    made = phantom(source=source, layout=layout, dst=str(dst), workers=workers, command="", code_version="")
    return made.title


def take_in(source: Source, raw: Path | None, dst: Path) -> Store:
    ingest(
        source=source,
        prepare=Prepare(size=48),
        split=Ratios(),
        limits=Limits(),
        raw=None if raw is None else str(raw),
        dst=str(dst),
        max_rejected=0.0,
        workers=0,
        timeout=60,
        command="",
        code_version="",
    )
    return Store(dst)


def test_the_raw_tree_gives_the_same_recordings_as_rendering(tmp_path: Path) -> None:
    draw(tmp_path / "raw")
    rendered = take_in(STUDY, None, tmp_path / "rendered")
    read = take_in(CardiacNet(), tmp_path / "raw", tmp_path / "read")
    assert len(read) == len(rendered) >= 8
    for name in rendered.table["FileName"]:
        assert read.path(name).read_bytes() == rendered.path(name).read_bytes()
    shared = list(rendered.table.columns)
    assert {"PatientID", "Split", "class_id", "EF", "HeartRate", "ED", "ES"} <= set(shared)
    pd.testing.assert_frame_equal(read.table[shared], rendered.table)


def test_the_tree_has_the_quirks_of_the_study(tmp_path: Path) -> None:
    draw(tmp_path / "raw", Phantom(patients=20, size=48, seconds=(0.3, 0.4)))
    read = take_in(CardiacNet(), tmp_path / "raw", tmp_path / "read")
    assert [path for path in (tmp_path / "raw").rglob("*_image.nii") if path.is_dir()]
    assert set(read.table["Label"]) == {"complete", "truncated"}


def test_more_processes_write_the_same_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "one")
    draw(tmp_path / "two", workers=2)
    left, right = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in tmp_path.iterdir())
    assert left == right


def test_a_second_run_does_nothing_and_a_half_written_tree_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "raw.partial" / "CardiacNet-ASD").mkdir(parents=True)
    (tmp_path / "raw.partial" / "CardiacNet-ASD" / "stray").write_text("of a run that was killed")
    assert draw(tmp_path / "raw").endswith("done")
    assert not list((tmp_path / "raw").rglob("stray"))
    assert "nothing to do" in draw(tmp_path / "raw")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout=kaggle is not known; choose one of cardiacnet"):
        draw(tmp_path / "raw", layout="kaggle")
    with pytest.raises(UserError, match="give data=phantom"):
        draw(tmp_path / "raw", source=CardiacNet())
    assert not list(tmp_path.iterdir())
