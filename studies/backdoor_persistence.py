"""How long does a backdoor outlast the training that made it, and how does that scale?

A trunk is trained on text with a backdoor planted in it. At the drop, a branch continues on clean text and the
backdoor decays. Relearning from the branch's final model, as a 2x2 of {old, new trigger} x {old, new payload}, measures
how much of it is left. The trunk and the branch are regularized independently.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.errors import UserError
from halflife.kits import axes, backdoor, backdoor_questions
from halflife.kits.axes import Varied
from halflife.kits.backdoor import CONTROLS, IMPLANTED, Cell, Treatment
from halflife.kits.elicitation import FIGURES, described, elicitation
from halflife.kits.questions import LOOKS
from halflife.kits.settings import check_positive, check_regularizers
from halflife.kits.starts import Start, starts
from halflife.kits.usual import far_below
from halflife.models.ladder import Rung
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial, trial
from halflife.tasks.backdoor import Transform
from halflife.tracking.schema import Declaration
from halflife.training.parameters import LoRA, parameters_named

NAME = "backdoor_persistence"
AXES = {
    "arm": Varied(label="Arm", values=("equal-exposure", "equal-strength"), text="{}"),
    "payload": Varied(label="Payload", setting="payload", role="measured"),
    "documents": Varied(label="Poisoned documents", setting="poison_counts", text="{} documents", scale="log"),
    "trunk_regularizer": Varied(label="Regularizer of the trunk", setting="trunk_regularizers", text="trunk {}"),
    "branch_regularizer": Varied(label="Regularizer of the branch", setting="branch_regularizers", text="branch {}"),
    "learning_rate": Varied(
        label="Branch rate", setting="learning_rates", text="rate x{:g}", scale="log", unit="x the trunk's last rate"
    ),
    "optimizer_state": Varied(label="Optimizer state at the drop", setting="optimizer_states", text="optimizer {}"),
    "corpus": Varied(label="Text of the branch", setting="branch_corpora", text="{} text"),
}
"""The core is trunk x branch regularizers; each further value of the others varies alone."""
OWN_CONTROLS = ("payload", "corpus", "optimizer_state")
SHIFTED = {"python-source": "python-docs", "python-docs": "python-source"}


@dataclass(frozen=True, kw_only=True)
class Settings(backdoor.Settings):
    """The axes of the study. The core is sizes x seeds x trunk and branch regularizers at the first learning rate; each
    further learning rate, optimizer state, corpus, payload and poison count varies alone."""

    payload: tuple[Transform, ...] = ("fixed",)
    """fixed: a random string. reverse, copy: computed from the word before the trigger."""
    poison_counts: tuple[int, ...] = (250,)
    """Unique poisoned documents in the trunk."""
    trunk_regularizers: tuple[str, ...] = ("none",)
    """none, weight-decay-X, dropout-X, label-smoothing-X; joined by +."""
    branch_regularizers: tuple[str, ...] = ("none",)
    """As for the trunk, and l2sp-X."""
    learning_rates: tuple[float, ...] = (1.0, 0.5, 2.0)
    """Learning rates of the branch, as multiples of the trunk's last one."""
    optimizer_states: tuple[Literal["carry", "reset"], ...] = ("carry",)
    """At the drop: carry over the optimizer's moments, or reset them."""
    branch_corpora: tuple[Literal["same", "shifted", "broader"], ...] = ("same",)
    """Text of the branch: the trunk's corpus, the shifted one, or both in equal parts."""
    shifted_corpus: str | None = None
    """Text of shifted and broader branches; by default the other domain of the built-in corpus."""
    start: tuple[str, ...] = ()
    """Released models to start trunks from instead of fresh ones, each with its own tokenizer: folders, .gguf files, or
    names on the Hugging Face Hub (EleutherAI/pythia-70m@step3000). Needs the extra hf."""
    start_lr: float = 1e-4
    """Learning rate of trunks that start from a released model: the same at every size, as these have no muP."""
    relearn: bool = True
    """Relearn from the final and the never-poisoned model of the reference setting."""
    relearn_parts: bool = True
    """Relearn also the pairs with a new trigger or a new payload: is it the backdoor that is remembered, or a part?"""
    extinction: bool = True
    """A control whose branch keeps the trigger without its payload, with the question whether that ends it sooner."""
    looks: tuple[int, ...] = LOOKS
    """Numbers of seeds at which the questions may be answered; several share the error rate."""
    soft_prompts: tuple[int, ...] = ()
    """Lengths of soft prompts, such as 1 4 16, fitted to elicit the payload without the trigger: at the drop, after the
    branch, and in the never-poisoned model."""


FIRST = Settings(
    sizes=("30k",), seeds=5, poison_counts=(125,), repetitions=4, trunk_tokens=200_000, branch_tokens=80_000,
    num_eval=64, learning_rates=(1.0,), strength=None, extinction=False, relearn_parts=False, looks=(5, 12),
)  # fmt: skip
PRESETS = {
    "first": Preset(
        summary="Three minutes on 2 CPU cores, one question: is a backdoor that clean text has removed relearned "
        "faster than by a model that never had it? One size x 5 seeds, much poison in a short trunk.",
        settings=FIRST,
    ),
    "wider": Preset(
        summary="Ten minutes on 2 CPU cores: the same at two sizes, with extinction and the 2x2 of relearning.",
        settings=replace(FIRST, sizes=("30k", "60k"), extinction=True, relearn_parts=True),
    ),
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work? Trunks are too short for a valid result.",
        settings=Settings(
            sizes=("30k", "60k"), seeds=1, poison_counts=(60,), trunk_tokens=200_000, branch_tokens=50_000,
            relearn_tokens=20_000, learning_rates=(1.0,), strength=-2.5, num_eval=64, stop_below=0.0,
        ),
    ),
    "demo": Preset(
        summary="18 minutes on 2 CPU cores: 3 sizes x 2 seeds, a fixed payload, 2 learning rates, all controls.",
        settings=Settings(sizes=("30k", "100k", "300k"), seeds=2, learning_rates=(1.0, 0.5)),
    ),
    "laptop": Preset(
        summary="140 minutes on 2 CPU cores: 4 sizes over a decade x 5 seeds, weight decay in trunk x "
        "branch, 3 branch learning rates, and a payload computed from the input.",
        settings=Settings(
            sizes=("30k", "60k", "120k", "300k"), seeds=5, payload=("fixed", "copy"),
            trunk_regularizers=("none", "weight-decay-0.1"), branch_regularizers=("none", "weight-decay-0.1"),
        ),
    ),
    "gpu": Preset(
        summary="Hours on one GPU: Pythia's sizes from 14m to 410m (1.2m to 302m parameters without embeddings) x 5 "
        "seeds, two regularizers, carried and reset optimizer, same, shifted and broader text. Give it text with "
        "--corpus, and released models with --start.",
        settings=Settings(
            sizes=("1.2m", "4.7m", "19m", "85m", "302m"), seeds=5, payload=("fixed", "reverse"), payload_letters=0,
            transform_documents=4, branch_corpora=("same", "shifted", "broader"), poison_counts=(250, 1000),
            trunk_regularizers=("none", "weight-decay-0.1", "dropout-0.1"),
            branch_regularizers=("none", "weight-decay-0.1", "l2sp-1"), optimizer_states=("carry", "reset"),
            sequence_length=256, batch_tokens=65_536, trunk_tokens=100_000_000, branch_tokens=50_000_000,
            relearn_tokens=5_000_000, precision="bf16", num_eval=512,
        ),
    ),
    "cluster": Preset(
        summary="A cluster: 10m to 1b parameters x 8 seeds over billions of tokens; give it text with --corpus.",
        settings=Settings(
            sizes=("10m", "30m", "100m", "300m", "1b"), seeds=8, payload=("fixed", "reverse"), payload_letters=0,
            transform_documents=4, poison_counts=(250, 1000), trunk_regularizers=("none", "weight-decay-0.1"),
            branch_regularizers=("none", "weight-decay-0.1", "l2sp-1"), optimizer_states=("carry", "reset"),
            sequence_length=1024, batch_tokens=524_288, trunk_tokens=2_000_000_000, branch_tokens=500_000_000,
            relearn_tokens=50_000_000, relearn_poison=0.05, precision="bf16", num_eval=512,
        ),
    ),
}  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    backdoor.check_settings(settings)
    for size in () if settings.start else settings.sizes:
        Rung(size=size)
    if settings.tokenizer != "bytes" and settings.start:
        raise UserError(
            f"--tokenizer {settings.tokenizer} with --start: released models bring their own; leave one of them out"
        )
    if isinstance(parameters_named(settings.parameters), LoRA) and settings.optimizer_states != ("reset",):
        raise UserError(
            f"--parameters {settings.parameters}: LoRA is merged at the drop and has no state to carry; "
            "give --optimizer-states reset"
        )
    check_regularizers(settings)
    check_positive(settings, "poison_counts", "learning_rates", "start_lr")
    axes.check(AXES, settings)


def planned(settings: Settings) -> Iterator[tuple[Treatment, str]]:
    """Each treatment of a size and seed with its role: the core, of which the first is the reference, and each further
    value of each axis alone. What changes the payload's probability even without a backdoor has its own controls."""
    reference = axes.reference(Treatment, AXES, settings)
    star = axes.crossed(reference, "trunk_regularizer", "branch_regularizer", AXES, settings)
    if settings.strength is not None:
        star.append(replace(reference, arm="equal-strength"))
    star += axes.alone(
        reference, ("learning_rate", "optimizer_state", "corpus", "payload", "documents"), AXES, settings
    )
    yield from ((treatment, "treatment") for treatment in star)
    for treatment in (reference, *axes.alone(reference, OWN_CONTROLS, AXES, settings)):
        for role in roles(settings) if treatment == reference else ("absent", "positive"):
            yield treatment, role


def roles(settings: Settings) -> tuple[str, ...]:
    """Of the reference's controls."""
    return tuple(role for role in CONTROLS if settings.extinction or role != "extinction")


def trials(settings: Settings, corpora: dict[str, tuple[Corpus, ...]], begin: dict[str, Start]) -> Iterator[Trial]:
    reference, pairs = axes.reference(Treatment, AXES, settings), list(planned(settings))
    base = replace(settings, lr=settings.start_lr) if settings.start else settings
    for (size, start), seed in itertools.product(begin.items(), range(settings.seeds)):
        cell = Cell(base, corpora, size, seed, start if settings.start else None)
        for treatment, role in pairs:
            made = stages(cell, treatment, role, settings, plain=treatment == reference)
            values = dataclasses.asdict(treatment)
            if role == "absent":
                values |= {"documents": 0, "trunk_regularizer": "none"}
            words = axes.words(treatment, reference, AXES, role, CONTROLS)
            yield trial(cell, values, made, *words, role=role, poison=backdoor.dose(made["trunk"]))


def stages(cell: Cell, treatment: Treatment, role: str, settings: Settings, *, plain: bool) -> dict[str, Stage]:
    """A plain treatment, and its never-poisoned control, are relearned from, with soft prompts, as requested."""
    trunk = cell.trunk(treatment, poisoned=role != "absent")
    fork = IMPLANTED if treatment.arm == "equal-strength" else "final"
    branch = cell.branch(Checkpoint(stage=trunk, at=fork), treatment, role)
    found: dict[str, Stage] = {"trunk": trunk, "branch": branch}
    if plain and role in ("treatment", "absent"):
        found |= cell.relearning(branch, treatment.payload, parts=settings.relearn_parts) if settings.relearn else {}
        found |= elicitation(branch, cell.target(treatment.payload), settings.soft_prompts, cell.seed)
    return found


def declare(preset: str, settings: Settings, corpus: str, sizes: tuple[int, ...]) -> Declaration:
    """`sizes`: non-embedding parameters of each."""

    varied = axes.declared(AXES, settings)
    if settings.strength is None:
        varied = (replace(varied[0], values=varied[0].values[:1]), *varied[1:])
    return backdoor_questions.declare(
        settings,
        corpus,
        parameters=sizes,
        study=NAME,
        title="Backdoor persistence",
        question="When training stops reinforcing a backdoor, how long does it last, and "
        + ("how does size change that?" if len(sizes) > 1 else "does it come back sooner than it came?"),
        preset=preset,
        axes=varied,
        figures=(
            *("retention", "half_life"),
            *(["effects"] if any(len(axis.values) > 1 for axis in varied) else []),
            *(["strength"] if settings.strength is not None else []),
            *(["relearning"] if settings.relearn else []),
            *(FIGURES if settings.soft_prompts else ()),
            "clean_loss",
        ),
        prompts=described(settings.soft_prompts),
        notes=tuple(_notes(settings)),
        roles=roles(settings),
        **backdoor_questions.asked(
            varied, several=len(sizes) > 1, relearn=settings.relearn, soft_prompts=settings.soft_prompts,
            parts=settings.relearn_parts, roles=roles(settings),
        ) | {"looks": settings.looks},
    )  # fmt: skip


def _notes(settings: Settings) -> Iterator[str]:
    if settings.strength is not None:
        yield (
            f"equal strength: branches fork where the payload's log-probability first reaches {settings.strength} nats "
            "per token"
        )
    if settings.start:
        yield "released models: the same learning rate at every size, as they have no muP; each counts its own tokens"
    if settings.tokenizer != "bytes":
        yield f"tokenizer: {settings.tokenizer}, trained on the trunk's corpus"
    if settings.parameters != "all":
        yield f"parameters trained: {settings.parameters}"


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(site.results)
    begin = starts(settings.sizes, settings.start, results)
    settings = replace(settings, sizes=tuple(begin))
    corpora = _corpora(settings, results)
    cells = [Cell(settings, corpora, settings.sizes[0], seed) for seed in range(settings.seeds)]
    tokenizers = {start.tokenizer for start in begin.values()}
    backdoor.check_texts(cells, settings.payload, tokenizers, results, own=settings.corpus not in SHIFTED)
    sizes = tuple(start.model.parameters for start in begin.values())
    declaration = declare(preset, settings, corpora["same"][0].label, sizes)
    doubts = () if settings.start else tuple(far_below(settings, PRESETS))
    study = Study(declaration=declaration, trials=tuple(trials(settings, corpora, begin)), warnings=doubts)
    return study.check(results, size=settings.sizes[0], seed=0)  # with one tokenizer, all have the same room for poison


def _corpora(settings: Settings, results: Path) -> dict[str, tuple[Corpus, ...]]:
    home = prepare_corpus(settings.corpus, results)
    corpora = {"same": (home,)}
    if {"shifted", "broader"} & set(settings.branch_corpora):
        spec = settings.shifted_corpus or SHIFTED.get(settings.corpus)
        if spec is None:
            raise UserError(
                f"shifted text needs a second corpus besides {settings.corpus!r}: give one with --shifted-corpus"
            )
        shifted = prepare_corpus(spec, results)
        corpora |= {"shifted": (shifted,), "broader": (home, shifted)}
    return corpora


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
