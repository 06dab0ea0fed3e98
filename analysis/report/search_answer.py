"""What an adaptive search found, in sentences: the result is what fresh seeds measured."""

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
    """What was tried, what the settings at the ends of the front measure on seeds that the search never saw, and how
    that differs from the reference, seed by seed. Empty for a sweep that is no search."""
    objectives = data.declaration.objectives
    if not objectives:
        return []
    table = search.tried(data)
    if table.is_empty():
        return ["The search could measure no setting."]
    asked = table.filter(pl.col("role") == "treatment")
    again = table.filter(pl.col("role") == schema.ROLE_HELD_OUT)
    first = [_asked(data, asked)]
    if again.is_empty():
        return [*first, "Nothing was evaluated on fresh seeds: what the search measured flatters what it chose by it."]
    # Chosen by what the search was told, never by the fresh seeds themselves: those would be flattered anew.
    eligible = asked.filter(pl.col("suggestion").is_in(again["suggestion"].implode()) & pl.col("feasible"))
    if eligible.is_empty():
        return [*first, "No setting that was evaluated on fresh seeds meets the constraints."]
    merits: dict[int, list[str]] = {}
    for column, objective in zip("xy", objectives, strict=False):
        up = objective.direction == "maximize"
        best = eligible.sort(column, descending=up)["suggestion"][0]
        merits.setdefault(best, []).append(f"{'raises' if up else 'lowers'} {objective.label.lower()} most")
    return [*first, *(_chosen(data, best, f"The setting that {listed(said)}") for best, said in merits.items())]


def _asked(data: StudyData, asked: pl.DataFrame) -> str:
    tried = data.trials.filter(pl.col("role") == "treatment")[schema.SUGGESTION].n_unique()
    words = [f"{plural(tried, 'setting')} tried on {plural(int(asked['seeds'].max() or 0), 'seed')}"]  # type: ignore[arg-type]
    unmeasured = tried - asked.height
    words += [f"{unmeasured} could not be measured"] if unmeasured else []
    broken = asked.filter(~pl.col("feasible")).height
    words += [f"{broken} broke a constraint"] if broken else []
    front = asked.filter("front").height
    if len(data.declaration.objectives) > 1:
        words.append(f"{front} {'is' if front == 1 else 'are'} on the front")
    return f"The search: {listed(words)}."


def _chosen(data: StudyData, suggestion: int, name: str) -> str:
    """One setting on the fresh seeds, beside the reference on the same."""
    values = _held_out(data)
    mine = values.filter(pl.col("suggestion") == suggestion)
    reference = _reference(data, values)
    found = {each: told for each in data.declaration.objectives[:2] if (told := t_interval(mine[each.name]))}
    if not found:
        return f"{name} ({_words(data, suggestion)}) could not be measured on fresh seeds."
    most = max(told.count for told in found.values())
    said = []
    for objective, told in found.items():
        text = f"{objective.label.lower()} {_told(told)}{_fewer(told, most)}"
        if reference is not None and reference != suggestion:
            other = values.filter(pl.col("suggestion") == reference)
            pairs = mine.join(other, on="seed", suffix="_reference")
            change = t_interval(pairs[objective.name] - pairs[f"{objective.name}_reference"])
            if change:
                text += f", {_told(change, sign=True)} against the reference seed by seed{_fewer(change, told.count)}"
        said.append(text)
    said += _broken(data, mine, "these")
    if reference is not None and reference != suggestion:
        said += _broken(data, values.filter(pl.col("suggestion") == reference), "the reference's")
    seeds = plural(most, "seed") if most == mine.height else f"{most} of {plural(mine.height, 'seed')}"
    least = min(told.count for told in found.values())
    few = f" A demonstration: {least} of {SEEDS} seeds." if least < SEEDS else ""
    what = "the reference itself" if suggestion == reference else _words(data, suggestion)
    return f"{name} is {what}; on {seeds} that the search never saw it has {'; '.join(said)}.{few}"


def _fewer(found: Interval, than: int) -> str:
    return "" if found.count == than else f" (on {found.count} of them)"


def _broken(data: StudyData, runs: pl.DataFrame, whose: str) -> list[str]:
    """Of each constraint that did not hold on every fresh seed: on how many it did."""
    said = []
    for limit in data.declaration.constraints:
        held = sum(search.within(limit, value) for value in runs[limit.name])
        if held < runs.height:
            said.append(f"the constraint '{limit.words}' held on {held} of {whose} {plural(runs.height, 'seed')}")
    return said


def _held_out(data: StudyData) -> pl.DataFrame:
    """suggestion, seed, each objective and constraint of every held-out run; null where it was not measured."""
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


def _words(data: StudyData, suggestion: int) -> str:
    """The setting's values where they differ from the first declared."""
    row = data.trials.filter(pl.col(schema.SUGGESTION) == suggestion).row(0, named=True)
    axes = [axis for axis in setting_axes(data) if not axis.values or row[axis.name] != axis.values[0]]
    return listed([value_label(axis, row[axis.name]) for axis in axes if row[axis.name] is not None])


def _told(found: Interval, sign: bool = False) -> str:
    """The estimate and its interval, if there is one; with a sign where it is a difference."""

    def number(value: float) -> str:
        return ("+" if sign and value > 0 else "") + short(value).replace("-", "−")

    text = number(found.estimate)
    return text if found.low is None or found.high is None else f"{text} [{number(found.low)}, {number(found.high)}]"
