"""Probes: descriptions of what is measured on a model. `measure.prepare` makes a function of the model from one.

Each probe estimates its cost with `tokens_scored(sequence)`: tokens per evaluation, counting a character as a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from halflife.data.corpus import Corpus
from halflife.errors import UserError, check_choice
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.behaviours import Continuation, Repetition, Split
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.tasks.synthetic import PARTS, Selection, SyntheticTask

Condition = Literal["triggered", "near", "untriggered"]


@dataclass(frozen=True, kw_only=True)
class LossProbe:
    """Cross-entropy on clean text: measures `loss` (nats per token) and `tokens`."""

    corpus: Corpus
    split: Split = "validation"
    sequences: int = 64
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        return self.sequences * sequence


@dataclass(frozen=True, kw_only=True)
class BackdoorProbe:
    """Does the model output the payload, in held-out carriers? Measures `hits`, `trials`, `chance` and `logprob` (nats
    per payload token).

    triggered: the prompt ends in the trigger. near: one character of the trigger is changed (false positives).
    untriggered: the same prompts without the trigger.
    """

    backdoor: Backdoor
    corpus: Corpus
    condition: Condition = "triggered"
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of carrier text before the trigger, at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("condition of a backdoor probe", self.condition, get_args(Condition))

    def tokens_scored(self, sequence: int) -> float:
        longest = self.context + len(self.backdoor.trigger) + len(self.backdoor.longest_payload)
        return self.trials * min(sequence, longest)


@dataclass(frozen=True, kw_only=True)
class TaskProbe:
    """Does the model answer items of synthetic tasks? Measures `hits`, `trials`, `logprob` (nats per answer token) and
    `chance` (success without the skill), pooled over the tasks, and `least`, the lowest success of any task.

    With `choice`, a forced choice: an item is a hit when its prompt raises the likelihood of the correct answer more
    than that of every other answer of the task, each relative to its mean over the prompts. This is the cheapest test
    of whether a skill is gone or only no longer expressed. `logprob` is then nats per item, among the options.
    """

    tasks: tuple[SyntheticTask, ...]
    part: Selection = "held-out"
    trials: int = 128
    """Items of each task, at most."""
    shots: int = 0
    """Memorised items with their answers before each prompt."""
    choice: bool = False
    each: bool = False
    """Also measure every task on its own, in the same pass: evaluation `x` has the tasks `x` and `x-<task>`."""
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        return sum(_task_tokens(self, task, sequence) for task in self.tasks)


@lru_cache(maxsize=1024)
def _task_tokens(probe: TaskProbe, task: SyntheticTask, sequence: int) -> float:
    examples = task.examples(probe.part)
    longest = max((len(e.prompt) + len(e.answer) for e in examples), default=0)
    rows = min(probe.trials, len(examples)) * (len(task.symbols) if probe.choice else 1)
    return rows * min(sequence, longest * (1 + probe.shots))


@dataclass(frozen=True, kw_only=True)
class LayerProbe:
    """Can a linear map read the answer from the residual stream at the prompt's last token? One result per layer: the
    evaluation `layer` has the tasks `layer-0` (the embedding) to `layer-<depth>` (the input of the head), with measures
    `hits`, `trials`, `chance` and `control`: the hits of the same map fitted to shuffled answers (a control task after
    Hewitt and Liang, arXiv 1909.03368; at chance unless the map itself memorises).

    Ridge regression onto the answer's characters, with its penalty chosen by leave-one-out, fitted on memorised items
    and scored on held-out ones. A task without held-out items is cross-validated on its memorised items.
    """

    tasks: tuple[SyntheticTask, ...]
    trials: int = 128
    """Items of each task, at most."""
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        items = (example for task in self.tasks for part in PARTS for example in task.examples(part))
        return float(sum(min(sequence, len(example.prompt)) for example in items))


@dataclass(frozen=True, kw_only=True)
class BehaviourProbe:
    """Does the model show a behaviour? Measures `hits`, `trials`, `logprob` (nats per answer token) and `loss`, its
    negative. A hit is the whole answer; for open-ended behaviours, the one answer that the example gives."""

    behaviour: Repetition | Continuation | Pathfinding | DropGame
    corpus: Corpus | None = None
    """The source of the prompts, for behaviours that need text."""
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of text in a prompt; a continuation has its own length."""
    seed: int = 0

    def __post_init__(self) -> None:
        needs = isinstance(self.behaviour, Continuation) or self.behaviour.needs_carriers
        if needs != (self.corpus is not None):
            expected = "a corpus for the prompts" if needs else "no corpus, as it has prompts of its own"
            raise UserError(f"probe of {self.behaviour.name} with corpus {self.corpus} given: expected {expected}")
        if self.trials < 1 or self.context < 1:
            raise UserError(
                f"{self.trials} trials with {self.context} characters of text given: expected 1 or more of each"
            )

    def tokens_scored(self, sequence: int) -> float:
        return float(self.trials * sequence)


Probe = LossProbe | BackdoorProbe | TaskProbe | LayerProbe | BehaviourProbe


def check_probe(probe: Probe) -> None:
    """Raises UserError for an object of another class."""
    if not isinstance(probe, Probe):
        known = ", ".join(kind.__name__ for kind in get_args(Probe))
        raise UserError(f"probe {type(probe).__name__} given: expected one of {known}")


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Every step up to step `dense`, then at geometric intervals (ratio <= `ratio`), and the last step."""

    dense: int = 8
    ratio: float = 1.25


@dataclass(frozen=True, kw_only=True)
class Every:
    """Every `steps` steps, step 0 and the last step."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Step 0 and the last step only."""


Cadence = Geometric | Every | Ends


def due(cadence: Cadence, steps: int) -> list[int]:
    """The steps, ascending, after which a stage of `steps` steps is evaluated. 0 is before training; the last step is
    always included.

    Raises UserError for an unknown cadence, or one that never advances.
    """
    if isinstance(cadence, Ends):
        return sorted({0, steps})
    if isinstance(cadence, Every):
        if cadence.steps < 1:
            raise UserError(f"evaluation every {cadence.steps} steps given: expected at least 1")
        return sorted({*range(0, steps, cadence.steps), steps})
    if not isinstance(cadence, Geometric):
        raise UserError(f"cadence {cadence!r} given: expected Geometric, Every or Ends")
    if cadence.ratio <= 1 or cadence.dense < 0:
        raise UserError(
            f"evaluation at ratio {cadence.ratio} after {cadence.dense} dense steps given: "
            "expected a ratio above 1 and 0 or more dense steps"
        )
    found, step = {0, steps}, 0
    while step < steps:
        found.add(step)
        # at least one step, where the ratio gives less
        step = step + 1 if step < cadence.dense else max(step + 1, int(step * cadence.ratio))
    return sorted(found)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    name: str
    """The task part of metric names: `<name>/<measure>`."""
    probe: Probe
    at: Cadence = Geometric()

    def __post_init__(self) -> None:
        check_probe(self.probe)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A condition on a measured value: `metric` (`<name>/<measure>`) is at least (or at most) `threshold`.
    With `share=True`, a metric `a/hits` means hits / trials."""

    metric: str
    threshold: float
    at_most: bool = False
    share: bool = False
