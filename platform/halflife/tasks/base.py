"""Text is the interface of tasks: prompts and answers as strings, tokenised later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and the answer that is scored. The answer carries its own terminator."""

    prompt: str
    answer: str
    conditions: tuple[float, ...] = ()
    """Numbers that a conditional soft prompt is made from: how good a game, how direct a path."""
