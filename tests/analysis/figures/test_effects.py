from __future__ import annotations

import math
import warnings

import polars as pl

from analysis.decay.effects import EFFECTS, _exp
from analysis.figures.effects import draw_effects


def test_an_interval_wider_than_floats_has_an_infinite_end():
    assert _exp(None) is None
    assert _exp(1.0) == math.e
    assert _exp(1000.0) == math.inf
    assert _exp(-1000.0) == 0.0


def test_an_interval_with_an_infinite_end_is_drawn_out_of_the_panel():
    row = {name: 0.1 if kind == pl.Float64 else 3 if kind == pl.Int64 else "x" for name, kind in EFFECTS.items()}
    table = pl.DataFrame([row | {"ratio": 1.2, "ratio_low": 0.0, "ratio_high": math.inf}], schema=EFFECTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_effects(table)
        figure.canvas.draw()
    low, high = figure.axes[1].get_xlim()
    assert 1e-5 < low < 1.2 < high < 1e5
