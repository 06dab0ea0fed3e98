from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
from matplotlib.text import Text

from analysis.figures import FIGURES
from analysis.figures.clean_loss import clean_loss_table, trunk_gaps
from analysis.figures.retention import retention_table, seed_mean
from analysis.figures.style import colours, new_figure, rendered, styled, trimmed
from analysis.gallery import example

NAMES = sorted(FIGURES)
ELSEWHERE = ("overlap", "pareto", "soft_prompts")
"""Figures of other studies than a sweep of backdoors: drawn from the gallery's data only."""
SWEPT = [name for name in NAMES if name not in ELSEWHERE]


@pytest.fixture(scope="module")
def examples() -> dict[str, pl.DataFrame]:
    """The tables of the gallery."""
    return {name: example(name)[0] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_draws_its_table_to_svg_and_png(examples, name):
    recipe, table = FIGURES[name], examples[name]
    assert not table.is_empty()
    figure = recipe.draw(table)
    assert rendered(figure, "svg").startswith(b"<?xml")
    assert rendered(figure, "png").startswith(b"\x89PNG")
    assert len(recipe.caption) > 100


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_below_seven_points_and_none_leaves_the_page(request, examples, name):
    recipe = FIGURES[name]
    with styled():
        figure = recipe.draw(examples[name] if name in ELSEWHERE else recipe.table(request.getfixturevalue("small")))
        figure.draw_without_rendering()
        for text in figure.findobj(Text):
            assert float(text.get_fontsize()) >= 7 or not text.get_text().strip(), text.get_text()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "examples") for name in NAMES] + [(n, k) for n in SWEPT for k in ("full", "rough")]
)
def test_labels_of_a_figure_do_not_overlap(request, name, kind):
    recipe, data = FIGURES[name], request.getfixturevalue(kind)
    with styled():
        figure = recipe.draw(data[name] if kind == "examples" else recipe.table(data))
        figure.draw_without_rendering()
        for axes in figure.axes:
            if not axes.get_visible():
                continue
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                boxes = [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]
                for first, second in pairwise(boxes):
                    assert not first.overlaps(second), name


@pytest.mark.parametrize("name", ["half_life", "strength"])
def test_long_legends_of_censored_seeds_leave_the_panels_their_room(small, name):
    kind = pl.when((pl.col("seed") == 0) & (pl.col("size") == "330k")).then(pl.lit("censored")).otherwise("kind")
    with styled():
        figure = FIGURES[name].draw(FIGURES[name].table(small).with_columns(kind=kind))
        figure.draw_without_rendering()
        figure.draw_without_rendering()
    assert all(axes.get_position().width > 0.3 for axes in figure.axes if axes.get_visible())


def test_the_same_table_draws_the_same_bytes(small):
    recipe = FIGURES["strength"]
    first, second = (rendered(recipe.draw(recipe.table(small)), "svg") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_without_points_has_an_empty_table(small, name):
    assert FIGURES[name].table(replace(small, points=small.points.clear())).is_empty()


def test_the_retention_table_has_treatments_and_their_controls(small):
    table = retention_table(small)
    assert set(table["facet"]) == {"branch rate: 1", "branch rate: 0.25"}
    for facet, roles in (
        ("branch rate: 1", {"treatment", "absent", "positive"}),
        ("branch rate: 0.25", {"treatment", "absent"}),
    ):
        part = table.filter(pl.col("facet") == facet)
        assert set(part["role"]) == roles
        assert part.filter(pl.col("role") == "treatment").select("size", "seed").unique().height == 9


def test_means_over_seeds_stop_where_a_seed_ends():
    table = pl.DataFrame({"seed": [0, 0, 1], "tokens": [0.0, 1.0, 0.0], "success": [1.0, 0.5, 0.0]})
    assert seed_mean(table, "success").select("tokens", "success").rows() == [(0.0, 0.5)]


def test_the_clean_loss_gap_is_the_planted_one(small):
    gaps = trunk_gaps(clean_loss_table(small).filter(pl.col("phase") == "trunk"))
    assert gaps.height == 9
    assert gaps["gap"].to_numpy() == pytest.approx(0.02, abs=0.02)


def test_colours_are_ordered_by_lightness():
    grey = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b, _ in colours(6)]
    assert grey == sorted(grey)
    assert min(b - a for a, b in pairwise(grey)) > 0.04


def test_names_from_data_are_never_read_as_formulas():
    with styled():
        figure = new_figure(1)
        figure.subplots().set_title(r"$\frac{1}{$ <b>")
        rendered(figure, "svg")


@pytest.mark.parametrize(
    ("value", "said"), [(10_000, "10k"), (2_500_000, "2.5M"), (0.05, "0.05"), (100, "100"), (1e9, "1B")]
)
def test_tick_labels_have_no_needless_zeros(value, said):
    assert trimmed(value) == said
