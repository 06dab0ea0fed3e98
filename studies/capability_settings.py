"""Settings of the study capability_decay: flags, checks, declaration and presets."""

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
from studies.checks import check_distinct, check_positive, check_steps, flag
from studies.soft_prompt_axis import FIGURES, described

Drop = Literal["one", "half", "family"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The axes of the study. The core is families x sizes x seeds at the first value of every other axis; each further
    value varies alone, in the focus family and at its sizes."""

    families: tuple[Kind, ...] = ("A", "B", "C", "D")
    """A: unrelated sequences. B: one skill in different forms. C: B with translations. D: C without the translations of
    one pair."""
    languages: int = 3
    """Languages per family, not counting translations; at most 10."""
    modulus: int = 19
    """Modulus of the additions of B, C and D. A small one has too few sums to tell the rule from a table."""
    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each drops another language, and draws its own items, initial weights and data order."""
    focus: Kind = "C"
    """The family in which the axes below vary, each alone."""
    focus_sizes: tuple[str, ...] = ()
    """The sizes at which they vary; by default the middle one."""
    drop: tuple[Drop, ...] = ("one",)
    """What leaves the mixture: one language, half of them, or the whole family. With family, trunks also train on text,
    in equal parts, and branches on text alone."""
    fades: tuple[float, ...] = (0.0,)
    """0: the drop is abrupt. Otherwise the dropped languages' share falls to zero over this fraction of the branch."""
    translations: tuple[Literal["dropped", "kept"], ...] = ("dropped",)
    """Whether translations of a dropped language leave with it. Kept, they are training data close to it."""
    replay: tuple[float, ...] = (0.0,)
    """Share of the branch's sequences that replay the dropped languages."""
    rule_overlap: tuple[float, ...] = (1.0,)
    """Share of the dropped language's first operands whose sums obey the shared rule. Varies in B."""
    token_overlap: tuple[float, ...] = (1.0,)
    """Share of its numbers that are written in its own form's numerals, as translations write them. Varies in B."""
    trunk_regularizers: tuple[str, ...] = ("weight-decay-2",)
    """none, or weight-decay-X, weight-decay-coupled-X, dropout-X, label-smoothing-X, gradient-noise-X, batch-tokens-N,
    adamw-LR, sgd-LR, muon-LR; joined by +."""
    branch_regularizers: tuple[str, ...] = ("weight-decay-2",)
    """As for the trunk, and l2sp-X."""
    interventions: tuple[str, ...] = ("none",)
    """Interventions against forgetting, in the branch: l2sp-X, ewc-X, kl-X, lora-RANK, frozen-embeddings,
    frozen-LAYERS."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Learning rates of the branch, as multiples of the trunk's last one."""
    lengths: tuple[float, ...] = (1.0,)
    """Trunk lengths, as multiples of trunk_tokens: tokens per parameter."""
    criterion: float = 0.7
    """Success on held-out items of the dropped language (memorised ones where there is no rule) at which the
    equal-strength arm forks."""
    translation_share: float = 0.25
    """Translations' share of the trunk's sequences in C and D. A language has the same share in every family."""
    sequence_length: int = 32
    """Predicted tokens per sequence. With fewer items per sequence the rule is found sooner: success on held-out items
    of B at 60k and 2 million tokens (learning rate 4e-3, weight decay 2) is 0.29 at length 64 (one seed), 0.43 and 0.72
    at 32 (two)."""
    batch_tokens: int = 1024
    """Tokens per step, the same at every size."""
    trunk_tokens: int = 2_000_000
    """Length of the trunk."""
    branch_tokens: int = 600_000
    """Length of the branch, over which the decay is measured."""
    relearn_tokens: int = 100_000
    """Maximum length of relearning, which stops when success reaches 0.95."""
    relearn_examples: tuple[int, ...] = (8, 24)
    """Numbers of items of the dropped language to relearn from; all of the trunk's are always tried too."""
    soft_prompts: tuple[int, ...] = ()
    """Lengths of soft prompts, such as 1 4 16, fitted to elicit the dropped language: at the drop, after the branch,
    and in the model that never learned it."""
    lr: float = 3e-3
    """AdamW's learning rate in the trunk, for width 64 (muP)."""
    num_eval: int = 128
    """Maximum number of items per evaluation of a language."""
    shots: int = 1
    """Number of in-context examples, where there are any."""
    corpus: str = "python-source"
    """The text next to a family that is dropped whole; as for backdoor_persistence."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, for GPUs."""

    @property
    def varied_at(self) -> tuple[str, ...]:
        return self.focus_sizes or (self.sizes[len(self.sizes) // 2],)


MAY_BE_EMPTY = ("focus_sizes", "relearn_examples", "soft_prompts")


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    lists = [field.name for field in dataclasses.fields(settings) if isinstance(getattr(settings, field.name), tuple)]
    check_distinct(settings, *(name for name in lists if name not in MAY_BE_EMPTY))
    for size in (*settings.sizes, *settings.focus_sizes):
        Rung(size=size)
    for name in (*settings.trunk_regularizers, *settings.branch_regularizers):
        regularize(name)
    for name in settings.interventions:
        intervene(name)
    for name in settings.trunk_regularizers:
        if "l2sp" in name:
            raise UserError(f"trunk regularizer {name!r}: l2sp pulls towards a checkpoint; use it in branches")
    check_positive(
        settings, "seeds", "sequence_length", "batch_tokens", "num_eval", "shots", "lr", "learning_rates", "lengths",
        "relearn_examples",
    )  # fmt: skip
    if settings.languages < 2:
        raise UserError(f"--languages {settings.languages}: expected at least 2, one to drop and one to keep")
    check_steps(settings, "trunk_tokens", "branch_tokens", "relearn_tokens")
    for name in ("fades", "replay", "rule_overlap", "token_overlap"):
        for value in getattr(settings, name):
            if not 0 <= value <= 1:
                raise UserError(f"{flag(name)} {value:g}: expected shares from 0 to 1")
    if not 0 < settings.translation_share < 1:
        raise UserError(f"--translation-share {settings.translation_share:g}: expected a share between 0 and 1")
    if not 0 < settings.criterion <= 1:
        raise UserError(f"--criterion {settings.criterion:g}: expected a success rate above chance, at most 1")
    if settings.corpus != Settings.corpus and "family" not in settings.drop:
        raise UserError(f"--corpus {settings.corpus}: text is only read with --drop family; add that or leave this out")
    if "half" in settings.drop and settings.languages < 4:
        raise UserError(f"--drop half with --languages {settings.languages}: that is one language; give 4 or more")
    for name in ("rule_overlap", "token_overlap"):
        if len(getattr(settings, name)) > 1 and "B" not in settings.families:
            raise UserError(f"{flag(name)} with several values: it varies in family B; add B to --families")
    if settings.focus not in settings.families:
        raise UserError(f"--focus {settings.focus}: expected one of the families, {', '.join(settings.families)}")
    unknown = [size for size in settings.focus_sizes if size not in settings.sizes]
    if unknown:
        raise UserError(f"--focus-sizes {unknown[0]}: expected only sizes from --sizes, {', '.join(settings.sizes)}")


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
"""By axis: the setting with its values, its label and its scale. Labels are part of trials' names."""
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
"""Names of the controls in trials and reports, by role."""


def declare(study: str, preset: str, settings: Settings, chance: float) -> schema.Declaration:
    """`chance`: the success rate of guessing the most common answer."""

    def outcome(name: str, label: str, task: str) -> schema.Outcome:
        return schema.Outcome(name=name, label=label, phase="branch", task=task, chance=chance)

    parameters = tuple(Rung(size=size).parameters for size in settings.sizes)
    prompted = FIGURES if settings.soft_prompts else ()
    return schema.Declaration(
        study=study,
        title="Capability decay",
        question="When training stops reinforcing a capability, how long does it last, and what does that depend on?",
        reading=(
            "A trunk learns the languages of a family; at the drop one of them leaves the mixture, and a branch "
            "continues with the others. branch/dropped/hits out of branch/dropped/trials are the dropped language's "
            "items answered correctly: held-out ones, never trained on in its form, or memorised ones where there is "
            "no rule. choice: forced choice among its answers; shots: with examples in context; layer-<i>: a linear "
            "probe of layer i. Steps are tokens since the phase began."
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
    yield f"equal strength: branches fork where success on the dropped language first reaches {settings.criterion:g}"
    yield "each seed drops the next language; B, C and D of one seed drop the same form"


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
        summary="A minute and a half on 2 CPU cores: does everything work? Trunks are too short for a valid result.",
        settings=Settings(
            families=("B", "C"),
            modulus=11,
            sizes=("30k",),
            seeds=2,
            trunk_tokens=100_000,
            branch_tokens=40_000,
            relearn_tokens=20_000,
            relearn_examples=(8,),
            num_eval=32,
        ),
    ),
    "demo": Preset(
        summary="About ten minutes on 2 CPU cores: families A and C, 2 sizes x 2 seeds, all controls.",
        settings=Settings(families=("A", "C"), sizes=("60k", "120k"), seeds=2, relearn_examples=(8,)),
    ),
    "laptop": Preset(
        summary="70 minutes on 2 CPU cores: families A to D, 3 sizes x 5 seeds; weight decay of "
        "trunk x branch in one family, and the dropped language's overlap with the others in one.",
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
