"""Tests of stage=phantom: ingest reads the raw files of the simulated study as the same recordings."""

import fcntl
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from echodream.errors import UserError
from echodream.ingest.cardiacnet import CardiacNet
from echodream.ingest.phantom import Phantom
from echodream.ingest.preprocessing import Preprocessing
from echodream.ingest.source import Source
from echodream.phantom.layouts import LAYOUTS
from echodream.stages.phantom import phantom
from echodream.store import Store
from echodream.store.lock import lock, unlock
from tests.support.ingesting import run_ingest

STUDY = Phantom(patients=8, size=48, seconds=(0.5, 0.8))


def draw(dst: Path, source: Any = STUDY, layout: str = "cardiacnet", workers: Any = 0) -> str:
    made = phantom(source=source, layout=layout, dst=str(dst), workers=workers, command="", code_version="")
    return made.title


def take_in(source: Source, raw: Path | None, dst: Path) -> Store:
    run_ingest(dst, source, raw, prepare=Preprocessing(size=48), code_version="")
    return Store(dst)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_tree_has_the_quirks_of_the_study(tmp_path: Path) -> None:
    draw(tmp_path / "raw", Phantom(patients=20, size=48, seconds=(0.3, 0.4)))
    read = take_in(CardiacNet(), tmp_path / "raw", tmp_path / "read")
    assert [path for path in (tmp_path / "raw").rglob("*_image.nii") if path.is_dir()]
    assert set(read.table["Label"]) == {"complete", "truncated"}


@pytest.mark.slow
def test_more_processes_write_the_same_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "one")
    draw(tmp_path / "two", workers=2)
    left, right = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in tmp_path.iterdir())
    assert left == right


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_second_run_does_nothing_and_other_settings_are_refused(tmp_path: Path) -> None:
    assert draw(tmp_path / "raw").endswith("done")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "nothing to do" in draw(tmp_path / "raw")
    for other, difference in ((replace(STUDY, patients=9), "patients=8, now 9"), (replace(STUDY, seed=1), "seed=0")):
        with pytest.raises(UserError, match=rf"raw already exists, made with {difference}.*: choose another dst="):
            draw(tmp_path / "raw", other)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_is_finished_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "straight")
    write, table = LAYOUTS["cardiacnet"]
    drawn: list[str] = []

    def stops(root: Path, name: str, *rest: Any) -> Any:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(name)
        return write(root, name, *rest)

    with monkeypatch.context() as patch:
        patch.setitem(LAYOUTS, "cardiacnet", (stops, table))
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    with pytest.raises(UserError, match=r"raw\.partial already exists, made with patients=8, now 9"):
        draw(tmp_path / "raw", replace(STUDY, patients=9))
    again: list[str] = []
    with monkeypatch.context() as patch:
        counted = (lambda root, name, *rest: again.append(name) or write(root, name, *rest), table)
        patch.setitem(LAYOUTS, "cardiacnet", counted)
        assert draw(tmp_path / "raw").endswith("done, 3 recordings were already there")
    assert again
    assert not set(again) & set(drawn)
    assert bytes_of(tmp_path / "raw") == bytes_of(tmp_path / "straight")
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "straight"}


@pytest.mark.slow
def test_two_processes_do_not_write_one_tree(tmp_path: Path) -> None:
    work = tmp_path / "raw.partial"
    work.mkdir()
    handle = os.open(work, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"raw\.partial is being written by another process"):
        draw(tmp_path / "raw")
    os.close(handle)
    assert draw(tmp_path / "raw").endswith("done")


def test_a_lock_is_not_kept_by_a_forked_process_that_outlives_its_parent(tmp_path: Path) -> None:
    held = lock(tmp_path / "work")
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    try:
        time.sleep(0.2)
        unlock(held)
        unlock(lock(tmp_path / "work"))
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("there", ["raw", "raw.partial"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    (tmp_path / there / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{there} exists and is not a folder that stage=phantom wrote"):
        draw(tmp_path / "raw")
    assert [path.name for path in (tmp_path / there).iterdir()] == ["thesis.txt"]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout is 'kaggle': choose one of cardiacnet"):
        draw(tmp_path / "raw", layout="kaggle")
    with pytest.raises(UserError, match="use data=phantom"):
        draw(tmp_path / "raw", source=CardiacNet())
    for workers in (-1, 1.5, True, "two"):
        with pytest.raises(UserError, match=r"workers is .*: give a whole number from 0"):
            draw(tmp_path / "raw", workers=workers)
    assert not list(tmp_path.iterdir())
