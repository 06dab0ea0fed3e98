"""Whether a sweep is whole: its controls ran, and its trials are complete."""

from __future__ import annotations

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.decay.design import controls, decaying
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural

STATES = {
    "RUNNING": "the sweep is running", "KILLED": "the sweep was interrupted and is unfinished",
    "FAILED": "stages of the sweep failed",
}  # fmt: skip
"""In words, what MLflow calls the state of a run."""
EARLY = "the sweep stopped early, as its trunks did not learn what its branches are to lose"
BLOCKED, DIVERGED, NOT_RUN = "blocked", "diverged", "not run"
UNREACHED = "never reached"
"""In the reason of a blocked stage: its parent has no snapshot to start from."""


def stopped_early(data: StudyData) -> str:
    """Of a sweep that stopped as its trunks did not learn what its branches are to lose: what would mend that."""
    return remedies.unlearned(data) if data.sweep.status == "KILLED" else ""


def controls_present(data: StudyData) -> Check:
    """Every declared control, and, of what decays, a never-exposed control for each treatment."""
    roles, names = set(data.trials["role"]), data.points["name"].unique().str.split("/").list.first()
    tasks = {*names, *names.str.split(".").list.first()}
    missing = [
        control.label
        for control in data.declaration.controls
        if (control.role and control.role not in roles) or (control.task and control.task not in tasks)
    ]
    alone = set(data.trials.filter(pl.col("role") == "treatment")["trial"]) - set(controls(data, "absent"))
    lonely = len(alone) if decaying(data) else 0
    found = f"missing: {listed(missing)}" if missing else f"all {len(data.declaration.controls)} declared controls"
    if lonely:
        found += f"; {plural(lonely, 'treatment')} without a never-exposed control"
    whole, each = not missing and not lonely, ", and a never-exposed control for each treatment" * bool(decaying(data))
    return Check(
        name="Controls ran", expected=f"every declared control{each}", found=found, required=True,
        passed=whole or (None if data.unfinished else False), remedy=_whole(data, {"": set(data.trials["trial"])}),
    )  # fmt: skip


def ended(data: StudyData) -> Check:
    """Every phase for which a trial has a stage must be complete; a phase without an outcome has not run."""
    phases = [name.removeprefix("stage_") for name in data.trials.columns if name.startswith("stage_")]
    phases += [name.removeprefix("outcome_") for name in data.trials.columns if name.startswith("outcome_")]
    ends: dict[str, set[str]] = {}
    whole = 0
    for row in data.trials.iter_rows(named=True):
        states = {
            row.get(f"outcome_{phase}") or NOT_RUN
            for phase in set(phases)
            if row.get(f"stage_{phase}") or row.get(f"outcome_{phase}")
        }
        whole += states <= {"complete"}
        for state in states - {"complete"}:
            ends.setdefault(state, set()).add(row["trial"])
    counts = {kind: set[str]() for kind in (DIVERGED, "failed", BLOCKED, NOT_RUN)}
    for state, trials in ends.items():
        counts.setdefault(state.partition(":")[0], set()).update(trials)
    bad = [f"{len(trials)} with a phase {kind}" for kind, trials in counts.items() if trials]
    stopped = data.sweep.status not in ("FINISHED", "")
    early = stopped_early(data)
    unknown = data.unfinished and not early and not any(trials for kind, trials in counts.items() if kind != NOT_RUN)
    found = [
        f"{whole} of {data.trials.height}",
        *bad,
        *([EARLY if early else STATES.get(data.sweep.status, f"the sweep is {data.sweep.status.lower()}")] * stopped),
    ]
    return Check(
        name="Trials complete", expected="all; incomplete trials are shown as far as they got", found="; ".join(found),
        passed=None if unknown else not bad and not stopped, remedy=_whole(data, ends),
    )  # fmt: skip


def _whole(data: StudyData, ends: dict[str, set[str]]) -> str:
    """What would complete trials that ended like this: the same command computes neither what diverged nor what is
    blocked by it, and stops again where a trunk did not learn what its branches are to lose."""
    kinds, found = {state.partition(":")[0] for state in ends}, list[str]()
    if DIVERGED in kinds:
        found.append("a lower learning rate, " + remedies.flags(data, "rate", by=0.5, otherwise="half of it"))
    if unreached := [trial for state, trials in ends.items() if UNREACHED in state for trial in sorted(trials)]:
        found.append("where a branch was to fork, " + remedies.learn(data, unreached, 1.0))
    if mend := stopped_early(data):
        found.append(f"{mend}; --go-on computes the rest all the same")
    elif not found or kinds - {BLOCKED, DIVERGED}:
        found.append(remedies.AGAIN)
    return "; ".join(found)
