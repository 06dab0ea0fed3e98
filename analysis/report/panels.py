"""Figures as a page shows them: image, caption, and the table behind them; also written as files next to the page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.figures import Recipe, captioned
from analysis.figures.asked import Asked
from analysis.figures.style import WIDTH, rendered
from analysis.report.rows import slug
from analysis.report.tables import Table, csv_text, page_table


@dataclass(frozen=True, kw_only=True)
class FigurePanel:
    """A figure on the page; without an image, the caption gives the reason."""

    name: str
    title: str
    caption: str
    image: str = ""
    """data: URI of the SVG."""
    table: Table | None = None
    narrow: bool = False
    about: str = ""
    """A note about the data, shown before the figure."""


def draw_panel(
    recipe: Recipe | Asked, table: pl.DataFrame, out: Path, words: Mapping[str, str], about: str = "", *,
    prefix: str = "", suffix: str = "", png: bool = True,
) -> FigurePanel:  # fmt: skip
    """Writes figures/NAME.svg and .png and tables/NAME.csv below `out`; nothing if the table is empty.

    `words`: the study's vocabulary (design.vocabulary). `prefix`, `suffix`: added to the name. `png`: also a PNG, which
    takes half as long again.
    """
    name, title = slug(f"{prefix}{recipe.name}{suffix}"), recipe.title.format(**words)
    if table.is_empty():
        return FigurePanel(name=name, title=title, caption=f"Nothing to draw: {recipe.nothing.format(**words)}.")
    figure = recipe.draw(table)
    svg = rendered(figure, "svg")
    (out / "figures" / f"{name}.svg").write_bytes(svg)
    if png:
        (out / "figures" / f"{name}.png").write_bytes(rendered(figure, "png"))
    (out / "tables" / f"{name}.csv").write_text(csv_text(table), encoding="utf-8")
    return FigurePanel(
        name=name, title=title, caption=captioned(recipe.caption, table).format(**words), table=page_table(table),
        about=about, narrow=figure.get_figwidth() < WIDTH,
        image="data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
    )  # fmt: skip


def new_folders(out: Path, names: Iterable[str], prefix: str = "") -> None:
    """Creates `out` with figures/ and tables/, and removes the files of these names, and of names with this prefix,
    that an earlier page left."""
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("figures", "tables"):
        (out / folder).mkdir(exist_ok=True)
        for file in (out / folder).glob(f"{prefix}*") if prefix else ():
            file.unlink()
    for name in names:
        for file in (f"figures/{name}.svg", f"figures/{name}.png", f"tables/{name}.csv"):
            (out / file).unlink(missing_ok=True)


def pages() -> Environment:
    """The templates; they escape every text from the data."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
