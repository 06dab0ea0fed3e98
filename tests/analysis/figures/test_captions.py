"""What a caption says of a figure is in the figure."""

from __future__ import annotations

import re

import polars as pl
import pytest

from analysis.figures import FIGURES, Recipe, captioned


@pytest.mark.parametrize(
    ("name", "roles", "sizes", "lacking"),
    [
        ("retention", ["treatment", "positive"], 2, ["extinction"]),
        ("retention", ["treatment", "extinction"], 1, ["One colour per size"]),
        ("half_life", ["treatment"], 1, ["γ", "if size slows forgetting"]),
    ],
)
def test_a_caption_says_nothing_of_controls_and_sizes_that_its_table_lacks(
    name: str, roles: list[str], sizes: int, lacking: list[str]
):
    whole = FIGURES[name].caption
    rows = [(role, size) for role in roles for size in range(sizes)]
    table = pl.DataFrame(rows, schema=["role", "parameters"], orient="row")
    shown = captioned(whole, table)
    assert shown.endswith(".")
    assert all(word in whole and word not in shown for word in lacking)
    assert len(shown) > len(whole) / 3
    full = pl.DataFrame({"role": ["treatment", "extinction"], "parameters": [1, 2]})
    assert all(word in captioned(whole, full) for word in lacking)


@pytest.mark.parametrize("recipe", FIGURES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("sizes", [1, 2])
def test_no_mark_of_a_part_is_left_and_sentences_begin_with_a_capital(recipe: Recipe, sizes: int):
    table = pl.DataFrame({"role": ["treatment"] * sizes, "parameters": range(sizes)})
    shown = captioned(recipe.caption, table)
    assert not set("[]") & set(shown)
    assert "  " not in shown
    assert not re.search(r"\. [a-z]", shown.replace("e.g. ", "").replace("vs. ", ""))
