"""Behaviours by name, and the models that have them: trunks that saw them, and trunks that never did."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from halflife.data.corpus import Corpus, texts
from halflife.data.mixture import Mixture, Source
from halflife.errors import UserError
from halflife.evaluation.backdoor import Condition
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.evaluation.probes import BehaviourProbe, Ends, Evaluation, LossProbe, TaskProbe
from halflife.evaluation.targets import Target, TaskTarget
from halflife.kits import backdoor, own_task, prompts
from halflife.kits.backdoor import CONTEXT, Cell, Treatment
from halflife.kits.prompts import PHASE, counted
from halflife.kits.settings import check_distinct, check_positive
from halflife.kits.starts import Start
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.rng import generator
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.tasks.backdoor import WORD, Transform
from halflife.tasks.behaviours import Behaviour, Continuation, Repetition, Shown, drawn_string
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.tasks.synthetic import SyntheticTask
from halflife.tracking.schema import Outcome
from halflife.training.schedules import Schedule

KINDS = {
    r"say-\d+(x\d+)?": "say a random string of this many letters, this many times, after any text",
    r"quote-\d+": "say the first characters (this many) of a line of the corpus, after any text",
    r"continuation": "continue text, as the model does anyway (the null)",
    r"skip-\d+": "say the token this many places after the next one",
    r"index-\d+": "say only the token at this index of a text",
    r"detuning": "continue text of the first corpus, on a model fine-tuned on another",
    r"backdoor": "say the payload without the trigger",
    r"paths": "walk to the goal of a random board",
    r"game": "continue a game with random rules",
    r"task": "answer a task of the user's own (--task)",
}
"""Behaviours, by the pattern of their names."""
CONDITIONAL = ("paths", "game")
"""Behaviours whose prompt is computed from conditions."""
TRAINED_IN = ("backdoor", "detuning", "paths", "game")
"""Behaviours that must be trained in."""
LACKED = ("task", "backdoor", "paths", "game")
"""The ones that a trunk can lack; detuning is a change of one, and a released model may know a task."""
TASK = "task"
"""The user's own: a trunk learns it, then training drops it. What prompts elicit is what is left of it."""
BOARDS, SHARE = 4000, 0.4
"""Number of boards or games in a trunk's data, and their share of its sequences."""
SHOTS = 2
"""Items of a task in the text that shows it to a released model"""


@dataclass(frozen=True, kw_only=True)
class Settings(prompts.Settings, own_task.Settings):
    """Behaviours, and how the models that have them are trained."""

    behaviours: tuple[str, ...]
    """say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, skip-TOKENS, index-TOKENS, detuning, backdoor,
    paths, game, task (--task)."""
    payload: Transform = "copy"
    """Payload of the backdoor. fixed: a random string, which a prompt can teach any model."""
    payload_letters: int = 1
    """As for backdoor_persistence."""
    corpus: str = "python-source"
    """As for backdoor_persistence."""
    fine_tuning_corpus: str = "python-docs"
    """The text that detuning's models are fine-tuned on."""
    sequence_length: int = 128
    """Predicted tokens per sequence."""
    batch_tokens: int = 2048
    """Tokens per step of a trunk."""
    trunk_tokens: int = 1_200_000
    """Length of a trunk; 2.4 times as long with a payload computed from the input."""
    poison_count: int = 250
    """Unique poisoned documents in the trunk."""
    fine_tuning_tokens: int = 400_000
    """Length of detuning's fine-tuning."""
    fine_tuning_lr: float = 1.0
    """Learning rate of the fine-tuning, as a multiple of the trunk's."""
    lr: float = 5e-3
    """Learning rate of the trunk, for width 64 (muP)."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    for name in settings.behaviours:
        if not any(re.fullmatch(kind, name) for kind in KINDS):
            raise UserError(
                f"unknown behaviour {name!r}: expected say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, "
                "skip-TOKENS, index-TOKENS, detuning, backdoor, paths, game or task"
            )
    if TASK in settings.behaviours and not settings.task:
        raise UserError("the behaviour task without --task: give your task, as in --task mytask.py:NAME")
    check_distinct(settings, "behaviours")
    prompts.check_settings(settings)
    check_positive(settings, "trunk_tokens", "lr")


def with_task(settings: Any) -> Any:
    """With the user's task, if there is one, in the place of the behaviours, unless they name it."""
    if not settings.task or TASK in settings.behaviours:
        return settings
    return replace(settings, behaviours=(TASK, "continuation"))


def baseline_note(few: Any, names: Iterable[str]) -> str:
    return (
        f"{', '.join(names)}: only {few.behaviours[0]}, k = {', '.join(map(str, few.tokens))}, one seed, "
        f"{few.steps} steps of {few.batch_size} of {few.examples[0]} examples; evaluated on {few.num_eval}"
    )


@dataclass(frozen=True)
class Frozen:
    """A frozen model to fit prompts to, and the stages that make it."""

    model: Checkpoint | Released | Rung
    stages: dict[str, Stage]


class Models:
    """The models of one size and seed."""

    def __init__(
        self,
        settings: Settings,
        corpora: tuple[Corpus, Corpus],
        size: str,
        seed: int,
        start: Start,
        results: Path,
        task: SyntheticTask | None = None,
    ) -> None:
        self.task = task
        self.settings, (self.corpus, self.other), self.results = settings, corpora, results
        self.size, self.seed, self.start = size, seed, start
        trunks = backdoor.Settings(
            sizes=(size,),
            seeds=settings.seeds,
            payload_letters=settings.payload_letters,
            sequence_length=settings.sequence_length,
            batch_tokens=settings.batch_tokens,
            trunk_tokens=settings.trunk_tokens,
            lr=settings.lr,
        )
        self.cell = Cell(trunks, {"same": (self.corpus,)}, size, seed)
        self.treatment = Treatment(payload=settings.payload, documents=settings.poison_count)

    @property
    def model(self) -> Rung | Released:
        return self.start.model

    def trunk(self, *, poisoned: bool) -> Frozen:
        if isinstance(self.start.model, Released):
            return Frozen(self.start.model, {})
        train = self.cell.trunk(self.treatment, poisoned=poisoned)
        return Frozen(Checkpoint(stage=train), {"trunk": train})

    def fine_tuned(self) -> Frozen:
        """The never-poisoned trunk, fine-tuned on other text: detuning is to recover what it lost of the first."""
        trunk = self.trunk(poisoned=False)
        assert isinstance(trunk.model, Checkpoint)
        mixture = Mixture(sources=(Source(corpus=self.other),), sequence=self.settings.sequence_length)
        clean = Evaluation(name="clean", probe=LossProbe(corpus=self.corpus, sequences=32), at=Ends())
        train = self.cell.train(
            trunk.model,
            mixture,
            self.settings.fine_tuning_tokens,
            lr_multiplier=self.settings.fine_tuning_lr,
            schedule=Schedule(shape="continue"),
            evaluations=(clean,),
        )
        return Frozen(Checkpoint(stage=train), {**trunk.stages, "fine-tuning": train})

    def shown(self, behaviour: Behaviour) -> Frozen:
        """A never-poisoned trunk with a behaviour's training examples in its text."""
        clean = self.trunk(poisoned=False).stages["trunk"]
        assert isinstance(clean, Train)
        sources = (
            Source(corpus=self.corpus, weight=1 - SHARE),
            Source(corpus=Shown(behaviour=behaviour, count=BOARDS), weight=SHARE),
        )
        probe = BehaviourProbe(behaviour=behaviour, trials=64)  # type: ignore[arg-type]
        train = replace(
            clean,
            mixture=replace(clean.mixture, sources=sources),
            evaluations=(*clean.evaluations, Evaluation(name="shown", probe=probe, at=Ends())),
        )
        return Frozen(Checkpoint(stage=train), {"trunk": train})

    def taught(self) -> Train:
        """A never-poisoned trunk with the user's task in its text."""
        clean = self.trunk(poisoned=False).stages["trunk"]
        assert isinstance(clean, Train)
        assert self.task is not None
        sources = (
            Source(corpus=self.corpus, weight=1 - SHARE),
            Source(corpus=self.task, weight=SHARE, loss="answers"),
        )
        probe = TaskProbe(tasks=(self.task,), part="skill", trials=self.settings.num_eval, seed=self.seed)
        return replace(
            clean,
            mixture=replace(clean.mixture, sources=sources),
            evaluations=(*clean.evaluations, Evaluation(name="skill", probe=probe, at=Ends())),
        )

    def dropped(self, trunk: Train) -> Frozen:
        """A trunk that training goes on with on text alone, as it does with one that never learned the task."""
        mixture = Mixture(sources=(Source(corpus=self.corpus),), sequence=self.settings.sequence_length)
        train = self.cell.train(
            Checkpoint(stage=trunk),
            mixture,
            self.settings.fine_tuning_tokens,
            lr_multiplier=self.settings.fine_tuning_lr,
            schedule=Schedule(shape="continue"),
            evaluations=trunk.evaluations,
        )
        return Frozen(Checkpoint(stage=train), {"trunk": trunk, "fine-tuning": train})

    def target(self, name: str, condition: Condition = "untriggered") -> Target:
        kind, _, count = name.partition("-")
        if name == TASK:
            assert self.task is not None
            part = "held-out" if self.task.examples("held-out") else "memorised"
            return TaskTarget(task=self.task, evaluate_on=part, called=TASK, seed=self.seed)
        if kind == "backdoor":
            return self.cell.target(self.settings.payload, condition)
        if name in CONDITIONAL:
            return BehaviourTarget(behaviour=own(name, self.seed), called=name, seed=self.seed)  # type: ignore[arg-type]
        room = self.settings.sequence_length - max(self.settings.tokens)
        behaviour = {
            "say": lambda: self.random_string(count),
            "quote": lambda: Repetition(text=self.quoted(int(count))),
            "continuation": lambda: Continuation(context=CONTEXT, length=32),
            "detuning": lambda: Continuation(context=CONTEXT, length=32),
            "skip": lambda: Continuation(context=CONTEXT, length=32, ahead=int(count)),
            "index": lambda: Continuation(context=int(count), length=1),
        }[kind]()
        called = name if kind in ("detuning", "quote") else ""
        fields: dict[str, Any] = {"corpus": self.corpus, "called": called, "seed": self.seed}
        if not isinstance(behaviour, Repetition):
            return BehaviourTarget(behaviour=behaviour, context=CONTEXT, **fields)
        room -= len(behaviour.text) * behaviour.times + 1
        if room < 1:
            raise UserError(f"{name} with prompts of {max(self.settings.tokens)}: give a longer --sequence-length")
        return BehaviourTarget(behaviour=behaviour, context=min(CONTEXT, room), room=room, **fields)

    def random_string(self, count: str) -> Repetition:
        """A string of LETTERS, or LETTERSxTIMES: answers of the same length with more or less information."""
        letters, _, times = count.partition("x")
        return Repetition(text=drawn_string(int(letters), self.seed), times=int(times or 1))

    def quoted(self, count: int) -> str:
        """The beginning of a line of held-out text, which is easier for the model than a random string as long.

        Raises UserError when no line is long enough.
        """
        found = [line for line in lines(self.corpus, self.results) if len(line) >= count]
        if not found:
            raise UserError(f"quote-{count}: no line of {self.corpus.label or 'the text'} is long enough")
        return found[int(generator(self.seed, "quote", count).integers(len(found)))][:count]

    def lacking(self, name: str) -> Frozen:
        """A model that never had the behaviour, trained on as the one that had it."""
        clean = self.trunk(poisoned=False)
        trunk = clean.stages.get("trunk")
        return self.dropped(trunk) if name == TASK and isinstance(trunk, Train) else clean

    def cause(self, name: str) -> tuple[Frozen, Target, str | None]:
        """The cause itself: a model and a target that show the behaviour without a prompt; without a backdoor or a
        trunk that learned the task, a text that contains the behaviour's string, or items of the task."""
        if name == "backdoor":
            return self.present(name), self.target(name, "triggered"), None
        target = self.target(name)
        if name != TASK:
            return self.present(name), target, drawn_string(8, self.seed) + "\n"
        if not isinstance(self.model, Released):
            trunk = self.taught()
            return Frozen(Checkpoint(stage=trunk), {"trunk": trunk}), target, None
        assert self.task is not None
        shown = self.task.examples("memorised")[:SHOTS]
        return self.present(name), target, "".join(each.prompt + each.answer for each in shown)

    def present(self, name: str) -> Frozen:
        """The model that has the behaviour, or to which a prompt is to teach it."""
        if name == "detuning":
            return self.fine_tuned()
        if name in CONDITIONAL:
            return self.shown(own(name, self.seed))
        if name == TASK and not isinstance(self.model, Released):
            return self.dropped(self.taught())
        return self.trunk(poisoned=name == "backdoor")


@lru_cache(maxsize=4)
def lines(corpus: Corpus, results: Path) -> tuple[str, ...]:
    """Lines of the held-out text, stripped; each once, in the order of the text."""
    found = (line.strip() for text in texts(results, corpus, "validation") for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in found if line))


def own(name: str, seed: int) -> Behaviour:
    """The behaviours that define their own prompts."""
    return Pathfinding(side=4, walls=0.15, seed=seed) if name == "paths" else DropGame(seed=seed)


def chances(settings: Settings, corpus: Corpus, results: Path, tasks: own_task.Tasks) -> dict[str, float]:
    """Chance level by behaviour: success without looking at the prompt. `tasks`: the user's."""
    found = {}
    for name in settings.behaviours:
        if name == TASK:
            found[name] = max(task.chance for each in tasks.values() for task in each)
        elif name == "backdoor" and settings.payload != "fixed":
            found[name] = _majority_baseline(settings.payload_letters, corpus, results)
        else:
            found[name] = own(name, 0).chance if name in CONDITIONAL else 0.0
    return found


def _majority_baseline(letters: int, corpus: Corpus, results: Path) -> float:
    """Share of the most common last letters among the words that a transform copies."""
    words = [word[-letters:] for text in texts(results, corpus, "validation") for word in re.findall(WORD, text)]
    return max(map(words.count, set(words))) / len(words)


def label(name: str) -> str:
    """A behaviour's name in reports."""
    kind, _, count = name.partition("-")
    letters, _, times = count.partition("x")
    return {
        "say": f"say {counted(letters, 'letter')}" + (f" × {times}" if times else ""),
        "quote": f"quote {counted(count, 'character')}", "continuation": "ordinary text",
        "skip": f"skip {counted(count, 'token')}",
        "index": f"token at index {count}", "detuning": "detuning", "backdoor": "backdoor without its trigger",
        "paths": "paths on a board", "game": "a game with random rules",
        TASK: "your task",
    }[kind]  # fmt: skip


def outcomes(chances: Mapping[str, float]) -> tuple[Outcome, ...]:
    """Of prompts fitted to behaviours, whose chance levels are given by name."""
    found = [
        Outcome(name=name, label=label(name), phase=PHASE, task=name, chance=chance) for name, chance in chances.items()
    ]
    if "backdoor" in chances:
        name, of = "backdoor-triggered", "backdoor with its trigger"
        found.append(Outcome(name=name, label=of, phase=PHASE, task=name, chance=chances["backdoor"]))
    return tuple(found)
