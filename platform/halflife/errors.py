"""The exceptions that carry a message for people instead of a traceback."""


class UserError(Exception):
    """Bad input: says what was given, what was expected and how to mend it. Exit code 2."""


class Diverged(Exception):
    """A stage's numbers ceased to be finite; the message names the step. A result, not a failure: never retried."""
