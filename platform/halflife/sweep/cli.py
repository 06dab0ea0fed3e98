"""The command line of every study: a preset as the first word, then flags for the axes and the execution site."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from halflife.errors import UserError, first_sentence, nearest
from halflife.secrets import masked
from halflife.store import files, inputs
from halflife.sweep import head, mistakes, session
from halflife.sweep.adaptive import Search
from halflife.sweep.report import SweepReport, seconds_in
from halflife.sweep.reporting import Reporting, Written
from halflife.sweep.settling import Settle
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tracking import schema

mistakes.told()


@dataclass(frozen=True, kw_only=True)
class Command:
    """A parsed command line: the study's settings and where to run."""

    settings: Any
    site: ExecutionSite
    seeds: MoreSeeds


@dataclass(frozen=True, kw_only=True)
class MoreSeeds:
    """How many seeds a study gets beyond those of its settings."""

    settle: bool = False
    """Add seeds, from each look that the study declares to the next, until every primary question is answered."""
    budget: str | None = None
    """With --settle: stop where a further look would not be done within this time of the command, such as 90m or 3h."""
    max_seeds: int | None = None
    """With --settle: seeds at most; by default those of the last look."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Named settings; `summary` is shown by --help. Its minutes are those of cores of 30 GFLOP/s in fp32 products; fast
    ones have 90."""

    summary: str
    settings: Any


def main(
    build: Callable[[str, Any, ExecutionSite], Study | Search],
    presets: Mapping[str, Preset],
    *,
    report: Reporting,
    description: str | None,
    arguments: list[str] | None = None,
) -> None:
    """Parse the command, run the study, write its report. Bad input prints one line and exits with 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = _parse(presets, description, arguments)
        if command.site.cluster is not None:
            raise SystemExit(_run_on_cluster(arguments, command.site.cluster))
        if command.seeds.settle:
            _refuse_seeds(presets[arguments[0]], command)
        _execute(build, arguments[0], command, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped: run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(presets: Mapping[str, Preset], description: str | None, arguments: list[str]) -> Command:
    import tyro

    if not arguments or (arguments[0] not in presets and arguments[0] not in ("-h", "--help")):
        absent = not arguments or arguments[0].startswith("-")
        given = "no preset given" if absent else f"unknown preset {arguments[0]!r}{nearest(arguments[:1], presets)}"
        raise UserError(f"{given}: expected one of {', '.join(presets)} as the first word (--help explains them)")
    settings_type = type(next(iter(presets.values())).settings)
    command_type = dataclass(frozen=True, kw_only=True)(
        type(
            "Command",
            (Command,),
            {"__annotations__": {"settings": settings_type, "site": ExecutionSite, "seeds": MoreSeeds}},
        )
    )

    def defaults(preset: Preset) -> Command:
        return command_type(settings=preset.settings, site=ExecutionSite(), seeds=MoreSeeds())

    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.extras.overridable_config_cli(
                {
                    name: (
                        preset.summary,
                        command_type(settings=preset.settings, site=ExecutionSite(), seeds=MoreSeeds()),
                    )
                    for name, preset in presets.items()
                },
                description=description or "",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_plain_metavars(),
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        said = first_sentence(refusal.getvalue()).rstrip(".")
        if said.startswith("invalid choice"):  # 'given' for argument '--flag'. Expected one of ('these', ...)
            quoted = re.findall(r"'([^']*)'", said)
            hint = nearest(quoted[:1], quoted[2:])
        else:
            groups = (next(iter(presets.values())).settings, ExecutionSite(), MoreSeeds())
            flags = [flag for group in groups for flag in _flags(group)]
            hint = nearest(re.findall(r"--[\w-]+", said), flags)
            if any(Path(word.strip(",")).exists() for word in said.split()):
                hint = ": files that the shell found for a pattern? Quote it, as in --corpus '*.txt'"
        raise UserError(f"{said}{hint} (--help explains every flag)") from None


def _plain_metavars() -> Any:
    """Types for the parser: what may also be None is shown as the rest, STR for {None}|STR."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry, within = ConstructorRegistry(), list[PrimitiveTypeInfo]()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> Any:
        if within or type(None) not in get_args(info.type):
            return None
        within.append(info)  # the rule that comes next is the parser's own
        found = ConstructorRegistry.get_primitive_spec(info)
        within.pop()
        if isinstance(found, PrimitiveConstructorSpec):
            return dataclasses.replace(found, metavar=found.metavar.removeprefix("{None}|"))
        return found

    return registry


def _flags(settings: Any) -> Iterator[str]:
    """The flags of settings, those of groups among them as well."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value)
        else:
            yield from (f"--{name}", f"--no-{name}") if isinstance(value, bool) else (f"--{name}",)


def _execute(
    build: Callable[[str, Any, ExecutionSite], Study | Search],
    preset: str,
    command: Command,
    report: Reporting,
) -> None:
    from halflife.sweep.launch import run

    site = command.site
    if session.joins():
        head.log_in(site.actual_tracking_uri)
    site.check()  # first, as building a study may take as long as building a corpus
    if not site.dry_run:
        site.store().prepare()
    before = _inputs(site.results)
    try:
        study = _extended(build, preset, command, report)
    except OSError as error:
        space = "free some space, or " * (error.errno == errno.ENOSPC)
        raise UserError(
            f"the study cannot be prepared ({error}): {space}choose another folder with --results"
        ) from error
    if site.dry_run and (written := _inputs(site.results) - before):
        kinds = ", ".join(sorted({name.partition("/")[0] for name in written}))
        print(f"written below {site.results}: {kinds}, as the plan needs the text itself; nothing else")
    result = run(study, site, reporting=report)
    if not (result.dry_run or result.interrupted or result.unpublished):  # the report reads what is published
        written = report.write(result.study, site, result.sweep)
        if written.not_valid:
            print(written.not_valid)
        for answer in written.answers:
            if answer.primary:
                print(answer.sentence)
        print(f"report: {written.path.absolute().as_uri()}")
        print(f"runs:   {_runs_address(site)}", flush=True)
        if not _attach(result, written) and not result.exit_code:
            raise SystemExit(1)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _extended(
    build: Callable[[str, Any, ExecutionSite], Study | Search], preset: str, command: Command, report: Reporting
) -> Study | Search | Settle:
    """The study of the settings, or with --settle the one that grows from them."""
    study, wanted = build(preset, command.settings, command.site), command.seeds
    if not wanted.settle:
        if wanted.budget is not None or wanted.max_seeds is not None:
            raise UserError("--budget and --max-seeds limit --settle: add --settle, or leave them out")
        return study
    if not isinstance(study, Study) or not hasattr(command.settings, "seeds"):
        raise UserError("--settle: expected a study of which --seeds gives the number of seeds, and no search")
    name = study.declaration.study

    @functools.cache
    def study_of(seeds: int) -> Study:
        found = build(preset, dataclasses.replace(command.settings, seeds=seeds), command.site)
        assert isinstance(found, Study)
        return found

    return Settle(
        study_of=study_of,
        looks=study.declaration.looks,
        answers=lambda sweep: report.answers(name, command.site, sweep),
        most=wanted.max_seeds,
        seconds=None if wanted.budget is None else seconds_in(wanted.budget, "--budget"),
    )


def _refuse_seeds(preset: Preset, command: Command) -> None:
    given = getattr(command.settings, "seeds", None)
    if given != getattr(preset.settings, "seeds", None):
        raise UserError(
            f"--seeds {given} with --settle: the study's looks say how many seeds it gets; leave --seeds out, or limit "
            f"them with --max-seeds {given}"
        )


def _inputs(results: Path) -> set[str]:
    """Corpora, tokenizers and converted models below the results folder."""
    return {f"{kind}/{name}" for kind in inputs.KINDS for name in files.names(results / kind)}


def _run_on_cluster(arguments: list[str], cluster: Path) -> int:
    from halflife.sweep.submit import run_on_cluster

    try:
        return run_on_cluster(Path(sys.argv[0]), arguments, cluster)
    except KeyboardInterrupt:
        print("detached: the sweep continues; run the same command to follow it again", file=sys.stderr)
        return 130


def _attach(result: SweepReport, written: Written) -> bool:
    """Attach the report, which is on disk already, and the answers to the sweep's run. Returns whether that was
    possible."""
    from halflife.tracking.attaching import attach

    tags = {f"{schema.TAG_ANSWER_PREFIX}{answer.name}": answer.sentence for answer in written.answers}
    tags |= {f"{schema.TAG_VERDICT_PREFIX}{answer.name}": answer.verdict for answer in written.answers if answer.valid}
    folder = written.path.parent
    try:
        attach(
            result.tracking_uri, experiment=result.study, sweep=result.sweep, folder=folder, name="report", tags=tags,
            numbers=written.trials,
        )  # fmt: skip
    except UserError as error:
        print(f"not published: {error}; run the same command again to store it", file=sys.stderr)
        return False
    return True


def _runs_address(site: ExecutionSite) -> str:
    """The address of the runs, or the command that shows them in a browser."""
    uri = masked(site.actual_tracking_uri)
    if uri.startswith("http"):
        return uri
    if site.tracking_uri is not None:
        return f"mlflow server --backend-store-uri {shlex.quote(uri)} shows them in the browser"
    folder = site.results.absolute()
    named = "" if folder == Path("results").absolute() else f"HALFLIFE_RESULTS={shlex.quote(str(folder))} "
    return f"{named}make ui shows them in the browser"
