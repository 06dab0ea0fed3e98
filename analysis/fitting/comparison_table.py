"""A comparison of laws as a table: a row each, what AICc is computed from, the winner if any, the warnings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.fitting.describe import UNBOUNDED, data, half_life
from analysis.fitting.selection import Comparison


def printed(found: Comparison, left_out: int) -> None:
    """To the terminal."""
    console = Console(soft_wrap=True, highlight=False, width=max(120, Console().width))
    unit, first = found.held_out_unit.removeprefix("the "), found.ranked[0].fit
    table = Table("law", "errors", "k", "n", "log-likelihood", "AICc", "ΔAICc",
                  f"held-out error{f' ({unit})' * bool(unit)}", found.half_name, box=None, pad_edge=False)  # fmt: skip
    for each in found.ranked:
        made = each.fit
        of = "" if unit else f" in {made.error.compared}"
        table.add_row(
            made.law.name, made.error.name, _each([part.parameters for part in each.scores]),
            _each([part.points for part in each.scores]), f"{each.log_likelihood:.2f}", f"{each.aicc:.2f}",
            f"{each.delta:.2f}", "" if each.held_out is None else f"{each.held_out:.4g}{of}",
            Text(half_life(each.half_life)),
        )  # fmt: skip
    about = data(first, left_out)
    if len({each.fit.error.name for each in found.ranked}) > 1:
        about = about.replace(f"{first.error.name} errors", "errors as in each row")
    console.print(about)
    console.print(table)
    if any("?" in half_life(each.half_life) for each in found.ranked):
        console.print(UNBOUNDED)
    console.print(found.legend)
    console.print(f"{found.text}.")
    for each in found.ranked:
        for warning in each.fit.warnings:
            console.print(f"[yellow]warning:[/yellow] {each.fit.law.name}: {warning}")


def _each(numbers: list[int]) -> str:
    """The number of one fit, or that of each group's: 5 x 12, or 5 x 10-12."""
    low, high = min(numbers), max(numbers)
    return f"{len(numbers)} x " * (len(numbers) > 1) + (str(low) if low == high else f"{low}-{high}")
