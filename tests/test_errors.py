"""Errors of the user: one line, whatever is quoted in it."""

from echodream.errors import UserError


def test_a_message_stays_on_one_line_and_moves_no_cursor() -> None:
    error = UserError("labels.csv has the column 'a\n\x1b[2J\u2028b\udcff'")
    assert str(error) == "labels.csv has the column 'a??[2J?b?'"
    assert str(UserError(ValueError("x"))) == "x"
