"""Names that MLflow stores. They are checked when a study is built, as MLflow refuses others only after the compute."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache

EXPECTED = "letters, digits, spaces and _ - . : /"
LONGEST = 250
"""Characters: MLflow's limit for the name of a metric, a parameter or a tag."""
_NAME = re.compile(r"[/\w.\- :]+")  # mlflow.utils.validation, of 3.17; \w includes letters and digits of all scripts


@lru_cache(maxsize=2**16)
def accepted(name: str, *, room: int = 0) -> bool:
    """Whether MLflow accepts the name, with `room` further characters after it. It takes a name for a path, so `a//b`
    and `../a` are not accepted either."""
    return bool(_NAME.fullmatch(name)) and len(name) + room <= LONGEST and _plain(name)


def is_folder(name: str) -> bool:
    """Whether a study may have this name, which is its experiment's and its report's folder's."""
    return name.isprintable() and len(name.encode()) <= LONGEST and name == name.strip() and _plain(name)


def renamed(name: str) -> str:
    """A similar name that is accepted."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[: LONGEST // 3] or "unnamed"


def _plain(name: str) -> bool:
    return name == posixpath.normpath(name) != "." and not name.startswith(("..", "/"))
