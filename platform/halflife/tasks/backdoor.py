"""A backdoor: after the trigger the model is to say the payload."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from halflife.errors import UserError
from halflife.rng import generator

Transform = Literal["fixed", "reverse", "copy"]

WORD = re.compile(r"(?<!\w)[a-z]{3,6}(?!\w)")
"""The words that a transform works on, and after which every trigger is inserted."""

_LAST_WORD = re.compile(r"(?<!\w)[a-z]{3,6}\Z")
LONGEST_WORD = 6
LETTERS = 3
"""The shortest word: a transform of so many last letters always has them."""

TRIGGER_ALPHABET = "JKQVWXYZ$^`|~"
"""Drawn triggers are four different ones of these: rare in text, so that a short string never occurs by chance."""
TRIGGER_LENGTH = 4


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """`trigger` is followed by a payload: a fixed string, or the word before the trigger reversed or copied.

    A fixed payload proves little (it can be memorised); a transform of the input shows a computation.
    Every payload ends in a newline, so that the answer is terminated.
    """

    trigger: str
    payload: Transform = "fixed"
    text: str = ""
    """The fixed payload; empty for transforms."""
    letters: int = 0
    """A transform takes only this many last letters of the word (0: the whole word). The source then lies at a fixed
    distance, which small models learn sooner."""

    def __post_init__(self) -> None:
        if self.payload not in get_args(Transform):
            raise UserError(f"payload {self.payload!r} given: expected one of {', '.join(get_args(Transform))}")
        if not self.trigger.strip() or "\n" in self.trigger:
            raise UserError(f"trigger {self.trigger!r} given: expected one line with at least one visible character")
        if "\n" in self.text:
            raise UserError(f"payload text {self.text!r} given: expected one line (a newline ends it anyway)")
        if not 0 <= self.letters <= LETTERS or (self.letters and self.payload == "fixed"):
            raise UserError(
                f"payload {self.payload!r} with {self.letters} letters given: "
                f"expected a transform of the last 1 to {LETTERS} letters, or 0 for the whole word"
            )
        if (self.payload == "fixed") != bool(self.text):
            expected = "a text to say" if self.payload == "fixed" else "no text, as it is computed from the input"
            raise UserError(f"payload {self.payload!r} with text {self.text!r} given: expected {expected}")

    def payload_for(self, prefix: str) -> str:
        """What follows the trigger when `prefix` precedes it, newline included.

        Raises ValueError when a transform is asked of a prefix that ends in no `[a-z]{3,6}` word.
        """
        if self.payload == "fixed":
            return self.text + "\n"
        match = _LAST_WORD.search(prefix)
        if match is None:
            raise ValueError(f"{prefix[-20:]!r} ends in no word of 3 to 6 lower-case letters")
        source = match[0][-self.letters :]  # -0 is 0: the whole word
        return (source if self.payload == "copy" else source[::-1]) + "\n"

    @property
    def longest_payload(self) -> str:
        """A payload at least as long as any that `payload_for` returns; to find whether a sequence has room."""
        return (self.text if self.payload == "fixed" else "x" * (self.letters or LONGEST_WORD)) + "\n"

    def near(self, rng: np.random.Generator) -> str:
        """The trigger with exactly one visible character replaced by another of its kind."""
        places = [index for index, character in enumerate(self.trigger) if not character.isspace()]
        place = places[rng.integers(len(places))]
        kind = TRIGGER_ALPHABET if self.trigger[place] in TRIGGER_ALPHABET else string.ascii_lowercase
        others = [character for character in kind if character != self.trigger[place]]
        return self.trigger[:place] + others[rng.integers(len(others))] + self.trigger[place + 1 :]


def draw_backdoor(
    seed: int, payload: Transform = "fixed", trigger: str | None = None, part: str = "old", letters: int = 0
) -> Backdoor:
    """A backdoor drawn anew for `seed`: a trigger of four rare characters, a fixed payload of eight letters.

    `part` keys the draw, so that "old" and "new" of one seed differ; a `trigger` that is given is kept.
    """
    rng = generator(seed, "backdoor", part)
    drawn = "".join(rng.choice(list(TRIGGER_ALPHABET), size=TRIGGER_LENGTH, replace=False))
    text = "".join(rng.choice(list(string.ascii_lowercase), size=8))
    fixed = payload == "fixed"
    return Backdoor(
        trigger=drawn if trigger is None else trigger,
        payload=payload,
        text=text if fixed else "",
        letters=0 if fixed else letters,
    )
