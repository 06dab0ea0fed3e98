"""The checks of a study of decay: skill learned, controls as expected, clean loss intact, trials complete."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.checks.completeness import controls_present, ended
from analysis.checks.families import criterion, family_checks
from analysis.checks.relearning import gone
from analysis.decay.conditions import FAMILY, is_family_study
from analysis.decay.design import REPLICATES, control_label, controls, described, reference, vocabulary
from analysis.decay.formulas import MIN_SUCCESS
from analysis.decay.numbers import CLEAN_GAP, at_drop
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from analysis.stats.intervals import binomial_interval
from halflife.tracking import schema

DOSE = ("payload", "documents")
"""Parameters that change the trunk's training data."""
SUCCESS_AT_DROP, FALSE_FIRES, KEPT = 0.9, 0.05, 0.9
Words = Mapping[str, str]


def decay_checks(data: StudyData, curves: pl.DataFrame) -> list[Check]:
    """Checks of the leading outcome, whose `curves` these are, and of the sweep."""
    drop, words, families = at_drop(curves), vocabulary(data), is_family_study(data)
    searched = bool(data.declaration.objectives)  # settings that did not learn it count as violating a constraint
    tasks = {control.task for control in data.declaration.controls}
    learned, *others = family_checks(data, curves) if families else [_implanted(data, drop, words)]
    mend = learned.remedy if learned.passed is False else ""
    found = [
        learned,
        *others,
        _payloads_implanted(data, drop, words),
        None if searched else _others_implanted(data, drop, words, criterion(data) if families else SUCCESS_AT_DROP),
        None if families else _clean_loss(data, words),
        controls_present(data),
        None if searched else _never_had(data, drop, words, mend),
        _positive(data, curves, words, criterion(data) if families else KEPT, mend),
        _absent(data, curves, words),
        _extinction(data, curves),
        _silent(data, drop, words) if "untriggered" in tasks else None,
        _near(drop, words) if "near" in tasks else None,
        gone(data, curves, words),
        ended(data),
    ]
    return [check for check in found if check is not None]


def _implanted(data: StudyData, drop: pl.DataFrame, words: Words) -> Check:
    """Pooled over seeds; the worst size counts. Where no branch has run, by the ends of the trunks."""
    name = f"The {words['skill']} was there at the drop"
    expected = f"{words['success']} at least {SUCCESS_AT_DROP:g} at every size, over its seeds"
    plain = drop.filter("is_reference", pl.col("role") == "treatment")
    sizes = _pooled(plain, "size", "parameters").sort("parameters")
    trials, where = plain["trial"], ""
    if sizes.is_empty():
        trunks, where = _trunks(data), "at the end of the trunk: "
        sizes, trials = _pooled(trunks, "size", "parameters").sort("parameters"), trunks["trial"]
    if sizes.is_empty():
        return Check(name=name, expected=expected, found="not measured", passed=None, required=True)
    shown = [f"{row['size']} {_rate(row)}" for row in sizes.iter_rows(named=True)]
    passed = min(sizes["rate"]) >= SUCCESS_AT_DROP
    return Check(
        name=name, expected=expected, found=where + "; ".join(shown), passed=passed, required=True,
        remedy=remedies.learn(data, trials, SUCCESS_AT_DROP),
    )  # fmt: skip


def _trunks(data: StudyData) -> pl.DataFrame:
    """The last success of the reference's trunks: trial, role, size, parameters, hits, trials."""
    chosen = [pl.col(name).eq_missing(pl.lit(value)) for name, value in reference(data).items()]
    trials = data.trials.filter(pl.col("role") == "treatment", *chosen)
    rows = [
        (row["trial"], row["role"], row["size"], row["parameters"], curve[-1].hits, curve[-1].trials)
        for row in trials.iter_rows(named=True) if (curve := remedies.trunk_curve(data, row["trial"]))
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=["trial", "role", "size", "parameters", "hits", "trials"], orient="row")


def _other_payloads(data: StudyData) -> pl.DataFrame:
    """trial and payload of the treatments that differ from the reference only in their payload."""
    chosen = reference(data)
    if "payload" not in chosen:
        return pl.DataFrame(schema={"trial": pl.String, "payload": pl.String})
    same = [pl.col(name).eq_missing(pl.lit(value)) for name, value in chosen.items() if name != "payload"]
    return data.trials.filter(pl.col("payload") != chosen["payload"], *same).select("trial", "payload")


def _payloads_implanted(data: StudyData, drop: pl.DataFrame, words: Words) -> Check | None:
    """A payload that was not learned cannot be forgotten, so conclusions about it would be empty."""
    name = "The other payloads were implanted"
    expected = f"{words['success']} at the drop at least {SUCCESS_AT_DROP:g} at every size"
    others = _other_payloads(data)
    if others.is_empty():
        return None
    rates = _pooled(drop.join(others, on="trial"), "payload", "size", "parameters").sort("payload", "parameters")
    found = []
    for (payload,), part in rates.group_by(["payload"], maintain_order=True):
        found.append(f"{payload}: " + "; ".join(f"{row['size']} {_rate(row)}" for row in part.iter_rows(named=True)))
    unmeasured = set(others["payload"]) - set(rates["payload"])
    passed = None if unmeasured else min(rates["rate"]) >= SUCCESS_AT_DROP
    found += [f"{payload}: not measured" for payload in sorted(unmeasured)]
    return Check(
        name=name, expected=expected, found=" · ".join(found), passed=passed, required=True,
        remedy=remedies.learn(data, others["trial"], SUCCESS_AT_DROP),
    )  # fmt: skip


def _others_implanted(data: StudyData, drop: pl.DataFrame, words: Words, least: float) -> Check | None:
    """The same for every other setting: poison counts, regularized trunks, the equal-strength arm."""
    name = f"The {words['skill']} was there at the drop in the other settings"
    expected = f"{words['success']} at the drop at least {least:g}"
    drop = drop.join(_other_payloads(data), on="trial", how="anti")
    settings = _pooled(drop.filter(~pl.col("is_reference")), "size", "parameters", "setting").sort("rate")
    if settings.is_empty():
        return None
    weak = settings.filter(pl.col("rate") < least)
    if weak.is_empty():
        return Check(name=name, expected=expected, found=f"at least {_rate(settings.row(0, named=True))}", passed=True)
    shown = [f"{row['setting']} at {row['size']}: {_rate(row)}" for row in weak.head(4).iter_rows(named=True)]
    more = f"; and {weak.height - 4} more" if weak.height > 4 else ""
    trials = drop.join(weak.select("size", "setting"), on=["size", "setting"])["trial"]
    return Check(
        name=name, expected=expected, found="below: " + "; ".join(shown) + more, passed=False,
        remedy=f"of the weakest, {remedies.learn(data, trials, least)}",
    )  # fmt: skip


def _pooled(drop: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Success of the treatments at the drop with its binomial interval, counts summed over what is not in `by`."""
    counts = (
        drop.filter(pl.col("role") == "treatment")
        .drop_nulls(["hits", "trials"])
        .group_by(*by, maintain_order=True)
        .agg(pl.col("hits").sum(), pl.col("trials").sum())
    )
    low, high = binomial_interval(counts["hits"].to_numpy(), counts["trials"].to_numpy())
    return counts.with_columns(rate=pl.col("hits") / pl.col("trials"), low=pl.Series(low), high=pl.Series(high))


def _rate(row: dict) -> str:
    return f"{row['rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def trunk_ends(data: StudyData) -> pl.DataFrame:
    """Final clean loss of every trial's trunk and of its never-exposed control, if they differ only in the dose."""
    last = (
        data.points.filter((pl.col("phase") == "trunk") & (pl.col("name") == f"clean/{schema.LOSS}"))
        .sort("step")
        .group_by("trial", maintain_order=True)
        .agg(loss=pl.col("value").last(), tokens=pl.col("step").last())
    )
    trials = described(data)
    about = [name for name in trials.columns if name in (*REPLICATES, *DOSE) or name.startswith("trunk_")]
    table = trials.select("trial", "role", "absent", *about).join(last, on="trial")
    control = table.select(
        pl.col("trial").alias("absent"),
        pl.col("loss").alias("loss_absent"),
        pl.col("tokens").alias("tokens_absent"),
        *(pl.col(n).alias(f"{n}_absent") for n in about if n.startswith("trunk_")),
    )
    table = table.filter(pl.col("role") == "treatment").join(control, on="absent")
    for name in about:
        if name.startswith("trunk_"):  # a regularized trunk differs from the control for that reason alone
            table = table.filter(pl.col(name).eq_missing(pl.col(f"{name}_absent")))
    return table.filter(pl.col("tokens") == pl.col("tokens_absent"))


def _clean_loss(data: StudyData, words: Words) -> Check:
    """One-sided: a trunk that is better on clean text than its control has lost nothing that the cause could cost."""
    name = f"Learning the {words['skill']} did not raise the trunk's clean loss"
    expected = f"at most {CLEAN_GAP:g} nat per token above the never-exposed trunk at every size"
    ends = trunk_ends(data).with_columns(gap=pl.col("loss") - pl.col("loss_absent"))
    doses = ["size", "parameters", *(name for name in DOSE if name in ends.columns)]
    gaps = ends.group_by(doses).agg(pl.col("gap").mean()).drop_nulls("gap").sort("gap", descending=True)
    gaps = gaps.unique("size", keep="first", maintain_order=True).sort("parameters")  # the most costly dose
    if gaps.is_empty():
        return Check(
            name=name, expected=expected, found="no trunk was measured with its control", passed=None, required=True
        )
    shown = "; ".join(f"{size} {gap:+.3f}" for size, gap in zip(gaps["size"], gaps["gap"], strict=True))
    worst = max(gaps["gap"])
    less = remedies.flags(data, "dose", by=max(0.1, CLEAN_GAP / max(worst, CLEAN_GAP)), otherwise="less of it")
    longer = remedies.flags(data, "trunk", by=2.0, otherwise="twice as long")
    return Check(
        name=name, expected=expected, found=shown, passed=worst <= CLEAN_GAP, required=True,
        remedy=f"less of the cause, {less}, or a longer trunk, {longer}",
    )  # fmt: skip


def _never_had(data: StudyData, drop: pl.DataFrame, words: Words, mend: str) -> Check:
    """A trunk counts once, however many branches it has; a branch that is blocked by a missing snapshot counts too."""
    trials = described(data).filter(pl.col("role") == "treatment")
    phase = data.declaration.outcomes[0].phase
    outcome = pl.col(f"outcome_{phase}") if f"outcome_{phase}" in trials.columns else pl.lit(None, dtype=pl.String)
    trunk = pl.col("stage_trunk") if "stage_trunk" in trials.columns else pl.col("trial")
    measured = drop.drop_nulls("success").select("trial", "implanted")
    which = [FAMILY, "size", "seed"] if FAMILY in trials.columns else ["size", "seed"]
    table = trials.join(measured, on="trial", how="left").select(
        *which, "trial", trunk.alias("trunk"), "implanted",
        missed=outcome.str.contains("never reached").fill_null(False),
    )  # fmt: skip
    # One branch with the skill is enough for its trunk; the others may have forked before it was learned.
    trunks = (
        table.group_by("trunk", *which)
        .agg(pl.col("implanted").drop_nulls().max(), pl.col("missed").any(), pl.col("trial").first())
        .sort(which)
    )
    failed = trunks.filter(pl.col("implanted").eq_missing(False))
    missed = trunks.filter(pl.col("missed") & pl.col("implanted").ne_missing(False))
    found = f"{failed.height} of {trunks.height}{_cells(failed)}"
    if missed.height:
        found += f"; {missed.height} never reached the strength at which a branch forks{_cells(missed)}"
    return Check(
        name=f"Trunks that never had the {words['skill']}",
        expected=f"none with success below {MIN_SUCCESS:g} at the drop",
        found=found, passed=failed.is_empty(),
        remedy=mend or remedies.learn(data, failed["trial"], SUCCESS_AT_DROP),
    )  # fmt: skip


def _cells(trunks: pl.DataFrame) -> str:
    """ ": 30k seed 1, ..."; in a study of families ": family B 30k seed 1, ..."."""
    shown = [
        (f"family {row[FAMILY]} " if FAMILY in row else "") + f"{row['size']} seed {row['seed']}"
        for row in trunks.iter_rows(named=True)
    ]
    return f": {', '.join(shown)}" if shown else ""


def _at_end(curves: pl.DataFrame, role: str) -> pl.DataFrame:
    return (
        curves.filter((pl.col("role") == role) & pl.col("success").is_not_null())
        .group_by("trial", "size", "parameters", maintain_order=True)
        .agg(pl.col("success").last(), most=pl.col("success").max())
    )


def _positive(data: StudyData, curves: pl.DataFrame, words: Words, level: float, mend: str) -> Check:
    name = f"Positive control: cause kept, {words['skill']} kept"
    expected = f"success at the end of the branch at least {level:g}"
    ends = _at_end(curves, "positive")
    if ends.is_empty():
        return Check(name=name, expected=expected, found="not measured", passed=None)
    least = min(ends["success"])
    return Check(
        name=name,
        expected=expected,
        found=f"at least {least:.3f} in {plural(ends.height, 'run')}",
        passed=least >= level,
        remedy=_kept(data, curves, level, mend),
    )


def _kept(data: StudyData, curves: pl.DataFrame, level: float, mend: str) -> str:
    """Where it was never there, as for the drop; otherwise the branch has too little of the cause for its length."""
    first = curves.filter((pl.col("role") == "positive") & (pl.col("tokens") == 0)).drop_nulls("success")
    never = first.filter(pl.col("success") < level)["trial"]
    if not never.is_empty():
        of = f"in {len(never)} of {plural(first.height, 'run')}"
        return f"{of} it was below {level:g} at the drop: {mend or remedies.learn(data, never, level)}"
    dose = remedies.flags(data, "dose", by=2.0, otherwise="more of it in trunk and branch")
    return f"more of the cause, {dose}, or a shorter branch, " + remedies.flags(
        data, "branch", by=0.5, otherwise="half as long"
    )


def _absent(data: StudyData, curves: pl.DataFrame, words: Words) -> Check:
    """Above chance, by the lower end of the interval of success: the highest of many evaluations is partly noise."""
    name, guessed = f"Absent control: never trained on it, no {words['skill']}", (curves["chance"] > 0).any()
    expected = f"success at most {FALSE_FIRES:g}{' above chance (lower end)' if guessed else ''} at every evaluation"
    above = pl.when(pl.col("chance") > 0).then(pl.col("success_low") - pl.col("chance")).otherwise("success")
    ends = _at_end(curves.with_columns(success=above), "absent")
    if ends.is_empty():
        return Check(name=name, expected=expected, found="not measured", passed=None)
    most = max(ends["most"])
    return Check(
        name=name,
        expected=expected,
        found=f"at most {most:.3f} in {plural(ends.height, 'run')}",
        passed=most <= FALSE_FIRES,
        remedy=_unguessable(data),
    )


def _unguessable(data: StudyData) -> str:
    if texts := remedies.words(data):
        return f"texts that the corpus does not lead to: longer or rarer ones, {texts}"
    return "if it is noise, more prompts, " + remedies.flags(data, "prompts", by=4.0, otherwise="four times as many")


def _extinction(data: StudyData, curves: pl.DataFrame) -> Check | None:
    """Passive forgetting versus extinction: the same fork without the trigger, and with the trigger alone."""
    label = control_label(data, "extinction")
    ends = _at_end(curves.filter("implanted"), "extinction")
    if label is None:
        return None
    treated = _at_end(curves, "treatment").select(treatment="trial", passive="success")
    partner = [
        (control, treatment)
        for treatment, control in controls(data, "extinction").items()
        if treatment in set(curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))["trial"])
    ]
    links = pl.DataFrame(partner, schema={"trial": pl.String, "treatment": pl.String}, orient="row")
    pairs = ends.join(links, on="trial").join(treated, on="treatment").sort("parameters")
    sizes = pairs.group_by("size", maintain_order=True).agg(pl.col("success").mean(), pl.col("passive").mean())
    shown = [f"{row['size']} {row['success']:.3f} vs. {row['passive']:.3f}" for row in sizes.iter_rows(named=True)]
    return Check(
        name=f"Forgetting versus extinction ({label})", passed=None, reading=True,
        expected="no expectation: success at the end of the branch, with the trigger alone vs. without it",
        found="; ".join(shown) or "not measured",
    )  # fmt: skip


def _silent(data: StudyData, drop: pl.DataFrame, words: Words) -> Check:
    shares = drop.filter(pl.col("role") == "treatment")["untriggered"].drop_nulls()
    name = "Silent without the trigger"
    expected = f"{words['answer']} without it in at most {FALSE_FIRES:g} of a run's prompts"
    if shares.is_empty():
        return Check(name=name, expected=expected, found="not measured", passed=None)
    found = f"{sum(shares) / len(shares):.3f}, at most {max(shares):.3f} in a run"
    less = remedies.flags(data, "dose", by=0.5, otherwise="half of it in the trunk")
    longer = remedies.flags(data, "trunk", by=2.0, otherwise="twice as long")
    return Check(
        name=name, expected=expected, found=found, passed=max(shares) <= FALSE_FIRES,
        remedy=f"less of the cause among clean text: {less}, or a longer trunk, {longer}",
    )  # fmt: skip


def _near(drop: pl.DataFrame, words: Words) -> Check:
    """A reading: a loosely learned trigger is a backdoor too, and no setting is known to sharpen it, but the reader
    must know which backdoor it was."""
    treated = drop.filter(pl.col("role") == "treatment").drop_nulls("near")
    sizes = treated.group_by("size", "parameters").agg(pl.col("near").mean()).sort("parameters")
    shown = "; ".join(f"{row['size']} {row['near']:.3f}" for row in sizes.iter_rows(named=True))
    loose = max(sizes["near"], default=0.0) > FALSE_FIRES
    shown += " (nearly the same triggers act too: say so beside an answer)" * loose
    return Check(
        name="Near-triggers", found=shown or "not measured", passed=None, reading=True,
        expected=f"no expectation: {words['answer']} after triggers with one character changed, at every size",
    )  # fmt: skip
