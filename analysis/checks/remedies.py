"""What would mend a check that fails: flags of the study with values that follow from the run's own numbers.

Which settings there are to turn is declared (`schema.Declaration.levers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from analysis.decay.retention import wide_points
from analysis.runs.study import StudyData
from halflife.tracking import criteria, schema

TRUNK = "trunk"
"""The phase before the drop."""
AGAIN = "run the same command again: it computes what is missing"


def learn(data: StudyData, trials: Iterable[str], least: float) -> str:
    """From the trunks of these trials: longer if those that miss `least` still rise, otherwise more of the cause."""
    found = data.trials.filter(pl.col("trial").is_in(list(trials)))
    if f"stage_{TRUNK}" in found.columns:  # trials may share a trunk
        found = found.unique(f"stage_{TRUNK}", maintain_order=True)
    curves = [trunk_curve(data, trial) for trial in found["trial"]]
    return criteria.learn(data.declaration.levers, data.declaration.settings, curves, least)


def unlearned(data: StudyData) -> str:
    """Where the trunks of a size miss a declared criterion, by which the sweep stops early: what would mend it."""
    for criterion in data.declaration.criteria:
        trials = data.trials.filter(pl.col("role") == "treatment")
        for name, value in criterion.where.items():
            trials = trials.filter(pl.col(name) == value) if name in trials.columns else trials
        for _, group in trials.group_by(["size"] if "size" in trials.columns else ["role"], maintain_order=True):
            last = [curve[-1] for trial in group["trial"] if (curve := trunk_curve(data, trial))]
            if last and sum(seen.hits for seen in last) < criterion.least * sum(seen.trials for seen in last):
                return learn(data, trials["trial"], criterion.least)
    return ""


def flags(data: StudyData, *levers: str, by: float, otherwise: str) -> str:
    """The settings of these levers times `by`, such as "--trunk-tokens 900000"; `otherwise` where a study has none."""
    declared = data.declaration.levers
    names: list[str] = []
    for lever in levers:
        found = getattr(declared, lever)
        names += [found] if isinstance(found, str) else found
    return criteria.more(data.declaration.settings, names, "", by) or otherwise


def words(data: StudyData) -> str:
    """The flags of the texts that are measured: "--trigger or --payload-text"."""
    return " or ".join(criteria.flag(name) for name in data.declaration.levers.words)


def trunk_curve(data: StudyData, trial: str) -> Sequence[criteria.Seen]:
    """Success of the leading outcome's task in a trial's trunk."""
    wide, task = wide_points(data, TRUNK).filter(pl.col("trial") == trial), data.declaration.outcomes[0].task
    hits, trials, logprob = (f"{task}/{name}" for name in (schema.HITS, schema.TRIALS, schema.LOGPROB))
    if hits not in wide.columns or trials not in wide.columns:
        return []
    known = wide.drop_nulls([hits, trials]).filter(pl.col(trials) > 0)
    spoken = known[logprob] if logprob in known.columns else pl.repeat(None, known.height, dtype=pl.Float64, eager=True)
    rows = zip(known["step"], known[hits], known[trials], spoken.fill_null(float("nan")), strict=True)
    return [criteria.Seen(tokens=step, hits=hit, trials=of, logprob=said) for step, hit, of, said in rows]
