"""The interface of tasks is text: prompts and answers are strings, tokenised later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and the answer that is scored. The answer includes its terminator."""

    prompt: str
    answer: str
    conditions: tuple[float, ...] = ()
    """Inputs of a conditional soft prompt, of order 1, the same number in every example of a task: for example how
    good a game is, or how direct a path."""
