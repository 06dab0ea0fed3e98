"""Exceptions whose message is for the user, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Bad input: says what was given, what was expected and how to fix it. Exit code 2."""


class Diverged(Exception):
    """A stage's numbers are no longer finite; the message names the step. A result, not a failure: never retried."""


def check_choice(what: str, given: str, choices: Iterable[str]) -> None:
    """Raises UserError unless `given` is one of `choices`."""
    choices = tuple(choices)
    if given not in choices:
        raise UserError(f"{what} {given!r} given: expected one of {', '.join(choices)}")
