"""FileNames of a store are valid and unique for any names of raw files."""

import pytest

from echodream.ingest.listing import unique_names, valid_file_name
from echodream.store.schema import is_valid_name


@pytest.mark.parametrize(
    "text",
    ["a.mov", "../../etc/passwd", "/abs", "Übung 1", "患者", "", " ", ".hidden", "x" * 500, "a\nb\0c", "a.", "\udcff"],
)
def test_every_text_becomes_a_valid_name(text: str) -> None:
    assert is_valid_name(valid_file_name(text))
    assert valid_file_name(text) == valid_file_name(text)


def test_names_are_unique_and_do_not_depend_on_order() -> None:
    texts = ["a b", "a/b", "A-b", "plain", "a b"]
    names = unique_names(texts)
    assert len({name.casefold() for name in names}) == len(texts)
    assert all(map(is_valid_name, names))
    assert names[3] == "plain"
    assert unique_names(["a/b", "a b"])[0] == unique_names(["a b", "a/b"])[1]


def test_long_names_that_share_their_beginning_stay_apart() -> None:
    first, second = unique_names(["x" * 200 + "1", "x" * 200 + "2"])
    assert first != second
    assert len(first) == len(second) == 128
