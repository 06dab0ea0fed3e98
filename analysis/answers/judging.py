"""From estimates to verdicts: primaries share one error rate, and looks wait for whole seeds. Where a required check
fails, no verdict is claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from analysis.answers.questions import SEED, Answer, estimated
from analysis.checks.sweep import failing
from analysis.runs.study import StudyData
from analysis.stats import verdicts
from analysis.stats.sequential import Looks


def answers(data: StudyData) -> list[Answer]:
    """Of every declared question, in the declared order; primaries share one error rate. Computed once per `data`."""
    if "answers" not in data.derived:
        data.derived["answers"] = _answers(data)
    return data.derived["answers"]


def first_look(data: StudyData) -> int | None:
    """The number of seeds before which there is no verdict; None: the study is judged at the seeds that it has."""
    declared = data.declaration
    if declared.looks:
        return declared.looks[0]
    if not data.unfinished:
        return None
    # A study without looks is looked at once: when all its planned seeds are there.
    planned = {seed for axis in declared.axes if axis.name == SEED for seed in axis.values}
    return max(2, len(planned - set(declared.pilot_seeds)))


def _answers(data: StudyData) -> list[Answer]:
    declaration, first, invalid = (
        data.declaration,
        first_look(data),
        failing(data) if data.declaration.questions else (),
    )
    looks = Looks(declaration.looks or (first,)) if first else None
    if declaration.pilot_seeds and SEED in data.trials.columns:
        data = replace(data, trials=data.trials.filter(~pl.col(SEED).is_in(declaration.pilot_seeds)))
    found = [replace(estimated(data, question), invalid=invalid) for question in declaration.questions]
    together = [i for i, each in enumerate(found) if each.question.primary and each.estimates is not None]
    alone = [
        [i] for i, each in enumerate(found)
        if not each.question.primary and each.estimates is not None and each.question.has_verdict
    ]  # fmt: skip
    for family in [together, *alone] if together else alone:
        asked = [
            verdicts.Question(estimates=estimates, margin=found[i].question.margin)
            for i in family
            if (estimates := found[i].estimates) is not None
        ]
        whole = min((seeds for i in family if (seeds := _whole_seeds(data, found[i])) is not None), default=None)
        judged = verdicts.judge(asked, looks, whole=whole)
        corrected = iter(verdicts.holm([p for verdict in judged if (p := verdict.p) is not None]))
        for i, verdict in zip(family, judged, strict=True):
            found[i] = replace(found[i], verdict=verdict, p=None if verdict.p is None else next(corrected))
    return found


def _whole_seeds(data: StudyData, answer: Answer) -> int | None:
    """How many seeds, in order, have all their trials: a look at half of a seed would be another look. None: all."""
    if data.sweep.status in ("FINISHED", "") or SEED not in data.trials.columns:
        return None
    trials = data.trials.filter(pl.col("role").is_in(answer.question.roles)).drop_nulls(SEED)
    for name in set(answer.question.where) & set(trials.columns):
        trials = trials.filter(pl.col(name).cast(pl.String) == str(answer.question.where[name]))
    phases = [name.removeprefix("stage_") for name in trials.columns if name.startswith("stage_")]
    ends = [f"outcome_{phase}" for phase in phases]
    waits = [
        pl.col(f"stage_{phase}").is_not_null() & (pl.col(end).is_null() if end in trials.columns else pl.lit(True))
        for phase, end in zip(phases, ends, strict=True)
    ]
    seeds = trials.group_by(SEED).agg(pl.len(), open=pl.any_horizontal(waits or [pl.lit(False)]).any()).sort(SEED)
    return _leading(seeds.select(~pl.col("open") & (pl.col("len") == pl.col("len").max())).to_series().to_list())


def _leading(whole: Sequence[bool]) -> int:
    return next((i for i, each in enumerate(whole) if not each), len(whole))
