"""Studies of soft prompts: prompts of k vectors, fitted to a frozen model and evaluated on held-out examples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.targets import Target
from halflife.kits.settings import check_distinct, check_positive
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import Linear, SoftPrompt, WarmStart, initial
from halflife.stages.subject import Subject
from halflife.store.stage import Stage

PHASE = "prompts"
"""Phase of the trials and of the outcomes, by which analysis recognises a study of prompts."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """For each frozen model, prompts of k tokens x initializations x restarts."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds."""
    tokens: tuple[int, ...]
    """Prompt lengths k, including 0."""
    inits: tuple[str, ...] = ("vocabulary",)
    """Initializations of the prompts: noise, vocabulary, words, or text:... ."""
    restarts: int = 2
    """Restarts of each k and initialization."""
    num_eval: int = 128
    """Number of held-out examples per evaluation."""
    steps: int = 300
    """Steps of a prompt's training."""
    batch_size: int = 8
    """Examples per step."""
    prompt_lr: float = 0.2
    """Adam's learning rate, in units of the root mean square of the model's embeddings."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    check_distinct(settings, "sizes", "tokens", "inits")
    if 0 not in settings.tokens or len(settings.tokens) < 2:
        raise UserError(
            f"--tokens {' '.join(map(str, settings.tokens))}: expected 0, the baseline, and at least one more length"
        )
    check_positive(settings, "seeds", "restarts", "num_eval", "steps", "batch_size", "prompt_lr")
    for name in settings.inits:
        initial(name)


def prompts(settings: Settings, position: Any = "start", **fields: Any) -> tuple[SoftPrompt, ...]:
    """Every k, initialization and restart; one prompt of k = 0."""
    return tuple(
        SoftPrompt(
            tokens=k, position=position, initial=initial(name), learning_rate=settings.prompt_lr, restart=restart,
            label=f"k{k}" if k == 0 else f"k{k}-{name.split(':')[0]}-r{restart}", **fields,
        )
        for k in sorted(settings.tokens)
        for name, restart in itertools.product(settings.inits, range(settings.restarts))
        if k or (name == settings.inits[0] and restart == 0)
    )  # fmt: skip


def fit(settings: Settings, seed: int, **fields: Any) -> FitSoftPrompts:
    """The stage that fits prompts by these settings; `fields` are the rest, or replace them."""
    common = {"num_eval": settings.num_eval, "steps": settings.steps, "batch": settings.batch_size, "seed": seed}
    return FitSoftPrompts(**{**common, **fields})


def warmed(settings: Settings, stage: FitSoftPrompts) -> FitSoftPrompts | None:
    """Each k once more, starting from the best prompt of the next smaller k that `stage` fitted; None if there is one
    k."""
    found = []
    for before, after in pairwise(sorted(settings.tokens)[1:]):
        smaller = tuple(prompt.name for prompt in stage.prompts if prompt.tokens == before)
        prompt = next(prompt for prompt in stage.prompts if prompt.tokens == after)
        found.append(replace(prompt, initial=WarmStart(stage=stage, prompts=smaller), label=_warm(after)))
    return replace(stage, prompts=tuple(found)) if found else None


def _warm(k: int) -> str:
    return f"k{k}-warm"


def described(settings: Settings, *, warm: bool = True) -> dict[str, dict[str, Any]]:
    """A declaration's `prompts`: k, restart and initialization by the prompt's name."""
    found: dict[str, dict[str, Any]] = {
        p.name: {"k": p.tokens, "restart": p.restart, "initial": p.name.split("-")[1] if p.tokens else "none"}
        for p in prompts(settings)
    }
    further = settings.restarts * len(settings.inits)
    for k in sorted(settings.tokens)[2:] if warm else ():
        found[_warm(k)] = {"k": k, "restart": further, "initial": "smaller k"}
    return found


@dataclass(frozen=True, kw_only=True)
class Measured(Settings):
    """Where prompts stand, and what else is measured of those that were fitted."""

    warm_start: bool = True
    """Fit each k once more, starting from the next smaller one: more tokens can then only do worse by overfitting."""
    position: str = "start"
    """Where the prompt is inserted: start, answer (before it), or after this many tokens of the text."""
    examples: tuple[int, ...] = (256,)
    """Numbers of examples to fit prompts to. Bits, fragility and the search are measured for the first one."""
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


def check_measured(settings: Measured) -> None:
    """Raises UserError on settings that cannot be run."""
    check_settings(settings)
    check_distinct(settings, "examples")
    if settings.matched_loss is not None and not settings.matched_loss > 0:
        raise UserError(f"--matched-loss {settings.matched_loss:g}: expected a positive loss in nats per token")
    if settings.bisect and settings.matched_loss is None:
        raise UserError("--bisect without --matched-loss: give the loss, in nats per token, to search k for")
    if wrong := [k for k in settings.fragility_tokens if k not in settings.tokens or not k]:
        raise UserError(f"--fragility-tokens {wrong[0]}: expected values of --tokens other than 0")
    check_positive(settings, "bits", "subspaces", "examples")
    if settings.position not in ("start", "answer") and not settings.position.isdigit():
        raise UserError(f"--position {settings.position}: expected start, answer, or a number of tokens")


def place(settings: Measured) -> Any:
    """The position of a SoftPrompt."""
    return int(settings.position) if settings.position.isdigit() else settings.position


def fitted(
    settings: Measured,
    subject: Subject,
    target: Target,
    seed: int,
    *,
    conditional: bool = False,
    unfitted: bool = False,
) -> dict[str, Stage]:
    """Phases of a trial: prompts fitted to `target` (or not), each k again from the next smaller one, and what else
    the settings request of them. `conditional`: prompts are computed from the target's conditions, and completions
    judged; only the first phase is for those."""
    kind = {"model": Linear()} if conditional else {}
    chosen = prompts(settings, place(settings), **kind)
    stage = fit(
        settings, seed, subject=subject, targets=(target,), prompts=chosen, judged=conditional,
        examples=settings.examples[0], **({"steps": 0} if unfitted else {}),
    )  # fmt: skip
    stages: dict[str, Stage] = {PHASE: stage}
    if unfitted or conditional:
        return stages
    if settings.warm_start and (warm := warmed(settings, stage)):
        stages["warm"] = warm
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
            batch=settings.batch_size, seed=seed,
        )  # fmt: skip
    return stages


def figures(settings: Measured) -> tuple[str, ...]:
    """Those for which the settings make data."""
    return (
        *(("soft_prompts", "distances") if len(set(settings.tokens) - {0}) > 1 else ()),
        *(("restarts",) if settings.restarts > 1 else ()),
        *(("amounts",) if settings.bits or settings.subspaces else ()),
        *(("fragility",) if settings.fragility else ()),
    )


def fitting_note(settings: Measured) -> str:
    return (
        f"k = {', '.join(map(str, sorted(settings.tokens)))}; initialized from {', '.join(settings.inits)}, "
        f"{counted(settings.restarts, 'restart')} of each; {settings.steps} steps of {settings.batch_size} "
        f"of {', '.join(map(str, settings.examples))} examples; evaluated on {settings.num_eval} held-out ones"
    )


def counted(count: int | str, noun: str) -> str:
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"
