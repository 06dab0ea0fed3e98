"""The command line of every study: a preset as first word, its axes and the place as flags."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.secrets import masked
from halflife.sweep import head, session
from halflife.sweep.adaptive import Search
from halflife.sweep.report import SweepReport
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command line says: the study's settings and where to run."""

    settings: Any
    place: ExecutionSite


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Named settings; `summary` is what --help says of them."""

    summary: str
    settings: Any


def main(
    build: Callable[[str, Any, ExecutionSite], Study | Search],
    presets: Mapping[str, Preset],
    *,
    report: Callable[[str, ExecutionSite, str], Path],
    description: str | None,
    arguments: list[str] | None = None,
) -> None:
    """Parse the command, run the study, draw its report. Bad input prints one line and exits with 2.

    `report` is given the study's name, the place and the sweep's digest; it returns the file that it has drawn.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = _parse(presets, description, arguments)
        if command.place.cluster is not None:
            raise SystemExit(_run_on_cluster(arguments, command.place.cluster))
        _execute(build, arguments[0], command, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(presets: Mapping[str, Preset], description: str | None, arguments: list[str]) -> Command:
    import tyro

    if not arguments or (arguments[0] not in presets and arguments[0] not in ("-h", "--help")):
        absent = not arguments or arguments[0].startswith("-")
        given = "no preset was given" if absent else f"unknown preset {arguments[0]!r}"
        raise UserError(f"{given}: expected one of {', '.join(presets)} as the first word (--help explains them)")
    settings_type = type(next(iter(presets.values())).settings)
    command_type = dataclass(frozen=True, kw_only=True)(
        type("Command", (Command,), {"__annotations__": {"settings": settings_type, "place": ExecutionSite}})
    )
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.extras.overridable_config_cli(
                {
                    name: (preset.summary, command_type(settings=preset.settings, place=ExecutionSite()))
                    for name, preset in presets.items()
                },
                description=description or "",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_first_sentence(refusal.getvalue())} (--help explains every flag)") from None


def _first_sentence(box: str) -> str:
    """What the parser's box of several lines says under its title, which is in its border or above a first rule."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [list(part) for rule, part in groupby(lines, lambda line: line.startswith(("──", "-" * 16))) if not rule]
    return " ".join(parts[0 if "╭" in box else 1]).strip()


def _execute(
    build: Callable[[str, Any, ExecutionSite], Study | Search],
    preset: str,
    command: Command,
    report: Callable[[str, ExecutionSite, str], Path],
) -> None:
    from halflife.sweep.launch import run

    place = command.place
    if session.joins():
        head.log_in(place.actual_tracking_uri)
    place.check()  # building a study may take a corpus's time
    if not place.dry_run:
        place.store().prepare()
    try:
        study = build(preset, command.settings, place)
    except OSError as error:
        raise UserError(f"the study cannot be prepared ({error}): make room, or give another --results") from error
    result = run(study, place)
    if not (result.dry_run or result.interrupted or result.unpublished):  # the report is drawn from what is published
        path = report(result.study, place, result.sweep)
        print(f"report: {path.absolute().as_uri()}")
        print(f"runs:   {_where_the_runs_are(place)}", flush=True)
        _attach(result, path.parent)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _run_on_cluster(arguments: list[str], cluster: Path) -> int:
    from halflife.sweep.submit import run_on_cluster

    try:
        return run_on_cluster(Path(sys.argv[0]), arguments, cluster)
    except KeyboardInterrupt:
        print("left: the sweep goes on, the same command follows it again", file=sys.stderr)
        return 130


def _attach(result: SweepReport, folder: Path) -> None:
    """Keep the report with the sweep's run. It has been drawn already: to fail here is no failure of the sweep."""
    from halflife.tracking.publisher import attach

    try:
        attach(result.tracking_uri, experiment=result.study, sweep=result.sweep, folder=folder, name="report")
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def _where_the_runs_are(place: ExecutionSite) -> str:
    """The address of the runs, or the command that shows them in a browser."""
    uri = masked(place.actual_tracking_uri)
    if uri.startswith("http"):
        return uri
    if place.tracking_uri is not None:
        return f"mlflow server --backend-store-uri {shlex.quote(uri)} shows them in the browser"
    folder = place.results.absolute()
    named = "" if folder == Path("results").absolute() else f"HALFLIFE_RESULTS={shlex.quote(str(folder))} "
    return f"{named}make ui shows them in the browser"
