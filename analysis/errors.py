"""The one exception that users of the analysis see as a line instead of a traceback."""


class UserError(Exception):
    """Bad input: says what was given, what was expected and how to mend it. Exit code 2."""
