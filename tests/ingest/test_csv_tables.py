"""Parsing of csv tables of raw data: numbers, empty cells, column types, and the error messages for wrong cells."""

from pathlib import Path

import pytest

from echodream.errors import UserError
from echodream.ingest.csv_tables import Row, find_numeric_columns, parse_cell, parse_number, parse_seconds, read_table
from echodream.ingest.source import Limits
from echodream.store.table import is_numeric_text


@pytest.mark.parametrize("text", ["0012", "1_000", "1234567890123456789", "inf", "-Infinity", "1e999", "+5", "a b"])
def test_identifiers_stay_as_they_are(text: str) -> None:
    assert parse_cell(text) == text
    assert not is_numeric_text(text)


@pytest.mark.parametrize(("text", "found"), [("0", 0), ("-12", -12), (" 55.5 ", 55.5), ("1e-3", 0.001), ("2.0", 2.0)])
def test_numbers_are_numbers(text: str, found: float) -> None:
    assert parse_cell(text) == found
    assert type(parse_cell(text)) is type(found)


@pytest.mark.parametrize("text", ["", " ", "nan", "NaN", "N/A", "null"])
def test_cells_that_say_nothing(text: str) -> None:
    assert parse_cell(text) is None
    assert parse_number(text) is None


def test_where_only_a_number_makes_sense_its_spelling_is_free() -> None:
    assert [parse_number(text) for text in ("007", "+5", ".5", "inf", "1_000", "x")] == [7, 5, 0.5, None, None, None]


def test_a_row_longer_than_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("FileName,Note,EF\na,b,1,,\nc,left, right,2\n")
    with pytest.raises(UserError, match=r"labels\.csv, line 3: 4 cells for 3 columns: quote cells that"):
        read_table(path)
    path.write_text('FileName,Note,EF\na,b,1,,\nc,"left, right",2\n')
    assert read_table(path)[1] == {"FileName": "c", "Note": "left, right", "EF": "2"}


@pytest.mark.parametrize(
    "wrong",
    [{"max_side": "big"}, {"min_frames": 0}, {"max_bytes": 4e9}, {"max_frames": True}, {"min_side": 5000}],
    ids=str,
)
def test_limits_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"data\.limits\.{next(iter(wrong))} is"):
        Limits(**wrong)  # type: ignore[arg-type]


def _rows(tmp_path: Path, content: str | bytes, *required: str) -> list[Row]:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, required)


TABLE = [{"FileName": "a", "EF": "55.3", "Note": "x"}, {"FileName": "b", "EF": "60", "Note": ""}]


@pytest.mark.parametrize(
    "content",
    [
        "FileName,EF,Note\na,55.3,x\nb,60,\n",
        "FileName;EF;Note\r\na;55,3;x\r\nb;60;\r\n",
        "FileName\tEF\tNote\ra\t55,3\tx\rb\t60\t\r",
        "FileName|EF|Note\na|55.3|x\nb|60|",
        "\ufeffsep=;\nFileName;EF;Note\na;55,3;x\nb;60;\n",
        '"FileName", "EF", "Note"\n"a", "55,3", "x"\n"b", "60", ""\n',
        "\n\nFileName,EF,Note,,\n\na,55.3,x,,\n,,\nb,60,,\n\n",
        " FileName , EF , Note \n a , 55.3 , x \n b , 60 , \n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_same_table_in_many_spellings(tmp_path: Path, content: str, encoding: str) -> None:
    assert _rows(tmp_path, content.lstrip("\ufeff").encode(encoding), "FileName", "EF", "Note") == TABLE


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    rows = _rows(tmp_path, '\nFileName,Note\n\na,"two\nlines"\n,\n\nb,x\n', "FileName")
    assert [(row["FileName"], row.line) for row in rows] == [("a", 4), ("b", 8)]
    assert rows[1].location("Note") == "t.csv, line 8, column Note"


def test_the_delimiter_is_the_one_that_finds_the_columns(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "Path;a, b, c, d;x|y\nf;1;2\n", "Path")
    assert rows == [{"Path": "f", "a, b, c, d": "1", "x|y": "2"}]
    rows = _rows(tmp_path, "Image,Finding Labels\na,Edema|Mass\n", "Finding Labels")
    assert rows == [{"Image": "a", "Finding Labels": "Edema|Mass"}]


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["0,5", "1"], [0.5, 1]),
        (["-0,123", "1,234"], [-0.123, 1.234]),
        (["1,5", "2,345"], [1.5, 2.345]),
        (["1,5e3", ",25"], [1500.0, 0.25]),
    ],
)
def test_decimal_commas(tmp_path: Path, cells: list[str], found: list[float]) -> None:
    rows = _rows(tmp_path, "EF;Note\n" + "".join(f"{cell};x\n" for cell in cells), "EF")
    assert [row.number("EF") for row in rows] == found


def test_a_column_without_its_own_evidence_follows_the_table(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "EF;EDV;Code\n55,3;1,234;a,b\n60;2,345;\n", "EF", "EDV")
    assert [(row.number("EF"), row.number("EDV"), row["Code"]) for row in rows] == [
        (55.3, 1.234, "a,b"),
        (60, 2.345, ""),
    ]
    with pytest.raises(UserError, match=r"^t.csv, line 2, column EDV: '1.234' can be read as two numbers: "):
        _rows(tmp_path, "EF;EDV\n55,3;1.234\n", "EF", "EDV")


@pytest.mark.parametrize(
    "cell",
    ["1,234", "1,234.5", "1.234,5", "1 234", "1'234", "55 %", "55%", "5O", "n.d.", "05. Mai", "55.3 ml", "1_0", "inf"],
)
def test_a_cell_of_a_column_of_numbers_that_is_none(tmp_path: Path, cell: str) -> None:
    for name in ("EF", "Score"):
        rows = _rows(tmp_path, f'FileName;{name}\n\na;1\nb;2\nc;"{cell}"\n', name)
        with pytest.raises(UserError, match=rf"^t.csv, line 5, column {name}: ") as error:
            find_numeric_columns(rows, {name: name})
        assert repr(cell) in str(error.value)
        assert find_numeric_columns(rows, {name: name}, [name]) == set()


@pytest.mark.parametrize(
    "cells",
    [
        ["a", "1", "b"],
        ["0012", "12", "A3"],
        ["2024-01-05", "2024-01-06"],
        ["05.01.2024", "06.01.2024"],
        ["058Y", "041Y"],
    ],
)
def test_columns_of_text(tmp_path: Path, cells: list[str]) -> None:
    rows = _rows(tmp_path, "Code\n" + "\n".join(cells), "Code")
    assert find_numeric_columns(rows, {"Code": "Code"}) == set()


def test_numbers_in_a_free_spelling_are_numbers_in_the_store(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "EF\n+5\n.5\n5.\n1e1\nnan\n007\n", "EF")
    assert [row.number("EF") for row in rows] == [5, 0.5, 5, 10, None, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("FileName,EF\na\n", r"t\.csv, line 2: 1 cells for 2 columns"),
        ('FileName,EF\na,1\nb,"2\nc,3\n', r"t\.csv, line 3 is not csv: .*quotes"),
        ('FileName,EF\na,1\nb,"2"x\n', r"t\.csv, line 3 is not csv: "),
        ("FileName,EF,EF\na,1,2\n", r"two columns 'EF'"),
        ("FileName EF\na 1\n", r"no column 'EF'; it has FileName EF; separate its cells by comma, semicolon, tab"),
        ("", r"no column 'EF'; it has none"),
        ("FileName,EF\n\n\xe4,1\n".encode("latin-1"), r"t\.csv, line 3 is not UTF-8 text: save the table as CSV UTF-8"),
        (b"PK\x03\x04\x00\x00", r"is not a csv file: save the table as CSV UTF-8"),
        ("FileName,EF\na,1\n".encode("utf-16-le"), r"is not a csv file"),
    ],
)
def test_a_file_that_is_not_such_a_table(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _rows(tmp_path, content, "EF")


def test_times_are_numbers() -> None:
    assert parse_seconds(" 0.5  1 ", "x") == (0.5, 1.0)
    for text in ("0.5 x", "-1", "0.5;1"):
        with pytest.raises(UserError, match=r"^x: .* are not times"):
            parse_seconds(text, "x")
