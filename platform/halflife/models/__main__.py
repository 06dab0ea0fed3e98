"""`python -m halflife.models 100k 1m`: what each rung of the ladder derives, built of nothing but arithmetic."""

from __future__ import annotations

import sys

import tyro
from rich.console import Console
from rich.table import Table

from halflife.errors import UserError
from halflife.models.ladder import Rung

LADDER = ("30k", "100k", "300k", "1m", "3m", "10m", "30m", "100m", "300m", "1b", "3b")


def table(sizes: tuple[str, ...], sequence: int) -> Table:
    """One row a size; the found count beside the one that is named."""
    result = Table("size", "layers", "width", "heads", "mlp", "parameters", "muP", "MFLOP/token")
    for size in sizes:
        rung = Rung(size=size)
        result.add_row(
            size,
            str(rung.depth),
            str(rung.width),
            f"{rung.heads} of {rung.head_width}",
            str(rung.feedforward),
            f"{rung.parameters:,}",
            f"{rung.multiplier:g}",
            f"{rung.flops_per_token(sequence) / 1e6:,.3g}",
        )
    return result


def describe(sizes: tyro.conf.Positional[tuple[str, ...]] = LADDER, sequence: int = 128) -> int:
    """Print what each rung of the ladder derives from its name.

    Args:
        sizes: non-embedding parameters, such as 100k or 1.4b.
        sequence: predicted tokens a sequence, which attention's FLOPs grow with.
    """
    try:
        Console().print(table(sizes, sequence))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(describe))
