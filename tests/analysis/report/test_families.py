"""Families of languages: the ground truth of a generated sweep is recovered, and nothing undecided is claimed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.answers.questions import estimated
from analysis.checks.decay import decay_checks
from analysis.decay.conditions import MEASURE, conditions, skill_measure
from analysis.decay.design import controls
from analysis.decay.effects import effects
from analysis.decay.erasure import READINGS, by_condition, depth_rows, main_rows, saving, shares
from analysis.decay.numbers import size_summary
from analysis.decay.retention import retention_curves
from analysis.figures.family import family_table
from analysis.figures.languages import languages_table
from analysis.gallery import generated_languages as planted
from analysis.gallery.generated import STEP
from analysis.report.export import write_tables
from analysis.runs.study import StudyData
from analysis.stats.censoring import Time
from analysis.stats.intervals import Interval
from halflife.tracking.questions import Decay

PLAIN = {family: f"family {family}" for family in planted.TIMES}


@pytest.fixture(scope="module")
def families() -> StudyData:
    return planted.families()


def part(data: StudyData, keep: pl.Expr) -> StudyData:
    """The sweep as if only these trials had been run."""
    trials = data.trials.filter(keep)
    points = data.points.filter(pl.col("trial").is_in(trials["trial"].implode()))
    return replace(data, trials=trials, points=points)


def test_half_lives_by_family_and_size_are_the_planted_ones(families):
    """By the log-probability, whose half lies at 2 T. Success bounces, which delays its last crossing a little."""
    table = family_table(families).filter((pl.col("arm") == "equal strength") & (pl.col("criterion") == "logprob"))
    means = table.drop_nulls("estimate").group_by("family", "size").agg(pl.col("estimate").log().mean())
    assert means.height == 12
    setting = {"rule_overlap": 1.0, "token_overlap": 1.0}
    for family, size, found in means.iter_rows():
        assert found - math.log(2 * STEP) == pytest.approx(planted.log_time(family, size, setting), abs=0.25)


def test_effects_by_success_hold_what_was_planted(families):
    found = effects(families, retention_curves(families), "success")
    truth = {
        "family: B": planted.TIMES["B"] / planted.TIMES["A"],
        "family: C": planted.TIMES["C"] / planted.TIMES["A"],
        "regularizer of the branch: weight-decay-1": math.exp(-0.7),
        "regularizer of the trunk: weight-decay-1": math.exp(0.4),
        "replay: 0.01": math.exp(1.2),
    }
    for value, ratio in truth.items():
        row = found.row(by_predicate=pl.col("value") == value, named=True)
        assert row["ratio_low"] / 1.1 <= ratio <= row["ratio_high"] * 1.1, value
        assert row["observed"] == row["pairs"]


def test_each_reading_finds_the_share_that_was_planted_and_nothing_of_a_table(families):
    table = by_condition(main_rows(families))
    for family, depth in planted.DEPTH.items():
        for reading, (_, _, part_) in planted.READINGS.items():
            row = table.row(
                by_predicate=(pl.col("condition") == PLAIN[family]) & (pl.col("reading") == reading), named=True
            )
            assert row["share"] == pytest.approx(part_ * depth, abs=0.08), (family, reading)
            assert row["low"] < row["share"] < row["high"]
        saved = table.row(
            by_predicate=(pl.col("condition") == PLAIN[family]) & (pl.col("reading") == "relearning"), named=True
        )
        assert saved["share"] == pytest.approx(depth, abs=0.12)
    null = table.filter(pl.col("role") == "null")
    assert np.abs(null["share"].to_numpy()).max() < 0.1
    assert set(table["reading"]) == {*READINGS, "relearning"}


def test_conditions_are_placed_between_scrambled_and_gated_as_planted(families):
    found = dict(depth_rows(families).select("condition", "share").iter_rows())
    shares_ = [found[PLAIN[family]] for family in ("A", "B", "D", "C")]
    assert shares_ == sorted(shares_)
    assert found["family A, answers shuffled"] < found[PLAIN["A"]] + 0.05 < 0.2
    assert found[PLAIN["C"]] > 0.6


def test_without_an_advantage_at_the_drop_there_is_no_share_and_never_a_zero(families):
    one = part(families, pl.col("seed") == 0)
    own = one.trials.filter((pl.col("role") == "treatment") & (pl.col("family") == "B"))["trial"][0]
    hits = (pl.col("trial") == own) & (pl.col("name") == "choice/hits")
    flat = one.points.with_columns(value=pl.when(hits).then(0.0).otherwise("value"))
    row = shares(replace(one, points=flat)).row(
        by_predicate=(pl.col("trial") == own) & (pl.col("reading") == "choice"), named=True
    )
    assert (row["kind"], row["share"]) == ("no advantage", None)


SEEN, LATE = (
    Time(kind="observed", low=40, high=60, estimate=50.0),
    Time(kind="censored", low=100, high=None, estimate=None),
)
AT_ONCE = Time(kind="at-start", low=0, high=0, estimate=None)


@pytest.mark.parametrize(
    ("treated", "never", "kind", "share"),
    [
        (SEEN, Time(kind="observed", low=190, high=210, estimate=200.0), "observed", 0.75),
        (SEEN, LATE, "at least", 0.5),
        (LATE, SEEN, "at most", -1.0),
        (LATE, LATE, "unknown", None),
        (AT_ONCE, SEEN, "observed", 1.0),
        (SEEN, AT_ONCE, "no advantage", None),
    ],
)
def test_savings_that_were_not_seen_are_bounds_or_nothing(treated, never, kind, share):
    assert saving(treated, never) == (kind, share)


def test_a_control_of_another_family_is_none(families):
    only_a = part(families, (pl.col("role") == "treatment") | (pl.col("family") == "A"))
    family = dict(only_a.trials.select("trial", "family").iter_rows())
    matched = controls(only_a, "absent")
    assert matched
    assert all(family[trial] == family[control] == "A" for trial, control in matched.items())


def test_the_dropped_language_falls_alone(families):
    table = languages_table(families)
    last = table.filter(pl.col("tokens") == table["tokens"].max())
    assert set(last.filter(pl.col("kind") == "dropped")["language"]) == {"progression", "digits"}
    assert last.filter(pl.col("kind") == "dropped")["retention"].to_numpy().max() < 0.1
    assert last.filter(pl.col("kind") == "kept")["retention"].to_numpy().min() > 0.7
    start = table.filter(pl.col("tokens") == 0)
    assert np.allclose(start["retention"].to_numpy(), 1)


def test_translations_of_a_dropped_language_are_distinguished_from_kept_ones(families):
    renamed = families.points.with_columns(
        pl.col("name").str.replace("language-words/", "language-digits-to-words/").str.replace(
            "language-roman/", "language-words-to-roman/"
        )
    )  # fmt: skip
    kinds = dict(languages_table(replace(families, points=renamed)).select("language", "kind").iter_rows())
    assert (kinds["digits-to-words"], kinds["words-to-roman"]) == ("translation", "kept")


def test_conditions_are_ordered_by_family_and_plain_ones_come_first(families):
    order = conditions(families).drop_nulls("place").sort("place")["condition"].unique(maintain_order=True).to_list()
    assert order[0] == "family A"
    assert [name.split(",")[0] for name in order] == sorted(name.split(",")[0] for name in order)
    assert conditions(families).filter(pl.col("role") == "absent")["place"].null_count() == 60


def test_effects_hold_the_arm_at_the_reference(families):
    found = effects(families, retention_curves(families), MEASURE)
    exposed = families.trials.filter((pl.col("arm") == "equal-exposure") & (pl.col("role") == "treatment"))
    lower = pl.col("trial").is_in(exposed["trial"].implode()) & pl.col("name").str.ends_with("/hits")
    points = families.points.with_columns(
        value=pl.when(lower & (pl.col("step") > 0)).then(0.7 * pl.col("value")).otherwise("value")
    )
    changed = replace(families, points=points)
    assert not retention_curves(changed).equals(retention_curves(families))
    assert_frame_equal(effects(changed, retention_curves(changed), MEASURE), found)


def test_the_kept_languages_are_checked_in_the_place_of_clean_text(families):
    found = {check.name: check for check in decay_checks(families, retention_curves(families))}
    assert found["Learning it left the rest intact"].passed
    assert found["The rest was retained"].passed
    assert not any("clean loss" in name for name in found)
    worse = families.points.with_columns(
        value=pl.when((pl.col("name") == "kept/hits") & (pl.col("step") > 10**6)).then(0.0).otherwise("value")
    )
    worse = replace(families, points=worse)
    found = {check.name: check for check in decay_checks(worse, retention_curves(worse))}
    assert found["The rest was retained"].passed is False


def test_kept_languages_that_were_never_learned_are_neither_harmed_nor_kept(families):
    never = families.points.with_columns(
        value=pl.when(pl.col("name") == "kept/hits").then(0.1 * pl.col("value")).otherwise("value")
    )
    data = replace(families, points=never)
    found = {check.name: check for check in decay_checks(data, retention_curves(data))}
    for name in ("Learning it left the rest intact", "The rest was retained"):
        assert found[name].passed is None
        assert "there was little to lose" in found[name].found


def test_trunks_that_never_had_the_skill_are_named_by_family_too(families):
    lost = families.trials.filter((pl.col("family") == "B") & (pl.col("seed") == 1))["trial"].implode()
    flat = families.points.with_columns(
        value=pl.when(pl.col("trial").is_in(lost) & (pl.col("name") == "dropped/hits")).then(0.0).otherwise("value")
    )
    data = replace(families, points=flat)
    found = {check.name: check for check in decay_checks(data, retention_curves(data))}[
        "Trunks that never had the language"
    ]
    assert found.passed is False
    assert "family B 30k seed 1" in found.found
    assert "family A" not in found.found


def test_a_sweep_in_which_too_few_families_learned_is_not_valid(families):
    check = decay_checks(families, retention_curves(families))[0]
    assert (check.name, check.required, check.passed) == ("The language was learned before it was dropped", True, True)
    unlearned = families.trials.filter(pl.col("family").is_in(["A", "B"]) & (pl.col("role") == "treatment"))["trial"]
    gone = pl.col("trial").is_in(unlearned.implode()) & (pl.col("name") == "dropped/hits")
    without = replace(families, points=families.points.with_columns(value=pl.when(gone).then(0.0).otherwise("value")))
    assert decay_checks(without, retention_curves(without))[0].passed is False


def test_a_probe_that_reads_randomly_assigned_answers_fails_its_check(families):
    layer = families.points.filter(pl.col("name") == "layer-4/hits").with_columns(name=pl.lit("layer-4/control"))
    for value, passed in ((0.0, True), (90.0, False)):
        read = replace(families, points=pl.concat([families.points, layer.with_columns(value=pl.lit(value))]))
        found = {check.name: check for check in decay_checks(read, retention_curves(read))}
        assert found["Linear probes read the model, not memorised answers"].passed is passed


def test_every_reading_is_exported_and_its_columns_explained(families, tmp_path):
    one = part(families, (pl.col("seed") == 0) & (pl.col("family") == "B"))
    write_tables(one, tmp_path)
    table, columns = pl.read_csv(tmp_path / "erasure.csv"), pl.read_csv(tmp_path / "dictionary.csv")
    assert table.height == shares(one).height > 50
    unclear = columns.filter((pl.col("table") == "erasure") & (pl.col("meaning") == "parameter of the trial"))["column"]
    assert unclear.is_empty(), unclear.to_list()


def test_the_probed_layer_is_the_one_with_most_over_the_control(families):
    """An answer that every model has on its first layer, such as the prompt's last sign, is no advantage."""
    one = part(families, (pl.col("seed") == 0) & (pl.col("family") == "B"))
    first = one.points.with_columns(
        value=pl.when(pl.col("name") == "layer-0/hits").then(96.0).otherwise("value")  # of 96, in every model
    )
    found = shares(replace(one, points=first)).filter(pl.col("reading") == "layer")
    assert set(found["detail"]) == {"4"}
    assert set(found["kind"]) == {"observed"}


def test_answers_that_are_lost_while_their_form_stays_are_told_as_lost(families):
    """Models that know the form but no answer lie near the log-probability at the drop, far above models that know
    neither: by that alone nothing would seem lost."""
    form = pl.when(pl.col("trial").str.starts_with("absent")).then(-9.0).otherwise(-0.02 - 0.2 * pl.col("step").log1p())
    form = pl.when(pl.col("trial").str.starts_with("null")).then(-0.75).otherwise(form)
    points = families.points.with_columns(
        value=pl.when(pl.col("name") == "dropped/logprob").then(form).otherwise("value")
    )
    asked = Decay(name="d", label="How long does it last?", outcome="skill", where={"family": "A"})
    data = replace(families, points=points)
    curves, found = retention_curves(data), estimated(data, asked)
    names = [name for name in found.further if name.startswith("half-life")]
    size = names[0].rpartition(" ")[2]
    assert names[0].startswith("half-life by success at")
    assert isinstance(found.further[names[0]], Interval)
    assert str(found.further[f"half-life by log-probability at {size}"]).startswith("at least")
    assert max(size_summary(curves, skill_measure(data, curves))["area"]) < 0.6
    assert min(size_summary(curves)["area"]) > 0.7
    check = next(
        check for check in decay_checks(data, curves) if check.name.startswith("Log-probability that shuffled")
    )
    assert "0.92 (retention by log-probability mostly shows the form" in check.found
