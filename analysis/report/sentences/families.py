"""The answer of a study of language families in sentences, each with its interval, or why the data cannot tell."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from analysis.decay.conditions import FAMILY, MEASURE, conditions, families, missed
from analysis.decay.design import setting_axes
from analysis.decay.effects import CHANGES_DOSE, effects
from analysis.decay.erasure import HIDDEN, depth_rows, main_rows
from analysis.decay.retention import common_span, half_lives
from analysis.figures.generalisation import generalisation_table
from analysis.figures.overlap import OVERLAP, overlap_table
from analysis.runs.study import StudyData
from analysis.stats.format import bracket, interval, listed, plural, short
from analysis.stats.intervals import Interval, t_interval
from analysis.stats.scaling import SEEDS, gamma_text, slope

READINGS = {"shots": "few shots", "choice": "forced choice", "layer": "linear probe", "relearning": "relearning"}


def family_answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """The sentences that open the report of a study of families."""
    times = half_lives(curves).filter(pl.col("clock") == "tokens")
    runs = conditions(data).filter((pl.col("role") == "treatment") & pl.col("plain"))
    plain = times.join(runs.select("trial", pl.col(FAMILY).cast(pl.String)), on="trial")
    names = [str(name) for name in families(data)]
    labels = {axis.label: axis.name for axis in data.declaration.axes}
    effect_rows: dict[str, list[dict[str, Any]]] = {}
    for row in effects(data, curves, MEASURE).iter_rows(named=True):
        effect_rows.setdefault(labels[row["axis"]], []).append(row)
    texts = [
        persistence(plain.filter(pl.col("criterion") == MEASURE), names, curves),
        sharing(effect_rows, names),
        overlap(data),
        scale(plain.filter(pl.col("criterion") == MEASURE), names),
        treatments(data, effect_rows),
        gated(data),
        generalisation(data),
        " ".join(filter(None, [missed_trunks(data), cost(data)])),
    ]
    return [text for text in texts if text]


def persistence(times: pl.DataFrame, names: list[str], curves: pl.DataFrame) -> str:
    """Half-life by family: geometric mean over sizes within a seed, then over seeds."""
    parts, unknown = [], []
    for name in names:
        own = times.filter((pl.col(FAMILY) == name) & (pl.col("kind") != "at-start"))
        value = pl.when(pl.col("kind") == "censored").then("low").otherwise("estimate").log()
        mean = t_interval(own.group_by("seed").agg(value.mean().alias("log")).sort("seed")["log"])
        if mean is None:
            unknown.append(name)
            continue
        late = own.filter(pl.col("kind") == "censored").height
        if late:
            bound = (
                f"{name}: at least {short(mean.exp().estimate)} ({late} of {plural(own.height, 'run')} did not reach "
            )
            parts.append(f"{bound}half and count at their last evaluation)")
        else:
            parts.append(f"{name}: {_spread(mean.exp())} ({plural(own.height, 'run')})")
    if unknown:
        parts.append(f"{listed(unknown)}: unknown, no branch that started with the skill was measured")
    span = common_span(curves)
    observed = f" Runs were observed for {short(span[1])} tokens." if span else ""
    return (
        "How long does the dropped language last? Tokens until half of its success above chance is lost for good, by "
        f"family: {'; '.join(parts)}.{observed}"
    )


SHARING = "ABDC"
"""Families, from sharing nothing to sharing most."""


def sharing(effect_rows: dict[str, list[dict[str, Any]]], names: list[str]) -> str:
    """Does a language with more shared implementation last longer? The families relative to the first, paired.
    `effect_rows`: rows of `effects`, by axis."""
    question = "Does a language with more shared implementation last longer? "
    if len(names) < 2:
        return question + "It cannot be told: only one family was run."
    rows = effect_rows.get(FAMILY, [])
    parts, sides, without = [], [], []
    for row in rows:
        found, text = _effect(row)
        name, against = row["value"].rpartition(": ")[2], row["against"]
        # 1: the family that shares more lasts longer, whichever of the two is the reference
        sides.append(found if SHARING.find(name) > SHARING.find(against) else -found)
        without += [name] if row["ratio"] is None and row["area"] is None else []
        parts.append(f"{name} vs. {against}: {text}")
    if not parts:
        return question + "It cannot be told: no two families have runs with the skill at the same size and seed."
    every = f"every family with shared implementation {{}} {names[0]}, which shares nothing"
    if names[0] != SHARING[0]:
        every = "in every comparison the family that shares more {}"
    if all(side == 1 for side in sides):
        verdict = f"Yes, {every.format('outlasts' if names[0] == SHARING[0] else 'lasts longer')}"
    elif all(side == -1 for side in sides):
        verdict = f"No, {every.format('fades sooner than' if names[0] == SHARING[0] else 'fades sooner')}"
    elif 1 in sides and -1 in sides:
        verdict = "It depends on the family"
    elif any(sides):
        which = "lasts longer" if 1 in sides else "fades sooner"
        sure = sum(map(abs, sides))
        verdict = f"In part: the family that shares more {which} in {sure} of {plural(len(sides), 'comparison')}"
        unsure = len(sides) - sure - len(without)
        verdict += f"; in {unsure} the interval includes no difference" if unsure else ""
        verdict += f"; no pair of {listed(without)} had the skill" if without else ""
    else:
        verdict = _why_not(rows)
    few = _few(max((row["seeds"] for row in rows), default=0))
    return f"{question}{verdict}. {'; '.join(parts)} (paired by size and seed; 95% intervals over seeds).{few}"


def _effect(row: dict[str, Any]) -> tuple[int, str]:
    """(1 longer, -1 shorter, 0 cannot tell; the numbers in words): by the factor on the half-life, or if that is
    undecided by mean retention, which every run has."""
    area = _interval(row, "area")
    parts, side = [], 0
    if row["ratio"] is not None:
        ratio = _interval(row, "ratio")
        parts.append(f"half-life × {_spread(ratio)}")
        side = _side(ratio, 1.0)
    elif area is None:
        return 0, f"none of {plural(row['pairs'], 'pair')} had the skill at the drop in both runs"
    elif row["observed"] < row["pairs"]:
        parts.append(f"half-life not reached in {row['pairs'] - row['observed']} of {plural(row['pairs'], 'pair')}")
    if area is not None:
        parts.append(f"mean retention {_signed(area)}")
        side = side or _side(area, 0.0)
    return side, ", ".join(parts) or "not measured"


def _side(found: Interval, null: float) -> int:
    return 0 if found.contains(null) else 1 if found.estimate > null else -1


def _interval(row: dict[str, Any], name: str) -> Any:
    if row[name] is None:
        return None
    return Interval(estimate=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"], count=row["seeds"])


def _why_not(rows: list[dict[str, Any]]) -> str:
    seeds = max(row["seeds"] for row in rows)
    why = "every interval includes no difference"
    if seeds < 2:
        why = "one seed gives no interval" if seeds else "no run had the skill to lose"
    return f"It cannot be told, because {why}"


def _few(seeds: int) -> str:
    return f" A demonstration: {seeds} of {SEEDS} seeds." if 0 < seeds < SEEDS else ""


def overlap(data: StudyData) -> str:
    """The slope of mean retention over each overlap axis within a size, one fit per seed, then over seeds: an overlap
    varied at one size only must not be compared with other sizes."""
    table = overlap_table(data)
    parts = []
    for part in table.partition_by("dial", maintain_order=True) if not table.is_empty() else ():
        within = [pl.col(name) - pl.col(name).mean().over("seed", "size") for name in ("value", "area")]
        slopes = (
            part.drop_nulls("area")
            .with_columns(within)
            .group_by("seed", maintain_order=True)
            .agg(across=pl.col("value").dot("value"), along=pl.col("value").dot("area"))
            .filter(pl.col("across") > 1e-12)
        )
        found = t_interval((slopes["along"] / slopes["across"]).to_list())
        name = part["label"][0]
        if found is None:
            parts.append(f"{name}: cannot be told, no seed has mean retention at two values")
            continue
        side = _side(found, 0.0) if found.low is not None else 0
        verdict = {1: "lasts longer", -1: "fades sooner", 0: "the data cannot tell"}[side]
        parts.append(f"{name[:1].lower()}{name[1:]}: {verdict}, mean retention {_signed(found)}"
                     f" ({plural(found.count, 'seed')})")  # fmt: skip
    return f"With more overlap within a family, from none to all: {'; '.join(parts)}." if parts else ""


def scale(times: pl.DataFrame, names: list[str]) -> str:
    """How does decay vary with scale? The exponent of the half-life in N, by family."""
    question = "Does size slow the decay? "
    if times.filter(pl.col("kind") != "at-start")["parameters"].n_unique() < 2:
        return question + "It cannot be told, because there are no half-lives at two sizes."
    parts, claims, why = [], 0, list[str]()
    for name in names:
        found = slope(times.filter(pl.col(FAMILY) == name))
        if found.sizes < 2 or (found.interval is None and not found.bound):
            parts.append(f"{name}: cannot be told")
        else:
            parts.append(f"{name}: {gamma_text(found)}")
            claims += found.complete and found.interval is not None and not found.interval.contains(0)
        why += [reason for reason in (found.no_claim or "").split(", ") if reason and reason not in why]
    verdict = f"Demonstration, no scaling claim ({', '.join(why)})"
    if not why:
        verdict = f"It changes it in {claims} of {len(parts)} families"
        verdict = verdict if claims else "It cannot be told, because every interval includes 0"
    return f"{question}{verdict}: half-life by success ∝ N^γ (N: parameters), by family: {'; '.join(parts)}."


def treatments(data: StudyData, effect_rows: dict[str, list[dict[str, Any]]]) -> str:
    """The effects of regularization before and after the drop, and of the other treatments."""
    axes = [a for a in setting_axes(data) if a.name not in (FAMILY, *CHANGES_DOSE) and OVERLAP not in a.name]
    parts = []
    for axis in axes:
        for row in effect_rows.get(axis.name, []):
            side, text = _effect(row)
            verdict = {1: "longer", -1: "shorter", 0: "cannot tell"}[side]
            parts.append(f"{row['value']} vs. {row['against']}: {verdict} ({text}; {plural(row['pairs'], 'pair')})")
    if not parts:
        return ""
    return f"Which treatments make it last, before and after the drop? {'; '.join(parts)}."


def gated(data: StudyData) -> str:
    """Is the capability gone, or only gated? By family, with everything else at the reference."""
    question = "Is it gone, or only gated? "
    rows = depth_rows(data).filter(pl.col("role") == "treatment")
    runs = conditions(data).filter((pl.col("role") == "treatment") & pl.col("plain")).sort("place")
    plain = runs["condition"].unique(maintain_order=True).to_list()
    rows = rows.filter(pl.col("condition").is_in(plain))
    if rows.is_empty():
        known = main_rows(data).filter(pl.col("role") == "treatment")
        why = "no run had an advantage at the drop over a model that never saw the language"
        if known.is_empty():
            why = "no reading was taken of a model that never saw the language"
        return f"{question}It cannot be told, because {why}."
    used = [READINGS[name] for name in main_rows(data)["reading"].unique(maintain_order=True) if name in HIDDEN]
    parts = []
    for row in rows.iter_rows(named=True):
        if row["share"] is None:
            parts.append(f"{row['condition']}: at least half is still output in every run")
            continue
        found = Interval(estimate=row["share"], low=row["low"], high=row["high"], count=row["seeds"])
        verdict = _depth(found, row["side"])
        late = f", {row['none']} of {row['runs']} runs still output it" if row["none"] else ""
        side = "either way" if row["side"] == "either side" else row["side"]
        late += f", {row['bounded']} of {row['runs']} runs have bounds only ({side})" if row["bounded"] else ""
        parts.append(f"{row['condition']}: {interval(found)}, {verdict}{late}")
    known = set(rows["condition"])
    parts += [f"{name}: unknown, no run had an advantage at the drop" for name in plain if name not in known]
    return (
        f"{question}Of the lost output, {listed(used)} still find this share of the advantage over a model that never "
        f"saw the language (0: scrambled, 1: only gated): {'; '.join(parts)}."
    )


def _depth(found: Interval, side: str) -> str:
    """Gated or scrambled. `side`: the side on which some runs have only bounds; nothing is claimed there."""
    if found.low is None or found.high is None:
        return "one seed, cannot tell"
    high = math.inf if side in ("at least", "either side") else found.high
    low = -math.inf if side in ("at most", "either side") else found.low
    if low > 0.5:
        return "mostly gated"
    if high < 0.5:
        return "mostly scrambled" + (", but not gone" if low > 0 else "")
    if low > 0:
        return "not gone, but with a lower bound only" if math.isinf(high) else "between the two"
    return "cannot tell, the interval is too wide"


def generalisation(data: StudyData) -> str:
    """The pair that was left out of training."""
    table = generalisation_table(data)
    if table.is_empty():
        return ""
    drop = table.filter((pl.col("role") == "treatment") & (pl.col("tokens") == 0))
    found = t_interval(drop.group_by("seed").agg(pl.col("success").mean()).sort("seed")["success"])
    chance = drop["chance"].drop_nulls()
    if found is None:
        return ""
    level = float(chance.to_numpy().mean()) if chance.len() else 0.0
    side = _side(found, level) if found.low is not None else 0
    verdict = {1: "generalises", -1: "does not generalise", 0: "cannot be told from chance"}[side]
    return (
        f"Translation of the untrained pair {verdict}: at the drop, a share of {interval(found)} is correct; chance is "
        f"{level:.2f}."
    )


def missed_trunks(data: StudyData) -> str:
    """The count of trunks that missed the criterion, so that none is dropped silently."""
    trunks = missed(data)
    late = trunks.filter("missed")
    if late.is_empty():
        return f"All {plural(trunks.height, 'trunk')} to be forked at the criterion reached it."
    cells = late.group_by(FAMILY, "size", "parameters").len().sort(FAMILY, "parameters")
    where = listed([f"{row['len']} of {row[FAMILY]} at {row['size']}" for row in cells.iter_rows(named=True)])
    return (
        f"{late.height} of {plural(trunks.height, 'trunk')} to be forked at the criterion missed it: {where}; no "
        "equal-strength branch was forked from them."
    )


def cost(data: StudyData) -> str:
    trained, unshared = (data.totals.get(f"sweep/tokens_{name}") for name in ("trained", "unshared"))
    if not trained or not unshared or not math.isfinite(unshared / trained):
        return ""
    return (
        f"Trained {short(trained)} tokens; without trunk sharing it would have been {short(unshared)}, "
        f"{unshared / trained:.1f} times as many."
    )


def _spread(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{short(found.estimate)} (one seed, no interval)"
    return f"{short(found.estimate)} {bracket(found.low, found.high)}"


def _signed(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.estimate:+.2f} (one seed, no interval)".replace("-", "−")
    return f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace("-", "−")
