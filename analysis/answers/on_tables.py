"""`python -m analysis contrast`, `trend` and `associate`: the verdict on a question, from any table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from analysis.errors import UserError

if TYPE_CHECKING:
    from analysis.answers.ask import Asked
    from analysis.stats.estimates import Estimates
    from analysis.stats.verdicts import Verdict

Table = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How the estimates, one a seed, are judged."""

    seed: str = "seed"
    """Column with the seed of each row."""
    margin: float | None = None
    """Smallest effect of interest, above 0, in the unit of the estimate; without it nothing is equivalent."""
    why: str = ""
    """The reason for the margin, in terms of the outcome."""
    looks: str = ""
    """Numbers of seeds, declared beforehand, at which the study may stop, as 5,8,12; by default one look at all.
    Seeds count in ascending order."""
    json: Path | None = None
    """File to write the result to."""

    @property
    def given(self) -> dict[str, Any]:
        return {"seed": self.seed, "margin": self.margin, "why": self.why, "looks": _looks(self.looks)}


Judged = Annotated[Judging, tyro.conf.arg(name="")]


def contrast(
    table: Table, /, *, quantity: str, axis: str, high: str, low: str, judging: Judged, pair: str = ""
) -> None:
    """Does a quantity differ between two values of a column? Paired by seed; prints the verdict.

    Args:
        table: A .csv, .tsv, .parquet or .jsonl file.
        quantity: Column with the quantity.
        axis: Column that tells the two arms apart.
        high: Its value in the arm that the other is subtracted from.
        low: Its value in the other arm.
        pair: Further columns that pair rows, such as size; several separated by commas.
    """
    from analysis.answers import ask
    from analysis.fitting.table import read_table

    columns = [name.strip() for name in pair.split(",") if name.strip()]
    found = ask.contrast(
        read_table(table), quantity, axis, high=high, low=low, pair=columns, **judging.given
    )  # fmt: skip
    _told(found, judging, {"table": str(table), "quantity": quantity, "axis": axis, "high": high, "low": low,
                           "pair": columns})  # fmt: skip


def trend(
    table: Table, /, *, quantity: str, axis: str, judging: Judged, log: bool = False, censored: str | None = None
) -> None:
    """Does a quantity rise or fall along a numeric column? One slope per seed; prints the verdict.

    Args:
        table: A .csv, .tsv, .parquet or .jsonl file.
        quantity: Column with the quantity.
        axis: Column with numbers, such as parameters.
        log: Use the logarithm of the axis.
        censored: Column that is true where the quantity is only a lower bound.
    """
    from analysis.answers import ask
    from analysis.fitting.gaps import blanks
    from analysis.fitting.table import Roles, read_table

    frame = read_table(table)
    found = ask.trend(frame, quantity, axis, log=log, censored=censored, **judging.given)
    _told(found, judging, {"table": str(table), "quantity": quantity, "axis": axis, "log": log, "censored": censored})
    for line in blanks(frame, Roles(x=[axis], y=quantity, group=judging.seed)) if censored is None else []:
        print(f"warning: {line}")


def associate(table: Table, /, *, quantity: str, other: str, item: str, judging: Judged) -> None:
    """Do two quantities go together over items? One rank correlation per seed; prints the verdict.

    Args:
        table: A .csv, .tsv, .parquet or .jsonl file.
        quantity: Column with one quantity.
        other: Column with the other.
        item: Column with the item of each row.
    """
    from analysis.answers import ask
    from analysis.fitting.table import read_table

    found = ask.associate(read_table(table), quantity, other, item=item, **judging.given)
    _told(found, judging, {"table": str(table), "quantity": quantity, "other": other, "item": item})


def _told(found: Asked, judging: Judging, question: dict[str, Any]) -> None:
    from analysis.fitting.command import write_json

    if judging.json is not None and found.judged is not None and found.estimates is not None:
        details = _as_json(found.judged, found.estimates) | {
            "intervals": found.method or None,
            "warnings": list(found.warnings),
        }
        write_json(judging.json, details | {"why": judging.why or None, "question": question})
    print(found)


def _as_json(verdict: Verdict, estimates: Estimates) -> dict[str, Any]:
    """The verdict as JSON data; `seeds_to_settle` is null if it is settled or there is no margin, and an end of its
    ranges where more than 10,000 would be needed. `by_seed` has the seeds that the verdict rests on, null where one has
    no estimate; `unused_by_seed` those after the look that answered, which do not change it."""
    from analysis.stats.settling import WANTED

    interval, settling = verdict.interval, verdict.settling if verdict.answer == "undecided" else None
    names = estimates.seeds or range(estimates.values.size)
    every = {
        str(name): float(value) if math.isfinite(value) else None
        for name, value in zip(names, estimates.values, strict=True)
    }
    bounds, values = estimates.first(verdict.look).bounds
    counted = list(every)[: verdict.look]
    return {
        "verdict": verdict.answer,
        "estimate": None if interval is None else interval.estimate,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "level": 1 - verdict.alpha / verdict.family,
        "bounds": bounds,
        "values": values,
        "seeds": None if interval is None else interval.count,
        "p": verdict.p,
        "margin": verdict.margin,
        "smaller_than_margin": verdict.small,
        "looks": list(verdict.looks.seeds),
        "look": verdict.look,
        "seeds_to_settle": None
        if settling is None
        else {"effect": list(settling.effect), "equivalent": list(settling.equivalent), "probability": WANTED},
        "by_seed": {name: every[name] for name in counted},
        "unused_by_seed": {name: value for name, value in every.items() if name not in counted},
    }


def _looks(given: str) -> list[int]:
    try:
        return [int(each) for each in given.split(",")] if given else []
    except ValueError:
        raise UserError(f"--looks is {given!r}; expected ascending numbers of seeds, as 5,8,12") from None
