"""The plan: which stages a study needs, which exist, which can run now, and in which order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from halflife.store.stage import Outcome, Stage
from halflife.store.store import Listing, Store

FEW = 16
"""Number of new stages up to which a growing plan looks each up in a bucket, instead of listing the whole bucket."""


class Plan:
    """The requested stages and their missing ancestors, each once. The parents of a complete stage are not needed.

    A stage is cached, waiting, ready, running, completed, failed or blocked. Ready stages are taken in the order of
    the longest remaining path (by cost.flops), so that the sweep does not end with a long chain on one slot.
    """

    def __init__(self, stages: Iterable[Stage], store: Store) -> None:
        self.stages: dict[str, Stage] = {}
        """All stages by key, parents before children."""
        self.outcomes: dict[str, Outcome] = {}
        """By key: cached ones from the start, others as they complete."""
        self.cached: frozenset[str] = frozenset()
        """Keys of the stages that were complete when they were added."""
        self.blocked: dict[str, str] = {}
        """By key: why the stage can never run."""
        self.failures: dict[str, str] = {}
        """By key: why the stage failed."""
        self._running: set[str] = set()
        self._children: dict[str, list[str]] = {}
        self._unmet: dict[str, int] = {}
        self._ready: list[tuple[float, int, str]] = []
        self.add(stages, store)

    def add(self, stages: Iterable[Stage], store: Store) -> None:
        """Add these stages and their missing ancestors. May be called while stages run."""
        known, ended, stages = set(self.stages), set(self.outcomes), list(stages)
        listing = store.listing() if len(stages) > FEW or not known else None
        self._collect(stages, store, listing)
        self.cached |= self.outcomes.keys() - ended
        self._remaining = self._remaining_paths()
        self._order = {key: number for number, key in enumerate(self.stages)}
        ready, self._ready = self._ready, []
        for _, _, key in ready:
            self._push(key)  # its remaining path may be longer now
        for key in [key for key in self.stages if key not in known and key in self._unmet]:
            lost = next((p for p in self.stages[key].parents if p.key in self.failures or p.key in self.blocked), None)
            if lost is not None:
                self.blocked[key] = self.blocked.get(lost.key) or _because(lost, self.failures[lost.key])
            elif not self._unmet[key]:
                self._consider(key)

    def _collect(self, wanted: list[Stage], store: Store, listing: Listing | None) -> None:
        """Depth first, parents before children, with an explicit stack, as chains may be long."""
        stack = [(stage, False) for stage in reversed(wanted)]
        while stack:
            stage, expanded = stack.pop()
            if stage.key in self.stages:
                continue
            if not expanded:
                if stage.key not in self._unmet and (outcome := store.outcome(stage, listing)):
                    self.stages[stage.key], self.outcomes[stage.key] = stage, outcome
                    continue
                self._unmet[stage.key] = 0
                stack.append((stage, True))
                stack.extend((parent, False) for parent in reversed(stage.parents) if parent.key not in self.stages)
                continue
            self.stages[stage.key] = stage
            for parent in stage.parents:
                if parent.key not in self.outcomes:
                    self._children.setdefault(parent.key, []).append(stage.key)
                    self._unmet[stage.key] += 1

    def _remaining_paths(self) -> dict[str, float]:
        """FLOPs from the start of each missing stage to the end of the longest chain of its descendants."""
        remaining: dict[str, float] = {}
        for key in reversed(self.stages):
            if key in self._unmet:
                after = max((remaining[child] for child in self._children.get(key, ())), default=0.0)
                remaining[key] = self.stages[key].cost.flops + after
        return remaining

    @property
    def missing(self) -> list[Stage]:
        """Stages without an outcome, parents before children."""
        return [stage for key, stage in self.stages.items() if key not in self.outcomes]

    @property
    def running(self) -> list[Stage]:
        """Stages that have been taken and have not ended."""
        return [self.stages[key] for key in self._running]

    @property
    def finished(self) -> bool:
        """Whether every stage is complete, failed or blocked."""
        return not self._ready and not self._running

    def ready(self) -> list[Stage]:
        """Stages that can be taken now, longest remaining path first."""
        return [self.stages[key] for _, _, key in sorted(self._ready)]

    def take(self) -> Stage | None:
        """Take the ready stage with the longest remaining path: it is running now. None if none is ready."""
        if not self._ready:
            return None
        key = heapq.heappop(self._ready)[2]
        self._running.add(key)
        return self.stages[key]

    def put_back(self, key: str) -> None:
        """A taken stage was not run (for example because another sweep holds it): it is ready again."""
        self._running.discard(key)
        self._push(key)

    def completed(self, key: str, outcome: Outcome) -> None:
        """A stage has an outcome; its children may become ready or blocked."""
        self._leave(key)
        self.outcomes[key] = outcome
        for child in self._children.get(key, ()):
            self._unmet[child] -= 1
            if not self._unmet[child]:
                self._consider(child)

    def failed(self, key: str, reason: str) -> None:
        """A stage has failed for good; its descendants are blocked."""
        self._leave(key)
        self.failures[key] = reason
        self._block_children(key, _because(self.stages[key], reason))

    def _consider(self, key: str) -> None:
        """All parents have ended: the stage is ready, or blocked."""
        if key in self.blocked:
            return
        stage = self.stages[key]
        reason = stage.unavailable({parent.key: self.outcomes[parent.key] for parent in stage.parents})
        if reason is None:
            self._push(key)
        else:
            self.blocked[key] = reason
            self._block_children(key, reason)

    def _block_children(self, key: str, reason: str) -> None:
        stack = list(self._children.get(key, ()))
        while stack:
            child = stack.pop()
            if child not in self.blocked:
                self.blocked[child] = reason
                stack.extend(self._children.get(child, ()))

    def _push(self, key: str) -> None:
        heapq.heappush(self._ready, (-self._remaining[key], self._order[key], key))

    def _leave(self, key: str) -> None:
        """The stage is no longer ready or running."""
        if key not in self._running:
            self._ready = [entry for entry in self._ready if entry[2] != key]
            heapq.heapify(self._ready)
        self._running.discard(key)


def _because(stage: Stage, reason: str) -> str:
    return f"{stage.folder_name} failed: {reason}"
