"""The state of a running sweep: its study and its plan, which grow during a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep.publishing import Publishing
from halflife.sweep.study import Study


class SweepState:
    """For a study whose trials are known from the start; sweep/campaign.py has the subclass for a search."""

    complete = True
    """Whether a sweep that ended without failures will never change."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.plan = Plan(study.stages, store)
        self._store = store

    @property
    def stages(self) -> Sequence[Stage]:
        """Stages that will run, or examples of those that may: what resources are planned for."""
        return self.plan.missing

    def begin(self, publishing: Publishing, slots: int) -> None:
        """Called before the first `feed`: `slots` stages run at once."""

    def feed(self) -> bool:
        """Add stages to the plan if there are any to add. Returns whether more may come after it is finished."""
        return False

    def close(self) -> None:
        """Called when the sweep ends or is stopped: leave nothing open."""

    def future_work(self, work: Callable[[Stage], float]) -> float:
        """Estimated work of the stages that are not in the plan yet, in the unit of `work`."""
        return 0.0

    def line(self) -> str:
        """Text that the live view shows before the stage counts."""
        return ""

    def numbers(self) -> dict[str, float]:
        """Further metrics of the sweep, in addition to those of every sweep."""
        return {}

    def findings(self) -> list[str]:
        """The result as text, one line each."""
        return []
