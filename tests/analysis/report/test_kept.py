"""Reports are kept: a folder for each sweep, and `latest` leads to the newest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.report import panels, write
from analysis.report.kept import begun, folder_of, own_folder, point_latest
from analysis.report.write import write_report
from analysis.runs.study import StudyData
from halflife.tracking.schema import TAG_SWEEP
from tests.analysis.answers.test_answers import UP, lamps


def swept(digest: str, preset: str = "demo", *, newest: bool = True) -> StudyData:
    data = lamps([UP], slope=0.3, preset=preset)
    tags = {**data.sweep.tags, TAG_SWEEP: digest}
    return replace(data, sweep=replace(data.sweep, tags=tags), newest=newest)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws the report of a sweep into a study's folder."""
    monkeypatch.setattr(panels, "rendered", lambda figure, kind: b"<svg></svg>")
    monkeypatch.setattr(write, "report_page", lambda data, out, uri, live: data.sweep.tags[TAG_SWEEP])

    def draw(data: StudyData) -> Path:
        monkeypatch.setattr(write, "load_study", lambda *given: data)
        return write_report("lamps", tracking_uri="x", out=tmp_path / "lamps", live=True, kept=True)

    return draw


def test_a_second_sweep_overwrites_nothing_and_the_same_draws_its_own_again(drawn, tmp_path):
    first, second = drawn(swept("1" * 40)), drawn(swept("2" * 40))
    assert first.read_text() == "1" * 40
    assert second.read_text() == "2" * 40
    assert first.parent.name == "demo-111111111111"
    assert drawn(swept("1" * 40)) == first
    assert drawn(swept("1" * 40, preset="laptop")) != first


def test_latest_leads_to_the_newest_and_moves_with_its_folder(drawn, tmp_path):
    drawn(swept("1" * 40))
    drawn(swept("2" * 40))
    drawn(swept("1" * 40, newest=False))
    moved = (tmp_path / "lamps").rename(tmp_path / "elsewhere")
    assert (moved / "latest" / "report.html").read_text() == "2" * 40
    assert not list(moved.glob(".latest*"))


def test_where_no_link_can_be_made_a_page_leads_to_the_newest(tmp_path, monkeypatch):
    def refused(*given, **named):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    point_latest(tmp_path / 'demo-"1"')
    assert 'url=demo-&quot;1&quot;/report.html"' in (tmp_path / "latest.html").read_text()


def test_the_page_of_a_sweep_that_begins_waits_where_its_report_will_be_and_replaces_none(drawn, tmp_path):
    data = swept("a" * 20)
    path = begun(folder_of(tmp_path, data.declaration.preset, "a" * 20))
    assert path.parent == own_folder(tmp_path, data)
    assert "http-equiv" in path.read_text()
    path.write_text("drawn")
    assert begun(path.parent).read_text() == "drawn"
