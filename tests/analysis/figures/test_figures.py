from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figures import FIGURES
from analysis.figures.clean_loss import clean_loss_table, trunk_gaps
from analysis.figures.retention import retention_table, seed_mean
from analysis.figures.style import colours, drawn_into, new_figure, rendered, styled, trimmed
from analysis.gallery.page import asked, example, generated

NAMES = sorted(FIGURES)
PROMPTS = ("soft_prompts", "distances", "restarts", "amounts", "fragility")
FAMILIES = ("family", "languages", "erasure", "examples", "generalisation")
DICTIONARIES = ("specificity", "feature_blocks", "feature_scores", "feature_edits")
ELSEWHERE = ("overlap", "pareto", *PROMPTS, *FAMILIES, *DICTIONARIES)
"""Figures of other studies than a sweep of backdoors: drawn from the gallery's data only."""
ASKED = {figure.name: (figure, data) for figure, data, _ in asked()}
"""Figures of questions."""
SWEPT = [name for name in NAMES if name not in ELSEWHERE]


@pytest.fixture(scope="module")
def examples() -> dict[str, pl.DataFrame]:
    """The tables of the gallery."""
    return {name: example(name)[0] for name in NAMES}


@pytest.fixture(scope="module")
def drawn(request, examples) -> Callable[[str, str], Figure]:
    """Figures by name and data (examples, small, rough, full), laid out; each is drawn once."""

    @cache
    def draw(name: str, kind: str) -> Figure:
        if kind == "asked":
            recipe, data = ASKED[name]
            table = recipe.table(data)
        else:
            recipe = FIGURES[name]
            table = examples[name] if kind == "examples" else recipe.table(request.getfixturevalue(kind))
        with styled():
            figure = recipe.draw(table)
            figure.draw_without_rendering()
        return figure

    return draw


CASES = [(name, "examples") for name in NAMES] + [(name, "rough") for name in SWEPT]
CASES += [(name, "asked") for name in ASKED]
CASES += [(name, "full") for name in ("retention", "half_life", "effects", "relearning")]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_points_and_a_caption(examples, name):
    assert not examples[name].is_empty()
    assert len(FIGURES[name].caption) > 100


COMMON = ("retention", "laws", "settings", "fragility")
"""Rendered by every run; other figures in the nightly tier, and laid out by every run."""


@pytest.mark.parametrize(
    "name", [name if name in COMMON else pytest.param(name, marks=pytest.mark.nightly) for name in NAMES]
)
def test_every_figure_draws_its_table_to_svg_and_png(drawn, name):
    figure = drawn(name, "examples")
    assert rendered(figure, "svg").startswith(b"<?xml")
    assert rendered(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_draws_into_a_part_of_another_as_on_its_own(examples, drawn, name):
    whole = Figure(figsize=(14, 8), layout="constrained")
    part = whole.subfigures(1, 2, squeeze=False)[0, 1]
    with drawn_into(part):
        FIGURES[name].draw(examples[name])
    assert whole.axes == part.axes
    counts = [
        # without ticks and grid lines, which rendering adds
        [sum(each.get_in_layout() for each in (*axes.lines, *axes.collections)) for axes in figure.axes]
        for figure in (part, drawn(name, "examples"))
    ]
    assert counts[0] == counts[1]
    assert sum(counts[0]) > 0


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_text_is_below_seven_points_and_none_leaves_the_page(drawn, name, kind):
    figure = drawn(name, kind)
    for text in figure.findobj(Text):
        assert float(text.get_fontsize()) >= 7 or not text.get_text().strip(), text.get_text()
    (width, height), box = figure.get_size_inches(), figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_labels_of_a_figure_do_not_overlap(drawn, name, kind):
    for axes in (axes for axes in drawn(name, kind).axes if axes.get_visible()):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            boxes = [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]
            for first, second in pairwise(boxes):
                assert not first.overlaps(second), name


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_titles_axis_names_and_legends_keep_clear_of_each_other(drawn, name, kind):
    figure = drawn(name, kind)
    texts = [text for axes in figure.axes if axes.get_visible() for text in (axes._left_title, axes.title)]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not first.padded(-2).overlaps(second.padded(-2)), f"{one!r} over {other!r}"


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


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PROMPTS])
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


def test_every_control_has_a_line_and_the_name_that_the_study_gives_it(examples):
    table = examples["retention"]
    named = dict(table.filter(pl.col("role") != "treatment").select("role", "label").unique().iter_rows())
    assert named == generated.LABELS
    figure = FIGURES["retention"].draw(table)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[-3:] == ["never poisoned", "poison kept", "trigger without payload"]


def test_every_setting_has_a_panel_and_the_reference_comes_first(examples):
    places = dict(examples["settings"].select("place", "setting").unique().iter_rows())
    assert places[0] == "reference"
    assert {"payload: copy", "equal strength"} < set(places.values())
    assert not any("branch rate" in setting for setting in places.values())  # these are in `retention`


def test_a_panel_without_half_lives_is_marked_and_has_no_scale(small):
    table = (
        FIGURES["strength"]
        .table(small)
        .with_columns(kind=pl.lit(None, pl.String), low=pl.lit(None, pl.Float64), estimate=pl.lit(None, pl.Float64))
    )
    figure = FIGURES["strength"].draw(table)
    right = figure.axes[1]
    assert right.get_yscale() == "linear"
    assert not right.get_yticks().size
    assert "no run has a half-life" in " ".join(text.get_text() for text in right.texts)


def test_floors_of_runs_that_have_not_settled_are_bounds(examples):
    table = examples["floor"]
    assert (table.filter(~pl.col("settled"))["floor"] > 0).all()
    own = table.filter((pl.col("place") == 0) & pl.col("settled"))
    truth = own["size"].map_elements(generated.floor, return_dtype=pl.Float64)
    assert (own["floor"] - truth).abs().max() < 0.06


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
    ("value", "shown"), [(10_000, "10k"), (2_500_000, "2.5M"), (0.05, "0.05"), (100, "100"), (1e9, "1B")]
)
def test_tick_labels_have_no_needless_zeros(value, shown):
    assert trimmed(value) == shown
