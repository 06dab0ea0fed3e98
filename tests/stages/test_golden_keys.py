"""Keys as they were first hashed. One that changes makes every result in the world a stranger.

If a key here changes because numbers change, bump the stage's `version` and put the new key down; if it
changes for any other reason (a default moved, a class or field was renamed), undo that.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import pytest

import halflife.stages
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import BPE, Pretrained, Words
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.evaluation.probes import (
    BackdoorProbe,
    BehaviourProbe,
    Ends,
    Evaluation,
    Every,
    LayerProbe,
    LossProbe,
    TaskProbe,
    Threshold,
)
from halflife.evaluation.targets import BackdoorTarget, TaskTarget
from halflife.models.ladder import Rung
from halflife.models.released import Released, Shape
from halflife.prompts.attacks import PromptAttacks
from halflife.prompts.describe import MLP, Adapter, Linear, Noise, Shared, SoftPrompt, Text, WarmStart
from halflife.prompts.describe import Words as WordEmbeddings
from halflife.prompts.stages import FindDistance, FitSoftPrompts, MeasureSoftPrompts
from halflife.stages.fisher import Fisher
from halflife.stages.train import Checkpoint, Snapshot, Train
from halflife.store.stage import Stage
from halflife.tasks.arithmetic import Addition
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.behaviours import Continuation, Repetition, Shown
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.training.losses import CrossEntropy
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import Frozen, LoRA
from halflife.training.penalties import EWC, KL, L2SP
from halflife.training.schedules import Schedule

CORPUS = Corpus(digest="0123456789abcdef", label="a label is not hashed")
BACKDOOR = Backdoor(trigger=" qzxvkw ", payload="fixed", text="payload")
PLANTING = Planting(backdoor=BACKDOOR, corpus=CORPUS, documents=200, exposures=2, last=0.5)

PLAIN = Train(
    start=Rung(size="100k"),
    mixture=Mixture(sources=(Source(corpus=CORPUS),)),
    tokens=1_000_000,
    optimizer=AdamW(learning_rate=0.01),
)
TRUNK = Train(
    start=Rung(size="1m", tied=True),
    mixture=Mixture(
        sources=(Source(corpus=CORPUS, weight=0.5),),
        plantings=(PLANTING,),
        tokenizer=BPE(corpus=CORPUS, vocabulary=512),
        sequence=64,
    ),
    tokens=2_000_000,
    batch_tokens=8192,
    optimizer=AdamW(learning_rate=0.02, weight_decay=0.1, decay="coupled"),
    schedule=Schedule(shape="wsd", warmup=0.1),
    loss=CrossEntropy(label_smoothing=0.1),
    dropout=0.1,
    precision="bf16",
    evaluations=(
        Evaluation(name="backdoor", probe=BackdoorProbe(backdoor=BACKDOOR, corpus=CORPUS)),
        Evaluation(
            name="near", probe=BackdoorProbe(backdoor=BACKDOOR, corpus=CORPUS, condition="near"), at=Every(steps=9)
        ),
        Evaluation(name="clean", probe=LossProbe(corpus=CORPUS), at=Ends()),
    ),
    snapshots=(Snapshot(name="strong", when=Threshold(metric="backdoor/logprob", threshold=-0.5)),),
    seed=3,
)
BRANCH = Train(
    start=Checkpoint(stage=TRUNK, at="strong"),
    mixture=Mixture(sources=(Source(corpus=CORPUS),), tokenizer=TRUNK.mixture.tokenizer),
    tokens=500_000,
    optimizer=SGD(learning_rate=0.1),
    optimizer_state="reset",
    schedule=Schedule(shape="continue"),
    penalties=(L2SP(strength=0.01),),
    evaluations=TRUNK.evaluations,
    until=Threshold(metric="backdoor/hits", threshold=0.9, share=True, at_most=True),
)

WORDS = replace(PLAIN, mixture=replace(PLAIN.mixture, tokenizer=Words(corpus=CORPUS)), seed=1)
HIDDEN = replace(PLAIN, optimizer=Muon(learning_rate=0.01, momentum=0.9))

RELEASED = replace(
    PLAIN,
    start=Released(
        digest="fedcba9876543210",
        name="its name is not hashed",
        source="nor its source",
        folder="nor its place",
        shape=Shape(
            family="llama",
            depth=2,
            width=32,
            heads=4,
            feedforward=64,
            vocabulary=320,
            context=128,
            parameters=18592,
            embeddings=10240,
            matrices=("q_proj", "v_proj"),
            dropout=None,
        ),
    ),
    mixture=replace(PLAIN.mixture, tokenizer=Pretrained(digest="76543210fedcba98", vocabulary=300)),
    parameters=LoRA(rank=4, targets=("q_proj",)),
)
FROZEN = replace(
    BRANCH, start=Checkpoint(stage=TRUNK), parameters=Frozen(embeddings=True, layers=1), penalties=(), until=None
)
RELEARN = replace(BRANCH, mixture=replace(BRANCH.mixture, sources=(Source(corpus=Addition(form="words"), examples=8),)))
ANSWERS = replace(
    RELEARN, mixture=replace(BRANCH.mixture, sources=(Source(corpus=Addition(form="words"), loss="answers"),))
)
READ = replace(
    RELEARN,
    evaluations=(
        Evaluation(name="layer", probe=LayerProbe(languages=(Addition(form="words"),)), at=Ends()),
        Evaluation(name="language", probe=TaskProbe(languages=(Addition(form="words"),), each=True)),
    ),
    until=None,
)
ASKED = replace(
    PLAIN,
    mixture=Mixture(sources=(Source(corpus=Shown(behaviour=Pathfinding(side=5), count=500)),)),
    evaluations=(
        Evaluation(name="paths", probe=BehaviourProbe(behaviour=Pathfinding(side=5), trials=64)),
        Evaluation(name="game", probe=BehaviourProbe(behaviour=DropGame(seed=2))),
        Evaluation(name="say", probe=BehaviourProbe(behaviour=Repetition(text="abc"), corpus=CORPUS, split="test")),
        Evaluation(name="skip", probe=BehaviourProbe(behaviour=Continuation(ahead=2), corpus=CORPUS)),
    ),
)

PROMPTS = FitSoftPrompts(
    model=RELEASED.start,
    tokenizer=RELEASED.mixture.tokenizer,
    targets=(
        TaskTarget(language=Addition(form="words")),
        BackdoorTarget(backdoor=BACKDOOR, corpus=CORPUS, condition="triggered"),
    ),
    prompts=(
        SoftPrompt(tokens=0),
        SoftPrompt(tokens=2, position="answer", initial=Text(text="please"), model=MLP(hidden=8), learning_rate=0.1),
        SoftPrompt(tokens=3, position=1, initial=Noise(), model=Shared(), restart=1),
    ),
    seed=1,
)
WARM = FitSoftPrompts(
    model=Checkpoint(stage=TRUNK, at="strong"),
    targets=PROMPTS.targets[:1],
    prompts=(
        SoftPrompt(tokens=4, initial=WarmStart(stage=PROMPTS, prompts=(PROMPTS.prompts[2].name,)), label="warm"),
        SoftPrompt(tokens=5, initial=Adapter(digest="89abcdef01234567", tokens=5, folder="not hashed"), model=Linear()),
        SoftPrompt(tokens=4, initial=WordEmbeddings()),
    ),
    precision="bf16",
    at=Every(steps=10),
)
HARDENED = replace(
    ANSWERS,
    start=Checkpoint(stage=ANSWERS),
    penalties=(
        PromptAttacks(strength=1.0, attacks=(WARM,), target=TaskTarget(language=Addition(form="words")), batch=8),
    ),
)
FISHER = Fisher(model=Checkpoint(stage=ANSWERS), mixture=ANSWERS.mixture, batches=64)
HELD = replace(
    ANSWERS,
    start=FISHER.model,
    mixture=replace(ANSWERS.mixture, sources=(*ANSWERS.mixture.sources, Source(corpus=CORPUS, fade=0.25))),
    penalties=(EWC(strength=2.0, fisher=FISHER), KL(strength=0.5)),
    gradient_noise=0.5,
)
PLAIN_PROMPTS = replace(PROMPTS, prompts=(SoftPrompt(tokens=2),))
JUDGED = replace(PLAIN_PROMPTS, targets=(BehaviourTarget(behaviour=Pathfinding(side=4), called="paths"),), judged=True)
CALLED = replace(
    PLAIN_PROMPTS, targets=(TaskTarget(language=Addition(form="words"), called="family-B", evaluate_on="held-out"),)
)
MEASURED = MeasureSoftPrompts(
    fit=PLAIN_PROMPTS, prompts=(PLAIN_PROMPTS.prompts[0].name,), matched=1.0, bits=(2, 4), subspaces=(16,)
)
SEARCHED = FindDistance(
    model=Checkpoint(stage=TRUNK),
    target=BehaviourTarget(behaviour=Continuation(ahead=1), corpus=CORPUS, called="skip"),
    prompt=SoftPrompt(tokens=16),
    threshold=0.5,
)

GOLDEN: list[tuple[Stage, str]] = [
    (PLAIN, "84512d8adaab4291e82d"),
    (TRUNK, "1ed357d7eb8f9c1d812a"),
    (BRANCH, "00e291b54f9f337876a4"),
    (WORDS, "d8c3f57093a47020c5ae"),
    (HIDDEN, "04946309a4b443c7fc88"),
    (RELEASED, "29341ed29b1d068b4e56"),
    (FROZEN, "002c67c728d0058d3477"),
    (RELEARN, "b75f8a924ba93c0f5621"),
    (READ, "bb5b49005e0d12d99bb5"),
    (ANSWERS, "0e7e361ede12398dbdc5"),
    (ASKED, "f04c543180de348a5536"),
    (PROMPTS, "fb314c93d50293123535"),
    (WARM, "448b0378dc69efa630e9"),
    (FISHER, "997929de063afd70787f"),
    (HELD, "956d054a36ab2bdd429b"),
    (MEASURED, "2797ce86dc3e8b4bd3ed"),
    (replace(MEASURED, fragile=False), "c96ebac2640100927f1a"),
    (SEARCHED, "69fc710dc5d1fd1f8de4"),
    (JUDGED, "f7093907187d7896cdad"),
    (CALLED, "ebace13c8ef64c3d83e1"),
    (HARDENED, "16bbd7ab44355ffc5cf1"),
]


@pytest.mark.parametrize(
    ("stage", "key"),
    GOLDEN,
    ids=[
        "plain",
        "trunk",
        "branch",
        "words",
        "muon",
        "released",
        "frozen",
        "relearn",
        "read",
        "answers",
        "asked",
        "prompts",
        "warm",
        "fisher",
        "held",
        "measured",
        "bits",
        "searched",
        "judged",
        "called",
        "hardened",
    ],
)
def test_the_key_is_what_it_always_was(stage: Stage, key: str) -> None:
    assert stage.key == key


def test_every_kind_has_a_golden_key() -> None:
    for module in pkgutil.iter_modules(halflife.stages.__path__, "halflife.stages."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = {kind.kind for kind in _subclasses(Stage) if kind.__module__.startswith("halflife.")}
    assert kinds == {stage.kind for stage, _ in GOLDEN}


def _subclasses(kind: type[Stage]) -> set[type[Stage]]:
    return {inner for direct in kind.__subclasses__() for inner in (direct, *_subclasses(direct))}
