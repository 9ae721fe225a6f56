import csv
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from echodream.store import StoreError
from echodream.store.schema import REQUIRED_COLUMNS
from echodream.store.table import clean_text, format_cell, read_file_list, read_text_table, write_table

HEADER = ",".join(REQUIRED_COLUMNS)
ROW = "a,TRAIN,1,5,32.0,112,112"


def read(folder: Path, *lines: str, header: str = HEADER) -> pd.DataFrame:
    (folder / "FileList.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return read_file_list(folder)


def cells(**changes: str) -> str:
    return ",".join({**dict(zip(REQUIRED_COLUMNS, ROW.split(","), strict=True)), **changes}.values())


def refused(folder: Path, text: str, *lines: str, header: str = HEADER) -> None:
    with pytest.raises(StoreError, match=text) as caught:
        read(folder, *lines, header=header)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(folder), "")) < 500


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "",
        "x" * 129,
        "x" * 100_000,
        "é",
        "a b",
        "a.",
        ".a",
        "-a",
        "٣",
        "a:b",
    ],
)
def test_a_file_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, "FileName .* is not allowed", cells(FileName=name))


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\u2028", '"\n"', '"\r"'], ids=repr)
@pytest.mark.parametrize("column", ["FileName", "PatientID", "Note"])
def test_a_control_character_is_refused(tmp_path: Path, character: str, column: str) -> None:
    line = cells(**{column: f"x{character}" if character[0] != '"' else character}) + ",x" * (column != "Note")
    refused(tmp_path, "control character", line, header=f"{HEADER},Note")


@pytest.mark.parametrize("second", ["a", "A"])
def test_a_name_that_stands_there_twice_is_refused(tmp_path: Path, second: str) -> None:
    refused(tmp_path, "twice", cells(), cells(FileName=second))


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "PatientID '1' is in two splits, TRAIN and TEST", cells(), cells(FileName="b", Split="TEST"))


def test_patients_007_and_7_are_two(tmp_path: Path) -> None:
    table = read(tmp_path, cells(PatientID="007"), cells(FileName="b", PatientID="7", Split="TEST"))
    assert table["PatientID"].tolist() == ["007", "7"]


@pytest.mark.parametrize("patient", ["", " "])
def test_a_row_without_a_patient_is_refused(tmp_path: Path, patient: str) -> None:
    refused(tmp_path, "no PatientID; every", cells(PatientID=patient))


@pytest.mark.parametrize("split", ["", "train", "Train", "TRAINING", "0", "x" * 9999])
def test_another_split_is_refused(tmp_path: Path, split: str) -> None:
    refused(tmp_path, "not one of TRAIN, VAL, TEST", cells(Split=split))


@pytest.mark.parametrize("column", ["NumberOfFrames", "FPS", "FrameHeight", "FrameWidth"])
@pytest.mark.parametrize("value", ["x", "nan", "inf", "-inf", "1e999", "1_0", "0x10", "٣", "3 fps", "x" * 9999, " 5"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, column: str, value: str) -> None:
    refused(tmp_path, f"a has {column} '.*', not a number", cells(**{column: value}))


@pytest.mark.parametrize(
    ("column", "value"),
    [("NumberOfFrames", v) for v in ("0", "-1", "2.5", "1e12", "")]
    + [("FPS", v) for v in ("0", "-25", "1001", "0.0001", "")]
    + [(column, v) for column in ("FrameHeight", "FrameWidth") for v in ("0", "-3", "1.5", "16385", "100000", "")],
)
def test_a_size_out_of_range_is_refused(tmp_path: Path, column: str, value: str) -> None:
    refused(tmp_path, f"b has {column} .*number from", cells(), cells(FileName="b", **{column: value}))


def test_whole_numbers_come_as_integers_and_rates_as_floats(tmp_path: Path) -> None:
    table = read(tmp_path, cells(NumberOfFrames="5.0", FPS="25"))
    assert table["NumberOfFrames"].dtype == np.int64
    assert table["FPS"].dtype == np.float64


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    refused(tmp_path, f"has no column '{column}'", ROW, header=HEADER.replace(column, "Other"))


@pytest.mark.parametrize("name", ["Note\n", "a b", "", "1st", "x" * 9999, "FPS"])
def test_an_odd_column_is_refused(tmp_path: Path, name: str) -> None:
    quoted = f'"{name}"'
    refused(tmp_path, "column", f"{ROW},x", header=f"{HEADER},{quoted}")


@pytest.mark.parametrize("line", [ROW + ",x", ROW + ",", ROW.rsplit(",", 1)[0], "a", ","])
def test_a_row_of_another_length_is_refused(tmp_path: Path, line: str) -> None:
    refused(tmp_path, "line 3: . cells for 7 columns", cells(FileName="b"), line)


@pytest.mark.parametrize("line", ['"a,TRAIN', 'a,"b"c,TRAIN', ROW + "x" * 200_000])
def test_what_is_no_csv_is_refused(tmp_path: Path, line: str) -> None:
    refused(tmp_path, "not csv|cells under", line)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"FileName\n", b"\x00" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "FileList.csv").write_bytes(content)
    with pytest.raises(StoreError):
        read_file_list(tmp_path)


def test_too_many_columns_or_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path, "more than 1000 columns", header=",".join([HEADER, *(f"c{n}" for n in range(1000))]))
    monkeypatch.setattr("echodream.store.table.MAX_CSV_BYTES", 90)
    refused(tmp_path, "larger than 90 bytes", ROW, ROW)


def test_a_byte_order_mark_and_windows_lines_are_taken(tmp_path: Path) -> None:
    (tmp_path / "FileList.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{ROW}\r\n".encode())
    assert read_file_list(tmp_path)["FileName"].tolist() == ["a"]


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    assert len(read(tmp_path)) == 0


def column(folder: Path, name: str, *values: str) -> pd.Series:
    lines = [f"{cells(FileName=f'r{index}', PatientID=str(index))},{value}" for index, value in enumerate(values)]
    return read(folder, *lines, header=f"{HEADER},{name}")[name]


def test_a_column_of_numbers_is_numeric(tmp_path: Path) -> None:
    assert column(tmp_path, "class_id", "3", "-1").tolist() == [3, -1]
    found = column(tmp_path, "EF", "55.12345678901234", "", "1e-07")
    assert found.tolist()[::2] == [55.12345678901234, 1e-07]
    assert np.isnan(found[1])


@pytest.mark.parametrize(
    "values",
    [
        ("3", "x"),
        ("nan", "1"),
        ("inf", "1"),
        ("True", "False"),
        ("007", "008"),
        ("1234567890123456", "1"),
        ("1_0",),
        ("NA",),
        ("None", "null"),
        ("1e999",),
        (" 5",),
        ("+5",),
        (".5",),
        ("0x1F",),
    ],
)
def test_any_other_column_stays_text_as_it_is(tmp_path: Path, values: tuple[str, ...]) -> None:
    assert column(tmp_path, "Study", *values).tolist() == list(values)


@pytest.mark.parametrize("name", ["class_name", "View", "Source", "ED", "ES"])
def test_columns_of_words_stay_text_even_if_they_look_like_numbers(tmp_path: Path, name: str) -> None:
    assert column(tmp_path, name, "12", "").tolist() == ["12", ""]


def complete_row(line: str) -> dict[str, Any]:
    return dict(zip(REQUIRED_COLUMNS, line.split(","), strict=True))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        {
            **dict(zip(REQUIRED_COLUMNS, ROW.split(","), strict=True)),
            "EF": np.float32(0.1),
            "Text": 'a "b", é',
            "None": None,
        },
        {
            **dict(zip(REQUIRED_COLUMNS, cells(FileName="b").split(","), strict=True)),
            "EF": float("nan"),
            "More": np.int16(-3),
        },
    ]
    write_table(tmp_path / "FileList.csv", rows, REQUIRED_COLUMNS)
    table = read_file_list(tmp_path)
    assert list(table.columns) == [*REQUIRED_COLUMNS, "EF", "Text", "None", "More"]
    assert table["EF"][0] == float(np.float32(0.1))
    assert table["Text"].tolist() == ['a "b", é', ""]
    assert table["More"].tolist()[1] == -3


def test_pandas_reads_the_same_cells(tmp_path: Path) -> None:
    rows = [{"FileName": "a", "Text": 'x, "y"'}, {"FileName": "b", "Text": ""}]
    write_table(tmp_path / "a.csv", rows)
    assert pd.read_csv(tmp_path / "a.csv", keep_default_na=False)["Text"].tolist() == ['x, "y"', ""]
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.mark.parametrize("value", [[1], {}, float("inf"), "a\nb", "a\0", b"a", "\ud800", object(), 1j])
def test_a_cell_holds_no_other_value(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError):
        format_cell(value)
    with pytest.raises(StoreError, match="row 'a' has"):
        write_table(tmp_path / "a.csv", [{"FileName": "a", "X": value}])


def test_a_printable_text_fits_a_cell() -> None:
    text = clean_text("a \n\t b\0c\udcffd\u2028 ")
    assert text == "a b?c?d"
    assert format_cell(text) == text


def test_a_pipe_in_place_of_a_table_is_not_waited_for(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", tmp_path / "a.csv"], check=True)
    with pytest.raises(StoreError, match="not a file"):
        read_text_table(tmp_path / "a.csv")
