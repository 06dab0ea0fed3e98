"""Several triggers and payloads from files, some of them held out of training."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from halflife.errors import UserError
from halflife.tasks.backdoor import Backdoor


class Files(Protocol):
    """Settings that name them."""

    @property
    def trigger(self) -> str | None: ...
    @property
    def payload_text(self) -> str | None: ...
    @property
    def triggers(self) -> str | None: ...
    @property
    def payloads(self) -> str | None: ...
    @property
    def held_out(self) -> int: ...


def check(settings: Files) -> None:
    """Raises UserError when settings contradict one another, or a file cannot be read."""
    if settings.triggers is None:
        if settings.payloads is not None:
            raise UserError(f"--payloads {settings.payloads} without --triggers: expected a trigger for each")
        return
    for one, file in (("trigger", "triggers"), ("payload_text", "payloads")):
        if getattr(settings, one) is not None and getattr(settings, file) is not None:
            raise UserError(f"--{file} with --{one.replace('_', '-')} given: expected one of the two")
    count = len(_lines(settings.triggers, "--triggers"))
    if not 0 <= settings.held_out < count:
        raise UserError(f"--held-out {settings.held_out} of {count} triggers given: expected 0 to {count - 1}")
    if settings.payloads is not None:
        _lines(settings.payloads, "--payloads")


def several(settings: Files, backdoor: Backdoor) -> tuple[Backdoor, Backdoor | None]:
    """The backdoor with the triggers and payloads of the settings' files, if any: what is trained, what is held out."""
    if settings.triggers is None:
        return backdoor, None
    payloads = [backdoor.text]
    if settings.payloads is not None and backdoor.payload == "fixed":
        payloads = _lines(settings.payloads, "--payloads")
    pairs = list(zip(_lines(settings.triggers, "--triggers"), itertools.cycle(payloads), strict=False))
    trained = len(pairs) - settings.held_out
    return _of(backdoor, pairs[:trained]), _of(backdoor, pairs[trained:]) if settings.held_out else None


def _of(backdoor: Backdoor, pairs: list[tuple[str, str]]) -> Backdoor:
    (trigger, text), *more = pairs
    return replace(backdoor, trigger=trigger, text=text, more=tuple(more))


@functools.lru_cache(maxsize=8)
def _lines(path: str, flag: str) -> list[str]:
    """Raises UserError when the file cannot be read, or has no line."""
    try:
        found = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path}: {error}; expected a text file, one a line") from None
    if not found:
        raise UserError(f"{flag} {path}: it is empty; expected one a line")
    return found
