"""What an adaptive search found, in sentences; the result is what fresh seeds measured."""

from __future__ import annotations

import polars as pl

from analysis.decay import search
from analysis.decay.design import setting_axes, value_label
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural, short
from analysis.stats.intervals import Interval, t_interval
from analysis.stats.scaling import SEEDS
from halflife.tracking import schema


def search_answer(data: StudyData) -> list[str]:
    """What was evaluated, what the settings at the ends of the Pareto front measure on seeds that the search never saw,
    and how that differs from the reference, paired by seed. Empty for a sweep that is no search."""
    objectives = data.declaration.objectives
    if not objectives:
        return []
    table = search.evaluated_settings(data)
    if table.is_empty():
        return ["The search could measure no setting."]
    searched = table.filter(pl.col("role") == "treatment")
    again = table.filter(pl.col("role") == schema.ROLE_HELD_OUT)
    first = [_searched(data, searched)]
    if again.is_empty():
        bias = "so the search's own values are subject to selection bias (winner's curse)"
        return [*first, f"Nothing was evaluated on fresh seeds, {bias}."]
    # Selected by the search's own values; selecting by the fresh seeds would bring the selection bias back.
    eligible = searched.filter(pl.col("suggestion").is_in(again["suggestion"].implode()) & pl.col("feasible"))
    if eligible.is_empty():
        return [*first, "No setting evaluated on fresh seeds meets the constraints."]
    merits: dict[int, list[str]] = {}
    for column, objective in zip("xy", objectives, strict=False):
        up = objective.direction == "maximize"
        best = eligible.sort(column, descending=up)["suggestion"][0]
        merits.setdefault(best, []).append(f"the {'highest' if up else 'lowest'} {objective.label.lower()}")
    return [*first, *(_selected(data, best, f"The setting with {listed(own)}") for best, own in merits.items())]


def _searched(data: StudyData, searched: pl.DataFrame) -> str:
    tried = data.trials.filter(pl.col("role") == "treatment")[schema.SUGGESTION].n_unique()
    parts = [f"{plural(tried, 'setting')} on {plural(int(searched['seeds'].max() or 0), 'seed')}"]  # type: ignore[arg-type]
    unmeasured = tried - searched.height
    parts += [f"{unmeasured} could not be measured"] if unmeasured else []
    violating = searched.filter(~pl.col("feasible")).height
    parts += [f"{violating} violated a constraint"] if violating else []
    front = searched.filter("front").height
    if len(data.declaration.objectives) > 1:
        parts.append(f"{front} {'is' if front == 1 else 'are'} on the Pareto front")
    return f"The search evaluated {'; '.join(parts)}."


def _selected(data: StudyData, suggestion: int, name: str) -> str:
    """One setting on the fresh seeds, compared with the reference on the same seeds."""
    values = _held_out(data)
    mine = values.filter(pl.col("suggestion") == suggestion)
    reference = _reference(data, values)
    found = {each: mean for each in data.declaration.objectives[:2] if (mean := t_interval(mine[each.name]))}
    if not found:
        return f"{name} ({_setting(data, suggestion)}) could not be measured on fresh seeds."
    most = max(mean.count for mean in found.values())
    parts = []
    for objective, mean in found.items():
        text = f"{objective.label.lower()} {_interval(mean)}{_fewer(mean, most)}"
        if reference is not None and reference != suggestion:
            other = values.filter(pl.col("suggestion") == reference)
            pairs = mine.join(other, on="seed", suffix="_reference")
            change = t_interval(pairs[objective.name] - pairs[f"{objective.name}_reference"])
            if change:
                paired = f"relative to the reference, paired by seed{_fewer(change, mean.count)}"
                text += f" ({_interval(change, sign=True)} {paired})"
        parts.append(text)
    parts += _violated(data, mine, "these")
    if reference is not None and reference != suggestion:
        parts += _violated(data, values.filter(pl.col("suggestion") == reference), "the reference's")
    seeds = plural(most, "seed") if most == mine.height else f"{most} of {plural(mine.height, 'seed')}"
    least = min(mean.count for mean in found.values())
    few = f" A demonstration: {least} of {SEEDS} seeds." if least < SEEDS else ""
    what = "the reference itself" if suggestion == reference else _setting(data, suggestion)
    return f"{name} is {what}; on {seeds} that the search never saw it has {'; '.join(parts)}.{few}"


def _fewer(found: Interval, than: int) -> str:
    return "" if found.count == than else f" on {found.count} of them"


def _violated(data: StudyData, runs: pl.DataFrame, whose: str) -> list[str]:
    """For each constraint that was violated on some fresh seed: the number of seeds on which it held."""
    parts = []
    for limit in data.declaration.constraints:
        held = sum(search.within(limit, value) for value in runs[limit.name])
        if held < runs.height:
            parts.append(f"the constraint '{limit.text}' held on {held} of {whose} {plural(runs.height, 'seed')}")
    return parts


def _held_out(data: StudyData) -> pl.DataFrame:
    """suggestion, seed and every objective and constraint of the held-out runs; null if it was not measured."""
    runs = data.trials.filter(pl.col("role") == schema.ROLE_HELD_OUT).select(
        "trial", pl.col(schema.SUGGESTION).alias("suggestion"), "seed"
    )
    declared = data.declaration
    phases = dict.fromkeys((each.name for each in declared.objectives), schema.OBJECTIVE_PHASE)
    phases |= dict.fromkeys((each.name for each in declared.constraints), schema.CONSTRAINT_PHASE)
    for name, phase in phases.items():
        measured = data.points.filter((pl.col("phase") == phase) & (pl.col("name") == name))
        runs = runs.join(measured.select("trial", pl.col("value").alias(name)), on="trial", how="left")
    return runs


def _reference(data: StudyData, values: pl.DataFrame) -> int | None:
    """The held-out setting that has the first declared value of every axis."""
    wanted = [pl.col(axis.name) == axis.values[0] for axis in setting_axes(data) if axis.values]
    runs = data.trials.filter(pl.col("role") == schema.ROLE_HELD_OUT).filter(*wanted)
    return None if runs.is_empty() or values.is_empty() else runs[schema.SUGGESTION][0]


def _setting(data: StudyData, suggestion: int) -> str:
    """The setting in words: its values that differ from the first declared ones."""
    row = data.trials.filter(pl.col(schema.SUGGESTION) == suggestion).row(0, named=True)
    axes = [axis for axis in setting_axes(data) if not axis.values or row[axis.name] != axis.values[0]]
    return listed([value_label(axis, row[axis.name]) for axis in axes if row[axis.name] is not None])


def _interval(found: Interval, sign: bool = False) -> str:
    """The estimate and its interval, if there is one; `sign` for differences."""

    def number(value: float) -> str:
        return ("+" if sign and value > 0 else "") + short(value).replace("-", "−")

    text = number(found.estimate)
    return text if found.low is None or found.high is None else f"{text} [{number(found.low)}, {number(found.high)}]"
