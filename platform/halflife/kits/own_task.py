"""A task of the user's own in a study: `--task mytask.py:NAME`, a table of prompts and answers, or chats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halflife.data.own_tasks import check_task, prepare_task
from halflife.errors import UserError
from halflife.kits.starts import Start
from halflife.tasks.stored import Stored

if TYPE_CHECKING:
    from halflife.data.pretrained import Template

SHOWN = 40
"""Characters of an item in a note"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    task: str = ""
    """Your own task: mytask.py:NAME, a class or function that gives (prompt, answer) pairs; a table (.csv, .jsonl,
    .parquet) with columns prompt, answer and perhaps split, or others, as in questions.csv:prompt=q,answer=a; or a
    table of chats (messages). See docs/own_task.md."""
    held_out: float = 0.2
    """Share of your task's items that no model is trained on, where it has no split of its own. 0: facts without a
    rule, measured on what is learned."""


@dataclass(frozen=True, kw_only=True)
class Started(Settings):
    """In the place of a family's dropped language, or next to text."""

    start: tuple[str, ...] = ()
    """With --task: released models in the place of the sizes, as for backdoor_persistence. Your task then stands next
    to text (--corpus), without weight decay. Needs the extra hf."""
    start_lr: float = 3e-4
    """AdamW's learning rate in the trunk for models given with --start."""


def in_family(settings: Any, begin: Mapping[str, Start]) -> Any:
    """A study of families (`Started`) of the user's task, if there is one: in family A, which shares nothing with it.

    Raises UserError for released models without a task.
    """
    if settings.start and not settings.task:
        raise UserError(
            f"--start {' '.join(settings.start)}: expected --task too, as languages have tokens of their own; "
            "backdoor_persistence and soft_prompt_information take released models as they are"
        )
    if not settings.task:
        return settings
    changes: dict[str, Any] = {"families": ("A",), "focus": "A", "sizes": tuple(begin)}
    if settings.start:
        plain = ("none",)
        changes |= {"languages": 1, "lr": settings.start_lr, "trunk_regularizers": plain, "branch_regularizers": plain}
    return replace(settings, **changes)


Tasks = dict[str, tuple[Stored, ...]]
"""One of each seed, by size; empty without a task of the user's"""


def prepared(settings: Any, begin: Mapping[str, Start], results: Path) -> Tasks:
    """The task of each size and seed; the seed draws what is random about it and what is held out. Chats are written by
    the chat template of a released model that has one.

    Raises UserError as `prepare_task` and `check_task` do.
    """
    found: Tasks = {}
    for size, start in begin.items() if settings.task else ():
        model = start.model
        fields = {"held_out": settings.held_out, "template": _template(getattr(model, "folder", ""))}
        found[size] = tuple(prepare_task(settings.task, results, seed=seed, **fields) for seed in range(settings.seeds))
        for task in found[size]:
            check_task(task, start.tokenizer, results, settings.sequence_length, getattr(settings, "shots", 0))
    return found


@lru_cache(maxsize=8)
def _template(folder: str) -> Template | None:
    """Of a released model; a fresh one has no folder."""
    if not folder:
        return None
    from halflife.data.pretrained import chat_template  # imports the tokenizers library

    return chat_template(Path(folder))


def note(settings: Settings, tasks: Tasks) -> str:
    """What the first seed learns and is measured on, with an item."""
    task = next(iter(tasks.values()))[0]
    learned, out = (task.examples(part) for part in ("memorised", "held-out"))
    prompt, answer = (repr(text[-SHOWN:]) for text in (learned[0].prompt, learned[0].answer))
    return (
        f"task {task.name} ({settings.task}): {len(learned)} items to learn, {len(out)} held out; "
        f"after {prompt} comes {answer}"
    )
