"""Verdicts on planted truths: false effects, false equivalence, coverage at looks, families, power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from analysis.stats.arrays import Array
from analysis.stats.estimates import Censored, Estimates
from analysis.stats.imputation import slopes_over_seeds
from analysis.stats.intervals import binomial_interval
from analysis.stats.sequential import ALPHA, Looks
from analysis.stats.settling import REPLICATES, SPREAD_LEVEL, Range, Truth, chances, seeds_at, seeds_to_settle
from analysis.stats.verdicts import Question, Verdict, judge
from tests.validation.cells import generator

LEVEL = 0.999
"""A cell misses if the binomial interval of its rate at this level excludes the target, on the unsafe side."""
SEEDS = (3, 5, 8, 12)
PLANS = ((5, 8), (5, 8, 12), (5, 8, 12, 20))
SLOW = 10
"""Factor by which cells with imputation have fewer replicates."""

LATE = 0.31
"""Which a fifth of the values of `censored_looks` are above."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often something happened, and how often it may."""

    what: str
    design: str
    rate: float
    target: float
    replicates: int
    side: Literal["at most", "at least", "about"]
    told: int = 0
    """Replicates behind a target that is simulated itself."""

    @property
    def ends(self) -> tuple[float, float]:
        """The rate's binomial interval, wider by the error of a simulated target."""
        low, high = binomial_interval(self.rate * self.replicates, self.replicates, LEVEL)
        wider = np.sqrt(1 + self.replicates / self.told) if self.told else 1.0
        return self.rate - wider * (self.rate - float(low)), self.rate + wider * (float(high) - self.rate)

    @property
    def holds(self) -> bool:
        low, high = self.ends
        return (low <= self.target or self.side == "at least") and (self.target <= high or self.side == "at most")

    @property
    def conservative(self) -> bool:
        """Whether it keeps its promise with something to spare."""
        low, high = self.ends
        return self.holds and not low <= self.target <= high


def rates(replicates: int) -> list[Rate]:
    parts = (alone, counted, at_looks, associations, at_the_margin, families, powers, ranges)
    found = [rate for part in parts for rate in part(replicates)]
    few = max(1, replicates // SLOW)
    return found + censored_trends(few) + censored_looks(few)


def _judged(values: Array, margin: float | None = None, looks: Looks | None = None) -> list[Verdict]:
    """Of R data sets (R, S), each alone."""
    return [judge([Question(estimates=Estimates(values=each), margin=margin)], looks)[0] for each in values]


def _share(verdicts: Sequence[Verdict], answer: str) -> float:
    return sum(each.answer == answer for each in verdicts) / len(verdicts)


def _covered(verdicts: Sequence[Verdict], truth: float) -> float:
    return sum(each.interval is not None and each.interval.contains(truth) for each in verdicts) / len(verdicts)


def _false_effects(what: str, design: str, verdicts: Sequence[Verdict], side: Literal["at most", "about"]) -> Rate:
    return Rate(what=what, design=design, rate=_share(verdicts, "effect"), target=ALPHA, side=side,
                replicates=len(verdicts))  # fmt: skip


def alone(replicates: int) -> list[Rate]:
    """Normal differences, no effect, one look."""
    found = []
    for seeds in SEEDS:
        verdicts = _judged(generator(20, seeds).standard_normal((replicates, seeds)))
        found.append(_false_effects("false effects", f"{seeds} seeds", verdicts, "about"))
        found.append(Rate(what="coverage", design=f"{seeds} seeds", rate=_covered(verdicts, 0), target=1 - ALPHA,
                          side="about", replicates=replicates))  # fmt: skip
    return found


def counted(replicates: int) -> list[Rate]:
    """Differences of two rates, counts of 128 at 0.9 that vary between seeds: discrete, and skewed before pairing."""
    found = []
    for seeds in SEEDS:
        rng = generator(21, seeds)
        rate = rng.beta(36, 4, (2, replicates, seeds))
        high, low = rng.binomial(128, rate) / 128
        verdicts = _judged(high - low)
        found.append(_false_effects("false effects", f"{seeds} seeds, differences of counts", verdicts, "about"))
    return found


def at_looks(replicates: int) -> list[Rate]:
    """No effect, from look to look; and the intervals of all looks at once."""
    found = []
    for plan in PLANS:
        looks = Looks(plan)
        values = generator(22, len(plan)).standard_normal((replicates, plan[-1]))
        design = f"looks {', '.join(map(str, plan))}"
        found.append(_false_effects("false effects, from look to look", design, _judged(values, None, looks), "about"))
        ends = looks.boundaries(ALPHA)
        covered = np.ones(replicates, dtype=bool)
        for seeds, t in zip(plan, ends, strict=True):
            each = [Estimates(values=row).at(seeds).interval(t) for row in values]
            covered &= [interval is not None and interval.contains(0) for interval in each]
        found.append(Rate(what="coverage at all looks at once", design=design, rate=float(covered.mean()),
                          target=1 - ALPHA, side="about", replicates=replicates))  # fmt: skip
    return found


def associations(replicates: int) -> list[Rate]:
    """Rank correlations of two independent quantities over 12 items."""
    found = []
    for seeds in SEEDS[1:]:
        ranks = stats.rankdata(generator(23, seeds).standard_normal((2, replicates, seeds, 12)), axis=-1)
        away = ranks - ranks.mean(axis=-1, keepdims=True)
        values = (away[0] * away[1]).sum(axis=-1) / np.sqrt((away**2).sum(axis=-1)).prod(axis=0)
        verdicts = _judged(values)
        found.append(_false_effects("false effects, association", f"{seeds} seeds, 12 items", verdicts, "about"))
    return found


def at_the_margin(replicates: int) -> list[Rate]:
    """A true effect equal to the margin: equivalent is wrong."""
    found = []
    for plan in ((5,), (8,), (12,), (5, 8, 12)):
        for place, ratio in enumerate((1.0, 2.0, 4.0)):
            values = ratio + generator(24, len(plan) * 100 + plan[0], place).standard_normal((replicates, plan[-1]))
            verdicts = _judged(values, ratio, Looks(plan))
            found.append(Rate(
                what="false equivalence at the margin", target=ALPHA, side="at most", replicates=replicates,
                design=f"{'looks' if len(plan) > 1 else 'seeds'} {', '.join(map(str, plan))}, margin {ratio:g} SD",
                rate=_share(verdicts, "equivalent"),
            ))  # fmt: skip
    return found


def families(replicates: int) -> list[Rate]:
    """Two and three primaries: any false effect; and their simultaneous intervals."""
    found = []
    designs = [
        (2, (8,), 0.0, 0),
        (3, (8,), 0.0, 0),
        (3, (8,), 0.7, 0),
        (3, (5, 8, 12), 0.0, 0),
        (3, (5, 8, 12), 0.0, 1),
    ]
    for place, (count, plan, shared, true) in enumerate(designs):
        rng = generator(25, place)
        noise = rng.standard_normal((replicates, count, plan[-1]))
        values = np.sqrt(1 - shared) * noise + np.sqrt(shared) * rng.standard_normal((replicates, 1, plan[-1]))
        truth = np.array([3.0] * true + [0.0] * (count - true))
        looks = Looks(plan)
        judged = [judge([Question(estimates=Estimates(values=v)) for v in each], looks)
                  for each in values + truth[:, None]]  # fmt: skip
        wrong = [any(v.answer == "effect" for v in each[true:]) for each in judged]
        covered = [all(v.interval is not None and v.interval.contains(t) for v, t in zip(each, truth, strict=True))
                   for each in judged]  # fmt: skip
        design = f"{count} primaries, {true} with an effect, {'looks' if len(plan) > 1 else 'seeds'} " \
                 f"{', '.join(map(str, plan))}{f', correlation {shared:g}' if shared else ''}"  # fmt: skip
        found.append(Rate(what="any false effect of a family", design=design, rate=float(np.mean(wrong)), target=ALPHA,
                          side="at most", replicates=replicates))  # fmt: skip
        found.append(Rate(what="simultaneous coverage of a family", design=design, rate=float(np.mean(covered)),
                          target=1 - ALPHA, side="at least", replicates=replicates))  # fmt: skip
    return found


def powers(replicates: int) -> list[Rate]:
    """The probability of being settled that is told, and that of verdicts."""
    found = []
    for place, (plan, ratio, truth) in enumerate(POWERS):
        looks = Looks(plan)
        told = chances(ratio, truth, plan, looks.boundaries(ALPHA))[-1]
        values = generator(26, place).standard_normal((replicates, plan[-1])) + (ratio if truth == "effect" else 0.0)
        verdicts = _judged(values, ratio, looks)
        found.append(Rate(
            what=f"power told, {'an effect of the margin' if truth == 'effect' else 'no effect'}", side="about",
            design=f"{'looks' if len(plan) > 1 else 'seeds'} {', '.join(map(str, plan))}, margin {ratio:g} SD",
            rate=_share(verdicts, truth), target=float(told), replicates=replicates, told=REPLICATES,
        ))  # fmt: skip
    return found


POWERS: tuple[tuple[tuple[int, ...], float, Truth], ...] = (
    ((8,), 1.2, "effect"), ((12,), 0.9, "effect"), ((5, 8, 12), 1.0, "effect"), ((5, 8, 12, 20), 0.7, "effect"),
    ((8,), 1.3, "equivalent"), ((12,), 1.0, "equivalent"), ((5, 8, 12), 1.2, "equivalent"),
)  # fmt: skip


def ranges(replicates: int) -> list[Rate]:
    """How often the range of seeds told after a first look holds the number that the true deviation asks for."""
    found = []
    for place, (seeds, plan, margin) in enumerate(((5, (5,), 0.8), (8, (8,), 0.6), (5, (5, 8, 12), 0.7))):
        looks, rng = Looks(plan), generator(27, place)
        true: dict[Truth, int | None] = {
            truth: seeds_at(margin, truth, seeds, looks, ALPHA) for truth in get_args(Truth)
        }
        drawn = np.sqrt(rng.chisquare(seeds - 1, max(1, replicates // SLOW)) / (seeds - 1))
        told = [seeds_to_settle(margin, float(deviation), seeds, looks, ALPHA) for deviation in drawn]
        for truth, want in true.items():
            held = [_between(getattr(each, truth), want or np.inf) for each in told]
            found.append(Rate(
                what=f"seeds to settle, {truth}, hold the number of the true deviation", side="at least",
                design=f"{seeds} seeds of {', '.join(map(str, plan))}, margin {margin:g} SD",
                rate=float(np.mean(held)), target=SPREAD_LEVEL, replicates=len(held),
            ))  # fmt: skip
    return found


def _between(found: Range, seeds: float) -> bool:
    few, many = (np.inf if end is None else end for end in found)
    return few <= seeds <= many


def censored_trends(replicates: int) -> list[Rate]:
    """Slopes of ln half-life over four sizes, a fifth of the values only bounded; 0.3 per ln size, and 0."""
    found = []
    x = np.linspace(-0.5, 0.5, 4) * np.log(10)
    for seeds in SEEDS:
        for place, slope in enumerate((0.0, 0.3)):
            rng = generator(28, seeds, place)
            tilt = slope + 0.1 * rng.standard_normal((replicates, seeds, 1))
            values = 0.3 * rng.standard_normal((replicates, seeds, 1)) + tilt * x
            values += 0.2 * rng.standard_normal((replicates, seeds, 4))
            last = np.quantile(values, 0.8)
            low, high = np.minimum(values, last), np.where(values > last, np.inf, values)
            ends = np.stack(slopes_over_seeds(x, low, high)[1:])
            given = np.isfinite(ends).all(axis=0)
            covered = ((ends[0] <= slope) & (slope <= ends[1]))[given]
            found.append(Rate(
                what="coverage, a fifth censored", design=f"{seeds} seeds x 4 sizes, slope {slope:g}", side="about",
                rate=float(covered.mean()), target=1 - ALPHA, replicates=int(given.sum()),
            ))  # fmt: skip
    return found


def censored_looks(replicates: int) -> list[Rate]:
    """Slopes as those of `censored_trends`, without an effect, judged from look to look."""
    looks, x, rng = Looks((5, 8, 12)), np.linspace(-0.5, 0.5, 4) * np.log(10), generator(29)
    found = []
    for _ in range(replicates):
        values = 0.3 * rng.standard_normal((12, 1)) + 0.1 * rng.standard_normal((12, 1)) * x
        values += 0.2 * rng.standard_normal((12, 4))
        low, high = np.minimum(values, LATE), np.where(values > LATE, np.inf, values)
        slopes = Estimates(values=low @ x / (x @ x), censored=Censored(x=x, low=low, high=high))
        found.append(judge([Question(estimates=slopes)], looks)[0])
    design = "looks 5, 8, 12 x 4 sizes, a fifth censored"
    return [_false_effects("false effects, from look to look", design, found, "about")]


def page(found: list[Rate], replicates: int, preamble: str) -> str:
    missed = sum(not each.holds for each in found)
    lines = [
        "# Validation: are verdicts as often wrong as they may be?",
        "",
        f"{preamble} {replicates:,} replicates, {replicates // SLOW:,} of the costly kinds; seeds fixed.",
        "",
        f"A cell misses if the binomial {LEVEL:.1%} interval of its rate excludes the target. *Conservative*: it does, "
        f"on the safe side. {len(found) - missed} of {len(found)} cells hold. A target that is simulated "
        "itself (power) widens the interval.",
        "",
        "| what | design | target | rate | interval | replicates | |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        low, high = each.ends
        word = "misses" if not each.holds else "conservative" if each.conservative else ""
        sign = {"at most": "<= ", "at least": ">= ", "about": ""}[each.side]
        lines.append(f"| {each.what} | {each.design} | {sign}{each.target:.3f} | {each.rate:.4f} | "
                     f"{low:.4f} to {high:.4f} | {each.replicates:,} | {word} |")  # fmt: skip
    return "\n".join(lines) + "\n"
