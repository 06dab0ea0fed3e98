"""The command line of every study: a preset as first word, its axes and the place as flags."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.sweep.place import Place
from halflife.sweep.study import Study


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command line says: the study's settings and where to run."""

    settings: Any
    place: Place


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Named settings; `summary` is what --help says of them."""

    summary: str
    settings: Any


def main(
    build: Callable[[str, Any, Place], Study],
    presets: Mapping[str, Preset],
    *,
    report: Callable[[str, Place], Path],
    description: str | None,
    arguments: list[str] | None = None,
) -> None:
    """Parse the command, run the study, draw its report. Bad input prints one line and exits with 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = _parse(presets, description, arguments)
        _execute(build, arguments[0], command, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parse(presets: Mapping[str, Preset], description: str | None, arguments: list[str]) -> Command:
    import tyro

    if not arguments or (arguments[0] not in presets and arguments[0] not in ("-h", "--help")):
        absent = not arguments or arguments[0].startswith("-")
        given = "no preset was given" if absent else f"unknown preset {arguments[0]!r}"
        raise UserError(f"{given}: expected one of {', '.join(presets)} as the first word (--help explains them)")
    settings_type = type(next(iter(presets.values())).settings)
    command_type = dataclass(frozen=True, kw_only=True)(
        type("Command", (Command,), {"__annotations__": {"settings": settings_type, "place": Place}})
    )
    return tyro.extras.overridable_config_cli(
        {
            name: (preset.summary, command_type(settings=preset.settings, place=Place()))
            for name, preset in presets.items()
        },
        description=description or "",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _execute(
    build: Callable[[str, Any, Place], Study], preset: str, command: Command, report: Callable[[str, Place], Path]
) -> None:
    from halflife.sweep.launch import run
    from halflife.tracking.publisher import attach

    study = build(preset, command.settings, command.place)
    result = run(study, command.place)
    if not (result.dry_run or result.interrupted or result.unpublished):  # the report is drawn from what is published
        path = report(study.declaration.study, command.place)
        attach(result.tracking_uri, experiment=result.study, sweep=result.sweep, folder=path.parent, name="report")
        print(f"report: {path.absolute().as_uri()}")
        print(f"runs:   {result.tracking_uri} (make ui shows them in the browser)")
    if result.exit_code:
        raise SystemExit(result.exit_code)
