from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from analysis.__main__ import main
from analysis.decay.fits import menu
from analysis.errors import UserError
from analysis.figures import FIGURES, SCALING
from analysis.report import panels
from analysis.report import write as writing
from analysis.report.decay_section import ALWAYS, FITTED
from analysis.report.kept import default_folder
from analysis.report.page import report_page
from analysis.report.tables import cell
from analysis.report.write import write_report
from halflife.tracking import schema
from tests.analysis import planted
from tests.analysis.conftest import SMALL

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }} $\\frac{"
TINY = replace(SMALL, sizes=("30k", "100k"), seeds=2, rates=(1.0,), branch_regularizers=("none",))


class Tags(HTMLParser):
    """Elements of a page, and those that were opened and not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def quick(monkeypatch) -> None:
    """Figures are drawn and not rendered: for tests of the text around them."""
    monkeypatch.setattr(panels, "rendered", lambda figure, kind: f"<svg>{kind}</svg>".encode())


@pytest.fixture(scope="module")
def small_report(small_uri, tmp_path_factory) -> Path:
    return write_report(SMALL.study, tracking_uri=small_uri, out=tmp_path_factory.mktemp("report"))


def test_figures_and_tables_of_an_earlier_report_are_removed_and_nothing_else(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(writing, "FIGURES", {**FIGURES, "other": FIGURES["retention"]})
    uri = planted.write(tmp_path, TINY)
    stale, own = (tmp_path / "out" / "figures" / name for name in ("other.svg", "mine.svg"))
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    own.write_text("old")
    write_report(TINY.study, tracking_uri=uri, out=tmp_path / "out")
    assert not stale.exists()
    assert own.read_text() == "old"


@pytest.fixture(scope="module")
def text(small_report) -> str:
    return small_report.read_text(encoding="utf-8")


def test_the_report_opens_offline(text):
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    links = [value or "" for _, tag in parser.seen for name, value in tag.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in parser.seen)
    targets = {attributes["id"] for _, attributes in parser.seen if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= targets


def test_a_study_without_questions_says_so_and_has_a_full_report(text):
    body = text[text.index("<main>") :]
    opens = body.index("This study declares no questions.")
    assert opens < body.index("Design and controls") < body.index("Figures") < body.index("Laws fitted")
    assert "not valid" not in body


def test_the_report_can_be_reproduced(text):
    assert "0123abc" in text
    assert "5eed5eed5eed" in text
    assert "Share of slot time spent in training and evaluation" in text
    assert "0.87" in text


def test_every_declared_figure_has_image_caption_table_and_files(text, small_report):
    names = (*planted.declaration(SMALL).figures, *ALWAYS, *FITTED, *SCALING)
    for name in names:
        assert f'<section id="{name}">' in text
        own = (f"figures/{name}.png",) if name in (SCALING[0], *planted.declaration(SMALL).figures) else ()
        for place in (f"figures/{name}.svg", f"tables/{name}.csv", *own):
            assert (small_report.parent / place).stat().st_size > 100
    assert text.count("data:image/svg+xml;base64,") == len(names)


def test_the_report_shows_every_law_with_what_to_beware_of(text, small_report):
    body = text[text.index('<h2 id="fits">') :]
    table = pl.read_csv(small_report.parent / "tables/fits.csv")
    assert set(table["law"]) == {law.name for law in menu()}
    for law in menu():
        assert f">{law.name.replace('_', ' ')}</td>" in body
    assert "held-out error" in body
    clocks = pl.read_csv(small_report.parent / "tables/fit_clocks.csv")
    assert set(clocks["clock"]) == {"tokens", "steps", "rate_sum", "displacement"}
    half_lives = body[body.index("The half-life under laws with support, on every clock") :].partition("</details>")[0]
    assert half_lives.count("<tr>") == 1 + clocks["size"].n_unique() + clocks.select("size", "law").unique().height
    assert "(Mis)Fitting checklist" in body
    assert not any(len(row) != len(table.columns) for row in table.iter_rows())


def test_the_download_of_every_number_has_all_trials_and_missing_values_empty(text, small_report, small):
    encoded = re.search(r'href="data:text/csv;base64,([^"]+)" download="numbers.csv"', text)
    assert encoded is not None
    numbers = pl.read_csv(io.BytesIO(base64.b64decode(encoded[1])))
    assert set(numbers["trial"]) == set(small.trials["trial"])
    assert numbers.equals(pl.read_csv(small_report.parent / "tables/numbers.csv"))
    absent = numbers.filter(pl.col("role") == "absent")
    assert absent["half_life_tokens"].null_count() == absent.height


def test_a_hostile_study_cannot_reach_the_page_or_leave_its_folder(tmp_path, quick):
    hostile = replace(TINY, study=HOSTILE, title=HOSTILE, preset=HOSTILE, tags={schema.TAG_COMMAND: HOSTILE})
    uri = planted.write(tmp_path / "results", hostile)
    path = write_report(HOSTILE, tracking_uri=uri, out=default_folder(tmp_path / "results", HOSTILE))
    page = path.read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(page)
    assert not any(tag == "script" for tag, _ in parser.seen)
    assert not any(name.startswith("on") for _, attributes in parser.seen for name in attributes)
    assert "&lt;script&gt;alert(&#39;x&#39;)" in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page, re.DOTALL)[0]


SECRETS = (
    "password", "token", "secret", "api_key", "signature", "access_key", "sig", "credential", "X-Amz-Credential",
    "auth_token", "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip
"""Parameters of a query whose values are secrets."""


def test_secrets_of_a_tracking_uri_do_not_reach_the_page(small, tmp_path, quick):
    query = "&".join(f"{name}=s3cret{i}" for i, name in enumerate(SECRETS))
    uri = f"https://ann:s3cret@mlflow.example:5000/?region=eu&{query}"
    tags = {**small.sweep.tags, schema.TAG_COMMAND: f"python study.py --tracking-uri {uri}"}
    declaration = replace(small.declaration, settings={"tracking_uri": uri}, figures=(), notes=(f"runs in {uri}",))
    panels.new_folders(tmp_path, ())
    html = report_page(replace(small, sweep=replace(small.sweep, tags=tags), declaration=declaration), tmp_path, uri)
    assert "s3cret" not in html
    places = ("command", "settings", "tracking store", "note")
    assert html.count("https://***@mlflow.example:5000/?region=eu&amp;password=***") == len(places)


@pytest.mark.parametrize("study", ["../../etc", "..", "/tmp/x", "a/b", "."])
def test_the_reports_folder_stays_below_the_results(tmp_path, study):
    folder = default_folder(tmp_path, study)
    assert folder.resolve().parent == (tmp_path / "reports").resolve()


def test_an_invalid_preset_is_announced_before_the_answer(tmp_path, quick):
    uri = planted.write(tmp_path, replace(TINY, clean_gap=0.3))
    page = write_report(TINY.study, tracking_uri=uri, out=tmp_path / "out").read_text(encoding="utf-8")
    assert page.index("These runs are not valid") < page.index("This study declares no questions")


def test_a_report_of_half_a_sweep_shows_what_there_is(tmp_path, quick):
    never = replace(TINY, never_implanted=(("30k", 0), ("30k", 1)), relearn=False, branch_steps=10)
    uri = planted.write(tmp_path, never)
    page = write_report(TINY.study, tracking_uri=uri, out=tmp_path / "out").read_text(encoding="utf-8")
    assert "no relearning was run" in page
    assert "2 of 4: 30k seed 0, 30k seed 1" in page


def test_a_sweep_without_points_is_one_clear_line(tmp_path):
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    writer.artifact(parent, schema.DECLARATION, planted.declaration(TINY).to_json())
    writer.close()
    with pytest.raises(UserError, match="no measured points yet"):
        write_report(TINY.study, tracking_uri=writer.uri, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_report_needs_neither_torch_nor_ray(tmp_path):
    uri = planted.write(tmp_path / "results", replace(TINY, sizes=("30k",)))
    program = f"""
import sys
from importlib.machinery import ModuleSpec

class Blocked:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in ("torch", "ray", "deepspeed") else None

    def create_module(self, spec):
        raise ImportError(spec.name + " is blocked")

    def exec_module(self, module): ...

sys.meta_path.insert(0, Blocked())
try:
    import torch
except ImportError:
    from analysis.__main__ import main
main(["report", {TINY.study!r}, "--tracking-uri", {uri!r}, "--out", {str(tmp_path)!r}])
assert not {{"mlflow", "torch", "ray"}} & set(sys.modules)
assert {{name for name in sys.modules if name.startswith("halflife.")}} == {{
    "halflife.secrets", "halflife.tracking", "halflife.tracking.criteria", "halflife.tracking.derived",
        "halflife.tracking.questions", "halflife.tracking.schema",
}}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize("arguments", [
    ["report", "nope", "--results", "{folder}"],
    ["report", "x", "--results", "{folder}/none"],
    ["report"],
    ["unknown"],
])  # fmt: skip
def test_bad_input_exits_with_two_and_no_traceback(tmp_path, capsys, arguments):
    planted.write(tmp_path, replace(TINY, relearn=False, seeds=1))
    with pytest.raises(SystemExit) as caught:
        main([argument.format(folder=tmp_path) for argument in arguments])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_sweeps_lists_what_a_store_holds(tmp_path, capsys):
    planted.write(tmp_path, replace(TINY, relearn=False, seeds=1))
    main(["sweeps", "--results", str(tmp_path)])
    assert "5eed" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "shown"), [
    (None, "–"), (float("nan"), "–"), (0, "0"), (0.0, "0"), (True, "yes"), (123456.7, "123,457"), (0.123456, "0.1235"),
    (12_000, "12,000"), ("<b>", "<b>"),
])  # fmt: skip
def test_cells_show_missing_as_missing_and_zero_as_zero(value, shown):
    assert cell(value) == shown
