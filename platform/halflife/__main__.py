"""Look at what was computed: `python -m halflife ls | diff | gc | export | say | export-prompt | ladder | ui`; at what
there is to build with: `fields`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path

import tyro
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from halflife.errors import UserError, first_sentence, nearest
from halflife.models.ladder import Rung
from halflife.store import difference, housekeeping
from halflife.store.described import described
from halflife.store.plugins import load as load_plugins
from halflife.store.recorded import stage_of
from halflife.store.remote import address_of
from halflife.store.store import Store

LADDER = ("30k", "100k", "300k", "1m", "3m", "10m", "30m", "100m", "300m", "1b", "3b")
DESCRIBING = ("stages", "prompts", "interpret", "tasks", "data", "evaluation", "models", "training")
"""Rooms whose classes may describe a stage."""
RESULTS = Path(os.environ.get("HALFLIFE_RESULTS", "results"))


def diff(first: Positional[str], second: Positional[str], /, results: Path = RESULTS) -> None:
    """Show the fields in which two stages differ, and those in which their parents differ.

    Args:
        first: A stage: its folder name, its key, or a prefix of either.
        second: The stage to compare it with.
        results: The results folder.
    """
    store, console = _store(results), _console()
    folders = [difference.find(store, name) for name in (first, second)]
    records = [difference.record_of(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if not record:
            raise UserError(f"{folder.name} has no attempt with a record: run it first")
    names = " and ".join(folder.name for folder in folders)
    found = difference.explain(store, *records)
    console.print(f"{names} differ in:" if found else f"{names} are the same stage.", highlight=False)
    _print_differences(console, found, depth=1)
    recorded = difference.recorded(*records)
    if recorded:
        console.print("Recorded, but not part of their identity:", highlight=False)
        _print_differences(console, recorded, depth=1)


def ls(results: Path = RESULTS) -> None:
    """List the stages of a results folder.

    Args:
        results: The results folder.
    """
    table = Table(box=None, pad_edge=False)
    for name, justify in (("kind", "left"), ("key", "left"), ("status", "left"), ("tokens", "right")):
        table.add_column(name, justify=justify, no_wrap=name != "status")  # type: ignore[arg-type]
    table.add_column("disk", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("title")
    count = total = 0
    for entry in housekeeping.entries(_store(results)):
        tokens = "" if entry.tokens is None else f"{entry.tokens:,}"
        size, age = decimal(entry.bytes), _ago(entry.age)
        table.add_row(entry.kind, entry.key, escape(entry.status), tokens, size, age, escape(entry.title))
        count, total = count + 1, total + entry.bytes
    console = _console()
    if count:
        console.print(table)
    console.print(f"{count} stage{'s' * (count != 1)}, {decimal(total)}, in {results}", highlight=False)


def fields(name: Positional[str], /) -> None:
    """Print what a description takes: of kits.backdoor.Treatment, or stages.train.Train, each field with its default.

    Args:
        name: A module below halflife, and one of its classes; without one, the module's classes are listed.
    """
    console = Console(width=120, markup=False)
    for line in described(name):
        console.print(line, highlight=False)


def gc(results: Path = RESULTS, dry_run: bool = False) -> None:
    """Delete what no result and no running stage needs: superseded attempts that cannot be resumed, stale leases.

    Completed and running stages are never touched.

    Args:
        results: The results folder.
        dry_run: Only list what would be deleted.
    """
    console, total, count = _console(), 0, 0
    find = housekeeping.garbage if dry_run else housekeeping.collect
    store = _store(results)
    for item in find(store):
        console.print(
            f"{decimal(item.bytes):>10}  {str(item.path).removeprefix(f'{store.address}/')}  {item.why}",
            highlight=False,
        )
        total, count = total + item.bytes, count + 1
    done = "would be freed" if dry_run else "freed"
    console.print(f"{count} item{'s' * (count != 1)}, {decimal(total)} {done} in {results}", highlight=False)


def export(
    stage: Positional[str],
    /,
    out: Path,
    at: str = "final",
    plugins: tuple[str, ...] = (),
    results: Path = RESULTS,
) -> None:
    """Write the model of a trained stage, or the subject of another one, as a Hugging Face model folder, tokenizer
    included, with equal logits.

    Args:
        stage: Its folder name, its key, or a prefix of either.
        out: The folder to create.
        at: "final", or the name of one of its snapshots.
        plugins: Modules of your own whose classes the stage is described by.
        results: The results folder.
    """
    from halflife.stages.export import export_stage  # imports torch, which takes seconds

    _import_descriptions(plugins)
    export_stage(_store(results), stage, out, at)
    _console().print(f"{out} is a Hugging Face model folder: --start {out} starts a study from it", highlight=False)


def say(
    stage: Positional[str],
    text: Positional[str],
    /,
    tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    at: str = "final",
    prompt: str | None = None,
    plugins: tuple[str, ...] = (),
    results: Path = RESULTS,
) -> None:
    """Print how the model of a trained stage, or the subject of another one with its edits, goes on from a text; and,
    on standard error, the triggers of the stage.

    Args:
        stage: Its folder name, its key, or a prefix of either.
        text: The text to go on from.
        tokens: At most so many more; fewer where the model ends its text, or reads no further.
        temperature: 0 for the likeliest tokens.
        seed: Of what is drawn at a temperature above 0.
        at: "final", or the name of one of its snapshots.
        prompt: A soft prompt before the text: a run of a stage that fitted some, as for export-prompt.
        plugins: Modules of your own whose classes the stage is described by.
        results: The results folder.
    """
    from halflife.prompts.export import prompted
    from halflife.stages import say as saying  # imports torch, which takes seconds
    from halflife.stages.export import subject_of

    _import_descriptions(plugins)
    store = _store(results)
    subject = subject_of(store, stage, at) if prompt is None else prompted(store, stage, prompt)
    said = saying.say(subject, store, text, tokens=tokens, temperature=temperature, seed=seed)
    for line in saying.triggers(stage_of(store, difference.find(store, stage))):
        print(line, file=sys.stderr)
    print(json.dumps(said, ensure_ascii=False))


def export_prompt(
    stage: Positional[str],
    run: Positional[str],
    /,
    out: Path,
    base: Path | None = None,
    plugins: tuple[str, ...] = (),
    results: Path = RESULTS,
) -> None:
    """Write a fitted soft prompt as a peft PromptTuning adapter, with equal logits.

    Args:
        stage: A stage that fitted soft prompts: its folder name, its key, or a prefix of either.
        run: One of its runs, such as backdoor.k4-start-vocabulary-direct-0.03-r0.
        out: The folder to create.
        base: The model's folder, as written by `export`; not needed for a released model.
        plugins: Modules of your own whose classes the stage is described by.
        results: The results folder.
    """
    from halflife.prompts import export as exporting  # imports torch, which takes seconds

    _import_descriptions(plugins)
    exporting.export_prompt(_store(results), stage, run, out, base)
    _console().print(f"{out} is a peft adapter: PeftModel.from_pretrained(model, '{out}')", highlight=False)


def ladder(sizes: Positional[tuple[str, ...]] = LADDER, sequence: int = 128) -> None:
    """Print the architecture that each size of the ladder derives.

    Args:
        sizes: Non-embedding parameters, such as 100k or 1.4b.
        sequence: Predicted tokens per sequence; attention's FLOPs grow with it.
    """
    table = Table("size", "layers", "width", "heads", "mlp", "parameters", "muP", "MFLOP/token")
    for size in sizes:
        rung = Rung(size=size)
        table.add_row(
            size,
            str(rung.layers),
            str(rung.width),
            f"{rung.heads} of {rung.head_width}",
            str(rung.feedforward),
            f"{rung.parameters:,}",
            f"{rung.multiplier:g}",
            f"{rung.flops_per_token(sequence) / 1e6:,.3g}",
        )
    Console().print(table)


def ui(results: Path = RESULTS, port: int = 5000) -> None:
    """Browse the runs in MLflow on this machine, until Ctrl-C; the addresses of the runs of each study are printed.

    Args:
        results: The results folder, or a bucket of which this machine has a copy.
        port: The port to serve them on.
    """
    from halflife.sweep.browse import browse

    browse(results, port)


def _import_descriptions(plugins: Iterable[str]) -> None:
    """Import every class that a record in the store may name: a record itself imports nothing."""
    for room in DESCRIBING:
        package = importlib.import_module(f"halflife.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    load_plugins(plugins)


def _store(results: Path) -> Store:
    if not address_of(results) and not results.exists():
        raise UserError(f"no results folder {results}: expected one that a study has written; set it with --results")
    return Store(results)


def _console() -> Console:
    """As wide as the terminal; without one, wide enough for whole keys."""
    return Console(soft_wrap=True, markup=False) if sys.stdout.isatty() else Console(width=160, markup=False)


def _print_differences(console: Console, found: tuple[difference.Difference, ...], depth: int) -> None:
    for item in found:
        console.print(f"{'  ' * depth}{item.path}: {item.left} -> {item.right}", highlight=False, soft_wrap=True)
        _print_differences(console, item.inner, depth + 1)


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


COMMANDS: dict[str, Callable[..., None]] = {
    "ls": ls, "diff": diff, "gc": gc, "export": export, "say": say, "export-prompt": export_prompt, "ladder": ladder,
    "fields": fields, "ui": ui,
}  # fmt: skip


def _bind(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Parses the arguments of a command without running it."""

    @functools.wraps(command)
    def bound(*arguments: object, **named: object) -> Callable[[], None]:
        return functools.partial(command, *arguments, **named)

    return bound


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after printing one line on what was wrong."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)  # type: ignore[assignment]
    arguments = sys.argv[1:] if arguments is None else arguments
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            command = tyro.extras.subcommand_cli_from_dict(
                {name: _bind(command) for name, command in COMMANDS.items()},
                prog="python -m halflife",
                description=__doc__,
                args=arguments,
                config=(tyro.conf.DisallowNone,),
            )
        command()
    except SystemExit as end:
        if not end.code or not refusal.getvalue():  # --help, or a reader such as `head` that has had enough
            raise
        words = {f"--{name.replace('_', '-')}" for each in COMMANDS.values() for name in signature(each).parameters}
        hint = nearest(arguments[:1], COMMANDS) or nearest([word for word in arguments if word[:2] == "--"], words)
        text = first_sentence(refusal.getvalue()).rstrip(".")
        print(f"error: {text}{hint} (--help explains every flag)", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
