"""The exception that users see as one line instead of a traceback, and what a misspelt word was to be."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: what was given, what was expected, how to fix it. Exit code 2."""


def closest(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that one misspelt, cut short or in another case was to be; None if none is near."""
    words = {each.lower(): each for each in sorted(known, key=len, reverse=True)}
    longer = [each for each in sorted(words, key=len) if given and each.startswith(given.lower())]
    found = longer or difflib.get_close_matches(given.lower(), words, n=1, cutoff=cutoff)
    return words[found[0]] if found else None


def nearest(given: str, known: Iterable[str]) -> str:
    """ ", did you mean --seed?", or nothing if no known word is near."""
    found = closest(given, known)
    return f", did you mean {found}?" if found else ""


_FLAG = re.compile(
    r"`[^`]*`|--(?P<name>[a-z][a-z-]*)"
    r"(?: (?P<value>\w+=[^\s,:;]+(?:,\w+=[^\s,:;]+)*|[A-Z]{2,}\b|[-+.]?\d[^\s,:;]*|"
    r"(?:beta-)?binomial|constant|gaussian|huber|log1p|lognormal))?"
)


def in_arguments(text: str, names: Iterable[str]) -> str:
    """A message about the command line's flags in terms of a function's arguments `names`: error="gaussian" in place of
    --error gaussian, and hits= of --hits."""
    known = set(names)

    def said(found: re.Match[str]) -> str:
        name, value = (found["name"] or "").replace("-", "_"), found["value"]
        if name not in known:
            return found[0]
        if value and "=" in value:
            pairs = [part.partition("=") for part in value.split(",")]
            return f"{name}={{" + ", ".join(f'"{key}": {each}' for key, _, each in pairs) + "}"
        word = value and value[0].islower() and not value[0].isdigit()
        return f'{name}="{value}"' if word else f"{name}={value or ''}"

    return _FLAG.sub(said, text)


@contextmanager
def for_python(function: Callable[..., object]) -> Iterator[None]:
    """UserErrors speak of the arguments of `function` and not of the command line's flags. Also a decorator."""
    try:
        yield
    except UserError as error:
        if (text := in_arguments(str(error), inspect.signature(function).parameters)) == str(error):
            raise
        raise UserError(text) from None
