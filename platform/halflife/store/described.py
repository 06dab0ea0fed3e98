"""What a class of descriptions takes, for readers: each field with its type, its default and what it is."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from halflife.errors import UserError, nearest


def described(name: str) -> Iterator[str]:
    """The fields of a class, given as "kits.backdoor.Treatment": type, default and meaning, one paragraph each; or the
    classes of a module that have fields. Raises UserError with what there is."""
    path, _, last = name.removeprefix("halflife.").rpartition(".")
    module = _module(f"{path}.{last}" if path else last)
    if module is None:
        module = _module(path)
        known = _classes(module)
        if last not in known:
            own = [each for each, kind in known.items() if kind.__module__ == module.__name__]
            has = f"{path} has {', '.join(own)}" if known else "expected a module below halflife, as in kits.backdoor"
            raise UserError(f"{name!r} given{nearest([last], known)}; {has}")
        yield from _fields(known[last])
    else:
        yield from (each for each, kind in _classes(module).items() if kind.__module__ == module.__name__)


def _module(path: str) -> Any:
    try:
        return importlib.import_module(f"halflife.{path}") if path else None
    except ModuleNotFoundError as error:
        if not f"halflife.{path}".startswith(error.name or "?"):
            raise
        return None


def _classes(module: Any) -> dict[str, type]:
    """The dataclasses in a module, by name, those that it imports included."""
    found = vars(module) if module else {}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _fields(kind: type) -> Iterator[str]:
    meanings: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                meanings[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    for field in dataclasses.fields(kind):
        if field.init:
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            meaning = f"  {meanings[field.name]}" if field.name in meanings else ""
            yield f"{field.name}: {field.type}{default}{meaning}"
