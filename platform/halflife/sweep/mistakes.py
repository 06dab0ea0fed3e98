"""One line instead of a traceback for mistakes in a study's own file, which happen before its command is parsed."""

from __future__ import annotations

import dataclasses
import re
import sys
from types import TracebackType

from halflife.errors import UserError, nearest

_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")

REPLACE = dataclasses.replace.__code__


def told() -> None:
    """Bad input, and fields that a description does not have, end the program with one line."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
        if line := line_of(error, at):
            print(f"error: {line}", file=sys.stderr)
        else:
            before(kind, error, at)

    sys.excepthook = hook


def line_of(error: BaseException, at: TracebackType | None) -> str:
    """The line that a user can act on; empty where only the traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    found = _UNKNOWN.search(str(error)) if isinstance(error, TypeError) else None
    while at is not None and at.tb_next is not None and at.tb_next.tb_frame.f_code is not REPLACE:
        at = at.tb_next
    if found is None or at is None:
        return ""
    name, given = found.groups()
    if at.tb_next is not None:
        kind = type(at.tb_next.tb_frame.f_locals["obj"])
    else:
        kind = {**at.tb_frame.f_globals, **at.tb_frame.f_locals}.get(name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__name__ == name):
        return ""
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    module = kind.__module__.removeprefix("halflife.")
    where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
    more = f"; `python -m halflife fields {module}.{name}` explains each" if kind.__module__ != module else ""
    return f"{where}: {name} has no {given}{nearest([given], fields) or '.'} It has {', '.join(fields)}{more}"
