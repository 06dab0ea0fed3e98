"""Figures by name. Each is two functions: one returns its table, one draws it and nothing else.

Drawing modules are imported when a figure is asked for, so that listing names costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from analysis.errors import UserError

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.runs.study import StudyData


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A figure: how its table is made and drawn, and what to see in it."""

    name: str
    title: str
    nothing: str
    """Why there may be nothing to draw."""

    @property
    def table(self) -> Callable[[StudyData], pl.DataFrame]:
        return getattr(self._module, f"{self.name}_table")

    @property
    def draw(self) -> Callable[[pl.DataFrame], Figure]:
        return getattr(self._module, f"draw_{self.name}")

    @property
    def caption(self) -> str:
        return self._module.CAPTION

    @property
    def _module(self):
        return import_module(f"{__name__}.{self.name}")


FIGURES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="retention", title="The {skill} fades", nothing="no branch was measured"),
        Recipe(name="settings", title="Setting by setting", nothing="no other setting was run"),
        Recipe(name="seeds", title="Seed by seed", nothing="no branch was measured"),
        Recipe(name="half_life", title="Half-life against size", nothing="no half-life could be measured"),
        Recipe(name="strength", title="Equal exposure and equal strength", nothing="only one arm was run"),
        Recipe(name="survival", title="Share of runs that still have it", nothing="no run had it at the drop"),
        Recipe(name="floor", title="What stays for good", nothing="no run had the {skill} at the drop"),
        Recipe(name="laws", title="Which law of decay", nothing="no run had enough evaluations above the control"),
        Recipe(
            name="extrapolation", title="What a law foretells", nothing="no law could be fitted to a part of the runs"
        ),
        Recipe(name="effects", title="What makes it stay", nothing="only size, seed and what was learned were varied"),
        Recipe(name="relearning", title="Bringing it back", nothing="no relearning was run"),
        Recipe(name="overlap", title="Overlap with what stays", nothing="no dial of overlap was varied"),
        Recipe(name="family", title="By family", nothing="no family of languages was run"),
        Recipe(
            name="languages", title="Every language since the drop", nothing="no language was learned and asked apart"
        ),
        Recipe(name="erasure", title="Gone or gated", nothing="no reading was taken beside a model that never saw it"),
        Recipe(name="examples", title="Examples that bring it back", nothing="no relearning was run"),
        Recipe(name="generalisation", title="The pair never trained on", nothing="no pair was left out of training"),
        Recipe(name="pareto", title="What the search found", nothing="nothing was searched for"),
        Recipe(name="soft_prompts", title="Tokens that bring it back", nothing="no soft prompt was trained"),
        Recipe(name="distances", title="How many tokens it takes", nothing="no behaviour was reached by any prompt"),
        Recipe(name="restarts", title="How often a restart gets there", nothing="no prompt was fitted more than once"),
        Recipe(
            name="amounts", title="In tokens, numbers and bits", nothing="neither bits nor directions were measured"
        ),
        Recipe(name="fragility", title="Fragility against C", nothing="no fragility of enough behaviours was measured"),
        Recipe(name="clean_loss", title="The price on clean text", nothing="clean loss was not measured"),
    )
}


def drawn(name: str, data: StudyData, axes: Axes | None = None) -> Figure:
    """The figure of that name on its own, or in place of `axes`, a cell of a grid, which a subfigure replaces.

    Raises UserError on an unknown name, when there is nothing to draw, and for axes that lie in no grid.
    """
    from analysis.decay.design import vocabulary
    from analysis.figures import style

    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}; figures: {', '.join(FIGURES)}")
    table = FIGURES[name].table(data)
    if table.is_empty():
        why = FIGURES[name].nothing.format(**vocabulary(data))
        raise UserError(f"{data.declaration.study} has nothing to draw as {name}: {why}")
    if axes is None:
        return FIGURES[name].draw(table)
    cell, parent, root = axes.get_subplotspec(), axes.get_figure(root=False), axes.get_figure(root=True)
    if cell is None or parent is None or root is None:
        raise UserError("these axes lie in no grid: expected a cell of subplots, subplot_mosaic or a GridSpec")
    axes.remove()
    with style.drawn_into(parent.add_subfigure(cell)):
        FIGURES[name].draw(table)
    return root
