"""Errors for bad input: a message to the user, or a row in ``rejected.csv``."""


class UserError(Exception):
    """The command line prints this message, one sentence: problem, file or key, remedy; the exit status is 1."""


class Rejected(Exception):
    """A recording cannot be used. The message is the reason in ``rejected.csv``, without patients' names and paths."""
