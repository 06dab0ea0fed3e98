"""A stage: a frozen description of something computed, with an identity and parents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.identity import fields, fields_of, is_description, key_of
from halflife.store.plugins import origin_of


class Context(Protocol):
    """What a running stage gets: where to write, where its parents are, and callbacks."""

    results: Path
    """The results root, which contains the corpora."""
    folder: Path
    """This attempt's folder. The stage writes only below it."""
    resume: Path | None
    """Folder of the newest valid checkpoint of an earlier attempt (read only); None to start from the beginning."""
    device: str
    execution: Execution
    """The engine, and the number of processes."""
    checkpoint_seconds: float
    """Requested interval between resumable checkpoints."""
    min_checkpoint_seconds: float
    """Lower limit on that interval: checkpoints that are slow to upload are made less often."""

    def parent(self, stage: Stage) -> Path:
        """Folder of the completed attempt of a parent."""
        ...

    def record(self, step: int, values: dict[str, float]) -> None:
        """Record points at `step` (tokens since the stage began). Names are `<task>/<measure>`."""
        ...

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """This process has written these files of the checkpoint in `folder`. If several processes write a checkpoint,
        all call this before one calls `checkpointed`."""
        ...

    def checkpointed(self, step: int, folder: Path) -> None:
        """A resumable checkpoint at `step` is complete in `folder`, below this attempt's folder.

        Recorded points are saved with it, so record those at `step` before. The previous checkpoint may be removed
        after.
        """
        ...

    def progress(self, done: int, total: int, rate: float) -> None:
        """For the live view: tokens done, tokens in total, tokens per second."""
        ...

    def computing(self, seconds: float) -> None:
        """Add seconds of training or evaluation, for the efficiency in the report."""
        ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a running stage, for the live view only."""

    done: int = 0
    """Tokens."""
    total: int = 0
    rate: float = 0.0
    """Tokens per second."""
    computing: float = 0.0
    """Seconds of training and evaluation so far."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimated cost of a stage, for the order of stages and --dry-run."""

    tokens: float
    flops: float
    memory_bytes: float
    disk_bytes: float
    steps: float = 0.0
    """Optimizer steps: each has some overhead in addition to its FLOPs."""

    def times(self, factor: float) -> Cost:
        """The work times `factor`; memory and disk stay the same."""
        return replace(self, tokens=factor * self.tokens, flops=factor * self.flops, steps=factor * self.steps)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of every stage. Defaults and numbers never change without a version bump."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    @cached_property
    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": self.version, **origin_of(type(self)), **fields_of(self)}

    @cached_property
    def key(self) -> str:
        # Ancestors first, with an explicit stack: a long chain of stages would exhaust Python's.
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
        """The stages among the fields, at any depth but not inside another stage, with duplicates."""
        return tuple(part for part in parts_of(self) if isinstance(part, Stage))

    @cached_property
    def parents(self) -> tuple[Stage, ...]:
        """The stages that this one needs, without duplicates, sorted by key."""
        found = {stage.key: stage for stage in self.inner_stages}
        return tuple(found[key] for key in sorted(found))

    def unavailable(self, outcomes: Mapping[str, Outcome]) -> str | None:
        """Why this stage can never run, given its parents' outcomes by key; None if it can."""
        for parent in self.parents:
            if outcomes[parent.key].status != "complete":
                return f"parent {parent.folder_name} ended as {outcomes[parent.key].status}"
        reasons = (part.unreached(outcomes) for part in parts_of(self) if isinstance(part, ParentResult))
        return next((reason for reason in reasons if reason), None)

    @property
    def cost(self) -> Cost:
        raise NotImplementedError(f"{type(self).__name__} states no cost")

    def memory(self, execution: Execution, activation_budget: float = CPU_ACTIVATION_BYTES) -> Memory:
        """Bytes on each device that computes the stage. Microbatches are limited to `activation_budget` bytes."""
        return Memory(activations=self.cost.memory_bytes)

    def check(self, results: Path) -> None:
        """Read the texts below `results` as `run` will. Raises the same UserErrors, before any compute."""

    def check_execution(self, execution: Execution) -> None:
        """Raises UserError when the stage cannot be carried out so."""

    @property
    def label(self) -> str:
        """A short title for the live view."""
        return self.folder_name

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks in the names of its points, as far as they are known before it runs."""
        return ()

    def run(self, context: Context) -> dict[str, Any]:
        """Compute the stage. Returns the summary stored in DONE (JSON data). Raises Diverged when the numbers
        diverge."""
        raise NotImplementedError(f"{type(self).__name__} cannot run")


@dataclass(frozen=True, kw_only=True)
class EngineStage(Stage):
    """Base of stages that an engine carries out step by step, in batches of rows: in microbatches, with activations
    recomputed, on several workers."""

    @property
    def rows(self) -> int:
        """Rows of a batch."""
        raise NotImplementedError(f"{type(self).__name__} states no rows")

    @property
    def row_tokens(self) -> int:
        """Tokens of a row."""
        raise NotImplementedError(f"{type(self).__name__} states no row_tokens")

    @property
    def model_parameters(self) -> int:
        """Of the model that is trained, without embeddings."""
        raise NotImplementedError(f"{type(self).__name__} states no model_parameters")

    @property
    def size(self) -> str:
        """Its model's size, in messages."""
        raise NotImplementedError(f"{type(self).__name__} states no size")

    def rows_within(self, budget: float) -> int:
        """Rows whose activations stay within `budget` bytes, at least 1."""
        raise NotImplementedError(f"{type(self).__name__} states no rows_within")

    def in_half(self) -> EngineStage | None:
        """The same stage in bf16; None if it is already, or cannot be."""
        return None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended, as stored in DONE. `diverged` is a result, not a failure: it is never retried."""

    status: str
    """complete | diverged"""
    attempt: str
    summary: dict[str, Any]
    """What `run` returned, or the `message` of a diverged stage; and `seconds_computing`: training and evaluation in
    the completed attempt, not counting earlier attempts that it resumed."""


class ParentResult:
    """Base of descriptions that read a result which a completed parent may lack, such as a snapshot."""

    def unreached(self, outcomes: Mapping[str, Outcome]) -> str | None:
        """Why there is no such result, given the parents' outcomes by key, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not check its parents")


def parts_of(description: Any) -> Iterator[Any]:
    """Stages and descriptions among the fields of a stage or another description, in dataclasses and tuples at any
    depth, short of another stage."""
    stack: list[Any] = [getattr(description, field.name) for field in fields(type(description))]
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
