import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from echodream.store import Dataset, Statistics, Store, StoreError
from echodream.store import schema as words
from echodream.store.schema import is_valid_column, is_valid_name, partial_path, read_dataset
from echodream.store.verify import TABLES_AND_METADATA
from tests.support.fakes import ENCODER, latent_store, video_dataset, video_store

LATENT = Dataset(
    kind="latent",
    channels=2,
    height=5,
    layout="F,C,H,W",
    encoder=ENCODER,
    statistics=Statistics((0.5, -1e-9), (1.0, 2.0)),
    synthetic=True,
    settings={"a": [1, 2.5, None, "é\n"]},
    command="python sample.py",
)


def edited(**changes: Any) -> str:
    raw = {**json.loads(LATENT.to_json()), **changes}
    return json.dumps({key: value for key, value in raw.items() if value is not ...})


@pytest.mark.parametrize("dataset", [LATENT, video_dataset(), video_dataset(channels=3, height=7, width=9)], ids=repr)
def test_json_round_trip(dataset: Dataset) -> None:
    assert Dataset.from_json(dataset.to_json()) == dataset
    assert Dataset.from_json(dataset.to_json()).to_json() == dataset.to_json()


WRONG = {
    "unknown key": edited(colour=1),
    "no kind": edited(kind=...),
    "no channels": edited(channels=...),
    "no version": edited(format_version=...),
    "newer": edited(format_version=2),
    "version is a bool": edited(format_version=True),
    "version is a float": edited(format_version=1.0),
    "kind": edited(kind="audio"),
    "kind is a list": edited(kind=["video"]),
    "channels text": edited(channels="2"),
    "channels bool": edited(channels=True),
    "channels float": edited(channels=2.0),
    "no channel": edited(channels=0),
    "many channels": edited(channels=10**9),
    "negative height": edited(height=-5),
    "huge width": edited(width=100_000),
    "width bool": edited(width=True),
    "layout": edited(layout="F,H,W,C"),
    "encoder absent": edited(encoder=None),
    "encoder short": edited(encoder="abc"),
    "encoder capital": edited(encoder=ENCODER.upper()),
    "encoder newline": edited(encoder=ENCODER + "\n"),
    "encoder number": edited(encoder=5),
    "synthetic": edited(synthetic="yes"),
    "synthetic number": edited(synthetic=1),
    "settings": edited(settings=[]),
    "settings null": edited(settings=None),
    "command": edited(command=["python"]),
    "fidelity": edited(fidelity=None),
    "statistics list": edited(statistics=[0, 1]),
    "statistics more": edited(statistics={"mean": [0, 0], "std": [1, 1], "max": [1, 1]}),
    "statistics less": edited(statistics={"mean": [0, 0]}),
    "statistics text": edited(statistics={"mean": "00", "std": "11"}),
    "statistics of text": edited(statistics={"mean": ["0", "0"], "std": ["1", "1"]}),
    "statistics bool": edited(statistics={"mean": [0, 0], "std": [True, True]}),
    "statistics object": edited(statistics={"mean": {"0": 0, "1": 0}, "std": {"1": 0, "2": 0}}),
    "statistics null": edited(statistics={"mean": None, "std": None}),
    "statistics nested": edited(statistics={"mean": [[0], [0]], "std": [[1], [1]]}),
    "statistics channels": edited(statistics={"mean": [0], "std": [1]}),
    "statistics zero": edited(statistics={"mean": [0, 0], "std": [1, 0]}),
    "statistics huge": edited(statistics={"mean": [0, 10**400], "std": [1, 1]}),
    "statistics nan": edited(statistics={"mean": [0, float("nan")], "std": [1, 1]}),
    "settings infinite": edited(settings={"a": [float("inf")]}),
    "settings overflow": edited().replace("2.5", "1e999"),
    "endless number": edited().replace("2.5", "9" * 9999),
    "deep": edited(settings={"a": json.loads("[" * 40 + "]" * 40)}),
    "deeper": '{"settings":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
    "key twice": edited()[:-1] + ', "kind": "latent"}',
    "key twice inside": edited().replace('"a":', '"a": 1, "a":'),
    "array": "[]",
    "number": "5",
    "null": "null",
    "empty": "",
    "text": "dataset",
    "two": edited() + edited(),
    "a long wrong value": edited(kind="x" * 100_000, colour=1),
    "a long key": edited(**{"y" * 100_000: 1}),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused_with_one_sentence(tmp_path: Path, name: str) -> None:
    assert WRONG[name] != edited()
    (tmp_path / "dataset.json").write_text(WRONG[name])
    with pytest.raises(StoreError, match=r"dataset\.json is not valid") as caught:
        read_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_optional_keys_have_defaults() -> None:
    assert Dataset.from_json('{"kind": "video", "channels": 1, "format_version": 1}') == Dataset("video", 1)


def test_a_video_store_has_one_or_three_channels_and_no_encoder() -> None:
    for wrong in ({"channels": 2}, {"encoder": ENCODER}, {"layout": "F,C,H,W"}):
        with pytest.raises(ValueError):
            video_dataset(**wrong)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "0", "x" * 128, "ASD-001", "a..b"])
def test_plain_names_are_taken(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a/b",
        "a\\b",
        "a\n",
        "a\0",
        "a b",
        "x" * 129,
        "é",
        "a.",
        ".a",
        "-a",
        "a:b",
        "٣",
        None,
        "a\u202eb",
        "a\x7f",
        "%2e%2e",
        "~",
        7,
    ],
)
def test_names_that_could_leave_the_folder_are_not(name: object) -> None:
    assert not is_valid_name(name)


@pytest.mark.parametrize("name", ["", "1a", "_a", "a b", "a-b", "a\n", "é", "a.1", "x" * 65, None])
def test_odd_column_names_are_refused(name: object) -> None:
    assert not is_valid_column(name)


def test_what_is_no_store_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "dataset.json").write_bytes(b"\xff\xfe")
    (tmp_path / "folder" / "dataset.json").mkdir(parents=True)
    (tmp_path / "half.partial").mkdir()
    said = {
        "absent": "absent does not exist: check src= or run",
        "half": "half does not exist; half.partial exists: rerun the command",
        "file": "file is a file",
        "empty": "No such file or directory",
        "text": "not UTF-8 text",
        "folder": "dataset.json is not a file",
    }
    for name, text in said.items():
        with pytest.raises(StoreError, match=re.escape(text)):
            Store(tmp_path / name)


@pytest.mark.parametrize("path", [".", "/", "..", "a/.."])
def test_a_store_needs_a_name(path: str) -> None:
    with pytest.raises(StoreError, match="a folder with a name"):
        partial_path(Path(path))


def test_a_device_in_place_of_a_table_is_not_read(tmp_path: Path) -> None:
    for table in ("dataset.json", "FileList.csv"):
        store = video_store(tmp_path / table)
        (store.root / table).unlink()
        (store.root / table).symlink_to("/dev/zero")
        with pytest.raises(StoreError, match="is not a file"):
            Store(store.root)


def test_a_json_file_of_any_size_is_not_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_JSON_BYTES", 50)
    (tmp_path / "dataset.json").write_text(video_dataset().to_json())
    with pytest.raises(StoreError, match="larger than 50 bytes"):
        read_dataset(tmp_path)


def test_a_store_of_another_kind_or_encoder_is_refused(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    video_store(tmp_path / "videos")
    assert len(Store(tmp_path / "latents", kind="latent", encoder=ENCODER)) == 2
    with pytest.raises(StoreError, match="is a latent store, but a video store is needed"):
        Store(tmp_path / "latents", kind="video")
    with pytest.raises(StoreError, match="encode the videos again"):
        Store(tmp_path / "latents", encoder="f" * 64)
    with pytest.raises(StoreError, match="encode the videos again"):
        Store(tmp_path / "videos", encoder="f" * 64)


def test_a_name_that_is_not_in_the_store_has_no_path(tmp_path: Path) -> None:
    store = video_store(tmp_path / "store")
    for name in ("rec-999", "../rec-000", "lost"):
        with pytest.raises(StoreError, match="has no recording"):
            store.path(name)


# --- the tables in docs/format.md match the code ---

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def listed(heading: str) -> list[str]:
    """First column of the table below ``heading`` in docs/format.md."""
    section = re.split(r"^## ", DOC.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


def test_the_specification_lists_the_columns_keys_and_files() -> None:
    assert listed("FileList.csv") == list(words.REQUIRED_COLUMNS)
    assert sorted(listed("dataset.json")) == sorted(field.name for field in fields(Dataset))
    assert listed("rejected.csv") == list(words.REJECTED_COLUMNS)
    media = [f"{folder}/<FileName>{suffix}" for folder, suffix in words.MEDIA_FILES.values()]
    assert listed("Files") == [words.FILE_LIST, *media, words.DATASET, words.REJECTED, words.CHECKSUMS]
    assert listed("While a store is written") == [
        "store/",
        "journal-<shard>.jsonl",
        "begun.json",
        "scratch-<shard>-<process>/",
        "lock",
    ]


def test_the_specification_states_the_numbers_and_patterns() -> None:
    for pattern in (words._VALID_NAME, words._VALID_COLUMN):
        assert f"`{pattern.pattern}`" in DOC
    for number in (words.MAX_SIDE, words.FPS_RANGE[0], int(words.FPS_RANGE[1]), words.FORMAT_VERSION):
        assert re.search(rf"\b{number}\b", DOC), number
    assert all(f"`{table}`" in DOC for table in TABLES_AND_METADATA)


def test_the_example_of_the_specification_reads_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video_store(tmp_path / "store")
    monkeypatch.chdir(tmp_path / "store")
    example = DOC.split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 6
    found: dict[str, Any] = {}
    exec(example, found)  # noqa: S102
    assert found["frames"].shape == (2, 19, 23)
    assert (found["frames"] == Store(tmp_path / "store").frames("rec-000")[..., 0]).all()


def test_settings_do_not_change_with_the_dataset_that_is_replaced() -> None:
    assert replace(LATENT, statistics=None).settings == LATENT.settings
