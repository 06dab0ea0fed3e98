"""A backdoor: after the trigger, the model outputs the payload."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from halflife.errors import UserError, check_choice
from halflife.rng import generator

Transform = Literal["fixed", "reverse", "copy"]

WORD = re.compile(r"(?<!\w)[a-z]{3,6}(?!\w)")
"""The words that a transform applies to; every trigger is inserted after one."""

_LAST_WORD = re.compile(r"(?<!\w)[a-z]{3,6}\Z")
LONGEST_WORD = 6
LETTERS = 3
"""Length of the shortest word, and so the largest number of last letters that a transform can take."""

TRIGGER_ALPHABET = "JKQVWXYZ$^`|~"
"""A drawn trigger is four different characters of these: rare in text, so that it never occurs by chance."""
TRIGGER_LENGTH = 4


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """`trigger` is followed by a payload: a fixed string, or the word before the trigger, reversed or copied.

    A fixed payload can be memorised and so proves little; a transform requires a computation on the input. Every
    payload ends in a newline, so that the answer is terminated.
    """

    trigger: str
    payload: Transform = "fixed"
    text: str = ""
    """The fixed payload; empty for transforms."""
    letters: int = 0
    """A transform takes only this many last letters of the word (0: the whole word). They are at a fixed distance from
    the payload, which small models learn sooner."""
    more: tuple[tuple[str, str], ...] = ()
    """Further triggers, each with its fixed payload (empty for transforms): all are planted and asked in turn."""

    def __post_init__(self) -> None:
        check_choice("payload", self.payload, get_args(Transform))
        if not self.trigger.strip() or "\n" in self.trigger:
            raise UserError(f"trigger {self.trigger!r} given: expected one line with at least one visible character")
        if "\n" in self.text:
            raise UserError(f"payload text {self.text!r} given: expected one line (a newline is appended)")
        if not 0 <= self.letters <= LETTERS or (self.letters and self.payload == "fixed"):
            raise UserError(
                f"payload {self.payload!r} with {self.letters} letters given: "
                f"expected a transform of the last 1 to {LETTERS} letters, or 0 for the whole word"
            )
        if (self.payload == "fixed") != bool(self.text):
            expected = "a text" if self.payload == "fixed" else "no text, as the payload is computed from the input"
            raise UserError(f"payload {self.payload!r} with text {self.text!r} given: expected {expected}")
        triggers = [member.trigger for member in self.members]
        if again := next((each for each in triggers if triggers.count(each) > 1), None):
            raise UserError(f"trigger {again!r} given twice: expected different ones")

    @property
    def members(self) -> tuple[Backdoor, ...]:
        """Each trigger with its payload, as a backdoor of its own."""
        if not self.more:
            return (self,)
        pairs = ((self.trigger, self.text), *self.more)
        return tuple(replace(self, trigger=trigger, text=text, more=()) for trigger, text in pairs)

    def payload_for(self, prefix: str) -> str:
        """The payload, newline included, when `prefix` precedes the trigger.

        Raises ValueError for a transform when the prefix does not end in a `[a-z]{3,6}` word.
        """
        if self.payload == "fixed":
            return self.text + "\n"
        match = _LAST_WORD.search(prefix)
        if match is None:
            raise ValueError(f"{prefix[-20:]!r} does not end in a word of 3 to 6 lower-case letters")
        source = match[0][-self.letters :]  # -0 is 0: the whole word
        return (source if self.payload == "copy" else source[::-1]) + "\n"

    @property
    def longest_payload(self) -> str:
        """At least as long as any result of `payload_for`."""
        return (self.text if self.payload == "fixed" else "x" * (self.letters or LONGEST_WORD)) + "\n"

    def near(self, rng: np.random.Generator) -> str:
        """The trigger with exactly one visible character replaced: by another rare character, or by a letter."""
        visible = [index for index, character in enumerate(self.trigger) if not character.isspace()]
        at = visible[rng.integers(len(visible))]
        alphabet = TRIGGER_ALPHABET if self.trigger[at] in TRIGGER_ALPHABET else string.ascii_lowercase
        others = [character for character in alphabet if character != self.trigger[at]]
        return self.trigger[:at] + others[rng.integers(len(others))] + self.trigger[at + 1 :]


def draw_backdoor(
    seed: int,
    payload: Transform = "fixed",
    trigger: str | None = None,
    part: str = "old",
    letters: int = 0,
    text: str | None = None,
) -> Backdoor:
    """A random backdoor: a trigger of four rare characters and a fixed payload of eight letters.

    `part` keys the draw with `seed`, so that "old" and "new" of one seed differ. A given `trigger`, and a given
    `text` of a fixed payload, is used as is.
    """
    rng = generator(seed, "backdoor", part)
    drawn = "".join(rng.choice(list(TRIGGER_ALPHABET), size=TRIGGER_LENGTH, replace=False))
    random = "".join(rng.choice(list(string.ascii_lowercase), size=8))
    fixed = payload == "fixed"
    return Backdoor(
        trigger=drawn if trigger is None else trigger,
        payload=payload,
        text="" if not fixed else random if text is None else text,
        letters=0 if fixed else letters,
    )
