"""The checks of a study of language families: the language was learned, the others are intact, probes are valid."""

from __future__ import annotations

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.decay.conditions import FAMILY, conditions
from analysis.decay.design import controls, vocabulary
from analysis.decay.erasure import layers
from analysis.decay.formulas import MIN_GAP, MIN_SUCCESS
from analysis.decay.retention import wide_points
from analysis.runs.study import StudyData
from halflife.tracking import schema

CRITERION = 0.8
"""Success at the drop that counts as learned, unless the study's settings give another."""
FAMILIES = 0.75
"""Share of the families that must reach it."""
KEPT_TASK, KEPT_GAP, KEPT = "kept", 0.1, 0.9
READ = 0.1
FORM = 0.5
"""Share of the log-probability's rise beyond which it says little of the answer itself."""


def family_checks(data: StudyData, curves: pl.DataFrame) -> list[Check]:
    return [_learned(data, curves), *_kept_languages(data), *_probes(data), *_format(data, curves)]


def criterion(data: StudyData) -> float:
    """Success that counts as learned."""
    return float(data.declaration.settings.get("criterion", CRITERION))


def _learned(data: StudyData, curves: pl.DataFrame) -> Check:
    """Pooled over sizes and seeds of a family, at the reference: only a learned language can be lost."""
    least = criterion(data)
    plain = conditions(data).filter((pl.col("role") == "treatment") & pl.col("plain"))
    drop = curves.filter(pl.col("tokens") == 0).select("trial", "hits", "trials").drop_nulls()
    counts = drop.join(plain.select("trial", pl.col(FAMILY).cast(pl.String)), on="trial").group_by(FAMILY).agg(
        rate=pl.col("hits").sum() / pl.col("trials").sum()
    ).sort(FAMILY)  # fmt: skip
    names = plain[FAMILY].unique()  # a search has only one of them at the reference
    reached = counts.filter(pl.col("rate") >= least).height
    return Check(
        name=f"The {vocabulary(data)['skill']} was learned before it was dropped", required=True,
        expected=f"success at the drop at least {least:g} in at least {FAMILIES:.0%} of the families",
        found="; ".join(f"{name} {rate:.3f}" for name, rate in counts.iter_rows()) or "not measured",
        passed=None if counts.is_empty() else reached >= FAMILIES * len(names),
        remedy=remedies.learn(data, plain["trial"], least),
    )  # fmt: skip


def _kept_languages(data: StudyData) -> list[Check]:
    """In place of clean loss: what learning one language costs the others, and what the branch does to them."""
    wide = wide_points(data, data.declaration.outcomes[0].phase)
    if not {f"{KEPT_TASK}/{name}" for name in (schema.HITS, schema.TRIALS)} <= set(wide.columns):
        return []
    rate = pl.col(f"{KEPT_TASK}/{schema.HITS}") / pl.col(f"{KEPT_TASK}/{schema.TRIALS}")
    ends = wide.select("trial", "step", rate=rate).drop_nulls("rate").sort("trial", "step").group_by("trial")
    ends = ends.agg(kept_start=pl.col("rate").first(), kept_end=pl.col("rate").last())
    found = conditions(data).filter("plain").join(ends, on="trial")  # an axis may be named rate
    cells = found.filter(pl.col("role").is_in(["treatment", "absent"])).pivot(
        on="role",
        index=[FAMILY, "size", "parameters", "seed"],
        values=["kept_start", "kept_end"],
        aggregate_function="mean",
    )
    if not {"kept_start_treatment", "kept_start_absent"} <= set(cells.columns):
        return []
    means = cells.group_by(FAMILY, maintain_order=True).agg(
        gap=(pl.col("kept_start_treatment") - pl.col("kept_start_absent")).mean(),
        start=pl.col("kept_start_treatment").mean(), end=pl.col("kept_end_treatment").mean(),
    ).drop_nulls().sort(FAMILY)  # fmt: skip
    if means.is_empty():
        return []
    rows = means.rows(named=True)
    learned = [row for row in rows if row["start"] >= MIN_SUCCESS]  # what was never learned cannot be kept
    caveat = "" if len(learned) == len(rows) else f" (below {MIN_SUCCESS:g} at the drop there was little to lose)"
    unharmed = min(row["gap"] for row in rows) >= -KEPT_GAP
    return [
        Check(
            name="Learning it left the rest intact",
            passed=None if unharmed and not learned else unharmed,
            expected=f"success in them at the drop at most {KEPT_GAP:g} below that of the never-exposed model",
            found="; ".join(f"{row[FAMILY]} {row['gap']:+.3f}" for row in rows) + caveat,
            remedy="a longer trunk, in which each has more: " + remedies.flags(
                data, "trunk", by=2.0, otherwise="twice as long"
            ),
        ),
        Check(
            name="The rest was retained",
            passed=all(row["end"] >= KEPT * row["start"] for row in learned) if learned else None,
            expected=f"success in them at the end of the branch at least {KEPT:g} of that at the drop",
            found="; ".join(f"{row[FAMILY]} {row['start']:.3f} to {row['end']:.3f}" for row in rows) + caveat,
            remedy="a shorter branch: " + remedies.flags(data, "branch", by=0.5, otherwise="half as long"),
        ),
    ]  # fmt: skip


def _probes(data: StudyData) -> list[Check]:
    """A probe that reads randomly assigned answers memorises them and shows nothing about the model (control task)."""
    wide = wide_points(data, data.declaration.outcomes[0].phase)
    names = [(f"{layer}/control", f"{layer}/{schema.TRIALS}", f"{layer}/chance") for layer in layers(wide)]
    names = [columns for columns in names if set(columns) <= set(wide.columns)]
    if not names:
        return []
    sums = wide.select(
        control=pl.sum_horizontal(pl.col(control).sum() for control, _, _ in names),
        trials=pl.sum_horizontal(pl.col(trials).sum() for _, trials, _ in names),
        guessed=pl.sum_horizontal((pl.col(trials) * pl.col(chance)).sum() for _, trials, chance in names),
    )
    control, trials, guessed = sums.row(0)
    return [
        Check(
            name="Linear probes read the model, not memorised answers", passed=(control - guessed) / trials <= READ,
            expected=f"accuracy on randomly assigned answers at most {READ:g} above chance",
            found=f"{control / trials:.3f}; chance {guessed / trials:.3f}",
            remedy="more items than a probe can memorise: " + remedies.flags(
                data, "prompts", by=2.0, otherwise="twice as many"
            ),
        )
    ]  # fmt: skip


def _format(data: StudyData, curves: pl.DataFrame) -> list[Check]:
    """A reading: how much of the log-probability's rise is only the form of an answer. A model that never learned the
    language does not know even that, so what it is counted from lies far below a model that only guesses."""
    drop = curves.filter(pl.col("tokens") == 0)
    pairs = pl.DataFrame(list(controls(data, "null").items()), schema=["trial", "null"], orient="row")
    guessing = drop.select(pl.col("trial").alias("null"), guessed=pl.col("logprob") - pl.col("control"))
    learned = drop.filter("is_reference", role="treatment").select("trial", "size", "parameters", "logprob", "control")
    rise = pl.col("logprob") - pl.col("control")
    found = learned.join(pairs, on="trial").join(guessing, on="null").drop_nulls().filter(rise >= MIN_GAP)
    shares = found.group_by("size", "parameters").agg(share=(pl.col("guessed") / rise).mean()).sort("parameters")
    if shares.is_empty():
        return []
    shown = "; ".join(f"{size} {share:.2f}" for size, share in zip(shares["size"], shares["share"], strict=True))
    most = max(shares["share"]) >= FORM
    return [
        Check(
            name="Log-probability that shuffled answers reach too", passed=None, reading=True,
            expected="no expectation: share of the rise above the never-exposed model at the drop",
            found=shown + " (retention by log-probability mostly shows the form of an answer: read success)" * most,
        )
    ]  # fmt: skip
