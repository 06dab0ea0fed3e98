"""What the study capability_decay can be told: its settings, their checks, its declaration and presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.stages.treatments import intervene, regularize
from halflife.sweep.cli import Preset
from halflife.tasks.families import MEANING, Kind
from halflife.tracking import schema
from studies.soft_prompt_axis import FIGURES, described

Drop = Literal["one", "half", "family"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The axes of the study. The core is families x sizes x seeds at the first value of every other axis; each further
    value varies alone, in the focus family and at its sizes."""

    families: tuple[Kind, ...] = ("A", "B", "C", "D")
    """A: unrelated sequences. B: one skill in different forms. C: with translation. D: with translation but for one
    pair."""
    languages: int = 3
    """In each family, translations not counted; at most 10."""
    modulus: int = 19
    """Of the additions of B, C and D. A small one has too few sums to tell the rule from a table."""
    sizes: tuple[str, ...]
    """Rungs of the ladder, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """How many seeds; each drops another language, and draws its own items, initial weights and order of training."""
    focus: Kind = "C"
    """The family in which the axes below vary, each alone."""
    focus_sizes: tuple[str, ...] = ()
    """Sizes at which they do; none given: the middle one."""
    drop: tuple[Drop, ...] = ("one",)
    """What leaves the mixture: one language, half of them, or the family. With family, trunk and branch train on text
    as well, in equal parts, and the branch on nothing else."""
    fades: tuple[float, ...] = (0.0,)
    """0: the drop is abrupt; else the dropped part's share falls to nothing over that fraction of the branch."""
    translations: tuple[Literal["dropped", "kept"], ...] = ("dropped",)
    """Those of a dropped language: kept, they are training data near it."""
    replay: tuple[float, ...] = (0.0,)
    """Share of the branch's sequences that are still of the dropped languages."""
    rule_overlap: tuple[float, ...] = (1.0,)
    """Share of the dropped language's first operands whose sums obey the shared rule. Varies in B."""
    token_overlap: tuple[float, ...] = (1.0,)
    """Share of its numbers that are written in its own form's numerals, as translations write them. Varies in B."""
    trunk_regularizers: tuple[str, ...] = ("weight-decay-2",)
    """none, or weight-decay-X, weight-decay-coupled-X, dropout-X, label-smoothing-X, gradient-noise-X, batch-tokens-N,
    adamw-RATE, sgd-RATE, muon-RATE; joined by +."""
    branch_regularizers: tuple[str, ...] = ("weight-decay-2",)
    interventions: tuple[str, ...] = ("none",)
    """Against forgetting, in the branch: l2sp-X, ewc-X, kl-X, lora-RANK, frozen-embeddings, frozen-LAYERS."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Branch rates, as multiples of the rate that trunks end with."""
    lengths: tuple[float, ...] = (1.0,)
    """Trunk lengths, as multiples of trunk_tokens: tokens per parameter."""
    criterion: float = 0.7
    """Success of the dropped language on held-out items (memorised ones where there is no rule) at which the
    equal-strength arm forks."""
    translation_share: float = 0.25
    """Of the trunk's sequences in C and D. A language's own share is the same in every family."""
    sequence_length: int = 32
    """Predicted tokens a sequence. The fewer items stand in it, the sooner the rule is found: held-out items of B at
    60k and 2 million tokens (rate 4e-3, weight decay 2) 0.29 with 64 (one seed), 0.43 and 0.72 with 32 (two)."""
    batch_tokens: int = 1024
    """Tokens a step, shared by all rungs."""
    trunk_tokens: int = 2_000_000
    """Cap: the trunk's length."""
    branch_tokens: int = 600_000
    """How long the dropped language is watched."""
    relearn_tokens: int = 100_000
    """Cap: relearning stops when success reaches 0.95."""
    relearn_examples: tuple[int, ...] = (8, 24)
    """Items of the dropped language to relearn from; always also all that the trunk had."""
    soft_prompts: tuple[int, ...] = ()
    """How many soft-prompt tokens bring the dropped language back: at the drop, after the branch, and in the model that
    never learned it; lengths, such as 1 4 16."""
    rate: float = 3e-3
    """AdamW's rate in the trunk, stated for width 64 (muP)."""
    trials: int = 128
    """Items asked of a language in an evaluation, at most."""
    shots: int = 1
    """Examples in context, where some are given."""
    corpus: str = "python-source"
    """The text beside a family that is dropped whole."""
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def varied_at(self) -> tuple[str, ...]:
        return self.focus_sizes or (self.sizes[len(self.sizes) // 2],)


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    for field in dataclasses.fields(settings):
        values = getattr(settings, field.name)
        if not isinstance(values, tuple) or field.name in ("focus_sizes", "relearn_examples", "soft_prompts"):
            continue
        if not values or len(set(values)) < len(values):
            given = " ".join(map(str, values))
            raise UserError(f"--{_flag(field.name)} {given}: expected at least one value, each once")
    for size in (*settings.sizes, *settings.focus_sizes):
        Rung(size=size)
    for name in (*settings.trunk_regularizers, *settings.branch_regularizers):
        regularize(name)
    for name in settings.interventions:
        intervene(name)
    for name in settings.trunk_regularizers:
        if "l2sp" in name:
            raise UserError(f"trunk regularizer {name!r}: l2sp pulls towards a checkpoint; use it in branches")
    for flag in ("seeds", "sequence_length", "batch_tokens", "trials", "shots", "rate"):
        if getattr(settings, flag) <= 0:
            raise UserError(f"--{_flag(flag)} {getattr(settings, flag)}: expected a positive number")
    if settings.languages < 2:
        raise UserError(f"--languages {settings.languages}: expected at least 2, one to drop and one that stays")
    if settings.batch_tokens < settings.sequence_length:
        raise UserError(
            f"--batch-tokens {settings.batch_tokens}: expected at least one sequence of {settings.sequence_length} "
            "(--sequence-length)"
        )
    for flag in ("trunk_tokens", "branch_tokens", "relearn_tokens"):
        if getattr(settings, flag) < settings.batch_tokens:
            raise UserError(
                f"--{_flag(flag)} {getattr(settings, flag)}: expected at least one step of {settings.batch_tokens} "
                "tokens"
            )
    for flag in ("learning_rates", "lengths", "relearn_examples"):
        for value in getattr(settings, flag):
            if value <= 0:
                raise UserError(f"--{_flag(flag)} {value:g}: expected positive numbers")
    for flag in ("fades", "replay", "rule_overlap", "token_overlap"):
        for value in getattr(settings, flag):
            if not 0 <= value <= 1:
                raise UserError(f"--{_flag(flag)} {value:g}: expected shares from 0 to 1")
    if not 0 < settings.translation_share < 1:
        raise UserError(f"--translation-share {settings.translation_share:g}: expected a share between 0 and 1")
    if not 0 < settings.criterion <= 1:
        raise UserError(f"--criterion {settings.criterion:g}: expected a success rate above chance, at most 1")
    if settings.corpus != Settings.corpus and "family" not in settings.drop:
        raise UserError(f"--corpus {settings.corpus}: no text is read without --drop family; leave it out or add that")
    if "half" in settings.drop and settings.languages < 4:
        raise UserError(f"--drop half with --languages {settings.languages}: that is one language; give 4 or more")
    for flag in ("rule_overlap", "token_overlap"):
        if len(getattr(settings, flag)) > 1 and "B" not in settings.families:
            raise UserError(f"--{_flag(flag)} with several values: it varies in family B; add B to --families")
    if settings.focus not in settings.families:
        raise UserError(f"--focus {settings.focus}: expected one of the families, {', '.join(settings.families)}")
    unknown = [size for size in settings.focus_sizes if size not in settings.sizes]
    if unknown:
        raise UserError(f"--focus-sizes {unknown[0]}: expected some of the sizes, {', '.join(settings.sizes)}")


def _flag(name: str) -> str:
    return name.replace("_", "-")


AXES: dict[str, tuple[str, str, str]] = {
    "family": ("families", "Family", "category"),
    "arm": ("", "Arm", "category"),
    "drop": ("drop", "What is dropped", "category"),
    "fade": ("fades", "Fading out", "linear"),
    "translations": ("translations", "Translations of the dropped language", "category"),
    "replay": ("replay", "Replay", "linear"),
    "rule_overlap": ("rule_overlap", "Shared rule", "linear"),
    "token_overlap": ("token_overlap", "Shared tokens", "linear"),
    "trunk_regularizer": ("trunk_regularizers", "Regularizer of the trunk", "category"),
    "branch_regularizer": ("branch_regularizers", "Regularizer of the branch", "category"),
    "intervention": ("interventions", "Intervention", "category"),
    "learning_rate": ("learning_rates", "Branch rate", "log"),
    "length": ("lengths", "Trunk length", "log"),
}
"""By axis: the setting that has its values, its label and its scale."""
UNITS = {
    "fade": "of the branch",
    "replay": "of the branch's sequences",
    "rule_overlap": "of the first operands",
    "token_overlap": "of the numerals",
    "learning_rate": "x the trunk's last rate",
    "length": "x the reference's",
}
ARMS = ("equal-exposure", "equal-strength")
CONTROLS = {"absent": "never learned it", "positive": "never dropped it", "null": "learned shuffled answers"}
"""By role, as trials and reports call them."""


def declare(study: str, preset: str, settings: Settings, chance: float) -> schema.Declaration:
    """`chance`: success without the skill, of the likeliest guess."""

    def outcome(name: str, label: str, task: str) -> schema.Outcome:
        return schema.Outcome(name=name, label=label, phase="branch", task=task, chance=chance)

    parameters = tuple(Rung(size=size).parameters for size in settings.sizes)
    prompted = FIGURES if settings.soft_prompts else ()
    return schema.Declaration(
        study=study,
        title="Capability decay",
        question="When training stops reinforcing a capability, how long does it last, and what does that depend on?",
        reading=(
            "A trunk learns the languages of a family; at the drop one of them leaves the mixture, and a branch goes "
            "on with the others. branch/dropped/hits of branch/dropped/trials are the dropped language's items "
            "answered right: held-out ones, never trained on in its form, or memorised ones where there is no rule. "
            "choice is a forced choice among its answers, shots asks with examples in context, layer-<i> reads "
            "the answer off layer i by a linear map. The step is tokens since the phase began."
        ),
        preset=preset,
        axes=(
            schema.Axis(
                name="parameters",
                label="Model size",
                values=parameters,
                scale="log",
                unit="non-embedding parameters",
            ),
            schema.Axis(name="seed", label="Seed", values=tuple(range(settings.seeds))),
            *(
                schema.Axis(
                    name=name,
                    label=label,
                    values=getattr(settings, source) if source else ARMS,
                    scale=scale,
                    unit=UNITS.get(name, ""),
                )
                for name, (source, label, scale) in AXES.items()
            ),
        ),
        outcomes=(
            outcome("skill", "Skill of the dropped language", "dropped"),
            outcome("memorised", "Its memorised items", "dropped-memorised"),
            outcome("choice", "Forced choice among its answers", "choice"),
            outcome("shots", "With examples in context", "shots"),
        ),
        controls=tuple(schema.Control(kind=role, label=label, role=role) for role, label in CONTROLS.items()),
        figures=(
            *("languages", "family", "half_life", "erasure", "examples"),
            *prompted,
            *("effects", "overlap", "generalisation"),
        ),
        prompts=described(settings.soft_prompts),
        notes=tuple(_notes(settings)),
        settings=dataclasses.asdict(settings),
    )


def _notes(settings: Settings) -> Iterator[str]:
    yield from (f"family {kind}: {MEANING[kind]}" for kind in get_args(Kind) if kind in settings.families)
    yield f"equal strength: fork where success on the dropped language first reaches {settings.criterion:g}"
    yield "which language is dropped: with the seed, the next; B, C and D of one seed drop the same form"


REGULARIZERS = ("weight-decay-1", "none", "weight-decay-0.1", "dropout-0.1", "label-smoothing-0.1")
LARGE = Settings(
    languages=10,
    sizes=("300k", "1m", "3m", "10m", "30m"),
    seeds=5,
    drop=("one", "half", "family"),
    fades=(0.0, 0.5),
    translations=("dropped", "kept"),
    replay=(0.0, 0.001, 0.01, 0.1),
    rule_overlap=(1.0, 0.75, 0.5, 0.25, 0.0),
    token_overlap=(1.0, 0.5, 0.0),
    trunk_regularizers=REGULARIZERS,
    branch_regularizers=REGULARIZERS,
    interventions=("none", "l2sp-1", "ewc-1", "kl-1", "lora-8", "frozen-embeddings", "frozen-1"),
    learning_rates=(1.0, 0.5, 0.25),
    lengths=(1.0, 2.0),
    sequence_length=128,
    batch_tokens=16_384,
    shots=3,
    trunk_tokens=50_000_000,
    branch_tokens=20_000_000,
    relearn_tokens=2_000_000,
    precision="bf16",
)
PRESETS = {
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work here? Trunks too short to mean anything.",
        settings=Settings(
            families=("B", "C"),
            modulus=11,
            sizes=("30k",),
            seeds=2,
            trunk_tokens=100_000,
            branch_tokens=40_000,
            relearn_tokens=20_000,
            relearn_examples=(8,),
            trials=32,
        ),
    ),
    "demo": Preset(
        summary="About ten minutes on 2 CPU cores: families A and C, 2 sizes x 2 seeds, all controls.",
        settings=Settings(families=("A", "C"), sizes=("60k", "120k"), seeds=2, relearn_examples=(8,)),
    ),
    "laptop": Preset(
        summary="70 minutes on 2 CPU cores: families A to D, 3 sizes x 5 seeds; in one "
        "family weight decay of the trunk x of the branch, and in one the dropped language's overlap with the others.",
        settings=Settings(
            sizes=("60k", "120k", "240k"),
            seeds=5,
            trunk_regularizers=("weight-decay-2", "weight-decay-1"),
            branch_regularizers=("weight-decay-2", "none"),
            rule_overlap=(1.0, 0.0),
            token_overlap=(1.0, 0.0),
            relearn_examples=(8,),
        ),
    ),
    "gpu": Preset(
        summary="Hours on one GPU: ten languages, 5 sizes from 300k to 30m parameters x 5 seeds, every axis.",
        settings=LARGE,
    ),
    "cluster": Preset(
        summary="A cluster: ten languages, 6 sizes from 1m to 300m parameters x 8 seeds, every axis.",
        settings=replace(
            LARGE,
            sizes=("1m", "3m", "10m", "30m", "100m", "300m"),
            seeds=8,
            focus_sizes=("3m", "30m"),
            lengths=(1.0, 2.0, 4.0),
            batch_tokens=65_536,
            trunk_tokens=400_000_000,
            branch_tokens=100_000_000,
            relearn_tokens=10_000_000,
        ),
    ),
}
