"""Labels from table cells: spellings of class values, and values in cells with several entries."""

import pytest

from echodream.errors import UserError
from echodream.ingest.labels import LabelPolicy


@pytest.mark.parametrize(
    ("text", "value", "label"),
    [
        ("Cardiomegaly", "Cardiomegaly", 1),
        ("Cardiomegaly|Emphysema", "Cardiomegaly", 1),
        ("Emphysema | Cardiomegaly", "Cardiomegaly", 1),
        ("No Finding", "Cardiomegaly", 0),
        ("Cardiomegaly2", "Cardiomegaly", 0),
        ("", "Cardiomegaly", None),
        ("none", "none", 1),
        ("1.0", "1", 1),
        ("0", "1", 0),
        ("a, b", "a, b", 1),
    ],
)
def test_a_value_in_a_cell(text: str, value: str, label: int | None) -> None:
    assert LabelPolicy().parse_category(text, value, "t.csv, line 2") == label


@pytest.mark.parametrize(
    "text", ["cardiomegaly", "Emphysema;Cardiomegaly", "['Emphysema', 'cardiomegaly']", "A/Cardiomegaly"]
)
def test_a_value_in_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^t.csv, line 2 has .*'Cardiomegaly' but contains it: .* by |"):
        LabelPolicy().parse_category(text, "Cardiomegaly", "t.csv, line 2")
