"""Error messages for users have one line, also if a quoted value has several lines."""

from echodream.errors import UserError


def test_a_message_stays_on_one_line_and_moves_no_cursor() -> None:
    error = UserError("labels.csv has the column 'a\n\x1b[2J\u2028b\udcff'")
    assert str(error) == "labels.csv has the column 'a??[2J?b?'"
    assert str(UserError(ValueError("x"))) == "x"
