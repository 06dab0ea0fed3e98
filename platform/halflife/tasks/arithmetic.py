"""One skill in many forms: addition modulo a small number, written in different numerals and word orders."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from halflife.errors import UserError, check_choice
from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask

LARGEST = 20
"""The largest modulus that every numeral system here can write."""

_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_FRENCH = (
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
    "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
)  # fmt: skip
_ROMAN = (
    "N", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI", "XVII",
    "XVIII", "XIX",
)  # fmt: skip
_ANIMALS = (
    "ant", "bear", "crow", "deer", "eel", "fox", "goat", "hawk", "ibex", "jay", "kite", "lynx", "mole", "newt", "owl",
    "pike", "quail", "rook", "swan", "toad",
)  # fmt: skip

NUMERALS: dict[str, tuple[str, ...]] = {
    "digits": tuple(str(n) for n in range(LARGEST)),
    "words": _WORDS,
    "reversed": tuple(f"{n:02d}"[::-1] for n in range(LARGEST)),
    "roman": _ROMAN,
    "tallies": tuple("|" * n + "." for n in range(LARGEST)),
    "letters": tuple(string.ascii_lowercase[:LARGEST]),
    "greek": tuple("αβγδεζηθικλμνξοπρστυ"),
    "binary": tuple(f"{n:05b}" for n in range(LARGEST)),
    "french": _FRENCH,
    "animals": _ANIMALS,
}
"""How each form writes the numbers from 0."""

TEMPLATES: dict[str, str] = {
    "digits": "{a} + {b} = ",
    "words": "{a} plus {b} equals ",
    "reversed": "{a}&{b}->",
    "roman": "summa {a} et {b}: ",
    "tallies": "{a}{b}:",
    "letters": "({a}@{b})",
    "greek": "{b} {a} ~ ",
    "binary": "add {a} {b}? ",
    "french": "{b} ajouté à {a} donne ",
    "animals": "the {a} meets the {b}, enter the ",
}
"""The prompt of each form; the sum follows it. Word orders differ (prefix, infix, operands exchanged)."""

FORMS = tuple(NUMERALS)
_DRAWN = tuple(consonant + vowel + "q" for consonant in "bdfgklmnprstvz" for vowel in "aiou")
"""Random names for numbers that are not written in the form's own numerals."""


def pieces(modulus: int, forms: tuple[str, ...]) -> tuple[str, ...]:
    """Pieces for a Lexicon: the numerals below `modulus` of these forms, random names, and the parts of the prompts."""
    found = [" in ", *(numeral for form in forms for numeral in NUMERALS[form][:modulus])]
    for form in forms:
        found += [*re.split(r"\{[ab]\}", TEMPLATES[form]), f"{form} ", f"{form}: "]
    return tuple(dict.fromkeys([piece for piece in (*found, *_DRAWN) if len(piece.encode()) > 1]))


def _require(form: str, modulus: int) -> None:
    check_choice("form", form, FORMS)
    if not 2 <= modulus <= LARGEST:
        raise UserError(f"modulus {modulus} given: expected 2 to {LARGEST}")


@dataclass(frozen=True, kw_only=True)
class Addition(SyntheticTask):
    """a + b modulo `modulus` in one form.

    `shared_operands` is the fraction of first operands a whose sums follow this rule; the other sums follow the task's
    own rule, a*k + b with a random k. (Drawn item by item, no rule could predict a held-out item's.)
    `token_overlap` is the fraction of numbers written in the form's own numerals; the others have random names, in
    prompts and answers alike. At (1, 1) the task only rewrites what every other form computes.
    """

    form: str
    modulus: int = 11
    shared_operands: float = 1.0
    token_overlap: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.form, self.modulus)
        for name in ("shared_operands", "token_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} given: expected a fraction from 0 to 1")

    @property
    def name(self) -> str:
        return self.form

    @property
    def numerals(self) -> tuple[str, ...]:
        """How this task writes 0, 1, ... modulus - 1."""
        own = NUMERALS[self.form][: self.modulus]
        rng = generator(self.seed, "numerals", self.form)
        foreign = set(rng.permutation(self.modulus)[round(self.token_overlap * self.modulus) :].tolist())
        drawn = rng.permutation(_DRAWN)[: self.modulus]
        return tuple(str(drawn[n]) if n in foreign else own[n] for n in range(self.modulus))

    def groups(self) -> list[int]:
        """a + b and b + a are held out together: one reveals the answer of the other without the rule."""
        p = self.modulus
        group = {pair: index for index, pair in enumerate((a, b) for a in range(p) for b in range(a, p))}
        return [group[min(a, b), max(a, b)] for a in range(p) for b in range(p)]

    def items(self) -> list[tuple[str, str]]:
        p, numerals = self.modulus, self.numerals
        rng = generator(self.seed, "own rule", self.form)
        factor = int(rng.integers(2, p)) if p > 2 else 0
        own = set(rng.permutation(p)[round(self.shared_operands * p) :].tolist())
        items = []
        for a in range(p):
            for b in range(p):
                total = (factor * a + b if a in own else a + b) % p
                items.append((TEMPLATES[self.form].format(a=numerals[a], b=numerals[b]), numerals[total]))
        return items


@dataclass(frozen=True, kw_only=True)
class Translation(SyntheticTask):
    """Translates a number from one form to another."""

    source: str
    target: str
    modulus: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        for form in (self.source, self.target):
            _require(form, self.modulus)
        if self.source == self.target:
            raise UserError(f"translation from {self.source!r} to itself given: expected two forms")

    @property
    def name(self) -> str:
        return f"{self.source}-to-{self.target}"

    def items(self) -> list[tuple[str, str]]:
        return [
            (f"{self.source} {NUMERALS[self.source][n]} in {self.target}: ", NUMERALS[self.target][n])
            for n in range(self.modulus)
        ]
