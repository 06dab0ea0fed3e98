"""An edit: a description of a change of a model, of its weights or of what flows through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from halflife.models.ladder import Rung
from halflife.models.released import Released

if TYPE_CHECKING:
    from halflife.models.model import Model


class Parents(Protocol):
    """Where an edit finds its data: a part of `store.stage.Context`."""

    @property
    def results(self) -> Path:
        """The results root."""
        ...

    @property
    def device(self) -> str: ...

    def parent(self, stage: Any) -> Path:
        """Folder of the completed attempt of a stage among the edit's fields."""
        ...


class Edit:
    """Base of edits: frozen dataclasses among a subject's fields, whose own fields may be stages that it needs.

    An edit of your own is one such class, in a module that your study imports.
    """

    in_weights: ClassVar[bool] = False
    """Whether it changes weights only, so that the edited model is one of the same shape, and can be exported"""

    @property
    def tokens(self) -> int:
        """How much of the context it takes, as a soft prompt before every text does."""
        return 0

    def check(self, architecture: Rung | Released) -> None:
        """Raises UserError when such a model cannot be edited so."""

    def memory_bytes(self, architecture: Rung | Released) -> float:
        """What it holds beside the model's own weights."""
        return 0.0

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        """Read the edit's data. The function returned edits a frozen model, in place or by wrapping it."""
        raise NotImplementedError(f"{type(self).__name__} edits nothing")
