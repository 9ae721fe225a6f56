"""Errors for bad input: a message to the user, or a row in ``rejected.csv``."""


class UserError(Exception):
    """The command cannot be carried out: the command line prints only the message and exits with status 1.

    The message is one sentence: the problem, the file or key, and the remedy.
    """


class Rejected(Exception):
    """A recording cannot be used. The message is the reason in ``rejected.csv``, without patients' names and paths."""
