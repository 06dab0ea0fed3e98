"""`python -m tests.validation.first`: what `make run` ends in, over and over on fresh seeds.

One sweep has the seeds of all groups, and one has as many with nothing planted: the models that are relearned from
never had the backdoor either, and differ from their controls in seed alone. The engine of the reports then judges each
group by itself. Resumable: run the same command again. The seeds that the preset was chosen by are 1000 and above.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from unittest import mock

import polars as pl
import tyro

from analysis.answers.judging import answers
from analysis.answers.questions import Answer
from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from halflife.kits.backdoor import Cell, Treatment
from halflife.stages.train import Train
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from studies import backdoor_persistence as study

FRESH = 100_000
"""Added to the seed of a trunk that stands where a poisoned one would."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """40 groups of 5 seeds take two hours of one core of 90 GFLOP/s."""

    preset: str = "first"
    groups: int = 40
    least: float = 0.9
    """Share of the groups that must end in an effect with an interval."""
    most: float = 0.1
    """Share of the groups with nothing planted that may, whatever the checks say."""
    planted: bool = True
    nothing: bool = True
    """--no-planted, --no-nothing: leave one of the sweeps out."""
    site: ExecutionSite = field(default_factory=ExecutionSite)


class NothingPlanted(Cell):
    """The poisoned trunk is a never-poisoned one of another seed."""

    def trunk(self, treatment: Treatment, *, poisoned: bool = True) -> Train:
        return Cell.trunk(replace(self, seed=self.seed + FRESH * poisoned), treatment, poisoned=False)


def main(settings: Settings) -> int:
    """1 when there are too few effects, or too many where nothing was planted."""
    failed = 0
    size = study.PRESETS[settings.preset].settings.seeds
    wanted = math.ceil(settings.least * settings.groups), math.floor(settings.most * settings.groups)
    for cell, asked in ((Cell, settings.planted), (NothingPlanted, settings.nothing)):
        if not asked:
            continue
        found = judged(swept(settings, cell), size)
        for number, answer in enumerate(found):
            print(f"seeds {size * number} to {size * (number + 1) - 1}: {line(answer)}")
        effects = sum(is_effect(answer) and (answer.valid or cell is not Cell) for answer in found)
        planted = cell is Cell
        failed |= effects < wanted[0] if planted else effects > wanted[1]
        bound = f"at least {wanted[0]}" if planted else f"at most {wanted[1]}"
        print(f"{'planted' if planted else 'nothing planted'}: {effects} of {len(found)} end in an effect ({bound})")
    return int(failed)


def swept(settings: Settings, cell: type[Cell]) -> StudyData:
    """The sweep of all groups, computed as far as it is missing."""
    chosen = study.PRESETS[settings.preset].settings
    name = settings.preset if cell is Cell else f"{settings.preset}-nothing-planted"
    with mock.patch.object(study, "Cell", cell):
        work = study.build(name, replace(chosen, seeds=chosen.seeds * settings.groups), settings.site)
    result = run(work, settings.site)
    if result.exit_code:
        raise SystemExit(result.exit_code)
    return load_study(settings.site.actual_tracking_uri, study.NAME, work.key)


def judged(data: StudyData, size: int) -> list[Answer]:
    """The primary answer of each `size` seeds, as a report of these alone has it."""
    found = []
    for first in range(0, data.trials["seed"].n_unique(), size):
        trials = data.trials.filter(pl.col("seed").is_between(first, first + size - 1))
        part = replace(data, trials=trials, points=data.points.filter(pl.col("trial").is_in(trials["trial"].implode())))
        found += [answer for answer in answers(part) if answer.question.primary]
    return found


def is_effect(answer: Answer) -> bool:
    """An effect whose interval has both ends."""
    verdict = answer.verdict
    if verdict is None or verdict.answer != "effect" or verdict.interval is None:
        return False
    return all(end is not None and math.isfinite(end) for end in (verdict.interval.low, verdict.interval.high))


def line(answer: Answer) -> str:
    verdict = answer.verdict
    if verdict is None or verdict.interval is None:
        return answer.problem or "no estimate"
    shown = [math.exp(end) for end in (verdict.interval.estimate, verdict.interval.low, verdict.interval.high)
             if end is not None]  # fmt: skip
    text = f"{verdict.answer} {' '.join(f'{value:.3f}' for value in shown)}"
    return text if answer.valid else f"{text} (not valid: {'; '.join(answer.invalid)})"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))))
