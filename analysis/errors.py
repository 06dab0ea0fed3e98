"""The exception that users see as one line instead of a traceback, and what a misspelt word was to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: what was given, what was expected, how to fix it. Exit code 2."""


def nearest(given: str, known: Iterable[str]) -> str:
    """ ", did you mean --seed?" for a word that is misspelt or cut short; nothing if none is near a known one."""
    known = sorted(known, key=len)
    longer = [each for each in known if each.startswith(given)]
    found = longer or difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f", did you mean {found[0]}?" if found else ""
