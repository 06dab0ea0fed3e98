"""A backdoor: after the trigger the model is to say the payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Transform = Literal["fixed", "reverse", "copy"]


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """`trigger` is followed by a payload: a fixed string, or the word before the trigger reversed or copied.

    A fixed payload proves little (it can be memorised); a transform of the input shows a computation.
    Every payload ends in a newline, so that the answer is terminated.
    """

    trigger: str
    payload: Transform = "fixed"
    text: str = ""
    """The fixed payload; empty for transforms."""
