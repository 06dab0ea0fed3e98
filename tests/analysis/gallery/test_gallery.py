from __future__ import annotations

import re
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from analysis.__main__ import main
from analysis.figures import FIGURES
from analysis.gallery import generated
from analysis.gallery.page import asked
from analysis.report import panels
from halflife.tracking.questions import QUESTIONS


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Drawn by the command, with a small image in the place of each rendering: figures have their own tests."""
    out = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "rendered", lambda figure, kind: f"<svg>{kind}</svg>".encode())
        main(["gallery", "--out", str(out)])
    return out / "gallery.html"


def test_the_gallery_holds_every_figure_and_opens_offline(page):
    text = page.read_text(encoding="utf-8")
    for name in [*FIGURES, *(figure.name for figure, _, _ in asked())]:
        assert f'<section id="{name}">' in text
        assert (page.parent / "figures" / f"{name}.svg").exists()
        assert (page.parent / "figures" / f"{name}.png").exists()
        assert (page.parent / "tables" / f"{name}.csv").stat().st_size > 100
    assert "Nothing to draw" not in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in text


def test_the_gallery_has_a_question_of_every_kind():
    assert {figure.answer.question.kind for figure, _, _ in asked()} == set(QUESTIONS)
    assert not any(figure.answer.problem for figure, _, _ in asked())


def test_generated_data_are_the_same_every_time():
    for make in (generated.overlap, generated.search):
        one, other = make(), make()
        assert_frame_equal(one.points, other.points)
        assert_frame_equal(one.trials, other.trials)
    assert_frame_equal(generated.soft_prompts(), generated.soft_prompts())
