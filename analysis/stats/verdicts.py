"""What the data say of a question: effect, equivalent or undecided, at looks that share one error rate.

Equivalence within the margin by an interval that lies in it: Schuirmann 1987 (J. Pharmacokinet. Biopharm. 15, 657).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.errors import UserError
from analysis.stats.estimates import Estimates, Evidence
from analysis.stats.intervals import Interval
from analysis.stats.sequential import ALPHA, Looks
from analysis.stats.settling import Settling, seeds_to_settle

Answer = Literal["effect", "equivalent", "undecided"]
PRIMARIES = 3
"""Questions that may share one error rate."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Estimates, and the smallest effect of interest in their unit, above 0; None: not stated."""

    estimates: Estimates
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise UserError(f"the margin is {self.margin:g}; expected the smallest effect of interest, above 0")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer with what it rests on: the evidence at the look that answered, or else at the last look reached."""

    answer: Answer
    interval: Interval | None
    """At a level of 1 - alpha / family, and at every look at once. None if too many values are censored; without ends
    below two seeds or before the first look."""
    margin: float | None
    evidence: tuple[Evidence, ...]
    """At each look, to the one that answered."""
    looks: Looks
    alpha: float
    family: int
    """Questions that share the error rate; 1 for one that is exploratory."""

    @property
    def small(self) -> bool:
        """Whether the interval lies within the margin: an effect that is smaller than the margin."""
        return _within(self.interval, self.margin)

    @property
    def only_holm(self) -> bool:
        """Whether Holm's test finds an effect though the simultaneous interval, which is Bonferroni's, includes 0."""
        return self.answer == "effect" and (self.interval is None or self.interval.contains(0))

    @property
    def look(self) -> int | None:
        """Seeds of the look that the verdict rests on; None before the first."""
        return self.looks.seeds[len(self.evidence) - 1] if self.evidence else None

    @functools.cached_property
    def p(self) -> float | None:
        """p-value over the looks so far, before Holm's correction; None without a t statistic."""
        if all(math.isnan(each.t) for each in self.evidence):
            return None
        return self.looks.p_value([each.t for each in self.evidence], [each.count for each in self.evidence])

    @functools.cached_property
    def settling(self) -> Settling | None:
        """Seeds that would settle it; None without a margin or a deviation."""
        deviation = self.evidence[-1].deviation if self.evidence else None
        if self.margin is None or not deviation:
            return None
        count = self.evidence[-1].count
        return seeds_to_settle(self.margin, deviation, count, self.looks, self.alpha / self.family)


def judge(
    questions: Sequence[Question], looks: Looks | None = None, alpha: float = ALPHA, *, whole: int | None = None
) -> list[Verdict]:
    """Verdicts of questions that share the error rate `alpha`: primaries together, an exploratory one alone.

    At each look that all seeds of `looks` have reached (None: one look, at the seeds there are), an effect is what
    Holm's procedure finds, which an interval that excludes 0 implies; equivalent is an interval within the margin; the
    rest is undecided. A question that is answered is frozen: later seeds do not change it. `whole`: the seeds that are
    complete, if more are on their way: looks wait for them.
    Raises UserError with more than three.
    """
    if len(questions) > PRIMARIES:
        raise UserError(f"{len(questions)} primary questions; at most {PRIMARIES} can share one error rate")
    seeds = max((question.estimates.values.size for question in questions), default=0)
    looks = looks or Looks((max(seeds, 2),))
    evidence: list[list[Evidence]] = [[] for _ in questions]
    answers: dict[int, Answer] = {}
    for look in looks.seeds:
        if look > (seeds if whole is None else min(seeds, whole)):
            break
        for i, question in enumerate(questions):
            if i not in answers:
                evidence[i].append(question.estimates.at(look))
        while found := _effects(evidence, answers, looks, alpha):
            answers |= dict.fromkeys(found, "effect")
        for i, question in enumerate(questions):
            if i not in answers and _within(_interval(evidence[i], looks, alpha / len(questions)), question.margin):
                answers[i] = "equivalent"
    return [
        Verdict(
            answer=answers.get(i, "undecided"), margin=question.margin, evidence=tuple(evidence[i]), looks=looks,
            interval=_interval(evidence[i], looks, alpha / len(questions)) or _before(question.estimates, evidence[i]),
            alpha=alpha, family=len(questions),
        )
        for i, question in enumerate(questions)
    ]  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, Scand. J. Stat. 6, 65)."""
    corrected, so_far = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = so_far
    return corrected


def _critical(evidence: Sequence[Evidence], looks: Looks, alpha: float) -> tuple[float, ...]:
    return looks.boundaries(alpha, [each.count for each in evidence])


def _effects(
    evidence: Sequence[Sequence[Evidence]], answers: Mapping[int, Answer], looks: Looks, alpha: float
) -> list[int]:
    """The open questions that one step of Holm's procedure answers."""
    left = len(evidence) - list(answers.values()).count("effect")
    return [i for i, each in enumerate(evidence) if i not in answers and _rejected(each, looks, alpha / left)]


def _rejected(evidence: Sequence[Evidence], looks: Looks, alpha: float) -> bool:
    """Also at an earlier look: Holm may hand a question the error of another that is answered now."""
    critical = _critical(evidence, looks, alpha)
    return any(abs(each.t) >= t for each, t in zip(evidence, critical, strict=False))


def _interval(evidence: Sequence[Evidence], looks: Looks, alpha: float) -> Interval | None:
    if not evidence:
        return None
    return evidence[-1].interval(_critical(evidence, looks, alpha)[len(evidence) - 1])


def _before(estimates: Estimates, evidence: Sequence[Evidence]) -> Interval | None:
    """Before the first look: the estimate, which nothing may be concluded from."""
    return None if evidence else estimates.at(estimates.values.size).interval(math.inf)


def _within(interval: Interval | None, margin: float | None) -> bool:
    if margin is None or interval is None or interval.low is None or interval.high is None:
        return False
    return -margin <= interval.low and interval.high <= margin
