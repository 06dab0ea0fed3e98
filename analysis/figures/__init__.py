"""Figures by name. Each is two functions: one returns the table, the other only draws it.

Drawing modules are imported on first use, so listing names is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from analysis.errors import UserError, nearest

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.figures.asked import Asked
    from analysis.runs.study import StudyData


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A figure: how its table is made, how it is drawn, and what it shows."""

    name: str
    title: str
    nothing: str
    """Why the table is empty, if it is."""
    outcome: bool = False
    """Whether it is of a declared outcome, so that there is nothing to draw without one."""

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


SHOWN: dict[str, Callable[[pl.DataFrame], bool]] = {
    "extinction": lambda table: "role" not in table.columns or "extinction" in table["role"],
    "sizes": lambda table: "parameters" not in table.columns or table["parameters"].n_unique() > 1,
}
"""What a part of a caption may be about, as in "[sizes: One colour per size.]", and whether a figure's table has it."""


def captioned(caption: str, table: pl.DataFrame) -> str:
    """A caption without its parts about what the figure's table lacks."""

    def kept(part: re.Match[str]) -> str:
        return part[2] + part[3] if SHOWN[part[1]](table) else ""

    return re.sub(r"\[(\w+): ([^]]*)\]( ?)", kept, caption).strip()


FIGURES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="retention", outcome=True, title="Retention of the {skill}", nothing="no branch was measured"),
        Recipe(name="settings", outcome=True, title="Retention by setting", nothing="no other setting was run"),
        Recipe(name="seeds", outcome=True, title="Retention by seed", nothing="no branch was measured"),
        Recipe(name="half_life", outcome=True, title="Half-life by size", nothing="no half-life could be measured"),
        Recipe(
            name="strength", outcome=True, title="Equal exposure versus equal strength", nothing="only one arm was run"
        ),
        Recipe(
            name="survival",
            outcome=True,
            title="Runs that still have the {skill}",
            nothing="no run had the {skill} at the drop",
        ),
        Recipe(name="floor", outcome=True, title="Floor of retention", nothing="no run had the {skill} at the drop"),
        Recipe(
            name="laws", outcome=True, title="Laws of decay", nothing="no run has enough evaluations above the control"
        ),
        Recipe(
            name="extrapolation",
            outcome=True,
            title="Extrapolation of the laws",
            nothing="no law could be fitted to part of the runs",
        ),
        Recipe(
            name="effects",
            outcome=True,
            title="Effects on retention and half-life",
            nothing="only size, seed and what was learned were varied",
        ),
        Recipe(name="relearning", outcome=True, title="Relearning", nothing="no relearning was run"),
        Recipe(name="overlap", outcome=True, title="Effect of overlap", nothing="no overlap was varied"),
        Recipe(name="family", outcome=True, title="Half-life by family", nothing="no family of languages was run"),
        Recipe(
            name="languages",
            outcome=True,
            title="Retention of the {skill} and of the rest",
            nothing="nothing was evaluated on its own",
        ),
        Recipe(
            name="erasure",
            outcome=True,
            title="Gone or gated",
            nothing="no reading was taken of both a model and its never-exposed control",
        ),
        Recipe(
            name="examples", outcome=True, title="Relearning by number of examples", nothing="no relearning was run"
        ),
        Recipe(
            name="generalisation", outcome=True, title="The untrained pair", nothing="no pair was left out of training"
        ),
        Recipe(name="pareto", title="What the search found", nothing="no search was run"),
        Recipe(name="soft_prompts", title="Loss by soft-prompt tokens", nothing="no soft prompt was trained"),
        Recipe(name="distances", title="Tokens needed for each behaviour", nothing="no prompt reached any behaviour"),
        Recipe(name="restarts", title="Success rate of restarts", nothing="no prompt was fitted more than once"),
        Recipe(
            name="amounts", title="Tokens, numbers and bits needed", nothing="neither bits nor directions were measured"
        ),
        Recipe(name="fragility", title="Fragility against C", nothing="fragility was measured for too few behaviours"),
        Recipe(name="specificity", title="Specificity by number of features", nothing="no dictionary was measured"),
        Recipe(name="feature_blocks", title="Features by block", nothing="no shared dictionary was followed"),
        Recipe(
            name="feature_scores", title="Scores of features and what they stand for", nothing="nothing was attributed"
        ),
        Recipe(name="feature_edits", title="What edits of features do", nothing="no features were edited"),
        Recipe(name="clean_loss", title="Cost in clean loss", nothing="clean loss was not measured"),
        Recipe(name="time_by_size", title="Times by size", nothing="only one size was run, or no time was measured"),
        Recipe(name="dose", title="Response to the dose by size", nothing="no dose was varied"),
        Recipe(
            name="decisions",
            title="Decision accuracy",
            nothing="fewer than three settings, or only one size, were run",
        ),
        Recipe(name="multiverse", title="The leading trend under every choice", nothing="only one size was run"),
        Recipe(
            name="forget_retain",
            title="Forgetting and its cost",
            nothing="fewer than two settings have retention and clean loss",
        ),
    )
}
SCALING = ("time_by_size", "dose", "decisions", "multiverse", "forget_retain")
"""What a claim about scaling needs, the leading figure first: shown undeclared, where a study has the axes."""


def drawn(name: str, data: StudyData, axes: Axes | None = None) -> Figure:
    """The figure of that name, or of the declared question of that name, on its own, or in place of `axes`, a cell of
    a grid, which a subfigure replaces.

    Raises UserError on an unknown name, when there is nothing to draw, and for axes that lie in no grid.
    """
    from analysis.decay.design import vocabulary
    from analysis.figures import style

    recipe = recipe_of(name, data)
    unmeasured = recipe.outcome and not data.declaration.outcomes
    if unmeasured or (table := recipe.table(data)).is_empty():
        why = recipe.nothing.format(**vocabulary(data))
        raise UserError(f"{data.declaration.study} has nothing to draw as {name}: {why}")
    if axes is None:
        return recipe.draw(table)
    cell, parent, root = axes.get_subplotspec(), axes.get_figure(root=False), axes.get_figure(root=True)
    if cell is None or parent is None or root is None:
        raise UserError("these axes lie in no grid: expected a cell of subplots, subplot_mosaic or a GridSpec")
    axes.remove()
    with style.drawn_into(parent.add_subfigure(cell)):
        recipe.draw(table)
    return root


def recipe_of(name: str, data: StudyData) -> Recipe | Asked:
    """The figure of that name, or of the declared question of that name. Raises UserError if there is neither."""
    from analysis.answers.judging import answers
    from analysis.figures.asked import Asked

    if name in FIGURES:
        return FIGURES[name]
    asked = [question.name for question in data.declaration.questions]
    if name in asked:
        return Asked(answer=answers(data)[asked.index(name)], declaration=data.declaration)
    questions = f"; questions: {', '.join(asked)}" if asked else ""
    meant = nearest(name, [*FIGURES, *asked])
    raise UserError(f"there is no figure {name!r}{meant}; figures: {', '.join(FIGURES)}{questions}")
