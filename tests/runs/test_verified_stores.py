"""At the start of a stage, checksums are computed only for new or changed files, and every changed file is found."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from echodream.config.paths import CONF_DIR
from echodream.runs import verified_stores
from echodream.runs.instantiate_stage import StageCall
from echodream.runs.rerun_cache import ALWAYS_VERIFIED_STAGES, run_once
from echodream.runs.summary import Summary
from echodream.runs.verified_stores import check_stores
from echodream.store import StoreError
from echodream.store.checksums import file_states
from echodream.training import fit
from tests.support.fakes import flip
from tests.support.tiny_vae import moving_disc_store, train_cfg


class Hashes:
    """Records the names of the files for which a checksum is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        digest = hashlib.file_digest

        def counted(file: object, algorithm: str) -> object:
            self.names.append(Path(file.name).name)  # type: ignore[attr-defined]
            return digest(file, algorithm)  # type: ignore[arg-type]

        monkeypatch.setattr(hashlib, "file_digest", counted)

    def during(self, run: Callable[[], object]) -> list[str]:
        self.names.clear()
        run()
        return self.names.copy()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Hashes:
    return Hashes(monkeypatch)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Store whose files are old enough for the checksum record: every later change gives another time stamp."""
    monkeypatch.setattr(verified_stores, "TIMESTAMP_RESOLUTION_NS", 0)
    root = moving_disc_store(tmp_path / "videos", (5, 3, 4)).root
    time.sleep(0.05)
    return root


def check(store: Path) -> None:
    check_stores([store], f"{store.parent}/verified")


def test_an_unchanged_store_is_read_once(tmp_path: Path, store: Path, hashes: Hashes) -> None:
    larger = moving_disc_store(tmp_path / "larger", (2,) * 9).root
    time.sleep(0.05)
    assert {"r0.mkv", "r1.mkv", "r2.mkv", "FileList.csv", "dataset.json"} <= set(hashes.during(lambda: check(store)))
    assert len(hashes.during(lambda: check(larger))) == 6 + len(hashes.during(lambda: check_stores([store]))) + 1
    for known in (store, larger):
        assert hashes.during(lambda known=known: check(known)) == ["SHA256SUMS"]  # type: ignore[misc]


def test_all_checksums_are_computed_on_request(store: Path, hashes: Hashes) -> None:
    for _ in range(2):
        assert len(hashes.during(lambda: check_stores([store]))) == 6


def keep_time(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that applies ``change`` to a file and then restores the earlier modification time."""

    def forge(path: Path) -> None:
        before = path.stat()
        change(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    return forge


def replace(path: Path) -> None:
    """Replace the file ``path`` by another file of equal size."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    flip(other)
    other.replace(path)


@pytest.mark.parametrize("name", ["Videos/r1.mkv", "FileList.csv"])
@pytest.mark.parametrize("change", [flip, replace, keep_time(flip), keep_time(replace), Path.unlink])
def test_a_changed_file_is_found(store: Path, name: str, change: Callable[[Path], None]) -> None:
    check(store)
    change(store / name)
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"{Path(name).name} (has changed|is missing)"):
            check(store)


def test_a_link_in_the_place_of_a_file_is_found(store: Path) -> None:
    check(store)
    path = store / "Videos/r1.mkv"
    path.rename(store.parent / "moved.mkv")
    path.symlink_to(store.parent / "moved.mkv")
    with pytest.raises(StoreError, match="is a link"):
        check(store)


def test_a_store_is_read_again_after_another_took_its_place(store: Path, hashes: Hashes) -> None:
    check(store)
    shutil.copytree(store, store.with_name("copy"))
    shutil.rmtree(store)
    store.with_name("copy").rename(store)
    assert len(hashes.during(lambda: check(store))) == 7


def test_files_that_may_change_without_another_time_stamp_are_read_again(
    store: Path, hashes: Hashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_stores, "TIMESTAMP_RESOLUTION_NS", 10**18)
    for _ in range(2):
        assert len(hashes.during(lambda: check(store))) == 7


def test_a_damaged_record_or_a_disk_without_room_only_costs_time(
    store: Path, hashes: Hashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(store)
    (record,) = (store.parent / "verified").iterdir()
    record.write_text("{")
    assert len(hashes.during(lambda: check(store))) == 7
    record.unlink()

    def full(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verified_stores, "write_record", full)
    for _ in range(2):
        assert len(hashes.during(lambda: check(store))) == 7


@pytest.mark.parametrize("notes", [None, "notes"])
@pytest.mark.parametrize("stage", [*ALWAYS_VERIFIED_STAGES, "encode", "verify"])
def test_a_stage_with_a_statement_about_patients_computes_all_checksums(
    store: Path, hashes: Hashes, stage: str, notes: str | None
) -> None:
    assert (CONF_DIR / f"stage/{stage}.yaml").is_file()
    hints, arguments = {"src": "InputPath", "dst": "OutputPath"}, {"src": str(store), "dst": f"{store.parent}/dst"}
    call = StageCall(f"echodream.stages.{stage}.{stage}", hints, arguments)
    folder = None if notes is None else f"{store.parent}/{notes}"

    def run() -> None:
        run_once(folder, call, lambda: Summary("done", problem="to run again"), f"{store.parent}/verified")

    run()
    expected = 6 if stage in ALWAYS_VERIFIED_STAGES else 1 if stage == "encode" else 0
    assert len(hashes.during(run)) == expected


def test_training_uses_the_records(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def noted(paths: list[Path], verified: str | None) -> None:
        given.append((paths, verified))
        raise StoreError("stop")

    monkeypatch.setattr(fit, "check_stores", noted)
    cfg = train_cfg(store.parent, f"paths.runs={store.parent}/runs")
    with pytest.raises(StoreError, match="stop"):
        fit.train_model(cfg, store.parent / "runs", "", "", "")
    assert given == [([store], f"{store.parent}/runs/verified")]


def test_the_states_of_files_have_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b/x", "b-a", "b.c/y", "b/sub/z", "a", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").symlink_to(tmp_path / "b")
    (tmp_path / "file").symlink_to(tmp_path / "a")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name, _ in file_states(tmp_path)] == [str(path.relative_to(tmp_path)) for path in paths]
    assert [status.st_ino for _, status in file_states(tmp_path)] == [path.stat().st_ino for path in paths]
