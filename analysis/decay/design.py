"""What a sweep varied and which trials belong together: settings, the reference setting, each trial's control."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from analysis.runs.study import StudyData
from halflife.tracking.schema import Axis, Outcome

REPLICATES = ("size", "parameters", "seed")
"""Axes over which a setting is repeated; every other axis that varies defines settings."""
MEASURED = ("payload", "family", "subject")
"""Parameters that define what is measured: a trial and its control must agree in them."""
MATCH_FIRST = (
    "payload",
    "learning_rate",
    "branch_regularizer",
    "optimizer_state",
    "corpus",
    "trunk_regularizer",
    "arm",
)
"""Which parameters matter most when no control agrees in all: first what is measured, then the branch. A study's other
axes follow in the declared order."""


def setting_axes(data: StudyData) -> tuple[Axis, ...]:
    """The declared axes that differ between treatments, without the replicate axes."""
    treated = treatments(data)
    return tuple(
        axis
        for axis in data.declaration.axes
        if axis.name not in REPLICATES and axis.name in treated.columns and treated[axis.name].n_unique() > 1
    )


def treatments(data: StudyData) -> pl.DataFrame:
    return data.trials.filter(pl.col("role") == "treatment")


def values_of(data: StudyData, axis: Axis) -> list[Any]:
    """The values of an axis that treatments have, in the declared order."""
    found = treatments(data)[axis.name].unique(maintain_order=True).drop_nulls().to_list()
    order = {_same(value): place for place, value in enumerate(axis.values)}
    return sorted(found, key=lambda value: order.get(_same(value), len(order)))


def reference(data: StudyData) -> dict[str, Any]:
    """The setting that answers refer to: the first declared value of every axis, or the nearest one that was run.
    Computed once per `data`."""
    if "reference" not in data.derived:
        data.derived["reference"] = _reference(data)
    return dict(data.derived["reference"])


def _reference(data: StudyData) -> dict[str, Any]:
    axes = setting_axes(data)
    if not axes:
        return {}
    names = [axis.name for axis in axes]
    first = {axis.name: values_of(data, axis)[0] for axis in axes}
    settings = treatments(data).group_by(names, maintain_order=True).len().to_dicts()
    best = max(settings, key=lambda row: (sum(row[name] == first[name] for name in names), row["len"]))
    return {name: best[name] for name in names}


def described(data: StudyData) -> pl.DataFrame:
    """`trials` with setting (its label), is_reference and absent (the trial that is its never-trained control)."""
    axes, chosen = setting_axes(data), reference(data)
    trials = data.trials
    for name in REPLICATES:
        if name not in trials.columns:
            trials = trials.with_columns(pl.lit(None, dtype=pl.String if name == "size" else pl.Int64).alias(name))
    rows = trials.to_dicts()
    absent = controls(data, "absent")
    return trials.with_columns(
        pl.Series("setting", [setting_label(row, axes, chosen) for row in rows], dtype=pl.String),
        pl.Series("is_reference", [all(row[n] == v for n, v in chosen.items()) for row in rows], dtype=pl.Boolean),
        pl.Series("absent", [absent.get(row["trial"]) for row in rows], dtype=pl.String),
    )


def setting_label(row: dict[str, Any], axes: tuple[Axis, ...], chosen: dict[str, Any]) -> str:
    """How a trial differs from the reference, as text; "reference" if it does not."""
    different = [a for a in axes if row.get(a.name) is not None and row[a.name] != chosen[a.name]]
    return ", ".join(value_label(axis, row[axis.name]) for axis in different) or "reference"


def reference_label(data: StudyData) -> str:
    """The reference setting in full."""
    chosen = reference(data)
    return ", ".join(value_label(axis, chosen[axis.name]) for axis in setting_axes(data))


def value_label(axis: Axis, value: Any) -> str:
    """An axis value as a label of its own: "branch rate: 0.5", "equal exposure"."""
    if axis.name == "arm":
        return str(value).replace("-", " ")
    return f"{axis.label[:1].lower()}{axis.label[1:]}: {value_text(value)}"


def value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def controls(data: StudyData, role: str, among: set[str] | None = None) -> dict[str, str]:
    """Trial -> the control of this role, of the same size and seed, that agrees with it most, among `among`.

    What is measured (the payload, the dropped language) and what repeats must agree where both have it. The rest need
    not: settings share controls. Ties go to the control at the reference setting. Computed once per `data` and role.
    """
    if among is not None:
        return _controls(data, role, among)
    key = f"controls/{role}"
    if key not in data.derived:
        data.derived[key] = _controls(data, role, None)
    return dict(data.derived[key])


def _controls(data: StudyData, role: str, among: set[str] | None) -> dict[str, str]:
    chosen = reference(data)
    same = {axis.name for axis in data.declaration.axes if axis.role in ("replicate", "measured")}
    same |= {*MEASURED, "parameters"}
    declared = [axis.name for axis in data.declaration.axes]
    order = [*MATCH_FIRST, *(name for name in declared if name not in (*MATCH_FIRST, *REPLICATES))]

    def agreement(row: dict[str, Any], control: dict[str, Any]) -> list[bool]:
        alike = [row.get(name) == control.get(name) for name in order]
        return alike + [control.get(name) == chosen[name] for name in order if name in chosen]

    found: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in data.trials.filter(pl.col("role") == role).to_dicts():
        if among is None or row["trial"] in among:
            found.setdefault((row.get("size"), row.get("seed")), []).append(row)
    matches = {}
    for row in data.trials.to_dicts():
        candidates = [
            control
            for control in found.get((row.get("size"), row.get("seed")), [])
            if all(None in (pair := (row.get(name), control.get(name))) or pair[0] == pair[1] for name in same)
        ]
        if candidates:
            matches[row["trial"]] = max(candidates, key=partial(agreement, row))["trial"]
    return matches


def decaying(data: StudyData) -> tuple[Outcome, ...]:
    """The declared outcomes that are followed over time; that of soft prompts is how much it takes to elicit them."""
    found = [outcome for outcome in data.declaration.outcomes if not outcome.phase.startswith("prompts")]
    once = data.points.group_by("phase").agg(pl.col("step").max()).filter(pl.col("step") == 0)["phase"].to_list()
    return tuple(outcome for outcome in found if outcome.phase not in once)


def vocabulary(data: StudyData) -> dict[str, str]:
    """The leading outcome's words for its skill, answer and success, for texts that fit any study."""
    outcome = next(iter(data.declaration.outcomes), None)
    if outcome is None:
        return {"skill": "skill", "answer": "answer", "success": "success"}
    success = outcome.label[:1].lower() + outcome.label[1:]
    return {"skill": outcome.skill, "answer": outcome.answer, "success": success}


def leading(data: StudyData, outcome: Outcome) -> StudyData:
    """The same sweep with this outcome declared first, so that all results refer to it."""
    others = tuple(other for other in data.declaration.outcomes if other != outcome)
    return replace(data, declaration=replace(data.declaration, outcomes=(outcome, *others)))


def control_label(data: StudyData, role: str) -> str | None:
    """The study's label for its control of this role; None when it declares none."""
    return next((control.label for control in data.declaration.controls if control.role == role), None)


def _same(value: Any) -> Any:
    """Numbers compare as numbers, whatever type they were logged as."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
