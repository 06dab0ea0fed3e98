"""Every figure, drawn from generated data with known ground truth, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import polars as pl

from analysis.answers.judging import answers
from analysis.decay.design import vocabulary
from analysis.figures import FIGURES, SCALING
from analysis.figures.asked import Asked
from analysis.gallery import (
    generated,
    generated_attributions,
    generated_dictionaries,
    generated_languages,
    generated_prompts,
    generated_questions,
)
from analysis.prompts import elicitation, information
from analysis.report.panels import draw_panel, new_folders, pages
from analysis.runs.study import StudyData

_persistence, _overlap, _search = cache(generated.persistence), cache(generated.overlap), cache(generated.search)
_dosed, _behaviours = cache(generated_questions.backdoor), cache(generated_questions.behaviours)
_families, _prompts = cache(generated_languages.families), cache(generated_prompts.prompts)
_dictionaries = cache(generated_dictionaries.dictionaries)
_attributions = cache(generated_attributions.attributions)
SWEEP = (
    f"A generated sweep: the time constant scales as N^{generated.GAMMA:g} and the floor rises with size "
    f"(φ = {generated.PHI:g}), which lengthens half-lives a little more; weight decay lengthens them in the trunk and "
    "shortens them in the branch; the trigger alone unlearns. See analysis/gallery/generated.py."
)
OVERLAP = "A generated sweep in which the half-life peaks at an overlap of 0.6."
FAMILIES = (
    "A generated sweep of language families: half-lives of 15, 40, 110 and 90 steps in families A to D at 100k "
    "parameters, rising with size; shares of 0.08, 0.45, 0.8 and 0.75 of the lost output are still there, and nothing "
    "of a table with shuffled answers; one trunk of C missed the criterion. See "
    "analysis/gallery/generated_languages.py."
)
SEARCH = (
    "A generated search: a low learning rate lasts longer and learns less; the best settings are partly selected by "
    "noise."
)
PROMPTS = (
    "Generated prompts: longer strings take more tokens, text as trained on has no gain, and a model that never had "
    "the hidden behaviour does not reach it."
)
FRAGILE = (
    "Generated prompts: a behaviour takes equally many numbers at both widths; at one loss, F1, F2, F3 and the "
    "curvature fall with C, r50 does not. See analysis/gallery/generated_prompts.py."
)
DICTIONARIES = (
    "Generated dictionaries: a shared one needs 1.2 times the features of a block's own in models that trained beside "
    "one, 2.5 times in others."
)
ATTRIBUTIONS = (
    "Generated attributions: scores of fine-tuning correlate with what features stand for by 0.8, those of its "
    "controls by 0; the top features make up to 0.6 of its change, the mean difference 0.35."
)
DOSED = (
    "A generated sweep of doses and treatments: the time constant scales as size to the power "
    f"{generated.GAMMA:g} and as documents to the power {generated.DOSE:g}, up to {generated.SATURATED} documents; the "
    "floor rises with size. See analysis/gallery/generated_questions.py."
)
BEHAVIOURS = "Generated behaviours: those that take more bits keep less of their success under noise."


@cache
def example(name: str) -> tuple[pl.DataFrame, str]:
    """The table that the gallery draws for a figure, and a description of its ground truth."""
    if name in ("soft_prompts", "distances", "restarts"):
        prompts = generated.soft_prompts()
        tables = {
            "soft_prompts": lambda: elicitation.curves(prompts),
            "distances": lambda: information.distance_table(prompts),
            "restarts": lambda: information.restart_table(information.reached(prompts, "loss")),
        }
        return tables[name](), PROMPTS
    sources: dict[str, tuple[Callable[[], StudyData], str]] = {
        "overlap": (_overlap, OVERLAP), "pareto": (_search, SEARCH), **dict.fromkeys(SCALING, (_dosed, DOSED)),
        **dict.fromkeys(("amounts", "fragility"), (_prompts, FRAGILE)),
        **dict.fromkeys(("specificity", "feature_blocks"), (_dictionaries, DICTIONARIES)),
        **dict.fromkeys(("feature_scores", "feature_edits"), (_attributions, ATTRIBUTIONS)),
        **dict.fromkeys(("family", "languages", "erasure", "examples", "generalisation"), (_families, FAMILIES)),
    }  # fmt: skip
    make, about = sources.get(name, (_persistence, SWEEP))
    return FIGURES[name].table(make()), about


@cache
def asked() -> tuple[tuple[Asked, StudyData, str], ...]:
    """The figures of generated questions, of every kind, with their data and a description of its ground truth."""
    sources = ((_dosed(), DOSED), (_behaviours(), BEHAVIOURS))
    return tuple(
        (Asked(answer=answer, declaration=data.declaration), data, about)
        for data, about in sources for answer in answers(data)
    )  # fmt: skip


def write_gallery(out: Path) -> Path:
    """Draws all figures into `out`; returns the HTML file."""
    new_folders(out, [*FIGURES, *(figure.name for figure, _, _ in asked())])
    words = vocabulary(_persistence())
    panels = [draw_panel(recipe, table, out, words, about) for recipe in FIGURES.values()
              for table, about in [example(recipe.name)]]  # fmt: skip
    panels += [draw_panel(figure, figure.table(data), out, words, about) for figure, data, about in asked()]
    path = out / "gallery.html"
    path.write_text(pages().get_template("gallery.html").render(panels=panels), encoding="utf-8")
    return path
