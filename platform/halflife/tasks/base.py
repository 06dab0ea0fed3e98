"""Text is the interface of tasks: prompts and answers as strings, tokenised later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and the answer that is scored. The answer carries its own terminator."""

    prompt: str
    answer: str
    conditions: tuple[float, ...] = ()
    """Numbers of the order of 1 that a conditional soft prompt is made from, as many in every example of a task: how
    good a game, how direct a path."""
