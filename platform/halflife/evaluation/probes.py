"""Probes: numbers from a model, described; `prepare` makes a function of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halflife.data.corpus import Corpus
from halflife.errors import UserError
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.behaviours import Continuation, Repetition, Split
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.tasks.synthetic import Asked, SyntheticTask


@dataclass(frozen=True, kw_only=True)
class LossProbe:
    """Cross-entropy in nats a token on clean text: measures `loss` and `tokens`."""

    corpus: Corpus
    split: Split = "validation"
    sequences: int = 64
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BackdoorProbe:
    """Does the payload follow, in held-out carriers? Measures `hits`, `trials` and `logprob` (nats a payload token).

    triggered: prompt ends in the trigger. near: one character of the trigger is changed (false fires).
    untriggered: the same prompts without the trigger.
    """

    backdoor: Backdoor
    corpus: Corpus
    condition: Literal["triggered", "near", "untriggered"] = "triggered"
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of carrier text before the trigger, at most."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TaskProbe:
    """Are items of languages answered? Measures `hits`, `trials`, `logprob` (nats an answer token) and `chance`
    (success without a skill), all languages together, and `least`, the success in the language that has least.

    With `choice` an item is a hit when its prompt raises the likelihood of its answer more than that of every other
    answer of the language (a forced choice, each answer against its own mean over the prompts asked): the cheapest test
    of whether the skill is gone or only not said. `logprob` is then nats an item, among the answers.
    """

    languages: tuple[SyntheticTask, ...]
    part: Asked = "held-out"
    trials: int = 128
    """Items asked of each language, at most: those that the part has, where it has fewer."""
    shots: int = 0
    """Memorised items with their answers put before each prompt."""
    choice: bool = False
    each: bool = False
    """Measure every language apart as well, in the same pass: evaluation `x` has tasks `x` and `x-<language>`."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerProbe:
    """Can the answer be read off the residual stream at the prompt's last token by a linear map? Layer by layer: the
    evaluation `layer` has tasks `layer-0` (the embedding) to `layer-<depth>` (what the logits read), with measures
    `hits`, `trials`, `chance`, and `control`: hits of the same map fitted to dealt answers (a control task after Hewitt
    and Liang, arXiv 1909.03368; at chance if the map itself learns nothing).

    Ridge regression onto the answer's characters, its strength by leave-one-out, fitted on memorised items and scored
    on held-out ones; where there are none, on memorised items in turn, each fold by a map fitted to the others.
    """

    languages: tuple[SyntheticTask, ...]
    trials: int = 128
    """Items asked of each language, at most."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BehaviourProbe:
    """Is a behaviour shown? Measures `hits`, `trials`, `logprob` and `loss` (nats an answer token, one the other's
    negative). A hit is the whole answer; where several are right, hits count the one that is stated."""

    behaviour: Repetition | Continuation | Pathfinding | DropGame
    corpus: Corpus | None = None
    """Whose text the prompts are, for behaviours that need some."""
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of text in a prompt; a continuation states its own."""
    seed: int = 0

    def __post_init__(self) -> None:
        needs = isinstance(self.behaviour, Continuation) or self.behaviour.needs_carriers
        if needs != (self.corpus is not None):
            expected = "a corpus whose text the prompts are" if needs else "no corpus, as it states its own prompts"
            raise UserError(f"{self.behaviour.name} to be asked of {self.corpus} given: expected {expected}")
        if self.trials < 1 or self.context < 1:
            raise UserError(
                f"{self.trials} trials with {self.context} characters of text given: expected 1 or more of each"
            )


Probe = LossProbe | BackdoorProbe | TaskProbe | LayerProbe | BehaviourProbe


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Steps 0, 1, 2, ... `dense`, then at ratios of at most `ratio`, and the last step."""

    dense: int = 8
    ratio: float = 1.25


@dataclass(frozen=True, kw_only=True)
class Every:
    """Every `steps` steps, step 0 and the last."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Step 0 and the last step only."""


Cadence = Geometric | Every | Ends


def due(cadence: Cadence, steps: int) -> list[int]:
    """The steps, rising, after which a stage of `steps` steps is evaluated; 0 is before training, the last is in.

    Raises UserError for a cadence that never moves on.
    """
    if isinstance(cadence, Ends):
        return sorted({0, steps})
    if isinstance(cadence, Every):
        if cadence.steps < 1:
            raise UserError(f"evaluation every {cadence.steps} steps given: expected at least 1")
        return sorted({*range(0, steps, cadence.steps), steps})
    if cadence.ratio <= 1 or cadence.dense < 0:
        raise UserError(
            f"evaluation at ratio {cadence.ratio} after {cadence.dense} dense steps given: "
            "expected a ratio above 1 and 0 or more dense steps"
        )
    found, step = {0, steps}, 0
    while step < steps:
        found.add(step)
        # Where the ratio asks for less than one step more, one step is what there is.
        step = step + 1 if step < cadence.dense else max(step + 1, int(step * cadence.ratio))
    return sorted(found)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    name: str
    """The task part of the metric names: `<name>/<measure>`."""
    probe: Probe
    at: Cadence = Geometric()


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A condition on a measured value: `metric` (`<name>/<measure>`) at least (or at most) `threshold`.
    A metric `a/hits` with `share=True` means hits / trials."""

    metric: str
    threshold: float
    at_most: bool = False
    share: bool = False
