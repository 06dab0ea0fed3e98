"""Whether what is relearned was gone: relearning of what is still there takes no tokens, and passes for savings."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.runs.study import StudyData
from analysis.stats.format import plural

GONE = 0.5
"""Share of success at the drop below which it is gone at the end of the branch."""


def gone(data: StudyData, curves: pl.DataFrame, words: Mapping[str, str]) -> Check | None:
    """Of treatments at the reference, run by run; None for a study that relearns nothing."""
    if "relearning" not in data.declaration.figures:
        return None
    name, expected = f"The {words['skill']} was gone before relearning", f"success at most {GONE:g} of that at the drop"
    runs = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference")).drop_nulls("success").sort("tokens")
    ends = runs.group_by("trial", "size", "seed", maintain_order=True).agg(
        pl.col("success", "tokens").first().name.prefix("first_"), pl.col("success").last()
    )
    ends = ends.filter(pl.col("first_tokens") == 0, pl.col("first_success") > 0).sort("size", "seed")
    if ends.is_empty():
        return Check(name=name, expected=expected, found="not measured", passed=None)
    left = ends.filter(pl.col("success") > GONE * pl.col("first_success"))
    rows = left.select("size", "seed", "success", "first_success").iter_rows()
    still = [f"{size} seed {seed} {now:.2f} of {then:.2f}" for size, seed, now, then in rows]
    found = f"in {plural(ends.height, 'run')}" if not still else f"still there in {len(still)} of {ends.height} runs: "
    longer = remedies.flags(data, "branch", by=2.0, otherwise="twice as long")
    return Check(
        name=name, expected=expected, found=found + "; ".join(still[:4]) + "; ..." * (len(still) > 4),
        passed=not still, remedy=f"a longer branch, {longer}",
    )  # fmt: skip
