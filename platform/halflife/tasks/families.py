"""Families: sets of languages (synthetic tasks) that share nothing (A), a skill (B), or also translations (C, D)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from halflife.errors import UserError, check_choice
from halflife.tasks.arithmetic import FORMS, Addition, Translation, pieces
from halflife.tasks.sequences import SEQUENCES, Phrase
from halflife.tasks.synthetic import SyntheticTask

Kind = Literal["A", "B", "C", "D"]
MEANING = {
    "A": "unrelated sequences",
    "B": "one skill in different forms",
    "C": "one skill in different forms, with translation",
    "D": "one skill in different forms, with translation but for one pair",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """The languages that are learned together, and the translations that are not trained on.

    A: ten unrelated trivial sequences. B: forms of one underlying skill (modular addition). C: B and translation
    between all pairs of forms. D: C without one pair, in both directions: success on it is generalisation.

    One language is the subject, which a study drops. The overlaps are its overlaps with the others, and the pair that D
    leaves out is the subject and the next form.
    """

    kind: Kind
    size: int = 10
    """Number of languages, without translations."""
    seed: int = 0
    modulus: int = 11
    subject: int = 0
    """Index of the subject among the languages."""
    rule_overlap: float = 1.0
    """Of the subject with the others: see `tasks.arithmetic.Addition`. Not in family A."""
    token_overlap: float = 1.0
    shuffled: bool = False
    """Whether the subject's answers are shuffled: the control with a table to learn but no skill."""
    own: SyntheticTask | None = None
    """A task from elsewhere in the place of the subject, in family A. It may be the only one."""

    def __post_init__(self) -> None:
        check_choice("family", self.kind, MEANING)
        most = len(SEQUENCES) if self.kind == "A" else len(FORMS)
        if not (2 if self.own is None else 1) <= self.size <= most:
            raise UserError(f"family {self.kind} of {self.size} languages given: expected 2 to {most}")
        if self.own is not None and self.kind != "A":
            raise UserError(f"the task {self.own.name} in family {self.kind} given: it shares nothing; use family A")
        if self.kind == "A" and (self.rule_overlap, self.token_overlap) != (1.0, 1.0):
            raise UserError("overlap in family A given: its languages share nothing; use B, C or D")
        if not 0 <= self.subject < self.size:
            raise UserError(f"language {self.subject} as subject given: expected 0 to {self.size - 1}")
        names = [language.name for language in self.languages]  # their constructors check the other fields
        if self.own is not None and names.count(self.own.name) > 1:
            raise UserError(f"a task named {self.own.name} given: a language that stays is named so; rename it")

    @cached_property
    def languages(self) -> tuple[SyntheticTask, ...]:
        """The languages themselves, without translations."""
        if self.kind == "A":
            found: list[SyntheticTask] = [sequence(seed=self.seed) for sequence in SEQUENCES[: self.size]]
            found[self.subject] = replace(self.own or found[self.subject], shuffled=self.shuffled)
            return tuple(found)
        forms = [Addition(form=form, modulus=self.modulus, seed=self.seed) for form in FORMS[: self.size]]
        forms[self.subject] = replace(
            forms[self.subject],
            shared_operands=self.rule_overlap,
            token_overlap=self.token_overlap,
            shuffled=self.shuffled,
        )
        return tuple(forms)

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """Pieces for a Lexicon. In family A only the phrase's words, as the other rules are about characters."""
        if self.kind == "A":
            return tuple(f"{word} " for word in Phrase.words())
        return pieces(self.modulus, FORMS[: self.size])

    @cached_property
    def pairs(self) -> tuple[Translation, ...]:
        """Translations between all pairs of forms, in both directions, including the pair that D leaves out."""
        if self.kind in ("A", "B"):
            return ()
        return tuple(
            Translation(source=one, target=other, modulus=self.modulus, seed=self.seed)
            for one, other in itertools.permutations(FORMS[: self.size], 2)
        )

    @cached_property
    def untrained(self) -> tuple[Translation, ...]:
        """The pair that D leaves out, in both directions: the subject and the next form."""
        if self.kind != "D":
            return ()
        missing = {FORMS[self.subject], FORMS[(self.subject + 1) % self.size]}
        return tuple(pair for pair in self.pairs if {pair.source, pair.target} == missing)

    @cached_property
    def trained(self) -> tuple[SyntheticTask, ...]:
        """Every task that the trunk trains on."""
        untrained = self.untrained
        return (*self.languages, *(pair for pair in self.pairs if pair not in untrained))

    def without(self, names: tuple[str, ...], *, keep_translations: bool = False) -> tuple[SyntheticTask, ...]:
        """The tasks that remain after dropping the languages `names`, and their translations unless kept.

        Raises UserError when the family has no language of that name.
        """
        known = [language.name for language in self.languages]
        for name in names:
            if name not in known:
                raise UserError(f"dropped language {name!r} given: the family has {', '.join(known)}")
        return tuple(
            task
            for task in self.trained
            if task.name not in names
            and (keep_translations or not (isinstance(task, Translation) and {task.source, task.target} & set(names)))
        )
