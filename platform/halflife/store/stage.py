"""A stage: a frozen description of something computed, with an identity and parents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.identity import fields, fields_of, is_description, key_of


class Context(Protocol):
    """What a running stage is handed: where to write, where its parents are, whom to tell."""

    results: Path
    """The results root; corpora lie below it."""
    folder: Path
    """This attempt's own folder; everything the stage makes goes below it."""
    resume: Path | None
    """Folder of the newest valid mid-stage checkpoint of an earlier attempt, to be read only; None to begin anew."""
    device: str
    execution: Execution
    """Which engine trains, and in how many processes."""
    checkpoint_seconds: float
    """Make a resumable checkpoint about this often."""
    rest: float
    """Seconds at least between checkpoints, whatever was asked: those that take long to keep are made less often."""

    def parent(self, stage: Stage) -> Path:
        """Folder of the completed attempt of a parent."""
        ...

    def record(self, step: int, values: dict[str, float]) -> None:
        """Keep points at `step` (tokens since the stage began). Names are `<task>/<measure>`."""
        ...

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """These files of the checkpoint in `folder` have been written by this process. Where several make it together,
        each says so before one says `checkpointed`."""
        ...

    def checkpointed(self, step: int, folder: Path) -> None:
        """A resumable checkpoint that stands at `step` is complete in `folder` (below this attempt's folder).

        Points are flushed with it: record those at `step` before. The checkpoint before it may be removed after.
        """
        ...

    def progress(self, done: int, total: int, rate: float) -> None:
        """For the live view: tokens done, of how many, at how many a second."""
        ...

    def computing(self, seconds: float) -> None:
        """Seconds spent inside training and evaluation, for the report's efficiency."""
        ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a running stage is: for the live view, never for truth."""

    done: int = 0
    """Tokens."""
    total: int = 0
    rate: float = 0.0
    """Tokens a second."""
    computing: float = 0.0
    """Seconds spent inside training and evaluation so far."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage is expected to take; estimates, for ordering and for --dry-run."""

    tokens: float
    flops: float
    memory_bytes: float
    disk_bytes: float
    steps: float = 0.0
    """Of an optimizer: each takes some time, however few FLOPs it has."""

    def times(self, factor: float) -> Cost:
        """As much work so many times over; nothing more is held or kept."""
        return replace(self, tokens=factor * self.tokens, flops=factor * self.flops, steps=factor * self.steps)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of every stage. A default never changes, and numbers never change, without a version bump."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    @cached_property
    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": self.version, **fields_of(self)}

    @cached_property
    def key(self) -> str:
        # Ancestors first, by a stack of our own: a long chain of stages would exhaust Python's.
        stack: list[Stage] = [self]
        while True:
            stage = stack[-1]
            unknown = [inner for inner in stage.inner_stages if "key" not in vars(inner)]
            if unknown:
                stack.extend(unknown)
            elif stage is self:
                return key_of(self.description)
            else:
                vars(stack.pop())["key"] = key_of(stage.description)

    @property
    def folder_name(self) -> str:
        return f"{self.kind}-{self.key}"

    @cached_property
    def inner_stages(self) -> tuple[Stage, ...]:
        """The stages among the fields, at any depth short of another stage, as often as they stand there."""
        return tuple(part for part in parts_of(self) if isinstance(part, Stage))

    @cached_property
    def parents(self) -> tuple[Stage, ...]:
        """The stages that this one needs, each once, in the order of their keys."""
        found = {stage.key: stage for stage in self.inner_stages}
        return tuple(found[key] for key in sorted(found))

    def unavailable(self, outcomes: Mapping[str, Outcome]) -> str | None:
        """Why this stage can never run, given its parents' outcomes by key, or None."""
        for parent in self.parents:
            if outcomes[parent.key].status != "complete":
                return f"parent {parent.folder_name} ended as {outcomes[parent.key].status}"
        reasons = (part.unreached(outcomes) for part in parts_of(self) if isinstance(part, ParentResult))
        return next((reason for reason in reasons if reason), None)

    @property
    def cost(self) -> Cost:
        raise NotImplementedError(f"{type(self).__name__} states no cost")

    def memory(self, execution: Execution, activation_budget: float = CPU_ACTIVATION_BYTES) -> Memory:
        """Bytes on each device that computes the stage; microbatches are cut to `activation_budget`."""
        return Memory(activations=self.cost.memory_bytes)

    @property
    def label(self) -> str:
        """A few words for the live view."""
        return self.folder_name

    def run(self, context: Context) -> dict[str, Any]:
        """Compute. Returns the summary kept in DONE (JSON data). Raises Diverged when the numbers do."""
        raise NotImplementedError(f"{type(self).__name__} cannot run")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended, read from DONE. `diverged` is a result, not a failure: it is never retried."""

    status: str
    """complete | diverged"""
    attempt: str
    summary: dict[str, Any]
    """What `run` returned (of a diverged stage its `message`), and `seconds_computing`: inside training and evaluation,
    in the attempt that completed, so without what an attempt that it resumed had spent."""


class ParentResult:
    """Base of descriptions that read a result which a completed parent may lack, such as a snapshot."""

    def unreached(self, outcomes: Mapping[str, Outcome]) -> str | None:
        """Why there is no such result, given the parents' outcomes by key, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not check its parents")


def parts_of(stage: Stage) -> Iterator[Any]:
    """Stages and descriptions among the fields of `stage`, in dataclasses and tuples at any depth, short of another
    stage."""
    stack: list[Any] = [getattr(stage, field.name) for field in fields(type(stage))]
    while stack:
        value = stack.pop()
        if value is None or isinstance(value, (str, int, float)):
            continue
        if isinstance(value, Stage):
            yield value
        elif isinstance(value, (tuple, list)):
            stack.extend(value)
        elif is_description(value):
            yield value
            stack.extend(getattr(value, field.name) for field in fields(type(value)))
