"""Exceptions whose message is for the user, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import groupby


class UserError(Exception):
    """Bad input: says what was given, what was expected and how to fix it. Exit code 2."""


class Diverged(Exception):
    """A stage's numbers are no longer finite; the message names the step. A result, not a failure: never retried."""


def nearest(given: Iterable[str], known: Iterable[str]) -> str:
    """ ", did you mean --seeds?" for words that are misspelt, cut short or written out (--learning-rate for --lr);
    nothing if none is near a known one."""
    known = sorted(known, key=len)
    found = [near for word in given if word not in known for near in _near(word, known)]
    return f", did you mean {' '.join(dict.fromkeys(found))}?" if found else ""


def _near(word: str, known: list[str]) -> list[str]:
    short = "--" + "".join(part[0] for part in word.strip("-").split("-") if part)
    longer = [each for each in known if word.strip("-") and each.startswith(word)]
    cutoff = 0.7 if word.startswith("-") else 0.6  # flags share their dashes
    close = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return longer[:1] or close or [each for each in known if each == short and "-" in word.strip("-")]


def first_sentence(box: str) -> str:
    """The message in the parser's box, below its title, which is in the border or above the first rule."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [list(part) for rule, part in groupby(lines, lambda line: line.startswith(("──", "-" * 16))) if not rule]
    return " ".join(parts[0 if "╭" in box else 1]).strip()


def check_choice(what: str, given: str, choices: Iterable[str]) -> None:
    """Raises UserError unless `given` is one of `choices`."""
    choices = tuple(choices)
    if given not in choices:
        raise UserError(f"{what} {given!r} given: expected one of {', '.join(choices)}")
