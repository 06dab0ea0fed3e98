"""Is what the model no longer says erased, or only gated? Every reading is compared with a never-trained control.

A reading's share is (m(end) - c(end)) / (m(drop) - c(drop)): how much is left of the advantage at the drop over the
control that never saw the language; 1 all, 0 nothing. Relearning has the same scale: at the drop there was nothing to
relearn, so what is left is the saving 1 - T / T(control) (Ebbinghaus), at equal examples and budget. Gated: the model
no longer says it and the other readings are near 1. Scrambled: all are near 0.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from analysis.decay.conditions import conditions
from analysis.decay.design import controls
from analysis.decay.formulas import MIN_SUCCESS, rising
from analysis.decay.retention import wide_points
from analysis.decay.savings import over_seeds
from analysis.runs.study import StudyData
from analysis.stats.censoring import Time
from halflife.tracking import schema

SAID, LAYER = "said", "layer"
READINGS = {SAID: "", "shots": "shots", "choice": "choice", LAYER: ""}
"""Reading -> task. What the model says is the leading outcome's own task; the layer is chosen at the drop."""
SAVING = "relearning"
HIDDEN = ("shots", "choice", LAYER, SAVING)
"""Readings that do not need the model to say it."""
QUANTILES = (0.25, 0.5, 0.9)
"""Shares of the skill at the drop that relearning has to reach; the summary uses the middle one."""
MAIN = 0.5
MIN_ADVANTAGE = 0.1
"""Advantage of success over the control at the drop below which there is no share of it."""
MIN_LOST = 0.5
"""Lost share of what the model says below which gating is not considered."""
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

    detail: the layer, or "<examples> <quantile>". kind: observed; at least or at most, when a relearning time is
    censored and `share` is a bound; no advantage, when the trained model had none at the drop and share is null.
    """
    if "shares" not in data.derived:
        data.derived["shares"] = pl.concat([_levels(data), _savings(data)])
    return data.derived["shares"]


def _runs(data: StudyData, phase: str) -> pl.DataFrame:
    """The runs that have conditions, each with its control that was measured in this phase."""
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
    probes = layers(wide)
    ends = {task: _ends(wide, task) for task in {*tasks.values(), *probes} - {""}}
    rows = []
    for run in _runs(data, outcome.phase).iter_rows(named=True):
        about = [run[name] for name in ABOUT]
        for reading in READINGS:
            # the layer with the largest advantage over the control at the drop, independent of the end
            of_run = [task for task in probes if {run["trial"], run["control"]} <= ends[task].keys()]
            best = max(of_run, key=lambda at: ends[at][run["trial"]][0] - ends[at][run["control"]][0], default="")
            task = best if reading == LAYER else tasks[reading]
            own, control = (ends.get(task, {}).get(trial) for trial in (run["trial"], run["control"]))
            if own is None or control is None:
                continue
            advantage, left = own[0] - control[0], own[1] - control[1]
            defined = advantage >= MIN_ADVANTAGE
            detail = task.rpartition("-")[2] if reading == LAYER else ""
            kind = "observed" if defined else "no advantage"
            rows.append([*about, reading, detail, *own, *control, kind, left / advantage if defined else None])
    return pl.DataFrame(rows, schema=SHARES, orient="row")


def layers(wide: pl.DataFrame) -> list[str]:
    """Tasks of linear probes, the embedding first."""
    found = {name.partition("/")[0] for name in wide.columns if name.endswith(f"/{schema.HITS}")}
    return sorted((task for task in found if _LAYER.fullmatch(task)), key=lambda task: int(task.rpartition("-")[2]))


def _ends(wide: pl.DataFrame, task: str) -> dict[str, tuple[float, float]]:
    """Trial -> success of a task at the drop and at its last evaluation, if it was measured at both."""
    hits, trials = f"{task}/{schema.HITS}", f"{task}/{schema.TRIALS}"
    if hits not in wide.columns or trials not in wide.columns:
        return {}
    seen = wide.select("trial", "step", rate=pl.col(hits) / pl.col(trials)).drop_nulls("rate").sort("trial", "step")
    found = seen.group_by("trial", maintain_order=True).agg(
        first=pl.col("step").first(), last=pl.col("step").last(), drop=pl.col("rate").first(), end=pl.col("rate").last()
    )
    found = found.filter((pl.col("first") == 0) & (pl.col("last") > 0))
    return {trial: (drop, end) for trial, drop, end in found.select("trial", "drop", "end").iter_rows()}


def examples_of(data: StudyData) -> list[str]:
    """Relearning phases, by number of examples; "all" comes last."""
    phases = [phase for phase in data.points["phase"].unique() if phase.startswith(RELEARN)]

    def count(phase: str) -> float:
        examples = phase.removeprefix(RELEARN)
        return float(examples) if examples.isdigit() else float("inf")

    return sorted(phases, key=lambda phase: (count(phase), phase))


def _savings(data: StudyData) -> pl.DataFrame:
    """What relearning saves against the control, by number of examples and share of the skill to reach."""
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
                treated, never = (rising(steps, rates, target) for steps, rates, _ in (own, control))
                if treated is None or never is None:
                    continue
                kind, share = saving(treated, never)
                detail = f"{phase.removeprefix(RELEARN)} {quantile:g}"
                times = [treated.estimate or treated.low, never.estimate or never.low]
                about = [run[name] for name in ABOUT]
                rows.append([*about, SAVING, detail, None, times[0], None, times[1], kind, share])
    return pl.DataFrame(rows, schema=SHARES, orient="row")


def success_curves(data: StudyData, phase: str) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Trial -> tokens (n,), success (n,) of the leading outcome's task in that phase, and its chance."""
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


def saving(treated: Time, never: Time) -> tuple[str, float | None]:
    """(kind, 1 - T / T(control)). Nothing to relearn counts as T = 0. No share if the control has the skill at once, or
    if neither reaches it."""
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
    """`shares` with one row per run and reading; for relearning the middle quantile with the most examples."""
    frame, phases = shares(data), examples_of(data)
    wanted = f"{phases[-1].removeprefix(RELEARN)} {MAIN:g}" if phases else ""
    return frame.filter((pl.col("reading") != SAVING) | (pl.col("detail") == wanted))


def by_condition(frame: pl.DataFrame) -> pl.DataFrame:
    """Per condition, reading and detail (layers pooled): mean share over sizes within each seed, then over seeds.

    Columns: condition, place, role, reading, detail, share, low, high, seeds, runs, bounded, side, none. Bounds enter
    at their value; `bounded` counts them among `runs`. `none`: runs without an advantage at the drop.
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
    """Per run: said, hidden (mean over HIDDEN) and gated = (hidden - said) / (1 - said), the share of what is no longer
    said that is still there; null if less than half is lost. `kind`: observed, or at least | at most if a reading is a
    bound: then gated is one too."""
    rows = main_rows(data).drop_nulls("share")
    said = rows.filter(pl.col("reading") == SAID).select("trial", said="share")
    bounds = pl.col("kind").filter(pl.col("kind") != "observed")
    hidden = rows.filter(pl.col("reading").is_in(HIDDEN)).group_by("trial").agg(
        hidden=pl.col("share").mean(), readings=pl.col("reading").n_unique(), kind=bounds.first().fill_null("observed"),
    )  # fmt: skip
    about = rows.select(*ABOUT).unique("trial", maintain_order=True)
    found = about.join(said, on="trial").join(hidden, on="trial")
    gated = (pl.col("hidden") - pl.col("said")) / (1 - pl.col("said"))
    return found.with_columns(gated=pl.when(pl.col("said") <= 1 - MIN_LOST).then(gated)).sort("place", "seed")


def depth_rows(data: StudyData) -> pl.DataFrame:
    """`depths` over seeds, in the format of `by_condition`; `none`: runs that still say more than half of it."""
    found = depths(data).with_columns(share="gated", reading=pl.lit("gated"), detail=pl.lit(""))
    return by_condition(found)
