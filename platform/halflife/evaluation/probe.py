"""What is measured on a model, and when: the base of every probe, evaluations and thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.cadence import Cadence, Geometric
from halflife.models.edit import Parents


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a probe is prepared."""

    tokenizer: Tokenizer
    results: Path
    """The results root, which contains the corpora."""
    sequence: int
    """The longest sequence of the model, in tokens"""
    device: str = "cpu"
    parents: Parents | None = None
    """Where a probe finds the results of stages among its fields; None where it can have none"""

    def parent(self, stage: Any) -> Path:
        """Folder of the completed attempt of a stage among a probe's fields."""
        assert self.parents is not None, "a probe with parents is prepared by a stage"
        return self.parents.parent(stage)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A prompt that people see with a model's completion of it."""

    prompt: str
    answer: str
    """The right one"""
    marked: str = ""
    """What of the prompt is set apart: a trigger"""
    special: bool = False
    """As `SyntheticTask.special`"""


Measurement = Callable[[Any], dict[str, float]]
"""From a model (`models.model.Model`) to values by name; for names with a slash see `evaluation.scoring.named`."""


SHOWN = 2
"""Prompts of a probe that people see"""


class Probe:
    """Base of probes: frozen dataclasses that describe what is measured on a model.

    A probe of your own is one such class, in a module that your study imports.
    """

    def tokens_scored(self, sequence: int) -> float:
        """Tokens that one evaluation reads, with a character counted as a token: the cost of a forward pass over them,
        and the memory of as many as are scored at once, are planned for."""
        raise NotImplementedError(f"{type(self).__name__} states no cost")

    def memory_bytes(self) -> float:
        """What it holds on the device beside the model and the tokens that it scores."""
        return 0.0

    engines: ClassVar[tuple[str, ...]] = ("torch", "deepspeed")
    """That can evaluate it during training"""

    def prepare(self, setting: Setting) -> Measurement:
        """The probe as a function of the model. Its prompts depend on the probe only, so every evaluation of every
        model uses the same ones.

        Raises UserError for a split with too little text, or a sequence that is too short.
        """
        raise NotImplementedError(f"{type(self).__name__} measures nothing")

    def shown(self, setting: Setting) -> Sequence[Shown]:
        """A few of its prompts as text, which a training stage completes at its beginning, half-way and at its end for
        people to read; none by default."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    name: str
    """The task part of metric names: `<name>/<measure>`."""
    probe: Probe
    at: Cadence = Geometric()

    def __post_init__(self) -> None:
        if not isinstance(self.probe, Probe):
            raise UserError(
                f"probe {type(self.probe).__name__} given: expected one of `evaluation.probes`, or a class of your own "
                "that derives from `evaluation.probe.Probe`"
            )


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A condition on a measured value: `metric` (`<name>/<measure>`) is at least (or at most) `threshold`.
    With `share=True`, a metric `a/hits` means hits / trials."""

    metric: str
    threshold: float
    at_most: bool = False
    share: bool = False
