"""The exception that users see as one line instead of a traceback."""


class UserError(Exception):
    """Bad input: what was given, what was expected, how to fix it. Exit code 2."""
