"""The command line: `python -m analysis report STUDY`. Bad input: one line, exit code 2."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro

from analysis.answers.on_tables import associate, contrast, trend
from analysis.errors import UserError, closest, nearest
from analysis.fitting import progress
from analysis.fitting.command import compare, fit
from analysis.fitting.scaling_commands import isoflop, laws
from analysis.report.scaling_command import scaling
from analysis.runs.places import results_folder, store_of


def report(
    study: Annotated[str, tyro.conf.Positional],
    /,
    *,
    sweep: str | None = None,
    results: Path | None = None,
    tracking_uri: str | None = None,
    out: Path | None = None,
) -> None:
    """Draw a study's report from its runs and print its path.

    Args:
        study: Name of the study, such as backdoor_persistence.
        sweep: Digest of a sweep, or its first characters; by default the newest.
        results: Results folder or bucket of the runs (also HALFLIFE_RESULTS; default: results).
        tracking_uri: MLflow store to read; by default mlflow.db in the results folder.
        out: Folder to write to; by default one of the sweep's own in reports/STUDY in the results folder, where
            `latest` leads to the newest.
    """
    from analysis.report.kept import default_folder
    from analysis.report.write import write_report

    folder = out or default_folder(results_folder(results), study)
    uri, cache = store_of(results, tracking_uri)
    print(write_report(study, tracking_uri=uri, out=folder, sweep=sweep, cache=cache, kept=out is None))


def export(
    study: Annotated[str, tyro.conf.Positional],
    /,
    *,
    out: Path,
    format: Literal["csv", "parquet"] = "csv",
    sweep: str | None = None,
    results: Path | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write a study's tidy tables, the tables computed from them, and a data dictionary.

    Args:
        study: Name of the study, such as backdoor_persistence.
        out: Folder to write to; other commands read it with --tracking-uri in place of a store.
        format: Format of the tables; the data dictionary is always CSV.
        sweep: Digest of a sweep, or its first characters; by default the newest.
        results: Results folder or bucket of the runs (also HALFLIFE_RESULTS; default: results).
        tracking_uri: MLflow store to read; by default mlflow.db in the results folder.
    """
    from analysis.report.export import write_tables
    from analysis.runs.load import load_study

    uri, cache = store_of(results, tracking_uri)
    data = load_study(uri, study, sweep, cache)
    for path in write_tables(data, out, format):
        print(path)


def answers(
    study: Annotated[str, tyro.conf.Positional],
    /,
    *,
    sweep: str | None = None,
    results: Path | None = None,
    tracking_uri: str | None = None,
    out: Path | None = None,
) -> None:
    """Answer the questions that a study declared, one sentence each, and write answers.json and answers.csv.

    Args:
        study: Name of the study, such as backdoor_persistence.
        sweep: Digest of a sweep, or its first characters; by default the newest.
        results: Results folder or bucket of the runs (also HALFLIFE_RESULTS; default: results).
        tracking_uri: MLflow store to read, or folder written by export; by default mlflow.db in the results folder.
        out: Folder to write to; by default that of the sweep's report.
    """
    from analysis.answers.write import lines, write_answers
    from analysis.report.kept import default_folder, own_folder
    from analysis.runs.load import load_study

    uri, cache = store_of(results, tracking_uri)
    data = load_study(uri, study, sweep, cache)
    paths = write_answers(data, out or own_folder(default_folder(results_folder(results), study), data))
    print("\n".join([*lines(data), *map(str, paths)]))


def features(
    study: Annotated[str, tyro.conf.Positional],
    /,
    *,
    labels: Path | None = None,
    sweep: str | None = None,
    results: Path | None = None,
    tracking_uri: str | None = None,
    out: Path | None = None,
) -> None:
    """Write the features that fine-tuning used, among others and blinded, to be labelled; or score the labels.

    Args:
        study: Name of the study, such as finetuning_attribution, that was run with --shown.
        labels: The file that was written, with its labels filled in: print their agreement with the intent.
        sweep: Digest of a sweep, or its first characters; by default the newest.
        results: Results folder or bucket of the runs (also HALFLIFE_RESULTS; default: results).
        tracking_uri: MLflow store to read, or folder written by export; by default mlflow.db in the results folder.
        out: Folder to write to; by default that of the sweep's report.
    """
    from analysis.report.features_command import agreement_line, write_features
    from analysis.report.kept import default_folder, own_folder
    from analysis.runs.load import load_study

    uri, cache = store_of(results, tracking_uri)
    data = load_study(uri, study, sweep, cache)
    if labels is not None:
        print(agreement_line(data, labels))
        return
    for path in write_features(data, out or own_folder(default_folder(results_folder(results), study), data)):
        print(path)


def gallery(*, out: Path | None = None) -> None:
    """Draw every figure from generated data and print the path of the page.

    Args:
        out: Folder to write to; by default reports/gallery in the results folder.
    """
    from analysis.gallery.page import write_gallery

    print(write_gallery(out or results_folder(None) / "reports" / "gallery"))


def prompts(
    table: Annotated[Path, tyro.conf.Positional], /, *, threshold: float | None = None, out: Path | None = None
) -> None:
    """Draw a page with C and S from a table of soft prompts, such as the published ones, and print its path.

    Args:
        table: CSV with behaviour, model (present or absent), series, k, restart, seed and loss, and if known hits,
            trials and train_loss; or the reference work's final_losses.csv.
        threshold: Loss in nats per token that counts as reached; by default half of each behaviour's gap.
        out: Folder to write to; by default reports/prompts in the results folder.
    """
    from analysis.report.prompts_section import write_prompts

    print(write_prompts(table, out or results_folder(None) / "reports" / "prompts", threshold))


def sweeps(*, results: Path | None = None, tracking_uri: str | None = None) -> None:
    """List the sweeps in a store, newest last.

    Args:
        results: Results folder or bucket of the runs (also HALFLIFE_RESULTS; default: results).
        tracking_uri: MLflow store, or folder written by export; by default mlflow.db in the results folder.
    """
    from datetime import datetime

    from analysis.runs.load import find_sweeps
    from analysis.runs.open import open_store
    from analysis.runs.tables import is_tables, table_sweeps
    from halflife.tracking import schema

    uri, _ = store_of(results, tracking_uri)
    for run in table_sweeps(Path(uri)) if is_tables(uri) else find_sweeps(open_store(uri)):
        started = datetime.fromtimestamp(run.started / 1000).strftime("%Y-%m-%d %H:%M")
        study, digest = run.tags.get(schema.TAG_STUDY, "?"), run.tags.get(schema.TAG_SWEEP, "?")
        print(f"{study}  {digest[:12]}  {started}  {run.status.lower()}  {run.name}")


COMMANDS = {
    "report": report, "answers": answers, "export": export, "features": features, "gallery": gallery,
    "prompts": prompts, "sweeps": sweeps,
    "laws": laws, "fit": fit, "compare": compare, "isoflop": isoflop, "scaling": scaling,
    "contrast": contrast, "trend": trend, "associate": associate,
}  # fmt: skip
FITTING = (fit, compare, isoflop, scaling)
"""Commands that say how far their fits are. How far one of a report's many fits is says nothing of the report."""


def main(arguments: list[str] | None = None) -> None:
    try:
        run = _parse(arguments)
        with progress.shown() if run.func in FITTING else contextlib.nullcontext():
            run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parse(arguments: list[str] | None) -> functools.partial[None]:
    """The command with its arguments, not yet run. Parser errors, a box of several lines, become one line."""
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            commands = {name: _bind(command) for name, command in COMMANDS.items()}
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog="python -m analysis", args=arguments,
                description="Reports drawn from MLflow, laws fitted to any table. Needs neither torch nor ray.",
                config=(tyro.conf.DisallowNone,),
            )  # fmt: skip
    except SystemExit as end:
        if not end.code:  # --help
            raise
        _refuse_misspelt(sys.argv[1:] if arguments is None else arguments)
        raise UserError(f"{_message(refusal.getvalue())} (--help explains every flag)") from None


_PERCENT = re.compile(r"[\d.]*\d[\d.]*%")


def _message(box: str) -> str:
    """The message in the parser's box, below its title, which is in the border or above the first rule."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [list(part) for rule, part in groupby(lines, lambda line: line.startswith(("──", "-" * 16))) if not rule]
    text = " ".join(parts[0 if "╭" in box else 1]).strip()
    if found := re.match(r"Error parsing (--\S+): no type matching (?:FLOAT|INT)\b.* from \['(.*?)'\]", text):
        flag, given = found.groups()
        share = f", such as {float(given[:-1]) / 100:g} for {given} of a share" if _PERCENT.fullmatch(given) else ""
        return f"{flag} is {given!r}: expected a number{share}"
    if found := re.match(r"invalid choice '(.*?)' for argument '(--\S+)'. Expected one of \((.*)\)", text):
        given, flag, known = found[1], found[2], sorted(set(re.findall(r"'(.*?)'", found[3])) - {"None"})
        return f"{flag} is {given!r}{nearest(given, known)}: expected one of {', '.join(known)}"
    return text


def _refuse_misspelt(arguments: list[str]) -> None:
    """Raises UserError with the nearest right word, where the command or a flag is none."""
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        given = f"unknown command {command!r}{nearest(command, COMMANDS)}" if command else "no command given"
        raise UserError(f"{given}: expected one of {', '.join(COMMANDS)} (--help explains them)")
    known = {f"--{name.replace('_', '-')}" for name in _flags(COMMANDS[command])}
    words = [word.partition("=")[0].replace("_", "-") for word in arguments[1:] if word.startswith("--")]
    if unknown := [word for word in words if word not in known | {f"--no-{name[2:]}" for name in known}]:
        given, names = unknown[0].removeprefix("--"), {name.removeprefix("--") for name in known}
        meant = closest(given, names, 0.75) or _described(COMMANDS[command], given) or closest(given, names)
        hint = f", did you mean --{meant}?" if meant else f": it has {', '.join(sorted(known))}"
        raise UserError(f"{command} has no flag {unknown[0]}{hint} (--help explains every flag)")


def _described(command: Callable[..., None], word: str) -> str | None:
    """The first flag whose description has the word, of five letters or more: --budget for flops."""
    for line in (command.__doc__ or "").partition("Args:")[2].splitlines():
        name, colon, about = line.strip().partition(": ")
        if colon and len(word) > 4 and word.lower() in re.split(r"\W+", about.lower()):
            return name.replace("_", "-")
    return None


def _flags(command: Callable[..., None]) -> Iterator[str]:
    """Names of a command's arguments, those of groups among them as well."""
    for name, kind in get_type_hints(command).items():
        yield from (field.name for field in fields(kind)) if is_dataclass(kind) else (name,)


def _bind(command: Callable[..., None]) -> Callable[..., functools.partial[None]]:
    @functools.wraps(command)
    def bound(*arguments: object, **named: object) -> functools.partial[None]:
        return functools.partial(command, *arguments, **named)

    return bound


if __name__ == "__main__":
    main()
