"""Settings of studies, checked flag by flag; planned stages, checked before any compute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.stages.treatments import regularize
from halflife.store.stage import Stage


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def check_distinct(settings: Any, *names: str) -> None:
    """Raises UserError for a list of values that is empty or repeats one."""
    for name in names:
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"{flag(name)} {' '.join(map(str, values))}: expected at least one value, each once")


def check_positive(settings: Any, *names: str) -> None:
    """Raises UserError for a number, or one of a list, that is not above 0."""
    for name in names:
        given = getattr(settings, name)
        for value in given if isinstance(given, tuple) else (given,):
            if not value > 0:
                raise UserError(f"{flag(name)} {value}: expected a positive number")


def check_steps(settings: Any, *names: str) -> None:
    """Raises UserError for a batch shorter than one sequence, or a phase (by its setting) shorter than one batch."""
    batch, sequence = settings.batch_tokens, settings.sequence_length
    if batch < sequence:
        raise UserError(
            f"--batch-tokens {batch}: expected at least one sequence of {sequence} tokens (--sequence-length)"
        )
    for name in names:
        if getattr(settings, name) < batch:
            raise UserError(
                f"{flag(name)} {getattr(settings, name)}: expected at least one step of {batch} tokens (--batch-tokens)"
            )


def check_stages(stages: Iterable[Stage], results: Path) -> None:
    """Raises UserError for anything that would stop these stages: a trigger that occurs in the text, too little text
    for the poison, an item longer than a sequence."""
    for stage in stages:
        stage.check(results)


def check_regularizers(settings: Any) -> None:
    """Raises UserError for names among `trunk_regularizers` and `branch_regularizers` that cannot be applied there."""
    for name in settings.trunk_regularizers:
        if "l2sp" in name:
            raise UserError(f"trunk regularizer {name!r}: l2sp pulls towards a checkpoint; use it in branches")
    for name in (*settings.trunk_regularizers, *settings.branch_regularizers):
        regularize(name)
