"""The course of a sweep: its study and its plan as they stand. Of a search they grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep.publishing import Publishing
from halflife.sweep.study import Study


class SweepState:
    """Of a study whose trials are known from the start. A search's (sweep/campaign.py) overrides what it answers."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.plan = Plan(study.stages, store)

    @property
    def stages(self) -> Sequence[Stage]:
        """Stages that have to run, and such as may have to: for what they need."""
        return self.plan.missing

    def begin(self, publishing: Publishing, slots: int) -> None:
        """Tune is about to be fed: `slots` stages run at once."""

    def feed(self) -> bool:
        """Let the plan grow if it is time to. Whether there is more to come when it is finished."""
        return False

    def leave(self) -> None:
        """The sweep ends, or is ended: leave nothing open."""

    def ahead(self, work: Callable[[Stage], float]) -> float:
        """The work of what is not in the plan yet; an estimate."""
        return 0.0

    def line(self) -> str:
        """What the live view says beside the counts of stages."""
        return ""

    def numbers(self) -> dict[str, float]:
        """The sweep's metrics beside those of every sweep."""
        return {}

    def findings(self) -> list[str]:
        """The result in words."""
        return []
