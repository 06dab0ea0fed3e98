from __future__ import annotations

from dataclasses import replace

import polars as pl

from analysis.decay.design import controls, described, reference, reference_label, setting_axes
from analysis.decay.effects import effects
from analysis.decay.retention import retention_curves
from halflife.tracking.schema import Axis
from tests.analysis import planted


def test_the_reference_is_the_first_declared_value_of_each_varied_axis(small):
    assert [axis.name for axis in setting_axes(small)] == ["arm", "learning_rate", "branch_regularizer"]
    assert reference(small) == {"arm": "equal-exposure", "learning_rate": 1.0, "branch_regularizer": "none"}
    assert reference_label(small) == "equal exposure, branch rate: 1, regularizer of the branch: none"


def test_the_reference_falls_back_on_a_setting_that_was_run(small):
    without = small.trials.filter(
        ~(
            (pl.col("arm") == "equal-exposure")
            & (pl.col("learning_rate") == 1)
            & (pl.col("branch_regularizer") == "none")
        )
    )
    chosen = reference(replace(small, trials=without))
    assert without.filter(*(pl.col(name) == value for name, value in chosen.items())).height > 0


def test_a_setting_is_labelled_by_its_differences_from_the_reference(small):
    names = set(described(small).filter(pl.col("role") == "treatment")["setting"])
    assert names == {"reference", "equal strength", "branch rate: 0.25", "regularizer of the branch: weight-decay-0.1"}


def test_every_trial_has_the_control_of_its_size_seed_and_payload(full):
    pairs = controls(full, "absent")
    rows = {row["trial"]: row for row in full.trials.to_dicts()}
    assert len(pairs) == full.trials.height
    for trial, control in pairs.items():
        assert rows[control]["role"] == "absent"
        assert all(rows[trial][name] == rows[control][name] for name in ("size", "seed", "payload"))


def test_a_trial_whose_control_is_absent_has_none(small):
    without = small.trials.filter(~((pl.col("role") == "absent") & (pl.col("seed") == 1)))
    pairs = controls(replace(small, trials=without), "absent")
    seeds = {row["trial"]: row["seed"] for row in without.to_dicts()}
    assert pairs
    assert all(seeds[trial] != 1 for trial in pairs)


def test_a_control_agrees_in_the_studys_own_axis(small):
    declaration = small.declaration
    axes = (*declaration.axes, Axis(name="batch", label="Batch", values=(32, 64)))
    trials = pl.concat([
        small.trials.with_columns(batch=pl.lit(batch), trial=pl.col("trial") + f" batch {batch}") for batch in (32, 64)
    ])  # fmt: skip
    data = replace(small, declaration=replace(declaration, axes=axes), trials=trials)
    pairs = controls(data, "absent")
    assert len(pairs) == trials.height
    assert all(trial.rpartition(" ")[2] == control.rpartition(" ")[2] for trial, control in pairs.items())


def test_without_a_full_match_the_control_at_the_reference_branch_is_used(small):
    absent = small.trials.filter(pl.col("role") == "absent")
    others = absent.with_columns(learning_rate=pl.lit(0.5), trial=pl.col("trial") + " half rate")
    data = replace(small, trials=pl.concat([others, small.trials]))
    pairs = controls(data, "absent")
    slow = small.trials.filter(pl.col("learning_rate") == 0.25)["trial"]
    assert slow.len() > 0
    assert not any(pairs[trial].endswith("half rate") for trial in slow)


def test_payload_and_arm_are_not_effects_since_the_dose_differs_too(full):
    found = effects(full, retention_curves(full))
    assert set(found["axis"]) == {"Branch rate", "Regularizer of the trunk", "Regularizer of the branch"}


def test_planted_effects_are_recovered(full):
    found = {row["value"]: row for row in effects(full, retention_curves(full)).iter_rows(named=True)}
    for value, expected in (
        ("branch rate: 0.5", 0.5**-0.9),
        ("branch rate: 0.25", 0.25**-0.9),
        ("regularizer of the trunk: weight-decay-0.1", 2.718281828**0.25),
        ("regularizer of the branch: weight-decay-0.1", 2.718281828**-0.5),
    ):
        row = found[value]
        assert row["ratio_low"] * 0.97 < expected < row["ratio_high"] * 1.03
        assert row["observed"] == row["pairs"]
        assert (row["area"] > 0) == (expected > 1)


def test_censored_pairs_are_left_out_of_the_ratio_and_counted(tmp_path):
    from analysis.runs.load import load_study

    plan = planted.Plan(sizes=("30k",), seeds=2, branch_steps=60, base_steps=40, rates=(1.0, 0.25), relearn=False)
    data = load_study(planted.write(tmp_path, plan), plan.study)
    rows = {row["value"]: row for row in effects(data, retention_curves(data)).iter_rows(named=True)}
    slow = rows["branch rate: 0.25"]
    assert (slow["pairs"], slow["observed"], slow["ratio"]) == (2, 0, None)
    assert slow["area"] > 0


def test_a_few_censored_pairs_count_by_their_bounds(small):
    """One of three seeds did not reach half at the slower rate: its pair raises the ratio."""
    curves = retention_curves(small)
    slow = small.trials.filter((pl.col("learning_rate") == 0.25) & (pl.col("role") == "treatment"))
    late = slow.filter((pl.col("seed") == 0) & (pl.col("size") == "330k"))["trial"]
    cut = curves.filter(~pl.col("trial").is_in(late.implode()) | (pl.col("retention_logprob") > 0.6))
    row = {row["value"]: row for row in effects(small, cut).iter_rows(named=True)}["branch rate: 0.25"]
    whole = {row["value"]: row for row in effects(small, curves).iter_rows(named=True)}["branch rate: 0.25"]
    assert (row["pairs"], row["observed"], whole["observed"]) == (9, 8, 9)
    assert row["ratio_low"] < 0.25**-0.9 < row["ratio_high"]
    assert row["ratio_high"] > whole["ratio_high"]
