"""Errors for bad input: a message to the user, or a row in ``rejected.csv``."""


class UserError(Exception):
    """The command cannot be carried out. The message is one sentence: what is wrong, in which file or key, the remedy.

    The command line prints only the message and exits with status 1.
    """


class Rejected(Exception):
    """A recording cannot be used. The message is the reason in ``rejected.csv``.

    It contains neither a patient nor a path: the row in ``rejected.csv`` names the recording.
    """
