"""Published results as tables of prompts: reads the reference work's CSV."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from analysis.errors import UserError
from analysis.fitting.table import read_table
from analysis.prompts.elicitation import MORE, RUNS, in_order

REFERENCE = ("experiment", "model", "dataset", "soft_tokens", "final_test_loss", "final_test_loss_se")
ABSENT = {"chat detuning language": "Chat"}
"""Experiments in which a model without this in its name is a control that never had the behaviour."""

SIZES = {"70m": 0, "160m": 1, "410m": 2, "1b": 3}


def read_prompts(path: Path) -> pl.DataFrame:
    """Prompts of a CSV as returned by `elicitation.runs`: with its columns, or with those of the runs behind Nordby
    2025 (github.com/RossNordby/SoftPromptsForEvaluation), one seed and restart, losses with their standard errors.

    Raises UserError if the file cannot be read or has neither set of columns.
    """
    table = read_table(path)
    if set(REFERENCE) <= set(table.columns):
        return _reference(table)
    missing = [name for name in RUNS if name not in table.columns]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}: expected {', '.join(RUNS)}, or the reference work's "
            f"{', '.join(REFERENCE)}"
        )
    more = {name: kind for name, kind in MORE.items() if name in table.columns}
    schema = RUNS | more
    found = table.select(list(schema)).cast(pl.Schema(schema)).drop_nulls("loss")
    return in_order(found.with_columns(pl.col("series").fill_null("")))  # "" without quotes is read as null


def _reference(table: pl.DataFrame) -> pl.DataFrame:
    experiment, model = pl.col("experiment"), pl.col("model").str.split("/").list.last()
    chat = pl.any_horizontal(((experiment == name) & ~model.str.contains(mark)) for name, mark in ABSENT.items())
    size = model.str.replace("pythia-", "").str.replace("-deduped", "").str.replace("-intermediate-step.*", "")
    dataset = (
        pl.when(pl.col("dataset").fill_null("") == "")
        .then(pl.lit(""))
        .otherwise(pl.concat_str(pl.lit(", "), "dataset"))
    )
    several = pl.col("dataset").fill_null("").n_unique().over("experiment") > 1
    return table.select(
        behaviour=pl.concat_str(
            experiment.str.replace(" language", ""), pl.when(several).then(dataset).otherwise(pl.lit(""))
        ),
        model=pl.when(chat).then(pl.lit("absent")).otherwise(pl.lit("present")),
        series=pl.when(experiment.is_in(list(ABSENT))).then(pl.lit("TinyLlama 1.1b")).otherwise(size),
        k=pl.col("soft_tokens").fill_null(0).cast(pl.Int64),
        restart=pl.lit(0, dtype=pl.Int64),
        seed=pl.lit(0, dtype=pl.Int64),
        loss=pl.col("final_test_loss"),
        loss_se=pl.col("final_test_loss_se"),
    ).sort("behaviour", pl.col("series").replace_strict(SIZES, default=len(SIZES), return_dtype=pl.Int64), "k")
