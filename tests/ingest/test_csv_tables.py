"""Cells of the tables beside raw files, and the settings that are checked in the same words."""

from pathlib import Path

import pytest

from echodream.errors import UserError
from echodream.ingest.csv_tables import parse_cell, parse_number, read_table
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
