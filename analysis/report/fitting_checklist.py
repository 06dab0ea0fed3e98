"""How the fits were made, filled in from the data: what a reader must know before believing a scaling law.

After Li, Kudugunta and Zettlemoyer 2025, "(Mis)Fitting: A survey of scaling laws" (arXiv 2502.18969). Sections and
questions follow the columns of their survey of papers (sheet.csv of github.com/hadasah/scaling_laws at d2223c9:
availability, hypothesis, training setup, data extraction, fitting). The questions are paraphrased; those about
censoring and prediction are additions. What the runs did not record is marked so.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from analysis.decay import fits
from analysis.decay.fits import MIN_POINTS, STARTS, menu
from analysis.decay.formulas import MIN_GAP, MIN_SUCCESS
from analysis.decay.numbers import reference_times
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural, short
from halflife.tracking import schema

UNKNOWN = "not recorded"
Section = tuple[str, list[tuple[str, str]]]


def checklist(data: StudyData, curves: pl.DataFrame) -> list[Section]:
    """(heading, [(question, answer)])."""
    return [
        ("Availability", _availability(data)),
        ("Hypothesis", _hypothesis(data)),
        ("Training setup", _training(data)),
        ("Data extraction", _extraction(data, curves)),
        ("Fitting", _fitting(data, curves)),
    ]


def _availability(data: StudyData) -> list[tuple[str, str]]:
    tags = data.sweep.tags
    commit, changes = tags.get(schema.TAG_COMMIT), tags.get(schema.TAG_CHANGES)
    stages = {
        folder for name in data.trials.columns if name.startswith("stage_") for folder in data.trials[name].drop_nulls()
    }
    changed = f", with uncommitted changes ({changes})" if changes else ""
    return [
        ("Is the code of training and analysis available?", f"Commit {commit}{changed}." if commit else UNKNOWN),
        ("Are checkpoints available?", f"In {plural(len(stages), 'stage')}, see Reproduce." if stages else UNKNOWN),
        ("Are the measured values available?", f"All, in the tracking store ({data.points.height:,} points) and in the "
         "tables of this page."),
    ]  # fmt: skip


def _hypothesis(data: StudyData) -> list[tuple[str, str]]:
    laws = "; ".join(f"{law.name}: {law.formula}" for law in menu())
    free = [len(law.parameters) for law in menu()]
    count = fits.reference_curves(data).select("size", "seed").n_unique()
    return [
        ("Which functional forms?", f"Decay: {laws}. Scale: half-life = c N^γ, with half-lives that assume no law."),
        ("What are they for?", "Decay: to estimate the half-life, the floor and the behaviour beyond the data. Scale: "
         "whether size slows forgetting; no optimal allocation is sought."),
        ("How many free parameters, how many laws?", f"{min(free)} to {max(free)} parameters; "
         f"{plural(len(free), 'law')} for each of {plural(count, 'run')}; scale: a slope and an intercept per seed."),
        ("What are the variables?", "x: tokens since the drop (and every other clock, in the table of clocks). y: "
         "margin of the answer's log-probability over the never-exposed control at the same time, in nats per token. "
         "N: non-embedding parameters."),
        ("Is the sign of γ or a floor assumed?", "No: γ is free, so is a floor from 0 up; the constant law competes."),
    ]  # fmt: skip


def _training(data: StudyData) -> list[tuple[str, str]]:
    declared, trials = data.declaration, data.trials
    sizes = trials.select("size", "parameters").drop_nulls().unique().sort("parameters").rows()
    seeds = trials["seed"].n_unique() if "seed" in trials.columns else 0
    shown = ", ".join(f"{size} ({short(n)})" for size, n in sizes)
    reference = fits.reference_curves(data)
    runs = f"; a law of decay is fitted to one run, γ to {reference.select('size', 'seed').n_unique()}"
    ends = data.points.group_by("phase", "trial").agg(pl.col("step").max())
    phases = [f"{phase} {_range(ends.filter(pl.col('phase') == phase)['step'])}" for phase in _trained(data)]
    return [
        ("How many runs, and how many per law?", f"{plural(trials.height, 'trial')}: {len(sizes)} sizes, "
         f"{plural(seeds, 'seed')}{runs if not reference.is_empty() else ''}."),
        ("How large are the models, how are parameters counted?", f"{shown}, without embeddings.{_totals(data)}"),
        ("On how much data?", f"Tokens processed: {'; '.join(phases)}." if phases else UNKNOWN),
        ("How much compute, how is it counted?", "Compute is not a variable of any law here. Seconds and tokens of "
         "the sweep are listed under Reproduce."),
        ("On what data, is any of it repeated?", f"{declared.corpus or UNKNOWN}; repetition: {UNKNOWN}."),
        ("Which hyperparameters, do they change with size?", "See Settings below; how they change with size is "
         f"{UNKNOWN} in the runs, see the code at the commit."),
    ]  # fmt: skip


def _totals(data: StudyData) -> str:
    """Parameters with embeddings, if the trunks' summaries record them."""
    if "summary_trunk" not in data.trials.columns:
        return ""
    totals: dict[int, Any] = {}
    for row in data.trials.select("parameters", "summary_trunk").drop_nulls().iter_rows(named=True):
        totals[row["parameters"]] = json.loads(row["summary_trunk"]).get("parameters_total")
    if not totals or None in totals.values():
        return ""
    return f" With them: {', '.join(short(total) for _, total in sorted(totals.items()))}."


def _trained(data: StudyData) -> list[str]:
    clocks = data.points.filter(pl.col("name") == schema.CLOCK_STEPS)
    return clocks["phase"].unique().sort(descending=True).to_list()


def _range(values: pl.Series) -> str:
    low, high = float(values.to_numpy().min()), float(values.to_numpy().max())
    return f"{short(low)} tokens" if low == high else f"{short(low)} to {short(high)} tokens"


def _extraction(data: StudyData, curves: pl.DataFrame) -> list[tuple[str, str]]:
    treated = curves.filter((pl.col("role") == "treatment") & pl.col("logprob").is_not_null())
    counts = treated.group_by("trial").len()["len"]
    points = fits.reference_curves(data).group_by("size", "seed").len()["len"]
    often = f"{_count(counts)} per run" if counts.len() else UNKNOWN
    prompts = sorted({int(value) for value in treated["trials"].drop_nulls()})
    return [
        ("Which checkpoints are evaluated, and which are used?", f"Along every branch, {often}, the first at 0 tokens; "
         "all are used."),
        ("How many points per law?", f"{_count(points)}, from one run." if points.len() else "No law was fitted."),
        ("What is measured, on what?", f"{data.declaration.outcomes[0].label} by exact match and the answer's "
         f"log-probability, on {listed([str(count) for count in prompts]) or UNKNOWN} held-out prompts."),
        ("Are the data modified?", "Counts stay counts. The margin is the log-probability minus that of the "
         "never-exposed control (interpolated in log time if it was evaluated at other times); nothing is smoothed."),
        ("Are subsets of the data selected?", _left_out(data, curves)),
    ]  # fmt: skip


def _count(values: pl.Series) -> str:
    low, high = int(values.to_numpy().min()), int(values.to_numpy().max())
    return str(low) if low == high else f"{low} to {high}"


def _left_out(data: StudyData, curves: pl.DataFrame) -> str:
    treated = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    used = fits.reference_curves(data).select("size", "seed").n_unique()
    censored = reference_times(curves).filter(pl.col("kind") == "censored").height
    return (
        f"Laws: the reference setting only, {used} of {plural(treated['trial'].n_unique(), 'reference run')} fitted. "
        f"Left out are runs with less than {MIN_SUCCESS:g} of the success above chance, or less than {MIN_GAP:g} "
        f"nats per token above the control, at the drop, or fewer than {MIN_POINTS} evaluations. {censored} did not "
        "reach half and count as censored, not as missing."
    )


def _fitting(data: StudyData, curves: pl.DataFrame) -> list[tuple[str, str]]:
    table = fits.fits_table(data)
    if table.is_empty():
        why = "No law was fitted: no run at the reference has enough evaluations above the control."
        return [("Which objective and algorithm?", why)]
    share = table["starts_at_optimum"].to_numpy()
    methods = listed(sorted(set(table["intervals"].drop_nulls())))
    return [
        ("Which objective?", "Least squares of the margin, with the variance profiled out, per run; unweighted."),
        ("Which algorithm, with which settings?", "All starts are solved together in float64 by bounded Newton steps "
         "until no step lowers the objective, then polished; bounds as in each law's description."),
        ("Where does it start?", f"{STARTS} starts (Sobol, linear parameters projected out). Share of starts that "
         f"reached the best optimum: {share.min():.2f} to {share.max():.2f}."),
        ("Is anything resampled, and how uncertain are the estimates?", "Nothing is resampled: below 10 seeds a "
         f"bootstrap undercovers. 95% intervals: {methods}. Evaluations of one run never count as independent."),
        ("Is the law validated?", "By the error on the last fifth of the log span, predicted from the rest, and at the "
         "largest size, predicted from the smaller ones. AICc over the fits of all runs prefers no law within 2."),
    ]  # fmt: skip
