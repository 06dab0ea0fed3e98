"""Items of the user's own as a task. They are kept below the results folder under their digest, so that what is edited
is another task, and no worker runs the code or reads the table that they came from."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from halflife import digests
from halflife.errors import UserError
from halflife.fields import recorded
from halflife.tasks.synthetic import END, SyntheticTask

FOLDER = "tasks"
"""Below the results folder"""
Row = tuple[str, str, bool]
"""Prompt, answer without its end, and whether the item is held out"""


@dataclass(frozen=True, kw_only=True)
class Stored(SyntheticTask):
    """From `keep`. Which items are held out is stored with them."""

    called: str
    digest: str
    folder: str = recorded()
    """Where its file is on this machine"""

    @property
    def name(self) -> str:
        return self.called

    @property
    def end(self) -> str:
        return self._content["end"]

    @property
    def special(self) -> bool:
        return self._content["special"]

    @property
    def chance(self) -> float:
        given = self._content["chance"]
        return super().chance if given is None else given

    def items(self) -> list[tuple[str, str]]:
        return [(prompt, answer) for prompt, answer, _ in self._content["items"]]

    def withheld(self) -> set[int]:
        return {index for index, (_, _, held_out) in enumerate(self._content["items"]) if held_out}

    @property
    def _content(self) -> dict[str, Any]:
        return _read(Path(self.folder) / f"{self.digest}.json")


@lru_cache(maxsize=64)
def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"the task's items are not in {path}: run the study's command with this results folder"
        ) from None


def keep(
    rows: Sequence[Row],
    name: str,
    results: Path,
    *,
    seed: int = 0,
    end: str = END,
    special: bool = False,
    chance: float | None = None,
) -> Stored:
    """A task of these items, in the order of their prompts, written below `results` unless it is there.

    `end`, `special`: as `SyntheticTask` has them. `chance`: success rate without the skill; by default that of the most
    common answer.
    """
    content = {"items": sorted(rows), "end": end, "special": special, "chance": chance}
    digest = digests.of_text(["task", content])
    folder = (Path(results) / FOLDER).absolute()
    path = folder / f"{digest}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
    return Stored(called=name, digest=digest, folder=str(folder), seed=seed)
