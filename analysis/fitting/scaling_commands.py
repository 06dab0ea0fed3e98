"""`python -m analysis laws` and `isoflop`: the menu of laws, and optimal sizes from runs at a few budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from analysis.errors import UserError

if TYPE_CHECKING:
    from analysis.stats.intervals import Interval


def laws(name: Annotated[str | None, tyro.conf.Positional] = None, /) -> None:
    """List the laws by purpose, or show one in full: formula, inputs, parameters, source.

    Args:
        name: Name of a law, your own as mylaw.py:its_name, or a word of a name or purpose, such as recovery.
    """
    from analysis.laws.menu import shown

    print(shown(name))


def isoflop(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    size: str,
    loss: str,
    budget: str | None = None,
    tokens: str | None = None,
    group: str | None = None,
    compute: str = "",
    json: Path | None = None,
) -> None:
    """Find compute-optimal sizes from runs at a few budgets: parabolas, then a line (Hoffmann's approach 2).

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file with one row per run.
        size: Column with the parameters N.
        loss: Column with the final loss.
        budget: Column with the compute C in FLOPs.
        tokens: Column with the tokens D, in place of the compute: then C = 6 N D.
        group: Column with the seed of each run: one line per seed, with Student-t over seeds.
        compute: Budgets in FLOPs at which to show the optimum, as 1e20,1e21.
        json: File to write the result to.
    """
    from analysis.fitting import compute as budgeted
    from analysis.fitting import isoflop as approach
    from analysis.fitting.command import budgets, write_json
    from analysis.fitting.describe import allocation, bracket
    from analysis.fitting.table import ROW, labels, numbers, read_table
    from analysis.laws.allocation import FLOPS
    from analysis.stats.intervals import Interval

    if (budget is None) == (tokens is None):
        raise UserError("pass either --budget, a column of FLOPs, or --tokens: then C = 6 N D")
    asked = budgets("--compute", compute)
    table = read_table(data).with_row_index(ROW, offset=1)
    n, values = numbers(table, size), numbers(table, loss)
    c = numbers(table, budget) if budget is not None else FLOPS * n * numbers(table, str(tokens))
    found = approach.isoflop(n, c, values, None if group is None else labels(table, group))
    allocated = {each: _allocation(found, each) for each in asked}
    for each in found.minima:
        where = "" if each.inside else ", outside the sizes tried"
        ends = bracket(Interval(estimate=each.size, low=each.low, high=each.high, count=each.sizes))
        print(f"C = {each.compute:.3g}: N = {each.size:.4g} {ends}, D = {each.tokens:.4g}, loss {each.loss:.4g} "
              f"({each.sizes} sizes{where})")  # fmt: skip
    print(f"optimal parameters grow as C^a, a = {_shown(found.a)}; tokens as C^b, b = {_shown(found.b)}")
    print(f"95 % intervals: of a minimum Fieller's, from its parabola; of a and b {found.method}")
    given = {"N": size} | ({"C": budget} if budget is not None else {"D": str(tokens)})
    doubts = [*budgeted.swapped(given), *budgeted.units(table, given), *found.warnings]
    doubts += budgeted.reach(asked, c, budget or "6 N D") if asked else []
    far = {each: budgeted.reach([each], c) for each in asked}
    allocated = {each: budgeted.trusted(parts, doubts, far[each]) for each, parts in allocated.items()}
    for each, parts in allocated.items():
        print(allocation(each, parts))
    for warning in doubts:
        print(f"warning: {warning}")
    if json is not None:
        write_json(json, _as_json(found, allocated) | {"warnings": doubts})


def _allocation(found: Any, compute: float) -> dict[str, Interval]:
    from dataclasses import replace

    from analysis.laws.allocation import FLOPS

    size, product = found.size(compute), compute / FLOPS
    low, high = (None if end is None else product / end for end in (size.high, size.low))
    return {"N": size, "D": replace(size, estimate=product / size.estimate, low=low, high=high)}


def _shown(found: Interval) -> str:
    from analysis.fitting.describe import bracket

    return f"{found.estimate:.4g} {bracket(found)}"


def _as_json(found: Any, allocated: dict[float, dict[str, Interval]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "a": asdict(found.a), "b": asdict(found.b), "intervals": found.method,
        "minima": [asdict(each) for each in found.minima],
        "allocation": [{"compute": c} | {name: asdict(each) for name, each in parts.items()}
                       for c, parts in allocated.items()],
    }  # fmt: skip
