"""Questions from Python: of any table (one estimate per seed), or those that a study declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.answers.judging import answers
from analysis.answers.sentences import judged, sentence
from analysis.answers.subjects import Shown
from analysis.errors import UserError
from analysis.fitting.frames import Frame, as_polars
from analysis.stats import per_seed
from analysis.stats.estimates import Estimates
from analysis.stats.intervals import Interval
from analysis.stats.sequential import Looks
from analysis.stats.verdicts import Question, Verdict, judge

if TYPE_CHECKING:
    from analysis.runs.study import StudyData


SMALL = 0.01
"""Share of the largest that an effect can be in the data below which a margin seems to be in another unit."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the data say of one question; printed as its sentence."""

    sentence: str
    verdict: str
    """effect, equivalent or undecided; of a study's question also reported (it has no verdict), or not valid, where a
    required check failed."""
    interval: Interval | None
    """At every look at once, in the unit of the estimate; None if too many values are only bounds."""
    judged: Verdict | None
    estimates: Estimates | None
    """One a seed."""
    method: str = ""
    """The level of the interval and how it was computed (for a study's question, in its report); "" without."""
    primary: bool = True
    """False: exploratory, so not corrected for how much was looked at; printed behind the sentence."""
    warnings: tuple[str, ...] = ()
    """What makes a question of a table doubtful, one line each; printed below the sentence."""

    def __str__(self) -> str:
        return "\n".join(
            [self.sentence + " (exploratory)" * (not self.primary), *(f"warning: {line}" for line in self.warnings)]
        )


def of_study(data: StudyData) -> list[Asked]:
    """The questions that a study declared, in their order; empty if it declared none."""
    return [
        Asked(
            sentence=sentence(each, data), verdict=each.word, judged=each.verdict, estimates=each.estimates,
            interval=each.verdict.interval if each.valid and each.verdict is not None else None,
            method=_level(each.verdict) if each.valid and each.verdict is not None else "",
            primary=each.question.primary,
        ) for each in answers(data)
    ]  # fmt: skip


def contrast(
    table: Frame, quantity: str, axis: str, *, high: object, low: object, seed: str = "seed",
    pair: str | Sequence[str] = (), margin: float | None = None, why: str = "", looks: Sequence[int] = (),
) -> Asked:  # fmt: skip
    """Does `quantity` differ where `axis` is `high` from where it is `low`? Paired by seed and the columns `pair`.

    `margin`: the smallest effect of interest, with the reason `why`; `looks`: declared numbers of seeds at which the
    study may stop. `table`: a data frame, or a file's path. Raises UserError on missing columns or arms and on cells
    with two rows.
    """
    pair = [pair] if isinstance(pair, str) else pair
    found = per_seed.contrast(as_polars(table), quantity, axis, high=high, low=low, seed=seed, pair=pair)
    subject = f"the difference in {quantity} ({axis} {high} minus {low})"
    return _asked(found, subject, "paired t over seeds", margin, why, looks)


def trend(
    table: Frame, quantity: str, axis: str, *, seed: str = "seed", log: bool = False,
    censored: str | None = None, margin: float | None = None, why: str = "", looks: Sequence[int] = (),
) -> Asked:  # fmt: skip
    """Does `quantity` rise or fall along `axis`, or along its logarithm? One slope per seed; the rest as in contrast.

    `censored`: a column that is true where the quantity is only a lower bound.
    """
    frame = as_polars(table)
    found = per_seed.trend(frame, quantity, axis, seed=seed, log=log, censored=censored)
    subject = f"the slope of {quantity} over {f'ln {axis}' if log else axis}"
    asked = _asked(found, subject, "Student-t over one slope a seed", margin, why, looks)
    if log or (span := per_seed.in_decades(frame[axis])) is None:
        return asked
    steps = f"{axis} goes from {span[0]:.3g} to {span[1]:.3g} in even steps of its logarithm"
    hint = f"{steps}, but the slope is per unit of {axis}, so that its largest values decide: --log takes its logarithm"
    return replace(asked, warnings=(*asked.warnings, hint))


def associate(
    table: Frame, quantity: str, other: str, *, item: str, seed: str = "seed", margin: float | None = None,
    why: str = "", looks: Sequence[int] = (),
) -> Asked:  # fmt: skip
    """Do two quantities go together over the items of column `item`? One rank correlation per seed; the rest as in
    contrast."""
    found = per_seed.association(as_polars(table), quantity, other, item=item, seed=seed)
    subject = f"the rank correlation of {quantity} and {other} over {item}"
    return _asked(found, subject, "Student-t over one correlation a seed", margin, why, looks)


def _asked(
    estimates: Estimates, subject: str, method: str, margin: float | None, why: str, looks: Sequence[int]
) -> Asked:  # fmt: skip
    if why and margin is None:
        raise UserError("--why gives a reason for a margin, but there is no --margin")
    [verdict] = judge([Question(estimates=estimates, margin=margin)], Looks(tuple(looks)) if looks else None)
    (late, total), most, warnings = estimates.first(verdict.look).bounds, estimates.most, ()
    if margin is not None and most is not None and margin >= most:
        warnings = (f"the margin is {margin:g}, but {subject} can be no more than {most:.3g} in these data, so that no "
                    "effect is as large: is the margin in its unit?",)  # fmt: skip
    if margin is not None and most is not None and margin < SMALL * most:
        warnings = (f"the margin is {margin:g}, below a hundredth of what {subject} can be in these data, {most:.3g}: "
                    "is the margin in its unit (a share, where the data are per cent)?",)  # fmt: skip
    found = verdict.interval
    method = "" if found is None or found.low is None else _interval(verdict, method)
    text = judged(
        verdict, estimates, Shown(f"{subject} is", what=subject, note=method), reason=why, p=verdict.p,
        gaps=f", where {late} of {total} values are only bounds" if late and found is not None else "",
    )  # fmt: skip
    return Asked(
        sentence=text,
        verdict=verdict.answer,
        interval=found,
        judged=verdict,
        estimates=estimates,
        method=method,
        warnings=warnings,
    )


def _interval(verdict: Verdict, method: str) -> str:
    """The level of an interval and how it was computed."""
    last = verdict.evidence[-1]
    if last.mixture is not None:
        method += ", bounds imputed"
    elif last.bounds is not None:
        method += " at the ends of the bounds"
    together = ", at all looks together" if len(verdict.looks.seeds) > 1 else ""
    return f"{_level(verdict)} by {method}{together}"


def _level(verdict: Verdict) -> str:
    return f"{100 * (1 - verdict.alpha / verdict.family):.3g} % interval"
