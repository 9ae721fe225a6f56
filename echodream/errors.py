"""The two ways in which bad input is answered: one sentence to the user, or one row in ``rejected.csv``."""


class UserError(Exception):
    """The command cannot be carried out as asked. The message is one sentence: the file or key, and the remedy.

    The command line prints the message alone and exits with 1.
    """


class Rejected(Exception):
    """One recording cannot be used. The message is the reason written to ``rejected.csv``.

    It names neither the patient nor a path: the row that holds it already names the recording.
    """
