"""Names of patients are found in texts that will be shared."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from echodream.runs.redaction import find_patient_name

STORE: Any = SimpleNamespace(table=pd.DataFrame({"PatientID": ["marta", "123456"], "FileName": ["marta-02", "run7"]}))


@pytest.mark.parametrize(
    ("text", "public_text", "expected"),
    [
        ("command of marta", "", "marta"),
        ("command of martagon", "", None),  # part of a longer word
        ("command of marta", "data of marta", None),  # public
        ("command of marta", "the lily martagon", "marta"),  # only part of a public word
        ("number 123456", "the number 1234567", "123456"),
        ("loss 0.123456", "", None),  # decimals
    ],
)
def test_a_name_is_found_as_a_whole_word_that_is_not_public(text: str, public_text: str, expected: str | None) -> None:
    assert find_patient_name(STORE, text, public_text) == expected
