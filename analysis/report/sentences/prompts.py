"""The answer of a study of soft prompts in sentences: how much it takes to elicit each behaviour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from analysis.checks.prompts import BASE, at_size, gain_of, label_of, negligible
from analysis.prompts import amounts, elicitation, fragility, information
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural
from analysis.stats.intervals import t_interval
from analysis.stats.scaling import SEEDS

GRADED = {"say": ("Longer strings", "letters"), "skip": ("Skipping further ahead", "tokens")}
"""Behaviours of graded length, by the first part of their tasks' names: what grows, and its unit."""
DETUNED = "detuning"
"""The task of recovering what a fine-tuned model lost on the text of BASE."""


def prompt_answer(data: StudyData, prompts: pl.DataFrame) -> list[str]:
    """The sentences that open the report: what elicitation takes beyond teaching, what each behaviour takes, the null
    control and detuning. `prompts`: as returned by `elicitation.runs`."""
    if prompts.is_empty():
        return ["The data cannot tell: no prompt was fitted and measured."]
    several = prompts.filter(pl.col("k") > 0)["k"].n_unique() > 1  # a single k shows only that it was enough
    found = [
        *([_beyond(prompts), *tokens_needed(information.distance_table(prompts))] if several else []),
        *([_right(prompts)] if several else []),
        *_searched(data),
        *_graded(data, prompts),
        _null(data, prompts),
        _detuned(data, prompts),
        *_fragile(data),
    ]
    seeds = prompts["seed"].n_unique()
    few = f"A demonstration: {seeds} of {SEEDS} seeds." if seeds < SEEDS else ""
    return [text for text in (*found, few) if text]


def _beyond(prompts: pl.DataFrame) -> str:
    """C(absent) - C(present), by success if every seed decides it, else by loss."""
    scored = prompts.drop_nulls(["hits", "trials"])
    table, criterion = information.difference_table(scored, "success"), "half of the answers are right above chance"
    if table.is_empty() or table["untold"].to_numpy().any():
        table, criterion = information.difference_table(prompts, "loss"), "half of the gap in loss is closed"
    if table.is_empty():
        return ""
    parts = []
    for row in table.iter_rows(named=True):
        where = f"{row['behaviour']}{at_size(row['series'])}"
        no_gain = f"; {row['no_gain']} without a gain" if row["no_gain"] else ""
        if row.get("difference") is None:
            parts.append(f"{where} cannot be told, as neither model got there{no_gain}")
            continue
        used = row["pairs"] - row["untold"] - row["no_gain"]
        exact = row["low"] == row["high"] == row["difference"]
        wide = np.isnan(row["difference"])  # between not reached with it and not reached without it
        ends = f" [{_tokens(row['low'])}, {_tokens(row['high'])}]" if used > 1 and not exact and not wide else ""
        parts.append(f"{where} {_tokens(row['difference'])}{ends} ({used} of {plural(row['pairs'], 'seed')}{no_gain})")
    return (
        "Tokens needed beyond teaching, C without the behaviour − C with it, until "
        f"{criterion}: {'; '.join(parts)}. Above 0, the prompt elicits something that the model has; where the "
        "interval includes 0, the data cannot tell."
    )


def _tokens(value: float) -> str:
    if np.isnan(value):
        return "cannot be told"
    if np.isfinite(value):
        return f"{value:+g}".replace("-", "−")
    return "not reached without it" if value > 0 else "reached only without it"


def _fragile(data: StudyData) -> list[str]:
    """Whether behaviours that take few tokens are fragile, at the common k with loss and norm held fixed; every measure
    is listed, whatever its result."""
    found = fragility.measured(data)
    if found.is_empty():
        return []
    table = fragility.correlations(data, found)
    if table.is_empty():
        return ["The data cannot tell whether behaviours that take few tokens are fragile: too few were measured."]
    table = table.filter((pl.col("prompts") != "every k") & (pl.col("held_fixed") != "nothing"))
    texts = []
    for series, part in _series(table):
        most = int(part["behaviours"].to_numpy().max())
        verdicts: dict[str, list[str]] = {"fragile": [], "robust": [], "unknown": []}
        for row in part.iter_rows(named=True):
            name = row["measure"].split(",")[0]
            text = f"{name} {row['correlation']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]".replace("-", "−")
            text += f" over {row['behaviours']}" if row["behaviours"] < most else ""
            sign = -1 if name == "r50" else 1
            ends = sorted((sign * row["low"], sign * row["high"]))
            verdicts["fragile" if ends[1] < 0 else "robust" if ends[0] > 0 else "unknown"].append(text)
        words = {
            "fragile": "are more fragile by", "robust": "are less fragile by", "unknown": "cannot be told apart by",
        }  # fmt: skip
        parts = [f"{words[kind]} {', '.join(measures)}" for kind, measures in verdicts.items() if measures]
        aim = amounts.matched_loss(data)
        loss = f"a matched loss of {aim:g} nats per token, " if aim is not None else ""
        fewer = " unless stated otherwise" if (part["behaviours"] < most).any() else ""
        texts.append(
            f"Behaviours that take fewer tokens{at_size(series)}, compared at {loss}{part['prompts'][0]} and equal "
            f"noise, {'; '.join(parts)} (rank correlations with C over {most} behaviours{fewer}, loss and norm held "
            f"fixed; {plural(part.height, 'measure')} tested at once)."
        )
    left = fragility.unmeasured(data, found)
    if left:
        texts.append(f"Never reached that loss, and so in no correlation: {listed(left)}.")
    return texts


def _series(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each series, smaller sizes first."""
    for (series,), part in table.sort(elicitation.by_series(table), maintain_order=True).group_by(
        ["series"], maintain_order=True
    ):
        yield str(series), part


def tokens_needed(table: pl.DataFrame, threshold: float | None = None) -> list[str]:
    """C of every behaviour that has one, in one sentence per series. `table`: as returned by
    `information.distance_table`; `threshold`: its T in nats per token, if it was given."""
    shown = table.filter((pl.col("model") == "present") & pl.col("c").is_not_null()) if table.height else table
    if shown.is_empty():
        return ["No prompt reduced the loss of any behaviour."]
    goal = "close half of the gap" if threshold is None else f"bring the loss to {threshold:g} nats per token"
    texts = []
    for series, part in _series(shown):
        each = []
        for row in part.iter_rows(named=True):
            count = f"{row['c']:g}" if np.isfinite(row["c"]) else f"not by {row['last_k']}"
            seeds = row["seeds"] + row["no_gain"]
            left = f" ({elicitation.left_out(seeds, row['seeds'])})" if row["no_gain"] else ""
            each.append(f"{row['behaviour']} {count}{left}")
        texts.append(f"Tokens that {goal} (C){at_size(series)}: {listed(each)}.")
    return texts


def _right(prompts: pl.DataFrame) -> str:
    """C by success: with half of the loss gone, few answers may be right."""
    scored = prompts.drop_nulls(["hits", "trials"]).filter(pl.col("model") == "present")
    table = information.distance_table(scored, "success")
    if table.is_empty():
        return ""
    reached = table.filter(pl.col("c").is_finite()).sort("c", maintain_order=True)
    parts = [f"{row['behaviour']}{at_size(row['series'])} {row['c']:g}" for row in reached.iter_rows(named=True)]
    never, most = table.filter(pl.col("c").is_infinite()), int(table["last_k"].to_numpy().max())
    for row in never.filter(pl.col("last_k") < most).iter_rows(named=True):
        parts.append(f"{row['behaviour']}{at_size(row['series'])} not by {row['last_k']}, its largest k")
    if (never["last_k"] == most).any():
        parts.append(f"{'no other' if parts else 'none'} by {most} tokens")
    return f"Tokens until half of the answers are right, above chance: {'; '.join(parts)}."


def _graded(data: StudyData, prompts: pl.DataFrame) -> list[str]:
    """Loss with the most tokens against the length of the behaviour, at sizes that have every length; the longest minus
    the shortest, paired by seed and size and averaged within a seed."""
    labels = {outcome.label: outcome.name for outcome in data.declaration.outcomes}
    name = pl.col("behaviour").replace_strict(labels, default="")
    length, kind = name.str.extract(r"^[a-z]+-(\d+)$").cast(pl.Int64), name.str.extract(r"^([a-z]+)-")
    best = elicitation.best_restarts(prompts.filter(pl.col("model") == "present"))
    best = best.with_columns(length=length, of=kind).drop_nulls("length")
    texts = []
    for of, (what, unit) in GRADED.items():
        own = best.filter(pl.col("of") == of)
        own = own.filter(pl.col("k") == pl.col("k").max())
        lengths = sorted(set(own["length"]))
        own = own.filter(pl.col("length").n_unique().over("seed", "series") == len(lengths))
        if len(lengths) < 2 or own.is_empty():
            continue
        shortest, longest = (own.filter(pl.col("length") == n) for n in (lengths[0], lengths[-1]))
        pairs = longest.join(shortest, on=["seed", "series"]).with_columns(more=pl.col("loss") - pl.col("loss_right"))
        found = t_interval(pairs.group_by("seed").agg(pl.col("more").mean())["more"])
        assert found is not None
        means = own.group_by("length").agg(pl.col("loss").mean()).sort("length")
        shown = ", ".join(f"{loss:.2f} at {n}" for n, loss in means.iter_rows())
        verdict, ends = "one seed", ""
        if found.low is not None:
            verdict = "cannot be told" if found.contains(0) else "higher loss" if found.estimate > 0 else "lower loss"
            ends = f" [{found.low:+.2f}, {found.high:+.2f}]"
        texts.append(
            f"{what}: {verdict} (nats per token with {own['k'][0]} prompt tokens: {shown} {unit}; longest minus "
            f"shortest {found.estimate:+.2f}{ends})."
        )
    return texts


def _searched(data: StudyData) -> list[str]:
    """C by bisection, in one sentence per series, in increasing order."""
    table, aim = amounts.search_table(amounts.searched(data), data.declaration.settings), amounts.matched_loss(data)
    if table.is_empty():
        return []
    texts, most = [], max(data.declaration.settings["tokens"])
    for series, part in _series(table.filter(model="present").sort("c", maintain_order=True)):
        each = [
            f"{f'{c:g}' if np.isfinite(c) else f'more than {most}'} for {listed(alike['behaviour'].to_list())}"
            for (c,), alike in part.group_by(["c"], maintain_order=True)
        ]
        head = f"Fewest tokens to a loss of {aim:g} nats per token, medians over seeds{at_size(series)}: "
        texts.append(f"{head}{'; '.join(each)}.")
    return texts


def _null(data: StudyData, prompts: pl.DataFrame) -> str:
    part = prompts.filter((pl.col("behaviour") == label_of(data, BASE)) & (pl.col("model") == "present"))
    gain = gain_of(part) if part.height else None
    if gain is None:
        return ""
    if gain.low is None:
        return f"Null control, text as trained on: {gain.estimate:+.3f} nats per token, one seed."
    verdict = "no gain" if negligible(gain) else "prompts help" if gain.estimate > 0 else "prompts only harm"
    return (
        f"Null control, text as trained on: {verdict} (gain {gain.estimate:+.3f} nats per token "
        f"[{gain.low:+.3f}, {gain.high:+.3f}], most tokens vs. none)."
    )


def _detuned(data: StudyData, prompts: pl.DataFrame) -> str:
    """Share of the loss that fine-tuning cost on the old text that a prompt recovers, by seed."""
    by, best = ["size", "seed"], elicitation.best_restarts(prompts.filter(pl.col("model") == "present"))
    null = _most_examples(best.filter(pl.col("behaviour") == label_of(data, BASE)))
    base = null.filter(pl.col("k") == 0).select(*by, base="loss")
    tuned = _most_examples(best.filter(pl.col("behaviour") == label_of(data, DETUNED))).sort("k")
    shares = []
    for row in (
        tuned.group_by(by, maintain_order=True)
        .agg(bare=pl.col("loss").first(), prompted=pl.col("loss").last(), k=pl.col("k").last())
        .join(base, on=by, nulls_equal=True)
        .iter_rows(named=True)
    ):
        share = information.closed_share(row["bare"], row["prompted"], row["base"])
        if share is not None:
            shares.append((row["seed"], share, row["k"]))
    if not shares:
        return ""
    by_seed = [float(np.mean([s for seed, s, _ in shares if seed == own])) for own in sorted({s[0] for s in shares})]
    found = t_interval(by_seed)
    assert found is not None
    ends = (
        f" [{found.low:.0%}, {found.high:.0%}]" if found.low is not None and found.high is not None else " (one seed)"
    )
    share = f"{found.estimate:.0%}{ends}"
    return f"Detuning: {shares[0][2]} tokens recover {share} of what fine-tuning cost on the old text."


def _most_examples(best: pl.DataFrame) -> pl.DataFrame:
    """For each size, the series fitted to the most examples, at the first moment."""

    def key(name: str) -> tuple[float, str]:
        _, examples, rest = elicitation.series_key(name)
        return -examples, rest

    places = {name: place for place, name in enumerate(sorted(best["series"].unique(), key=key))}
    place = pl.col("series").replace_strict(places, default=0, return_dtype=pl.Int64)
    return best.filter(place == place.min().over("size"))
