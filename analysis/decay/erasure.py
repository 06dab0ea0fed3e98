"""Is what is no longer said gone, or only gated? Every reading beside a model that never saw the language.

A reading's share is (m(end) - c(end)) / (m(drop) - c(drop)): of what the trained model had at the drop over the control
that never saw the language, how much there still is; 1 all, 0 nothing. Relearning has the same scale: at the drop there
was nothing to relearn, so what is still there is the saving 1 - T / T(control) (Ebbinghaus), at equal examples and
budget. Gated: nothing is said and the other readings are near 1. Scrambled: all near 0.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from analysis.decay.conditions import conditions
from analysis.decay.design import controls
from analysis.decay.formulas import MIN_SUCCESS, crossing
from analysis.decay.retention import wide_points
from analysis.runs.study import StudyData
from analysis.stats.censoring import Time
from analysis.stats.intervals import Interval, t_interval
from halflife.tracking import schema

SAID, LAYER = "said", "layer"
READINGS = {SAID: "", "shots": "shots", "choice": "choice", LAYER: ""}
"""Reading -> task; what is said is the leading outcome's own task, and a layer is chosen at the drop."""
SAVING = "relearning"
HIDDEN = ("shots", "choice", LAYER, SAVING)
"""What need not be said to be there."""
QUANTILES = (0.25, 0.5, 0.9)
"""Shares of the skill at the drop that relearning is to bring back; the middle one counts in the summary."""
MAIN = 0.5
LEAST_ADVANTAGE = 0.1
"""Of a rate, at the drop over the control: with less there is no advantage whose share could be told."""
LEAST_LOST = 0.5
"""Share no longer said below which the question of gating does not arise."""
RELEARN = "relearn-"
_LAYER = re.compile(r"layer-(\d+)")
ABOUT = {
    "trial": pl.String, "role": pl.String, "condition": pl.String, "place": pl.Int64, "plain": pl.Boolean,
    "family": pl.String, "size": pl.String, "parameters": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
SHARES = {
    **ABOUT, "reading": pl.String, "detail": pl.String, "at_drop": pl.Float64, "at_end": pl.Float64,
    "control_drop": pl.Float64, "control_end": pl.Float64, "kind": pl.String, "share": pl.Float64,
}  # fmt: skip
KINDS = ("observed", "at least", "at most", "no advantage")


def shares(data: StudyData) -> pl.DataFrame:
    """One row per run and reading (relearning: per number of examples and quantile).

    detail: the layer, or "<examples> <quantile>". kind: observed; at least and at most where a relearning time is
    censored and `share` is a bound; no advantage, where the trained model had none at the drop and there is no share.
    """
    if "shares" not in data.derived:
        data.derived["shares"] = pl.concat([_levels(data), _savings(data)])
    return data.derived["shares"]


def _runs(data: StudyData, phase: str) -> pl.DataFrame:
    """The runs that have conditions, with the control of each that was measured in this phase."""
    measured = set(data.points.filter(pl.col("phase") == phase)["trial"].unique())
    absent = controls(data, "absent", among=measured)
    frame = conditions(data).drop_nulls("place").filter(pl.col("trial").is_in(measured))
    own = pl.Series("control", [absent.get(trial) for trial in frame["trial"]], dtype=pl.String)
    return frame.select(*(pl.col(name).cast(kind) for name, kind in ABOUT.items())).with_columns(own)


def _levels(data: StudyData) -> pl.DataFrame:
    """Success at the drop and at the end by reading, from counts."""
    outcome = data.declaration.outcomes[0]
    wide = wide_points(data, outcome.phase)
    tasks = {**READINGS, SAID: outcome.task}
    depths_ = layers(wide)
    ends = {task: _ends(wide, task) for task in {*tasks.values(), *depths_} - {""}}
    rows = []
    for run in _runs(data, outcome.phase).iter_rows(named=True):
        about = [run[name] for name in ABOUT]
        for reading in READINGS:
            # the layer with most over the control at the drop: the end has no part in the choice
            of_run = [task for task in depths_ if {run["trial"], run["control"]} <= ends[task].keys()]
            best = max(of_run, key=lambda at: ends[at][run["trial"]][0] - ends[at][run["control"]][0], default="")
            task = best if reading == LAYER else tasks[reading]
            own, control = (ends.get(task, {}).get(trial) for trial in (run["trial"], run["control"]))
            if own is None or control is None:
                continue
            advantage, left = own[0] - control[0], own[1] - control[1]
            told = advantage >= LEAST_ADVANTAGE
            detail = task.rpartition("-")[2] if reading == LAYER else ""
            kind = "observed" if told else "no advantage"
            rows.append([*about, reading, detail, *own, *control, kind, left / advantage if told else None])
    frame = pl.DataFrame(rows, schema={**SHARES, "control_drop": pl.Float64}, orient="row") if rows else _empty()
    return frame


def layers(wide: pl.DataFrame) -> list[str]:
    """Tasks of linear probes, the embedding first."""
    found = {name.partition("/")[0] for name in wide.columns if name.endswith(f"/{schema.HITS}")}
    return sorted((task for task in found if _LAYER.fullmatch(task)), key=lambda task: int(task.rpartition("-")[2]))


def _ends(wide: pl.DataFrame, task: str) -> dict[str, tuple[float, float]]:
    """Trial -> success of a task at the drop and at its last evaluation, where it was measured at both."""
    hits, trials = f"{task}/{schema.HITS}", f"{task}/{schema.TRIALS}"
    if hits not in wide.columns or trials not in wide.columns:
        return {}
    seen = wide.select("trial", "step", rate=pl.col(hits) / pl.col(trials)).drop_nulls("rate").sort("trial", "step")
    found = seen.group_by("trial", maintain_order=True).agg(
        first=pl.col("step").first(), last=pl.col("step").last(), drop=pl.col("rate").first(), end=pl.col("rate").last()
    )
    found = found.filter((pl.col("first") == 0) & (pl.col("last") > 0))
    return {trial: (drop, end) for trial, drop, end in found.select("trial", "drop", "end").iter_rows()}


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=SHARES)


def examples_of(data: StudyData) -> list[str]:
    """Phases of relearning, the fewest examples first; "all" is last."""
    phases = [phase for phase in data.points["phase"].unique() if phase.startswith(RELEARN)]

    def count(phase: str) -> float:
        said = phase.removeprefix(RELEARN)
        return float(said) if said.isdigit() else float("inf")

    return sorted(phases, key=lambda phase: (count(phase), phase))


def _savings(data: StudyData) -> pl.DataFrame:
    """What relearning saves against the control, by number of examples and share of the skill to bring back."""
    outcome = data.declaration.outcomes[0]
    drop = _ends(wide_points(data, outcome.phase), outcome.task)
    rows = []
    for phase in examples_of(data):
        curves = success_curves(data, phase)
        for run in _runs(data, phase).iter_rows(named=True):
            own, control = curves.get(run["trial"]), curves.get(run["control"])
            at_drop, chance = drop.get(run["trial"], (float("nan"), 0.0))[0], own[2] if own else 0.0
            if own is None or control is None or not at_drop - chance >= MIN_SUCCESS * (1 - chance):
                continue
            for quantile in QUANTILES:
                target = chance + quantile * (at_drop - chance)
                treated, never = (_reached(steps, rates, target) for steps, rates, _ in (own, control))
                if treated is None or never is None:
                    continue
                kind, share = saving(treated, never)
                detail = f"{phase.removeprefix(RELEARN)} {quantile:g}"
                times = [treated.estimate or treated.low, never.estimate or never.low]
                about = [run[name] for name in ABOUT]
                rows.append([*about, SAVING, detail, None, times[0], None, times[1], kind, share])
    return pl.DataFrame(rows, schema=SHARES, orient="row") if rows else _empty()


def success_curves(data: StudyData, phase: str) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Trial -> tokens, success of the leading outcome's task in that phase, and its chance."""
    outcome = data.declaration.outcomes[0]
    wide = wide_points(data, phase)
    hits, trials, guess = (f"{outcome.task}/{name}" for name in (schema.HITS, schema.TRIALS, "chance"))
    if hits not in wide.columns or trials not in wide.columns:
        return {}
    chance = pl.col(guess) if guess in wide.columns else pl.lit(None, dtype=pl.Float64)
    frame = wide.select("trial", "step", rate=pl.col(hits) / pl.col(trials), chance=chance.fill_null(outcome.chance))
    frame = frame.drop_nulls("rate").sort("trial", "step")
    return {
        trial: (part["step"].to_numpy().astype(float), part["rate"].to_numpy(), float(part["chance"][0]))
        for (trial,), part in frame.group_by(["trial"], maintain_order=True)
    }


def _reached(steps: np.ndarray, rates: np.ndarray, target: float) -> Time | None:
    """Rising to a threshold is falling below it upside down; the smallest step makes "reached" count."""
    return crossing(steps, -rates, float(np.nextafter(-target, 0)))


def saving(treated: Time, never: Time) -> tuple[str, float | None]:
    """(kind, 1 - T / T(control)). Nothing to relearn counts as no time; a control that has it at once has nothing to
    save, nor is anything known where neither got there."""
    if never.kind == "at-start":
        return "no advantage", None
    if treated.kind == "at-start":
        return "observed", 1.0
    if treated.kind == "censored":
        return ("at most", 1 - treated.low / never.estimate) if never.estimate else ("unknown", None)
    assert treated.estimate is not None
    if never.kind == "censored":
        return "at least", 1 - treated.estimate / never.low
    return "observed", 1 - treated.estimate / never.estimate if never.estimate else None


def main_rows(data: StudyData) -> pl.DataFrame:
    """`shares` with one row a run and reading: of relearning the middle quantile with the most examples."""
    frame, phases = shares(data), examples_of(data)
    wanted = f"{phases[-1].removeprefix(RELEARN)} {MAIN:g}" if phases else ""
    return frame.filter((pl.col("reading") != SAVING) | (pl.col("detail") == wanted))


def by_condition(frame: pl.DataFrame) -> pl.DataFrame:
    """Per condition, reading and detail (of layers: all together): mean share over sizes within each seed, then over
    seeds. Columns: condition, place, role, reading, detail, share, low, high, seeds, runs, bounded, none.

    Bounds count at their value while `bounded` says how many of `runs` they are; `none` had no advantage.
    """
    frame = frame.with_columns(detail=pl.when(pl.col("reading") == LAYER).then(pl.lit("")).otherwise("detail"))
    rows = []
    for key, part in frame.group_by("condition", "place", "role", "reading", "detail", maintain_order=True):
        known = part.drop_nulls("share")
        mean = over_seeds(known, "share")
        ends = (mean.estimate, mean.low, mean.high, mean.count) if mean else (None, None, None, 0)
        bounded = known.filter(pl.col("kind") != "observed")["kind"]
        sides = bounded.unique().to_list()
        side = sides[0] if len(sides) == 1 else "either side" if sides else ""
        rows.append([*key, *ends, part.height, bounded.len(), side, part.height - known.height])
    names = {
        "condition": pl.String, "place": pl.Int64, "role": pl.String, "reading": pl.String, "detail": pl.String,
        "share": pl.Float64, "low": pl.Float64, "high": pl.Float64, "seeds": pl.Int64, "runs": pl.Int64,
        "bounded": pl.Int64, "side": pl.String, "none": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row").sort("place", "reading", "detail")


def depths(data: StudyData) -> pl.DataFrame:
    """Per run: said, hidden (mean of the readings that need no saying) and gated = (hidden - said) / (1 - said), the
    share of what is no longer said that is still there; null where less than half of it is unsaid. `kind` is that of a
    reading that is a bound (at least, at most), where one of them is: then gated is one too."""
    rows = main_rows(data).drop_nulls("share")
    said = rows.filter(pl.col("reading") == SAID).select("trial", said="share")
    bounds = pl.col("kind").filter(pl.col("kind") != "observed")
    hidden = rows.filter(pl.col("reading").is_in(HIDDEN)).group_by("trial").agg(
        hidden=pl.col("share").mean(), readings=pl.col("reading").n_unique(), kind=bounds.first().fill_null("observed"),
    )  # fmt: skip
    about = rows.select(*ABOUT).unique("trial", maintain_order=True)
    found = about.join(said, on="trial").join(hidden, on="trial")
    gated = (pl.col("hidden") - pl.col("said")) / (1 - pl.col("said"))
    return found.with_columns(gated=pl.when(pl.col("said") <= 1 - LEAST_LOST).then(gated)).sort("place", "seed")


def over_seeds(frame: pl.DataFrame, value: str) -> Interval | None:
    """Mean over sizes within each seed, then Student-t over seeds."""
    seeds = frame.drop_nulls([value, "seed"]).group_by("seed").agg(pl.col(value).mean()).sort("seed")
    return t_interval(seeds[value].to_list())


def depth_rows(data: StudyData) -> pl.DataFrame:
    """`depths` over seeds, in the form of `by_condition`; `none`: runs that still say at least half of it."""
    found = depths(data).with_columns(share="gated", reading=pl.lit("gated"), detail=pl.lit(""))
    return by_condition(found)
