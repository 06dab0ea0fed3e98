"""How the fits were made, in the order of the (Mis)Fitting checklist, filled in from the data.

After Li, Kudugunta and Zettlemoyer 2025, "(Mis)Fitting: A survey of scaling laws" (arXiv 2502.18969). What the runs do
not say is told as not recorded.
"""

from __future__ import annotations

import polars as pl

from analysis import fits
from analysis.fits import LEAST_POINTS, STARTS, menu
from analysis.load import StudyData
from analysis.numbers import reference_times
from analysis.retention import LEAST_GAP, LEAST_SUCCESS
from analysis.words import listed, plural, short
from halflife.tracking import schema

UNKNOWN = "not recorded"
Section = tuple[str, list[tuple[str, str]]]


def checklist(data: StudyData, curves: pl.DataFrame) -> list[Section]:
    """(heading, [(question, answer)])."""
    return [
        ("Hypothesis", _hypothesis(data)),
        ("Training", _training(data)),
        ("Measurement", _measurement(data, curves)),
        ("Fitting", _fitting(data, curves)),
    ]


def _hypothesis(data: StudyData) -> list[tuple[str, str]]:
    laws = "; ".join(f"{law.name}: {law.formula}" for law in menu())
    return [
        ("Which forms?", f"Decay: {laws}. Scale: half-life = c N^γ, from half-lives that need no law."),
        ("What are the variables?", "x: tokens since the drop. y: margin of the answer's log-probability over the "
         "never-trained control at the same time, nats a token. N: non-embedding parameters."),
        ("Is the sign of γ or a floor assumed?", "No: γ is free, a floor free from 0 up; the constant law competes."),
    ]  # fmt: skip


def _training(data: StudyData) -> list[tuple[str, str]]:
    declared, trials = data.declaration, data.trials
    sizes = trials.select("size", "parameters").drop_nulls().unique().sort("parameters").rows()
    seeds = trials["seed"].n_unique() if "seed" in trials.columns else 0
    shown = ", ".join(f"{size} ({short(n)})" for size, n in sizes)
    ends = data.points.group_by("phase", "trial").agg(pl.col("step").max())
    phases = [f"{phase} {_range(ends.filter(pl.col('phase') == phase)['step'])}" for phase in _trained(data)]
    commit = data.sweep.tags.get(schema.TAG_COMMIT)
    return [
        ("How many models, of which sizes?", f"{plural(trials.height, 'trial')}: {len(sizes)} sizes, named by what N "
         f"counts, non-embedding parameters: {shown}; {plural(seeds, 'seed')}."),
        ("On how much data?", f"Tokens as processed: {'; '.join(phases)}." if phases else UNKNOWN),
        ("On what data, is any repeated?", f"{declared.corpus or UNKNOWN}; repetition: {UNKNOWN}."),
        ("How is compute counted?", "It is not a variable of any law here."),
        ("How were hyperparameters chosen, do they change with size?", "As in Settings below; how they change with "
         f"size: {UNKNOWN} in the runs, see the code at the commit."),
        ("Is the code at hand?", f"Commit {commit}." if commit else UNKNOWN),
    ]  # fmt: skip


def _trained(data: StudyData) -> list[str]:
    clocks = data.points.filter(pl.col("name") == schema.CLOCK_STEPS)
    return clocks["phase"].unique().sort(descending=True).to_list()


def _range(values: pl.Series) -> str:
    low, high = float(values.to_numpy().min()), float(values.to_numpy().max())
    return f"{short(low)} tokens" if low == high else f"{short(low)} to {short(high)} tokens"


def _measurement(data: StudyData, curves: pl.DataFrame) -> list[tuple[str, str]]:
    treated = curves.filter((pl.col("role") == "treatment") & pl.col("logprob").is_not_null())
    counts = treated.group_by("trial").len()["len"]
    asked = treated["trials"].drop_nulls()
    often = f"{counts.min()} to {counts.max()} a run" if counts.len() else UNKNOWN
    prompts = sorted({int(value) for value in asked})
    return [
        ("Which checkpoints are evaluated?", f"Along every branch, {often}, all of them used; at 0 tokens first."),
        ("What is measured, on what?", f"{data.declaration.outcomes[0].label} by exact match and the answer's "
         f"log-probability, on {listed([str(count) for count in prompts]) or UNKNOWN} held-out prompts."),
        ("Is it modified?", "Counts stay counts. The margin is the log-probability less that of the never-trained "
         "control (interpolated in log time where it was evaluated at other times); nothing is smoothed."),
    ]  # fmt: skip


def _fitting(data: StudyData, curves: pl.DataFrame) -> list[tuple[str, str]]:
    table = fits.fits_table(data)
    treated = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    runs = treated["trial"].n_unique()
    used = fits.reference_curves(data).select("size", "seed").n_unique()
    times = reference_times(curves)
    censored = times.filter(pl.col("kind") == "censored").height
    if table.is_empty():
        made = "No law was fitted: no run at the reference has enough evaluations above the control."
        return [("Which objective and algorithm?", made)]
    share = table["starts_at_optimum"].to_numpy()
    methods = listed(sorted(set(table["intervals"])))
    return [
        ("Which objective?", "Least squares of the margin, with the variance profiled out, per run; nothing weighted."),
        ("Which algorithm, from where?", f"All starts solved together in float64 by bounded Newton steps, polished; "
         f"{STARTS} starts (Sobol, linear parameters projected out). Share of starts that reached the best: "
         f"{share.min():.2f} to {share.max():.2f}."),
        ("Are points or runs left out?", f"{used} of {plural(runs, 'reference run')} fitted: left out are runs with "
         f"success below {LEAST_SUCCESS:g} or less than {LEAST_GAP:g} nat above the control at the drop, or fewer than "
         f"{LEAST_POINTS} evaluations. {censored} did not reach half: they count as censored, not as missing."),
        ("How sure are the estimates?", f"95 %: {methods}. Evaluations of one run never count as independent."),
        ("How is a law judged?", "AICc over the runs' own fits, no winner within 2; error on the last fifth of the log "
         "span, fitted to what came before; the largest size foretold from the smaller ones."),
    ]  # fmt: skip
