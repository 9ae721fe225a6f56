import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodream.errors import UserError
from echodream.store import Statistics, Store, StoreError, StoreWriter, verify
from echodream.store.video import write_video
from tests.support.fakes import listing, noise, row, tree, video_dataset

NAMES = [f"rec-{index:03d}" for index in range(3)]


def put(writer: StoreWriter, index: int, **columns: object) -> None:
    frames = noise(index + 2, seed=index)
    media = writer.scratch_path(f"rec-{index:03d}")
    write_video(media, frames, 32.0)
    writer.commit(row(index, frames, **columns), media)


def write(root: Path, order: tuple[int, ...] = (0, 1, 2)) -> Store:
    """Write the store at ``root``, or continue an unfinished store."""
    with StoreWriter(root, video_dataset()) as writer:
        if writer.complete:
            return Store(root)
        for index in order:
            if f"rec-{index:03d}" not in writer.done:
                put(writer, index)
        if "lost" not in writer.done:
            writer.reject("lost", "unreadable:\ncut short", counted=False)
        return writer.finish([*NAMES, "lost"], Statistics((3.0,), (2.0,)))


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """Content of a store that was written without interruption: file name to bytes."""
    return tree(write(tmp_path / "whole").root)


def test_names_are_added_to_one_set(tmp_path: Path) -> None:
    """``done`` must return the same set each time: a copy per call would take quadratic time for the whole store."""
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        done = writer.done
        put(writer, 0)
        writer.reject("lost", "unreadable")
        assert writer.done is done
        assert done == {"rec-000", "lost"}


def test_a_store_holds_what_was_committed(tmp_path: Path) -> None:
    store = write(tmp_path / "deep" / "store")
    assert listing(tmp_path / "deep") == ["store"]
    assert store.table["FileName"].tolist() == NAMES
    assert store.table["PatientID"].tolist() == ["000", "001", "002"]
    assert np.array_equal(store.frames("rec-001"), noise(3, seed=1))
    assert store.dataset.statistics == Statistics((3.0,), (2.0,))
    assert (store.root / "rejected.csv").read_text() == "FileName,Reason,Counted\nlost,unreadable: cut short,false\n"


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        for index in range(3):
            put(writer, index)
            assert listing(tmp_path) == ["store.partial"]
        writer.finish(NAMES)
    assert listing(tmp_path) == ["store"]


def test_the_order_of_commits_does_not_change_a_byte(tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert tree(write(tmp_path / "store", (2, 0, 1)).root) == whole


class Stop(Exception):
    pass


STEPS: dict[str, Callable[[StoreWriter], Any]] = {
    "begin": lambda writer: None,
    "rec-001": lambda writer: put(writer, 1),
    "lost": lambda writer: writer.reject("lost", "unreadable: cut short", counted=False),
    "scratch": lambda writer: writer.scratch_path("rec-002").write_text("half"),
    "rec-000": lambda writer: put(writer, 0),
    "rec-002": lambda writer: put(writer, 2),
    "table": lambda writer: (writer.media_folder.parent / "FileList.csv").write_text("half"),
}


def interrupted(root: Path, steps: int) -> None:
    """Open a store writer, run the first ``steps`` of STEPS, and leave the writer with an exception."""
    with StoreWriter(root, video_dataset()) as writer:
        for name, action in list(STEPS.items())[:steps]:
            if name not in writer.done:
                action(writer)
        raise Stop


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_run_that_was_interrupted_goes_on(tmp_path: Path, whole: dict[str, bytes], steps: int) -> None:
    for first in (steps, steps // 2):
        with pytest.raises(Stop):
            interrupted(tmp_path / "store", first)
        assert listing(tmp_path) == ["store.partial", "whole"]
    assert tree(write(tmp_path / "store").root) == whole


@pytest.mark.parametrize("name", ["write_table", "verify", "_flush_to_disk", "file_sha256"])
def test_finishing_can_be_interrupted_too(
    tmp_path: Path, whole: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        for index in range(3):
            put(writer, index)
        writer.reject("lost", "unreadable: cut short", counted=False)

    def stop(*args: object) -> None:
        next(calls)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(f"echodream.store.writer.{name}", stop)
        with pytest.raises(Stop):
            write(tmp_path / "store")
    assert next(calls) == 1
    assert not (tmp_path / "store").exists()
    assert tree(write(tmp_path / "store").root) == whole


def begun(root: Path) -> Path:
    """Write two recordings and reject a third. Return the folder of the store, which remains unfinished."""
    with StoreWriter(root, video_dataset()) as writer:
        put(writer, 0)
        put(writer, 1)
        writer.reject("lost", "unreadable: cut short", counted=False)
    return root.with_name(f"{root.name}.partial")


@pytest.mark.slow
@pytest.mark.parametrize(
    "tail", [b"", b'{"row": {"FileName": "rec-0', b'{"row"', b"\0\0\0\n", b"[]\n", b"\xff\n", b"\n"]
)
def test_a_torn_journal_is_read_as_far_as_it_is_whole(tmp_path: Path, whole: dict[str, bytes], tail: bytes) -> None:
    work = begun(tmp_path / "store")
    with (work / "journal-0.jsonl").open("ab") as file:
        file.write(tail)
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        assert writer.done == {"rec-000", "rec-001", "lost"}
    assert tree(write(tmp_path / "store").root) == whole


def test_a_journal_can_end_anywhere(tmp_path: Path, whole: dict[str, bytes]) -> None:
    work = begun(tmp_path / "store")
    length = (work / "journal-0.jsonl").stat().st_size
    for size in range(length, -1, -97):
        os.truncate(work / "journal-0.jsonl", min(size, (work / "journal-0.jsonl").stat().st_size))
        with StoreWriter(tmp_path / "store", video_dataset()) as writer:
            assert len(writer.done) <= 3
    assert tree(write(tmp_path / "store").root) == whole


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "folder"])
def test_a_media_file_that_changed_after_its_commit_is_made_again(
    tmp_path: Path, whole: dict[str, bytes], damage: str
) -> None:
    media = begun(tmp_path / "store") / "store/Videos/rec-001.mkv"
    content = bytearray(media.read_bytes())
    content[len(content) // 2] ^= 4
    media.unlink()
    if damage != "gone":
        media.write_bytes(content if damage == "flip" else content[:-1])
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        assert writer.done == {"rec-000", "lost"}
    assert tree(write(tmp_path / "store").root) == whole


def test_a_media_file_without_a_line_is_made_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    videos = begun(tmp_path / "store") / "store/Videos"
    (videos / "rec-002.mkv").write_bytes((videos / "rec-001.mkv").read_bytes())
    (videos / "other.mkv").write_text("")
    assert tree(write(tmp_path / "store").root) == whole


def test_what_an_unknown_folder_left_in_the_work_is_no_hindrance(tmp_path: Path, whole: dict[str, bytes]) -> None:
    work = begun(tmp_path / "store")
    (work / "scratch-0-1").mkdir()
    (work / "scratch-0-1" / "rec-002.mkv").write_text("half")
    (work / f"scratch-0-{os.getpid()}").mkdir()
    with StoreWriter(tmp_path / "store", video_dataset()):
        assert sorted(path.name for path in work.glob("scratch-*")) == [f"scratch-0-{os.getpid()}"]
    assert list(work.glob("scratch-*")) == []
    assert tree(write(tmp_path / "store").root) == whole


def test_a_complete_store_is_left_as_it_is(tmp_path: Path) -> None:
    root = write(tmp_path / "store").root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with StoreWriter(root, replace(video_dataset(), command="other words", code_version="9")) as writer:
        assert writer.complete
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert listing(tmp_path) == ["store"]


def test_what_a_kill_between_renaming_and_tidying_left_is_tidied(tmp_path: Path) -> None:
    root = write(tmp_path / "store").root
    (tmp_path / "store.partial" / "scratch-1").mkdir(parents=True)
    (tmp_path / "store.partial" / "journal-0.jsonl").write_text("x")
    with StoreWriter(root, video_dataset()) as writer:
        assert writer.complete
    assert listing(tmp_path) == ["store"]


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    begun(tmp_path / "half")
    write(tmp_path / "whole")
    others = [
        (video_dataset(channels=3), r"channels was '1', now '3'"),
        (video_dataset(height=64), r"height was 'None', now '64'"),
        (video_dataset(settings={"limits": {"min_frames": 9}}), r"settings\.limits\.min_frames was '2', now '9'"),
        (video_dataset(settings={"limits": {"min_frames": 2, "new": 1}}), r"settings\.limits\.new was 'None', now '1'"),
        (video_dataset(synthetic=True), r"synthetic was 'False', now 'True'"),
    ]
    for dataset, text in others:
        for root in (tmp_path / "half", tmp_path / "whole"):
            with pytest.raises(StoreError, match=rf"with other settings \({text}\)"), StoreWriter(root, dataset):
                pass
    assert tree(write(tmp_path / "half").root) == tree(tmp_path / "whole")


def test_new_code_does_not_go_on_with_what_old_code_began(tmp_path: Path) -> None:
    begun(tmp_path / "store")
    newer = replace(video_dataset(), code_version="9")
    with pytest.raises(StoreError, match=r"code_version was '', now '9'"), StoreWriter(tmp_path / "store", newer):
        pass


def test_half_a_store_whose_description_is_damaged_is_refused(tmp_path: Path) -> None:
    (begun(tmp_path / "store") / "begun.json").write_text("{")
    with pytest.raises(StoreError, match=r"begun.json is not valid"), StoreWriter(tmp_path / "store", video_dataset()):
        pass


HOLDER = """
    import sys, time
    from echodream.store import StoreWriter
    from tests.support.fakes import video_dataset
    with StoreWriter(sys.argv[1], video_dataset()) as writer:
        writer.reject("lost", "unreadable: cut short", counted=False)
        print("held", flush=True)
        sys.stdin.read()
        time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that has the store ``tmp_path/store`` open for writing."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "store"), "0"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_while_the_first_lives(
    tmp_path: Path, holder: subprocess.Popen[str], whole: dict[str, bytes]
) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match="is being written by another process"):
            write(tmp_path / "store")
    assert (tmp_path / "store.partial/journal-0.jsonl").read_text().count("\n") == 1
    holder.kill()
    holder.wait()
    assert tree(write(tmp_path / "store").root) == whole


def test_two_writers_in_one_process_are_two_as_well(tmp_path: Path) -> None:
    with (
        StoreWriter(tmp_path / "store", video_dataset()),
        pytest.raises(StoreError, match="another process"),
        StoreWriter(tmp_path / "store", video_dataset()),
    ):
        pass
    with StoreWriter(tmp_path / "store", video_dataset()):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\n", "x" * 200])
def test_a_name_that_leaves_the_folder_is_not_committed(tmp_path: Path, name: str) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        media = writer.scratch_path("rec-000")
        write_video(media, noise(2), 32)
        for wrong in (
            lambda: writer.scratch_path(name),
            lambda: writer.commit({**row(0, noise(2)), "FileName": name}, media),
        ):
            with pytest.raises(StoreError, match="not allowed"):
                wrong()
    assert [path.name for path in tmp_path.iterdir()] == ["store.partial"]


def test_a_name_is_committed_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        put(writer, 0)
        with pytest.raises(StoreError, match="twice"):
            put(writer, 0)


@pytest.mark.parametrize(
    "columns",
    [{"Note": "a\nb"}, {"Note": [1]}, {"Note": float("inf")}, {"a b": 1}, {"": 1}, {"Note": "\udcff"}],
    ids=repr,
)
def test_a_row_that_the_table_cannot_hold_is_refused_at_once(tmp_path: Path, columns: dict[str, object]) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        with pytest.raises(StoreError):
            put(writer, 0, **columns)
        assert writer.done == set()
        put(writer, 0)
        assert len(writer.finish(["rec-000"])) == 1


def test_numpy_values_are_taken(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        put(writer, 0, EF=np.float64(0.1), Age=np.int64(7), Nothing=None)
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        table = writer.finish(["rec-000"]).table
    assert (table["EF"][0], table["Age"][0]) == (0.1, 7)


def test_a_store_with_a_recording_missing_is_not_finished(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        put(writer, 0)
        with pytest.raises(StoreError, match="2 recordings are missing, the first is rec-001"):
            writer.finish(NAMES)


def test_a_store_that_breaks_its_specification_is_not_finished(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        put(writer, 0)
        put(writer, 1, PatientID="000")
        with pytest.raises(StoreError, match="in two splits"):
            writer.finish(NAMES[:2])
    assert not (tmp_path / "store").exists()


def test_a_writer_that_was_not_entered_writes_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", video_dataset())
    with pytest.raises(RuntimeError, match="context manager"):
        writer.reject("a", "b")
    assert listing(tmp_path) == []


def test_a_destination_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, text in (
        ("file", "is a file"),
        ("folder", "is not a store"),
        ("file/store", "cannot be written: Not a directory"),
    ):
        with pytest.raises(UserError, match=text), StoreWriter(tmp_path / name, video_dataset()):
            pass


class Full:
    """Journal file on a full disk: only half of a line is written, then ``flush`` fails."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])

    def flush(self) -> None:
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self.file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        put(writer, 0)
        writer._journal = Full(writer._journal)  # type: ignore[assignment]
        with pytest.raises(OSError, match="No space left"):
            put(writer, 1)
    with StoreWriter(tmp_path / "store", video_dataset()) as writer:
        assert writer.done == {"rec-000"}
    assert tree(write(tmp_path / "store").root) == whole


def test_the_journal_has_a_line_for_each_recording(tmp_path: Path) -> None:
    work = begun(tmp_path / "store")
    lines = [json.loads(line) for line in (work / "journal-0.jsonl").read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["row", "row", "rejected"]
    assert json.loads((work / "begun.json").read_text())["kind"] == "video"
    assert {path.name for path in work.iterdir()} == {"store", "journal-0.jsonl", "begun.json", "lock"}


def test_verify_accepts_what_the_writer_made(tmp_path: Path) -> None:
    assert len(verify(write(tmp_path / "store").root)) == 3


def test_a_forked_process_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", video_dataset()):
        ready, begun = os.pipe()
        child = os.fork()
        if child == 0:  # such as a data loader worker that outlives its parent
            os.write(begun, b".")
            time.sleep(20)
            os._exit(0)
        os.read(ready, 1)
    try:
        with StoreWriter(tmp_path / "store", video_dataset()) as again:
            assert not again.complete
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
