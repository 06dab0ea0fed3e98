"""What is doubtful about a plan, printed before it runs: its text, how often that is read, its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from halflife.data.mixture import Mixture
from halflife.data.notes import repetition_notes, text_notes
from halflife.store.stage import Stage, parts_of
from halflife.sweep.state import SweepState


def show(state: SweepState, results: Path, console: Console) -> None:
    described = {part for stage in state.stages for part in parts_of(stage) if isinstance(part, Mixture)}
    trained = [found for stage in state.stages if (found := _trained(stage))]
    for line in (*text_notes(described, results), *repetition_notes(trained, results), *state.study.warnings):
        console.print(line, markup=False)


def _trained(stage: Stage) -> tuple[Mixture, int] | None:
    """The mixture of a stage that trains on text, and the tokens that it and its ancestors train on."""
    mixture = getattr(stage, "mixture", None)
    if not isinstance(mixture, Mixture):
        return None
    return mixture, sum(getattr(each, "tokens", 0) for each in _line(stage) if hasattr(each, "mixture"))


def _line(stage: Stage) -> Iterator[Stage]:
    """The stage and its ancestors, each once."""
    found = {stage.key: stage}
    stack = [stage]
    while stack:
        for parent in stack.pop().parents:
            if parent.key not in found:
                found[parent.key] = parent
                stack.append(parent)
    yield from found.values()
