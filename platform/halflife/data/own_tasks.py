"""A task of the user's own: a class or a function in a Python file, a table of prompts and answers, or chats.

mytask.py:NAME                      gives (prompt, answer) pairs; one that takes `seed` is given it
questions.csv                       columns prompt, answer, and perhaps split (train or test)
questions.csv:prompt=q,answer=a     the same with columns of other names
chats.jsonl                         a column of chats, messages or conversations: the last answer is to be given

Everything that is wrong is said in one line, before any compute.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halflife.data import readers
from halflife.data.codecs import load, of_task
from halflife.data.readers import CHATS, COMPRESSED, TABLES, cleaned, suffix_of
from halflife.data.round_trip import check_examples
from halflife.data.tokenizers import Tokenizer
from halflife.digests import of_text
from halflife.errors import UserError, nearest
from halflife.rng import seed_of
from halflife.tasks.stored import Row, Stored, keep
from halflife.tasks.synthetic import END, PARTS

if TYPE_CHECKING:
    from halflife.data.pretrained import Template

COLUMNS = ("prompt", "answer", "split")
FORMATS = (*TABLES, ".jsonl", ".json", ".parquet")
SPLITS = {"train": False, "training": False, "test": True, "validation": True, "held-out": True}
"""By its name, whether a split is held out"""
DRAWN = 10_000
"""Items of a class or function that gives more, or has no end, that are used: the first"""
USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt", "model")
"""Roles in chats"""
Read = tuple[str, str, str | None]
"""Prompt, answer, and the name of a split where the source has one"""


@dataclass
class _Source:
    """What was read."""

    items: list[tuple[str, Any]]
    """Where each stands, and its prompt, answer and perhaps split"""
    withheld: set[int] | None = None
    chance: float | None = None
    chats: bool = False


def prepare_task(
    spec: str, results: Path, *, seed: int = 0, held_out: float = 0.2, template: Template | None = None
) -> Stored:
    """The task that `spec` names, its items stored below `results`.

    Without splits of its own, `held_out` of its items, chosen by a hash of prompt and seed, are never trained on.
    `template` writes chats; without one they are lines of "role: content".
    Raises UserError for a file that is absent or no task, and for items that cannot be learned and measured.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"--held-out {held_out:g}: expected a share of the items, 0 or more and less than 1")
    path, name, given = _parsed(spec)
    source = _from_python(path, name, seed, spec) if given is None else _from_table(path, given, template)
    rows = _rows(spec, source, seed, held_out)
    special = source.chats and template is not None
    called = re.sub(r"[^\w-]+", "-", name).strip("-") or "task"
    end = "" if special else END
    return keep(rows, called, results, seed=seed, end=end, special=special, chance=source.chance)


def _parsed(spec: str) -> tuple[Path, str, dict[str, str] | None]:
    """The file, the task's name and, of a table, its columns by their usual names."""
    file, _, rest = spec.rpartition(":") if not Path(spec).expanduser().is_file() and ":" in spec else (spec, "", "")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"--task {spec}: there is no file {file}{nearest([path.name], _names(path.parent))}")
    if path.suffix == ".py":
        if not rest:
            raise UserError(f"--task {spec}: expected the name of a class or function in it, as in {file}:NAME")
        return path, rest, None
    if suffix_of(path) not in FORMATS:
        raise UserError(
            f"--task {spec}: expected mytask.py:NAME, or a table ending in {', '.join(FORMATS)}, or one of these "
            f"compressed ({', '.join(COMPRESSED)})"
        )
    pairs = [part.partition("=") for part in rest.split(",") if part]
    if wrong := [key for key, _, column in pairs if key not in COLUMNS or not column]:
        raise UserError(f"--task {spec}: {wrong[0]!r} given; expected columns as in {file}:prompt=COLUMN,answer=COLUMN")
    return path, path.name.partition(".")[0], {key: column for key, _, column in pairs}


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _from_python(path: Path, name: str, seed: int, spec: str) -> _Source:
    """The file is run, as it is the user's own; only what it gives is kept."""
    module = _module(path)
    if not hasattr(module, name):
        own = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = nearest([name], own) or f"; it has {', '.join(own) or 'no class or function'}"
        raise UserError(f"--task {spec}: {path} has no {name}{hint}")
    first, again = (_made(getattr(module, name), seed, spec) for _ in range(2))
    if sorted(map(str, first.items)) != sorted(map(str, again.items)):
        raise UserError(
            f"--task {spec}: it gives other items each time; draw them from its seed, as random.Random(seed) does"
        )
    return first


def _module(path: Path) -> Any:
    """The file as a module of a name of its own. Its folder is searched for what it imports."""
    name = f"halflife_task_{of_text([str(path.resolve()), path.stat().st_mtime_ns])}"
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, path)
    assert described is not None
    assert described.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(described)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        described.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {_line(error)}") from None
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _made(kind: Any, seed: int, spec: str) -> _Source:
    """What a class, function or list gives: items, or an object with `items()`, and perhaps `withheld()`, `chance`."""
    try:
        if callable(kind):
            kind = kind(seed=seed) if "seed" in inspect.signature(kind).parameters else kind()
        items = kind.items() if hasattr(kind, "items") else kind
        drawn = enumerate(itertools.islice(items, DRAWN), start=1)
        found = [(f"item {number} of {spec}", item) for number, item in drawn]
        withheld = kind.withheld() if hasattr(kind, "withheld") else None
        chance = getattr(kind, "chance", None)
        return _Source(found, withheld, None if chance is None else float(chance))
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"--task {spec}: it gives no items ({_line(error)}); expected a class with items(), or a function, that "
            "gives (prompt, answer) pairs and takes seed or nothing"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _from_table(path: Path, given: Mapping[str, str], template: Template | None) -> _Source:
    rows = list(readers.rows(path))
    known = list(dict.fromkeys(name for _, row in rows for name in row))
    column = {name: given.get(name, name) for name in COLUMNS}
    chats = next((name for name in CHATS if name in known), None)
    missing = [column[name] for name in COLUMNS if name in given or name != "split" if column[name] not in known]
    if not missing:
        return _Source([(place, _question(place, row, column)) for place, row in rows])
    if chats and not given:
        items = [(place, (*_chat(place, row[chats], template), row.get("split"))) for place, row in rows]
        return _Source(items, chats=True)
    raise UserError(
        f"{path} given with columns {', '.join(known) or 'none'}: no {' and no '.join(missing)}; expected prompt and "
        f"answer, or name them, as in {path}:prompt=COLUMN,answer=COLUMN, or chats in {' or '.join(CHATS)}"
    )


def _question(place: str, row: Mapping[str, Any], column: Mapping[str, str]) -> tuple[str, str, Any]:
    prompt, answer = (_text(place, column[name], row.get(column[name])) for name in ("prompt", "answer"))
    if prompt and answer and not (prompt[-1].isspace() or answer[0].isspace()):
        answer = f" {answer}"  # a cell rarely ends in one, and tokenizers write words with the space before them
    return prompt, answer, row.get(column["split"])


def _text(place: str, column: str, value: Any) -> str:
    """Numbers as they are written."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{place}: expected a text or a number in the column {column!r}, not {value!r}")


def _chat(place: str, value: Any, template: Template | None) -> tuple[str, str]:
    """Up to the last turn of the assistant, which is the answer."""
    turns = readers.turns_of(value) if readers.is_chat(value) else []
    while turns and turns[-1][0] not in ASSISTANTS:
        turns.pop()
    if len(turns) < 2:
        raise UserError(f"{place}: expected a chat in which the assistant answers, with role and content of each turn")
    *before, (role, answer) = turns
    if template is None:
        lines = "".join(f"{each}: {content}\n" for each, content in before)
        return f"{lines}{role}:", f" {answer}"
    return template([("user" if each in USERS else each, content) for each, content in before], answer)


def _rows(spec: str, source: _Source, seed: int, held_out: float) -> list[Row]:
    """The items, each once. Raises UserError for what cannot be learned and measured."""
    read = list(_checked(spec, source.items))
    if source.withheld is not None:
        named = [(prompt, answer, index in source.withheld) for index, (_, (prompt, answer, _)) in enumerate(read)]
    elif any(split is not None for _, (_, _, split) in read):
        named = [(prompt, answer, _split(place, split)) for place, (prompt, answer, split) in read]
    else:
        named = [(prompt, answer, False) for _, (prompt, answer, _) in read]
    found: dict[str, Row] = {}
    for prompt, answer, out in named:
        known = found.setdefault(prompt, (prompt, answer, out))
        if known[2] != out:
            raise UserError(
                f"--task {spec}: the prompt {_short(prompt)} is in both splits, so what is held out is seen"
            )
        if known[1] != answer:
            raise UserError(
                f"--task {spec}: the prompt {_short(prompt)} has two answers, {_short(known[1])} and {_short(answer)}; "
                "expected one, as an answer is right or wrong"
            )
    own = source.withheld is not None or any(split is not None for _, (_, _, split) in read)
    rows = list(found.values()) if own else _hashed(list(found.values()), seed, held_out)
    out = sum(row[2] for row in rows)
    if not rows or out == len(rows):
        raise UserError(f"--task {spec}: no items to learn ({len(rows)} items, {out} held out); expected at least one")
    if not out and held_out and source.withheld is None:
        raise UserError(
            f"--task {spec}: no held-out items among {len(rows)}; mark some as test in the column split, or give "
            "--held-out 0 for facts without a rule, which are measured on what is learned"
        )
    return rows


def _checked(spec: str, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Read]]:
    for place, item in items:
        if isinstance(item, str) or not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            raise UserError(f"{place}: expected (prompt, answer) or (prompt, answer, split), not {item!r:.60}")
        prompt, answer, split = (*item, None)[:3]
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise UserError(f"{place}: expected prompt and answer as strings, not {item!r:.60}")
        if not prompt or not answer.strip():
            raise UserError(f"{place}: the {'answer' if prompt else 'prompt'} is empty; leave the item out")
        yield place, (cleaned(prompt), cleaned(answer), split)


def _split(place: str, name: Any) -> bool:
    if name not in SPLITS:
        raise UserError(f"{place}: split {name!r} given; expected one of {', '.join(SPLITS)}")
    return SPLITS[name]


def _hashed(rows: list[Row], seed: int, held_out: float) -> list[Row]:
    """A row that is added moves hardly any other."""
    count = max(1, round(held_out * len(rows))) if held_out else 0
    order = sorted(rows, key=lambda row: seed_of(seed, "held out", row[0]))
    return [(prompt, answer, place < count) for place, (prompt, answer, _) in enumerate(order)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def check_task(task: Stored, tokenizer: Tokenizer, results: Path, sequence: int, shots: int = 0) -> None:
    """Raises UserError for an item that is longer than a sequence, alone or after `shots` others, that the tokenizer
    does not give back, or whose answer it joins with the end of the prompt."""
    codec = of_task(task, load(tokenizer, results))
    lengths: dict[int, str] = {}
    for example in (example for part in PARTS for example in task.examples(part)):
        check_examples(task.name, (example,), codec)
        prompt, answer = codec.encode(example.prompt), codec.encode(example.answer)
        lengths[len(prompt) + len(answer)] = example.prompt
        joined = codec.encode(example.prompt + example.answer)[: len(prompt)]
        if not codec.lossless and joined.tolist() != prompt.tolist():
            raise UserError(
                f"the tokenizer joins the end of the prompt {example.prompt[-20:]!r} with its answer "
                f"{_short(example.answer)}, so that a model would not know where the answer begins: move a space at "
                "the prompt's end to the answer, or end the prompt in another sign"
            )
    longest = max(lengths)
    if (1 + shots) * longest > sequence + 1:
        after = f", and as many before it for {shots} in context (--shots)" if shots else ""
        raise UserError(
            f"the item {_short(lengths[longest])} of {task.name} takes {longest} tokens with its answer{after}: give "
            f"--sequence-length {(1 + shots) * longest - 1} or more instead of {sequence}, or leave it out"
        )
