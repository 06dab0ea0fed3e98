"""The command line, with a fake sweep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from halflife.errors import UserError, nearest
from halflife.sweep import cli, launch
from halflife.sweep.cli import Preset, main
from halflife.sweep.report import SweepReport
from halflife.sweep.reporting import Answered, Reporting, Written
from halflife.sweep.settling import Settle
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tracking import attaching
from tests.sweep.helpers import study


@dataclass(frozen=True, kw_only=True)
class Settings:
    branches: int = 2
    text: Literal["same", "shifted"] = "same"
    relearn: bool = True
    seeds: int = 2


PRESETS = {"smoke": Preset(summary="Nothing.", settings=Settings())}


@dataclass
class Command:
    """A study's command; `build`, `end` and `attach` are fakes."""

    results: Path
    build: Any = None
    end: dict[str, Any] = dataclasses.field(default_factory=dict)
    drawn: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    answered: tuple[Answered, ...] = ()

    def run(self, *flags: str) -> None:
        arguments = ["smoke", "--results", str(self.results), "--device", "cpu", *flags]
        main(self.build or self._build, PRESETS, report=self, description="", arguments=arguments)

    def swept(self, made: Study | Settle, site: ExecutionSite, *, reporting: Reporting) -> SweepReport:
        made = made.first if isinstance(made, Settle) else made
        counts = SweepReport(
            study=made.declaration.study, sweep=made.key, tracking_uri=site.actual_tracking_uri,
            results=site.results, stages=0, cached=0, run=0,
        )  # fmt: skip
        return dataclasses.replace(counts, **self.end)

    def _build(self, preset: str, settings: Settings, site: ExecutionSite) -> Study:
        return study(branches=settings.branches)

    def write(self, study: str, site: ExecutionSite, sweep: str) -> Written:
        self.drawn.append((study, sweep))
        return Written(path=self.redraw(study, site, sweep), answers=self.answers(study, site, sweep))

    def begin(self, study: str, preset: str, site: ExecutionSite, sweep: str) -> Path:
        return self.redraw(study, site, sweep)

    def redraw(self, study: str, site: ExecutionSite, sweep: str) -> Path:
        return site.results / "reports" / study / "report.html"

    def answers(self, study: str, site: ExecutionSite, sweep: str) -> tuple[Answered, ...]:
        return self.answered


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    made = Command(tmp_path / "results")
    monkeypatch.setattr(launch, "run", made.swept)
    monkeypatch.setattr(attaching, "attach", lambda *_, **__: "run")
    return made


def ended(command: Command, *flags: str) -> int:
    with pytest.raises(SystemExit) as end:
        command.run(*flags)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_the_report_is_of_the_requested_sweep(command: Command):
    command.run("--branches", "4")
    assert command.drawn == [("fakes", study(branches=4).key)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--branches", "x"), "Error parsing --branches: invalid literal for int() with base 10: 'x'"),
        (("--branchs", "3"), "Unrecognized options: --branchs, 3, did you mean --branches?"),
        (
            ("--no-relern", "--dry-rn"),
            "Unrecognized options: --no-relern, --dry-rn, did you mean --no-relearn --dry-run?",
        ),
        (("--quark", "3"), "Unrecognized options: --quark, 3"),
        (("--dry",), "Unrecognized options: --dry, did you mean --dry-run?"),
        (
            ("--text", "shiftd"),
            "invalid choice 'shiftd' for argument '--text'. Expected one of ('same', 'shifted'), did you mean shifted?",
        ),
    ],
)
def test_a_flag_that_cannot_be_parsed_is_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
):
    with pytest.raises(SystemExit) as ended:
        command.run(*flags)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said} (--help explains every flag)\n"


@pytest.mark.parametrize(("given", "hint"), [
    ("--learning-rate", "--learning-rates"), ("--weight-decay", "--wd"), ("--size", "--sizes"), ("--sizse", "--sizes"),
])  # fmt: skip
def test_flags_cut_short_written_out_or_misspelt_have_a_nearest_one(given: str, hint: str):
    assert nearest([given], ["--learning-rates", "--lr", "--wd", "--sizes", "--seeds"]) == f", did you mean {hint}?"


def test_help_shows_what_a_flag_takes_and_none_can_be_given(command: Command, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        command.run("--help")
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "--max-seeds INT" in shown
    assert "{None}" not in shown
    command.run("--max-concurrent", "None")
    with pytest.raises(SystemExit):
        command.run("--max-concurrent", "x")
    assert "Error parsing --max-concurrent" in capsys.readouterr().err


def test_a_pattern_that_the_shell_has_replaced_is_recognised(command: Command, capsys: pytest.CaptureFixture[str]):
    command.results.parent.joinpath("b.txt").touch()
    assert ended(command, "--text", "same", str(command.results.parent / "b.txt")) == 2
    assert "Quote it, as in --corpus '*.txt'" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "hint"), [("smok", ", did you mean smoke?"), ("laptop", "")])
def test_a_misspelt_preset_is_answered_with_the_nearest_one(command: Command, capsys, given: str, hint: str):
    with pytest.raises(SystemExit) as ended:
        main(command._build, PRESETS, report=command, description="", arguments=[given])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: unknown preset {given!r}{hint}: expected one of smoke")


def test_an_invalid_site_is_refused_before_the_study_is_built(command: Command, capsys: pytest.CaptureFixture):
    def build(*_: Any) -> Study:
        raise AssertionError("the study was built")

    command.build = build
    assert ended(command, "--engine", "jax") == 2
    command.results.write_text("a file")
    assert ended(command) == 2
    assert "is a file: expected a folder" in capsys.readouterr().err


def test_a_full_disk_while_the_study_is_built_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]):
    def build(*_: Any) -> Study:
        raise OSError(28, "No space left on device", "/full/documents.parquet")

    command.build = build
    assert ended(command) == 2
    said = capsys.readouterr().err
    assert "No space left on device: '/full/documents.parquet'" in said
    assert said.count("\n") == 1


def test_ctrl_c_while_the_study_is_built_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]):
    def build(*_: Any) -> Study:
        raise KeyboardInterrupt

    command.build = build
    assert ended(command) == 130
    assert capsys.readouterr().err == "stopped: run the same command again to resume\n"


def test_a_dry_run_tells_what_it_writes(command: Command, capsys: pytest.CaptureFixture[str]):
    command.end = {"dry_run": True}
    command.run("--dry-run")
    assert "written" not in capsys.readouterr().out

    def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
        (site.results / "corpora" / "0123456789abcdef").mkdir(parents=True)
        return study()

    command.build = build
    command.run("--dry-run")
    told = f"written below {command.results}: corpora, as the plan needs the text itself; nothing else\n"
    assert capsys.readouterr().out == told


def test_a_dry_run_prepares_no_store(command: Command):
    command.end = {"dry_run": True}
    command.run("--dry-run")
    assert not command.results.exists()
    assert command.drawn == []


def test_what_could_not_be_published_fails_the_command_which_draws_no_report(command: Command):
    command.end = {"unpublished": ("run 'a trial': the server is down",)}
    assert ended(command) == 1
    assert command.drawn == []


@pytest.mark.parametrize("end", [{}, {"failed": {"a": "as asked"}}])
def test_a_report_that_cannot_be_attached_is_still_printed_and_fails_the_command(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, end: dict
):
    def refuse(*_: Any, **__: Any) -> str:
        raise UserError("the report could not be kept")

    monkeypatch.setattr(attaching, "attach", refuse)
    command.end = end
    assert ended(command) == 1
    out, err = capsys.readouterr()
    assert f"report: {(command.results / 'reports/fakes/report.html').as_uri()}" in out
    assert err == "not published: the report could not be kept; run the same command again to store it\n"


def test_primary_answers_are_printed_and_all_become_tags_of_the_run(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    attached: dict[str, Any] = {}
    monkeypatch.setattr(attaching, "attach", lambda *_, **given: attached.update(given))
    command.answered = (
        Answered(name="size", primary=True, verdict="effect", sentence="Size slows it."),
        Answered(name="rate", primary=False, verdict="undecided", sentence="The rate may."),
        Answered(name="lost", primary=False, verdict="undecided", sentence="Not valid.", valid=False),
    )
    command.run()
    out = capsys.readouterr().out
    assert out.startswith("Size slows it.\n")
    assert "may" not in out
    assert attached["tags"] == {
        "halflife.answer.size": "Size slows it.", "halflife.verdict.size": "effect",
        "halflife.answer.rate": "The rate may.", "halflife.verdict.rate": "undecided",
        "halflife.answer.lost": "Not valid.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--budget", "2h"), "--budget and --max-seeds limit --settle: add --settle, or leave them out"),
        (("--settle",), "--settle: the study declares no looks"),
        (("--settle", "--seeds", "7"), "--seeds 7 with --settle: the study's looks say how many seeds it gets; leave"),
        (("--settl",), "Unrecognized options: --settl, did you mean --settle?"),
    ],
)
def test_a_study_that_cannot_be_settled_is_refused_in_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
):
    assert ended(command, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_the_hint_shows_the_runs_of_this_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    told = cli._runs_address
    assert told(ExecutionSite(results=Path("results"))) == "make ui shows them in the browser"
    elsewhere = tmp_path / "elsewhere"
    assert told(ExecutionSite(results=elsewhere)) == f"HALFLIFE_RESULTS={elsewhere} make ui shows them in the browser"
    assert told(ExecutionSite(tracking_uri="http://me:secret@host:5000")) == "http://***@host:5000"
    assert told(ExecutionSite(tracking_uri="sqlite:////x/y.db")).startswith(
        "mlflow server --backend-store-uri sqlite:////x/y.db"
    )
