"""The checks of a study of soft prompts: the behaviour is there, the controls behave, the optimizer works."""

from __future__ import annotations

import itertools

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.checks.completeness import controls_present, ended
from analysis.prompts import elicitation
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from analysis.stats.intervals import Interval, binomial_interval, t_interval

TRIGGERED = 0.9
"""Minimum success with the cause itself for a behaviour to count as present."""
LOOSE = 0.05
"""Share of the gap by which a larger k may do worse before that counts as a failure of the optimizer."""
BASE = "continuation"
"""The task of the null: text from the training distribution."""


def prompt_checks(data: StudyData) -> list[Check]:
    return [
        check
        for check in (
            controls_present(data),
            _positive(data),
            _unfitted(data),
            _null_check(data),
            _monotone(data),
            ended(data),
        )
        if check is not None
    ]


def _positive(data: StudyData) -> Check | None:
    """With the cause itself and no prompt: the behaviour must be there to be elicited."""
    runs = elicitation.runs(data, {"positive": "positive"}).drop_nulls(["hits", "trials"]).filter(pl.col("k") == 0)
    if runs.is_empty():
        return None
    sizes = runs.group_by("behaviour", "series", maintain_order=True).agg(pl.col("hits", "trials").sum())
    rates = (sizes["hits"] / sizes["trials"]).to_list()
    low, high = binomial_interval(sizes["hits"].to_numpy(), sizes["trials"].to_numpy())
    rows = [
        f"{behaviour}{at_size(series)} {rate:.3f} [{a:.3f}, {b:.3f}]"
        for (behaviour, series), rate, a, b in zip(
            sizes.select("behaviour", "series").iter_rows(), rates, low, high, strict=True
        )
    ]
    return Check(
        name="The behaviour is there", expected=f"success with the cause itself at least {TRIGGERED:g}",
        found="; ".join(rows), passed=min(rates) >= TRIGGERED, required=True,
        remedy=remedies.learn(data, [], TRIGGERED),
    )  # fmt: skip


def _unfitted(data: StudyData) -> Check | None:
    """Prompts at initialization: effects must come from fitting."""
    runs = elicitation.runs(data, {"null": "null"}).drop_nulls(["hits", "trials"]).filter(pl.col("k") > 0)
    if runs.is_empty():
        return None
    share = float(runs["hits"].to_numpy().sum() / runs["trials"].to_numpy().sum())
    chance = float(runs["chance"].fill_null(0.0).to_numpy().max())
    return Check(
        name="Unfitted prompts have no effect", expected=f"success at most {LOOSE:g} above chance",
        found=f"{share:.3f} in {plural(runs.height, 'prompt')}; chance {chance:.3f}", passed=share <= chance + LOOSE,
        remedy="if it is noise, more prompts: " + remedies.flags(data, "prompts", by=4.0, otherwise="four times more"),
    )  # fmt: skip


def _null_check(data: StudyData) -> Check | None:
    prompts = elicitation.runs(data)
    part = prompts.filter((pl.col("behaviour") == label_of(data, BASE)) & (pl.col("model") == "present"))
    gain = gain_of(part) if part.height else None
    if gain is None:
        return None
    ends = "one seed" if gain.low is None else f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    return Check(
        name="No gain where there is nothing to elicit",
        expected="the interval of the gain on text from the training distribution includes 0, or the gain is at most "
        f"{elicitation.MIN_GAIN:g} nats per token", found=f"{gain.estimate:+.3f} nats per token {ends}",
        passed=None if gain.low is None else negligible(gain),
        remedy="a model that knows ordinary text better: " + remedies.flags(
            data, "trunk", by=2.0, otherwise="a trunk twice as long"
        ),
    )  # fmt: skip


def _monotone(data: StudyData) -> Check | None:
    """A larger k can do all that a smaller one can, so doing worse is a failure of the optimizer. Behaviours without a
    gain are left out: there is only noise to compare."""
    best = elicitation.best_restarts(elicitation.runs(data))
    worse, pairs = [], 0
    for (behaviour, model, series), part in best.group_by(["behaviour", "model", "series"], maintain_order=True):
        if not elicitation.gains(part):
            continue
        for (seed,), own in part.group_by(["seed"], maintain_order=True):
            losses = own.sort("k").select("k", "loss").rows()
            gap = losses[0][1] - min(loss for _, loss in losses)
            pairs += len(losses) - 1
            worse += [
                f"{behaviour} ({model}{at_size(str(series))}, seed {seed}) at k = {k}"
                for (_, before), (k, after) in itertools.pairwise(losses)
                if after > before + LOOSE * gap
            ]
    if not pairs:
        return None
    shown = f": {'; '.join(worse[:3])}{' ...' if len(worse) > 3 else ''}" if worse else ""
    return Check(
        name="More tokens never do worse", expected=f"the best loss rises with k by at most {LOOSE:.0%} of the gap",
        found=f"{len(worse)} of {plural(pairs, 'step')}{shown}", passed=not worse,
        remedy="a better fit: " + remedies.flags(
            data, "restarts", "steps", by=2.0, otherwise="more restarts, or more steps"
        ),
    )  # fmt: skip


def gain_of(part: pl.DataFrame) -> Interval | None:
    """Interval over seeds of the gain from no prompt to the most tokens, averaged within a seed."""
    best = elicitation.best_restarts(part).sort("k")
    ends = best.group_by("series", "seed").agg(gain=pl.col("loss").first() - pl.col("loss").last())
    return t_interval(ends.group_by("seed").agg(pl.col("gain").mean())["gain"])


def negligible(gain: Interval) -> bool:
    """Whether an interval of gains includes 0, or the gain is negligible."""
    return gain.contains(0) or abs(gain.estimate) <= elicitation.MIN_GAIN


def label_of(data: StudyData, task: str) -> str:
    return next((outcome.label for outcome in data.declaration.outcomes if outcome.task == task), task)


def at_size(series: str) -> str:
    return f" at {series}" if series else ""
