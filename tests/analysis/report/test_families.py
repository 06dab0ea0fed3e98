"""Families of languages: the ground truth of a generated sweep is recovered, and nothing undecided is claimed."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.checks.decay import decay_checks
from analysis.decay.conditions import MEASURE, conditions, missed
from analysis.decay.design import controls
from analysis.decay.effects import effects
from analysis.decay.erasure import READINGS, by_condition, depth_rows, main_rows, saving, shares
from analysis.decay.retention import retention_curves
from analysis.figures.family import family_table
from analysis.figures.languages import languages_table
from analysis.figures.overlap import overlap_table
from analysis.gallery import generated_languages as planted
from analysis.gallery.generated import STEP
from analysis.report.export import write_tables
from analysis.report.sentences.families import _depth, family_answer, gated, overlap, sharing
from analysis.runs.study import StudyData
from analysis.stats.censoring import Time
from analysis.stats.intervals import Interval

PLAIN = {family: f"family {family}" for family in planted.TIMES}


@pytest.fixture(scope="module")
def families() -> StudyData:
    return planted.families()


@pytest.fixture(scope="module")
def answers(families: StudyData) -> list[str]:
    return family_answer(families, retention_curves(families))


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


def test_trunks_that_missed_the_criterion_are_counted_and_shown(families, answers):
    late = missed(families).filter("missed")
    assert late.select("family", "size", "seed").rows() == [planted.MISSED]
    assert "1 of 135 trunks to be forked at the criterion missed it: 1 of C at 30k" in answers[-1]
    table = family_table(families)
    assert table.filter(pl.col("kind") == "missed").select("family", "size", "seed").unique().rows() == [planted.MISSED]
    assert table.filter(pl.col("kind") == "no skill").is_empty() or "equal exposure" in set(table["arm"])


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


def test_overlap_is_reported_in_the_family_in_which_it_varies(families):
    table = overlap_table(families)
    assert set(table["dial"]) == {"rule_overlap, family B", "token_overlap, family B"}
    assert set(table["value"]) == {0.0, 0.5, 1.0}


def test_conditions_are_ordered_by_family_and_plain_ones_come_first(families):
    order = conditions(families).drop_nulls("place").sort("place")["condition"].unique(maintain_order=True).to_list()
    assert order[0] == "family A"
    assert [name.split(",")[0] for name in order] == sorted(name.split(",")[0] for name in order)
    assert conditions(families).filter(pl.col("role") == "absent")["place"].null_count() == 60


def test_the_answers_hold_the_planted_truth_with_intervals(answers):
    text = "\n".join(answers)
    assert "Yes, every family with shared implementation outlasts A" in text
    assert "rules in common, family B: lasts longer" in text
    assert "regularizer of the branch: weight-decay-1 vs. none: shorter" in text
    assert "family C: 0.7" in text
    assert "mostly gated" in text
    assert "no scaling claim (3 of 4 sizes, 4 of 5 seeds reached half at every size)" in text
    assert "Translation of the untrained pair generalises" in text
    assert "Trained 310M tokens; without trunk sharing it would have been 920M, 3.0 times" in text


@pytest.mark.parametrize(
    ("name", "against", "ratio", "verdict"),
    [
        ("C", "A", 8.0, "Yes, every family with shared implementation outlasts A, which shares nothing"),
        ("A", "C", 0.125, "Yes, in every comparison the family that shares more lasts longer"),
        ("C", "B", 8.0, "Yes, in every comparison the family that shares more lasts longer"),
        ("B", "C", 8.0, "No, in every comparison the family that shares more fades sooner"),
        ("D", "A", 0.5, "No, every family with shared implementation fades sooner than A, which shares nothing"),
    ],
)
def test_the_answer_does_not_depend_on_which_family_is_the_reference(name, against, ratio, verdict):
    row = {"value": f"family: {name}", "against": against, "pairs": 5, "seeds": 5, "observed": 5, "area": None}
    row |= {"ratio": ratio, "ratio_low": ratio / 1.1, "ratio_high": ratio * 1.1}
    assert verdict in sharing({"family": [row]}, [against, name])


def test_a_share_from_relearning_that_never_got_there_is_marked_as_a_bound(families, answers):
    assert "have bounds only" not in "\n".join(answers)
    late = families.trials.filter((pl.col("family") == "A") & (pl.col("role") == "treatment") & (pl.col("seed") < 2))
    never = pl.col("trial").is_in(late["trial"].implode()) & pl.col("phase").str.starts_with("relearn")
    points = families.points.with_columns(
        value=pl.when(never & pl.col("name").str.ends_with("/hits")).then(0.0).otherwise("value")
    )
    text = gated(replace(families, points=points))
    assert "family A: 0.10" not in text
    assert "mostly scrambled, but not gone" not in text.partition("family B")[0]
    assert re.search(r"family A: .* of 15 runs have bounds only \(at most\); family B", text)


@pytest.mark.parametrize(
    ("low", "high", "side", "verdict"),
    [
        (0.2, 0.4, "", "mostly scrambled, but not gone"),
        (0.2, 0.4, "at least", "not gone, but with a lower bound only"),
        (-0.1, 0.4, "at most", "mostly scrambled"),
        (0.6, 0.9, "at least", "mostly gated"),
        (0.6, 0.9, "at most", "cannot tell, the interval is too wide"),
        (0.3, 0.7, "", "between the two"),
        (0.2, 0.4, "either side", "cannot tell, the interval is too wide"),
    ],
)
def test_nothing_is_claimed_on_the_side_where_only_bounds_are_known(low, high, side, verdict):
    assert _depth(Interval(estimate=(low + high) / 2, low=low, high=high, count=5), side) == verdict


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


def test_nothing_is_claimed_from_one_seed_or_one_family(families):
    one_seed = part(families, pl.col("seed") == 0)
    text = "\n".join(family_answer(one_seed, retention_curves(one_seed)))
    assert "It cannot be told, because one seed gives no interval" in text
    assert "one seed, cannot tell" in text
    one_family = part(families, pl.col("family") == "B")
    text = "\n".join(family_answer(one_family, retention_curves(one_family)))
    assert "It cannot be told: only one family was run" in text
    assert "untrained pair" not in text


def test_without_the_control_that_never_saw_it_no_gating_is_claimed(families):
    alone = part(families, pl.col("role") != "absent")
    text = "\n".join(family_answer(alone, retention_curves(alone)))
    assert "It cannot be told, because no reading was taken of a model that never saw the language" in text


def test_if_no_trunk_learned_the_language_no_answer_makes_a_claim(families):
    never = part(families, (pl.col("role") == "absent") | ((pl.col("seed") < 2) & (pl.col("role") == "treatment")))
    treated = pl.col("trial").is_in(never.trials.filter(pl.col("role") == "treatment")["trial"].implode())
    flat = never.points.with_columns(
        value=pl.when(treated & pl.col("name").str.ends_with("/hits")).then(0.0).otherwise("value")
    )
    never = replace(never, points=flat)
    text = "\n".join(family_answer(never, retention_curves(never)))
    assert "A, B, C and D: unknown, no branch that started with the skill" in text
    assert "It cannot be told, because no run had the skill to lose" in text
    assert "because there are no half-lives at two sizes" in text
    assert "because no run had an advantage at the drop over a model that never saw the language" in text


def test_the_kept_languages_are_checked_in_the_place_of_clean_text(families):
    found = {check.name: check for check in decay_checks(families, retention_curves(families))}
    assert found["Learning it left the other languages intact"].passed
    assert found["The other languages were retained"].passed
    assert not any("clean loss" in name for name in found)
    worse = families.points.with_columns(
        value=pl.when((pl.col("name") == "kept/hits") & (pl.col("step") > 10**6)).then(0.0).otherwise("value")
    )
    worse = replace(families, points=worse)
    found = {check.name: check for check in decay_checks(worse, retention_curves(worse))}
    assert found["The other languages were retained"].passed is False


def test_kept_languages_that_were_never_learned_are_neither_harmed_nor_kept(families):
    never = families.points.with_columns(
        value=pl.when(pl.col("name") == "kept/hits").then(0.1 * pl.col("value")).otherwise("value")
    )
    data = replace(families, points=never)
    found = {check.name: check for check in decay_checks(data, retention_curves(data))}
    for name in ("Learning it left the other languages intact", "The other languages were retained"):
        assert found[name].passed is None
        assert "there was little to lose" in found[name].found


def test_trunks_that_never_had_the_skill_are_named_by_family_too(families):
    lost = families.trials.filter((pl.col("family") == "B") & (pl.col("seed") == 1))["trial"].implode()
    flat = families.points.with_columns(
        value=pl.when(pl.col("trial").is_in(lost) & (pl.col("name") == "dropped/hits")).then(0.0).otherwise("value")
    )
    data = replace(families, points=flat)
    found = {check.name: check for check in decay_checks(data, retention_curves(data))}[
        "Trunks that never had the skill"
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


def test_an_overlap_varied_at_one_size_is_not_compared_with_other_sizes(families, monkeypatch):
    rng = np.random.default_rng(7)
    level = {"60k": 0.9, "120k": 0.7, "240k": 0.5}
    rows = [
        {"dial": "d", "label": "Shared rule", "value": value, "size": size, "seed": seed, "area": level[size] + noise}
        for seed, noise in enumerate(rng.normal(0, 0.001, 5))
        for size, value in (("60k", 1.0), ("120k", 1.0), ("240k", 1.0), ("240k", 0.0))
    ]
    monkeypatch.setattr("analysis.report.sentences.families.overlap_table", lambda data: pl.DataFrame(rows))
    assert "shared rule: the data cannot tell, mean retention +0.00 [" in overlap(families)
    turned = [{**row, "area": row["area"] + 0.1 * row["value"]} for row in rows]
    monkeypatch.setattr("analysis.report.sentences.families.overlap_table", lambda data: pl.DataFrame(turned))
    assert "from none to all: shared rule: lasts longer, mean retention +0.10 [" in overlap(families)
