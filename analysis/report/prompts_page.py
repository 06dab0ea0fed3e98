"""The report of a study of soft prompts, and a page of anyone's table of them: what it takes to reach a behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.decay.design import vocabulary
from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.figures.distances import NO_C, by_both
from analysis.figures.soft_prompts import SEED_BY_SEED
from analysis.prompts import amounts, elicitation, fragility, information
from analysis.prompts.published import read_prompts
from analysis.report.panels import draw_panel, new_folders, pages
from analysis.report.checks.prompts import BASE, at_size, checks, gain_of, label_of, nothing
from analysis.report.rows import axis_rows, check_row, counted, efficiency_rows, provenance
from analysis.report.tables import csv_text, page_table
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural
from analysis.stats.intervals import t_interval
from analysis.stats.scaling import SEEDS
from halflife.secrets import masked
from halflife.tracking import schema

GRADED = {"say": ("A longer string", "letters"), "skip": ("Skipping further", "tokens")}
"""Behaviours of graded length, by what their tasks' names begin with: what is asked of them, and in what."""
PHASE = "prompts"
"""Phase of the outcomes of a study that asks how much information a behaviour takes."""
SHOWN = ("soft_prompts", "distances", "restarts")
DETUNED = "detuning"
"""The task that may bring back what a fine-tuned model lost on the text of BASE."""


def is_information(data: StudyData) -> bool:
    """Whether the study asks how much it takes to reach its behaviours, and not how long they last."""
    return bool(data.declaration.prompts) and all(outcome.phase == PHASE for outcome in data.declaration.outcomes)


def information_page(data: StudyData, out: Path, tracking_uri: str) -> str:
    """The HTML; its figures and tables are written below `out` on the way."""

    prompts, found = elicitation.runs(data), checks(data)
    axes = axis_rows(data)
    names = [name for name in data.declaration.figures if name in FIGURES] or list(SHOWN)
    html = (
        pages()
        .get_template("information.html")
        .render(
            declaration=data.declaration,
            sentences=sentences(data, prompts),
            invalid=[check.name for check in found if check.required and check.passed is False],
            checks=[check_row(check) for check in found],
            axes=[axis for axis in axes if axis["varies"]],
            fixed=[axis for axis in axes if not axis["varies"]],
            counts=counted(data),
            plates=[draw_panel(FIGURES[name], FIGURES[name].table(data), out, vocabulary(data)) for name in names],
            tables=_tables(prompts, out) + _measured(data, out),
            efficiency=efficiency_rows(data.totals),
            provenance=provenance(data, tracking_uri),
            threshold=None,
        )
    )
    return masked(html)


def write_prompts(path: Path, out: Path, threshold: float | None = None) -> Path:
    """A page of the prompts in a CSV (see `published.read_prompts`); returns the HTML file.

    Raises UserError when the table cannot be read or has no prompts.
    """
    prompts = read_prompts(path)
    if prompts.is_empty():
        raise UserError(f"{path} holds no prompts: expected at least one row with a loss")
    new_folders(out, SHOWN)
    scored = information.reached(prompts, "loss", threshold)
    restarts = information.restart_table(scored) if prompts["restart"].n_unique() > 1 else pl.DataFrame()
    tables = {
        "soft_prompts": elicitation.curves(prompts, threshold),
        "distances": by_both(prompts, threshold),
        "restarts": restarts,
    }
    plates = [draw_panel(FIGURES[name], table, out, {}) for name, table in tables.items() if table.height]
    if threshold is not None:
        plates = [replace(plate, caption=_given(plate.caption, threshold)) for plate in plates]
    html = (
        pages()
        .get_template("information.html")
        .render(
            declaration=schema.Declaration(
                study=path.name, title=f"Soft prompts of {path.name}", preset="", axes=(), outcomes=(), controls=(),
                figures=(), question="How many tokens does it take to reach a behaviour?", reading="",
            ),
            sentences=_taken(information.distance_table(prompts, threshold=threshold), threshold),
            invalid=[], checks=[], axes=[], fixed=[],
            counts=f"{plural(prompts.height, 'prompt')} of {plural(prompts['behaviour'].n_unique(), 'behaviour')}",
            plates=plates, tables=_tables(prompts, out, threshold), efficiency=[], provenance=None, threshold=threshold,
        )
    )  # fmt: skip
    page = out / "prompts.html"
    page.write_text(masked(html), encoding="utf-8")
    return page


def _given(caption: str, threshold: float) -> str:
    """The caption of a figure whose T was given, and is no seed's own."""
    goal = f"brings the loss to {threshold:g} nats a token"
    caption = caption.replace(elicitation.HALF_CLOSED, goal).replace(SEED_BY_SEED, "it was given.")
    return caption.replace(" (left; seed by seed)", " (left)").replace(NO_C, "")


def _tables(prompts: pl.DataFrame, out: Path, threshold: float | None = None) -> list[dict[str, Any]]:
    """What the page shows as tables, written as CSV as well; those without a row are left out."""
    asked = prompts.drop_nulls(["hits", "trials"]) if "hits" in prompts.columns else prompts.clear()
    frames = {
        "C and S by held-out loss": ("distance_by_loss", information.distance_table(prompts, "loss", threshold)),
        "C by success": ("distance_by_success", information.distance_table(asked, "success")),
        "C(absent) − C(present), by loss": (
            "difference_by_loss",
            information.difference_table(prompts, "loss", threshold),
        ),
        "C(absent) − C(present), by success": (
            "difference_by_success",
            information.difference_table(asked, "success"),
        ),
        "Every prompt": ("prompts", prompts),
    }
    return _shown(frames, out)


def _measured(data: StudyData, out: Path) -> list[dict[str, Any]]:
    """What was judged, C by search, bits, random directions and fragility, of studies that measured them."""
    found, searched = fragility.measured(data), amounts.searched(data)
    frames = {
        "What the model says by itself, judged by the task": ("judged", elicitation.judged(data)),
        "C to one token, by bisection": ("search", amounts.search_table(searched, data.declaration.settings)),
        "Least bits that still get there": ("bits", amounts.bits_table(amounts.quantised(data))),
        "Fewest numbers in random directions": ("directions", amounts.directions_table(amounts.in_subspaces(data))),
        "Fragility against information": ("fragility_correlations", fragility.correlations(data, found)),
        "Fragility of every prompt": ("fragility_of_prompts", found),
    }
    return _shown(frames, out)


def _shown(frames: dict[str, tuple[str, pl.DataFrame]], out: Path) -> list[dict[str, Any]]:
    found = []
    for title, (name, frame) in frames.items():
        if frame.height:
            (out / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
            kept = [column.name for column in frame if column.null_count() < frame.height]
            found.append({"title": title, "name": name, "table": page_table(frame.select(kept))})
    return found


def sentences(data: StudyData, prompts: pl.DataFrame) -> list[str]:
    """What opens the report: what elicitation takes beyond teaching, what each behaviour takes, null and detuning."""
    if prompts.is_empty():
        return ["The data cannot tell: no prompt was fitted and measured."]
    several = prompts.filter(pl.col("k") > 0)["k"].n_unique() > 1  # a single k tells no more than that it was enough
    found = [
        *([_beyond(prompts), *_taken(information.distance_table(prompts))] if several else []),
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
    """C(absent) - C(present), by success where every seed says something by it, else by loss."""
    asked = prompts.drop_nulls(["hits", "trials"])
    table, criterion = information.difference_table(asked, "success"), "half of what is asked is right beyond chance"
    if table.is_empty() or table["untold"].to_numpy().any():
        table, criterion = information.difference_table(prompts, "loss"), "half of the gap in loss is closed"
    if table.is_empty():
        return ""
    parts = []
    for row in table.iter_rows(named=True):
        where = f"{row['behaviour']}{at_size(row['series'])}"
        nothing_gained = f"; {row['no_gain']} gained nothing" if row["no_gain"] else ""
        if row.get("difference") is None:
            parts.append(f"{where} cannot be told, as neither model got there{nothing_gained}")
            continue
        told = row["pairs"] - row["untold"] - row["no_gain"]
        sure = row["low"] == row["high"] == row["difference"]
        wide = np.isnan(row["difference"])  # between not reached with it and not reached without it
        ends = f" [{_tokens(row['low'])}, {_tokens(row['high'])}]" if told > 1 and not sure and not wide else ""
        parts.append(
            f"{where} {_tokens(row['difference'])}{ends} ({told} of {plural(row['pairs'], 'seed')}{nothing_gained})"
        )
    return (
        "What the behaviour needs beyond teaching, tokens without it less tokens with it until "
        f"{criterion}: {'; '.join(parts)}. Above 0 the prompt finds something that is there; where the interval "
        "holds 0 the data cannot tell."
    )


def _fragile(data: StudyData) -> list[str]:
    """Whether behaviours that take little are fragile, at the common k with loss and norm held fixed: every measure
    named, whatever it says."""
    found = fragility.measured(data)
    if found.is_empty():
        return []
    told = fragility.correlations(data, found)
    if told.is_empty():
        return ["Whether behaviours that take little are fragile cannot be told: too few were measured."]
    told = told.filter((pl.col("prompts") != "every k") & (pl.col("held_fixed") != "nothing"))
    said = []
    for series, part in _series(told):
        most = int(part["behaviours"].to_numpy().max())
        verdicts: dict[str, list[str]] = {"fragile": [], "robust": [], "untold": []}
        for row in part.iter_rows(named=True):
            name = row["measure"].split(",")[0]
            text = f"{name} {row['correlation']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]".replace("-", "−")
            text += f" over {row['behaviours']}" if row["behaviours"] < most else ""
            sign = -1 if name == "r50" else 1
            ends = sorted((sign * row["low"], sign * row["high"]))
            verdicts["fragile" if ends[1] < 0 else "robust" if ends[0] > 0 else "untold"].append(text)
        words = {
            "fragile": "are more fragile by", "robust": "are less fragile by", "untold": "cannot be told apart by",
        }  # fmt: skip
        parts = [f"{words[kind]} {', '.join(texts)}" for kind, texts in verdicts.items() if texts]
        aim = amounts.aim(data)
        where = f"at one loss ({aim:g} nats a token), {part['prompts'][0]}" if aim is not None else part["prompts"][0]
        fewer = " where not said otherwise" if (part["behaviours"] < most).any() else ""
        said.append(
            f"Behaviours that take less{at_size(series)}, {where} and equal noise, {'; '.join(parts)} (rank "
            f"correlations with C over {most} behaviours{fewer}, loss and norm held fixed; "
            f"{plural(part.height, 'measure')} at once)."
        )
    left = fragility.unmeasured(data, found)
    if left:
        said.append(f"Never at that loss, and so in no correlation: {listed(left)}.")
    return said


def _tokens(value: float) -> str:
    if np.isnan(value):
        return "cannot be told"
    if np.isfinite(value):
        return f"{value:+g}".replace("-", "−")
    return "not reached without it" if value > 0 else "reached only without it"


def _series(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each series, the smaller sizes first."""
    for (series,), part in table.sort(elicitation.by_series(table), maintain_order=True).group_by(
        ["series"], maintain_order=True
    ):
        yield str(series), part


def _taken(table: pl.DataFrame, threshold: float | None = None) -> list[str]:
    """C of every behaviour that has one, in one sentence a series."""
    shown = table.filter((pl.col("model") == "present") & pl.col("c").is_not_null()) if table.height else table
    if shown.is_empty():
        return ["No behaviour gained from any prompt."]
    goal = "close half of the gap" if threshold is None else f"bring the loss to {threshold:g} nats a token"
    said = []
    for series, part in _series(shown):
        each = []
        for row in part.iter_rows(named=True):
            count = f"{row['c']:g}" if np.isfinite(row["c"]) else f"not by {row['last_k']}"
            seeds = row["seeds"] + row["no_gain"]
            left = f" ({elicitation.left_out(seeds, row['seeds'])})" if row["no_gain"] else ""
            each.append(f"{row['behaviour']} {count}{left}")
        said.append(f"Tokens that {goal} (C){at_size(series)}: {listed(each)}.")
    return said


def _right(prompts: pl.DataFrame) -> str:
    """C by success: a loss that falls by half may still leave little right."""
    asked = prompts.drop_nulls(["hits", "trials"]).filter(pl.col("model") == "present")
    table = information.distance_table(asked, "success")
    if table.is_empty():
        return ""
    got = table.filter(pl.col("c").is_finite()).sort("c", maintain_order=True)
    said = [f"{row['behaviour']}{at_size(row['series'])} by {row['c']:g}" for row in got.iter_rows(named=True)]
    never, most = table.filter(pl.col("c").is_infinite()), int(table["last_k"].to_numpy().max())
    for row in never.filter(pl.col("last_k") < most).iter_rows(named=True):
        said.append(f"{row['behaviour']}{at_size(row['series'])} not by {row['last_k']}, the most it was given")
    if (never["last_k"] == most).any():
        said.append(f"{'no other' if said else 'none'} by {most} tokens")
    return f"Half of what is asked right, beyond chance: {'; '.join(said)}."


def _graded(data: StudyData, prompts: pl.DataFrame) -> list[str]:
    """Loss behind the most tokens against the length of what is asked, of sizes that were asked every length; the
    longest against the shortest, paired by seed and size and averaged within a seed."""
    labels = {outcome.label: outcome.name for outcome in data.declaration.outcomes}
    name = pl.col("behaviour").replace_strict(labels, default="")
    length, kind = name.str.extract(r"^[a-z]+-(\d+)$").cast(pl.Int64), name.str.extract(r"^([a-z]+)-")
    best = elicitation.best_restarts(prompts.filter(pl.col("model") == "present"))
    best = best.with_columns(length=length, of=kind).drop_nulls("length")
    said = []
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
            verdict = "cannot be told" if found.contains(0) else "takes more" if found.estimate > 0 else "takes less"
            ends = f" [{found.low:+.2f}, {found.high:+.2f}]"
        said.append(
            f"{what}: {verdict} (nats a token behind {own['k'][0]} tokens: {shown} {unit}; longest less shortest "
            f"{found.estimate:+.2f}{ends})."
        )
    return said


def _searched(data: StudyData) -> list[str]:
    """C by bisection, in one sentence a series, from what takes least."""
    table, aim = amounts.search_table(amounts.searched(data), data.declaration.settings), amounts.aim(data)
    if table.is_empty():
        return []
    said, most = [], max(data.declaration.settings["tokens"])
    for series, part in _series(table.filter(model="present").sort("c", maintain_order=True)):
        each = [
            f"{f'{c:g}' if np.isfinite(c) else f'more than {most}'} for {listed(alike['behaviour'].to_list())}"
            for (c,), alike in part.group_by(["c"], maintain_order=True)
        ]
        head = f"Fewest tokens to a loss of {aim:g}, medians over seeds{at_size(series)}: "
        said.append(f"{head}{'; '.join(each)}.")
    return said


def _null(data: StudyData, prompts: pl.DataFrame) -> str:
    part = prompts.filter((pl.col("behaviour") == label_of(data, BASE)) & (pl.col("model") == "present"))
    gain = gain_of(part) if part.height else None
    if gain is None:
        return ""
    if gain.low is None:
        return f"The null, text as it was trained on: {gain.estimate:+.3f} nats a token, one seed."
    verdict = "no gain is seen" if nothing(gain) else "it gains" if gain.estimate > 0 else "prompts only harm"
    return (
        f"The null, text as it was trained on: {verdict} ({gain.estimate:+.3f} nats a token "
        f"[{gain.low:+.3f}, {gain.high:+.3f}], most tokens against none)."
    )


def _detuned(data: StudyData, prompts: pl.DataFrame) -> str:
    """Share of the loss that fine-tuning cost on the old text that a prompt brings back, seed by seed."""
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
    return f"Detuning: {shares[0][2]} tokens bring back {share} of what fine-tuning cost on the old text."


def _most_examples(best: pl.DataFrame) -> pl.DataFrame:
    """Of each size the series fitted to the most examples, at the first moment."""

    def key(name: str) -> tuple[float, str]:
        _, examples, rest = elicitation.series_key(name)
        return -examples, rest

    places = {name: place for place, name in enumerate(sorted(best["series"].unique(), key=key))}
    place = pl.col("series").replace_strict(places, default=0, return_dtype=pl.Int64)
    return best.filter(place == place.min().over("size"))
