"""Keys of stages. A key that changes makes all earlier results of that stage unreadable.

If a key changes because numbers change, bump the stage's `version` and update the key here. If it changes for another
reason (a new default, a renamed class or field), undo that. Keys are frozen from the completion of the issues
"subjects" and "objectives" on; until then a rename may change them, with one line in the changelog each.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import pytest

import halflife.interpret
import halflife.prompts
import halflife.stages
from halflife.data.attributes import AttributeText
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import BPE, Bytes, Lexicon, Pretrained
from halflife.data.transforms import FillInTheMiddle, Tags
from halflife.evaluation.attribute_texts import AttributeTexts
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
from halflife.evaluation.texts import CorpusTexts, MixtureTexts
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_losses import DotProduct, SquaredError
from halflife.interpret.attribution_truth import AttributeOdds
from halflife.interpret.compare_attributions import CompareAttributions
from halflife.interpret.concepts import AttributeConcepts
from halflife.interpret.dictionary import BatchTopK, Dictionary, TopK
from halflife.interpret.dictionary_edits import Fitted
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.interpret.intervention import FitIntervention
from halflife.interpret.measure_features import MeasureFeatures
from halflife.interpret.pairs import Conditioned
from halflife.interpret.show_features import ShowFeatures
from halflife.interpret.transfer_dictionary import TransferDictionary
from halflife.models.ladder import Rung
from halflife.models.released import Released, Shape
from halflife.models.sites import Site
from halflife.prompts.attacks import PromptAttacks
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import Linear, Noise, SoftPrompt, Text, WarmStart
from halflife.prompts.soft_prompt import Words as WordEmbeddings
from halflife.stages.activations import Activations
from halflife.stages.attribute_trunk import attribute_trunk
from halflife.stages.edits import PutBack
from halflife.stages.fisher import Fisher
from halflife.stages.matching import Matching
from halflife.stages.measure import Measure
from halflife.stages.reward_model import FitReward
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.tasks.arithmetic import Addition
from halflife.tasks.attributes import AttributeGrammar
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.behaviours import Continuation, Repetition, Shown
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame
from halflife.training.latent_attack import LatentAttack
from halflife.training.objectives import EWC, KL, L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import Frozen, LoRA
from halflife.training.recipe import Snapshot
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
    start=Rung(size="1m"),
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
    objectives=(NextToken(label_smoothing=0.1),),
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
    objectives=(NextToken(), L2SP(strength=0.01)),
    evaluations=TRUNK.evaluations,
    until=Threshold(metric="backdoor/hits", threshold=0.9, share=True, at_most=True),
)

LEXICON = replace(PLAIN, mixture=replace(PLAIN.mixture, tokenizer=Lexicon(pieces=("one", " plus "))), seed=1)
GRAMMAR = AttributeText(
    grammar=AttributeGrammar(symbols=12, attributes=3, values=4, strength=0.5, tables="unigram", inert=1), length=16
)
TAGGED = attribute_trunk(
    GRAMMAR,
    (Tags(told=0.5, wrong=0.1, synonyms=2), FillInTheMiddle(of_prompt=True, loss="last")),
    rung=Rung(size="60k"),
)
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
    BRANCH,
    start=Checkpoint(stage=TRUNK),
    parameters=Frozen(embeddings=True, layers=1),
    objectives=(NextToken(),),
    until=None,
)
RELEARN = replace(BRANCH, mixture=replace(BRANCH.mixture, sources=(Source(corpus=Addition(form="words"), examples=8),)))
ANSWERS = replace(
    RELEARN, mixture=replace(BRANCH.mixture, sources=(Source(corpus=Addition(form="words"), loss="answers"),))
)
READ = replace(
    RELEARN,
    evaluations=(
        Evaluation(name="layer", probe=LayerProbe(tasks=(Addition(form="words"),)), at=Ends()),
        Evaluation(name="language", probe=TaskProbe(tasks=(Addition(form="words"),), each=True)),
    ),
    until=None,
)
PROBED = replace(
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
    subject=Subject(model=RELEASED.start, tokenizer=RELEASED.mixture.tokenizer),
    targets=(
        TaskTarget(task=Addition(form="words")),
        BackdoorTarget(backdoor=BACKDOOR, corpus=CORPUS, condition="triggered"),
    ),
    prompts=(
        SoftPrompt(tokens=0),
        SoftPrompt(tokens=2, position="answer", initial=Text(text="please"), model=Linear(), learning_rate=0.1),
        SoftPrompt(tokens=3, position=1, initial=Noise(), restart=1),
    ),
    seed=1,
)
WARM = FitSoftPrompts(
    subject=Subject(model=Checkpoint(stage=TRUNK, at="strong")),
    targets=PROMPTS.targets[:1],
    prompts=(
        SoftPrompt(tokens=4, initial=WarmStart(stage=PROMPTS, prompts=(PROMPTS.prompts[2].name,)), label="warm"),
        SoftPrompt(tokens=5, model=Linear()),
        SoftPrompt(tokens=4, initial=WordEmbeddings()),
    ),
    precision="bf16",
    at=Every(steps=10),
)
HARDENED = replace(
    ANSWERS,
    start=Checkpoint(stage=ANSWERS),
    objectives=(
        NextToken(),
        PromptAttacks(strength=1.0, attacks=(WARM,), target=TaskTarget(task=Addition(form="words")), batch=8),
    ),
)
ATTACKED = replace(
    ANSWERS,
    start=Checkpoint(stage=ANSWERS),
    objectives=(
        LatentAttack(
            target=TaskTarget(task=Addition(form="words")),
            toward=TaskTarget(task=Addition(form="words", shuffled=True), called="wrong"),
            sites=(Site(layer=0), Site(layer=2, part="mlp")),
            radius=0.3,
        ),
    ),
)
MATCHED = replace(
    ANSWERS,
    start=Checkpoint(stage=ANSWERS),
    objectives=(
        Matching(teacher=Subject(model=Checkpoint(stage=FROZEN))),
        Matching(teacher=Subject(model=Checkpoint(stage=FROZEN)), sites=(Site(layer=1),), strength=0.5),
    ),
)
FISHER = Fisher(subject=Subject(model=Checkpoint(stage=ANSWERS)), mixture=ANSWERS.mixture, batches=64)
HELD = replace(
    ANSWERS,
    start=Checkpoint(stage=ANSWERS),
    mixture=replace(ANSWERS.mixture, sources=(*ANSWERS.mixture.sources, Source(corpus=CORPUS, fade=0.25))),
    objectives=(NextToken(), EWC(strength=2.0, fisher=FISHER), KL(strength=0.5)),
    gradient_noise=0.5,
)
PLAIN_PROMPTS = replace(PROMPTS, prompts=(SoftPrompt(tokens=2),))
JUDGED = replace(PLAIN_PROMPTS, targets=(BehaviourTarget(behaviour=Pathfinding(side=4), called="paths"),), judged=True)
CALLED = replace(
    PLAIN_PROMPTS, targets=(TaskTarget(task=Addition(form="words"), called="family-B", evaluate_on="held-out"),)
)
MEASURED = MeasureSoftPrompts(
    fit=PLAIN_PROMPTS, prompts=(PLAIN_PROMPTS.prompts[0].name,), matched=1.0, bits=(2, 4), subspaces=(16,)
)
SEARCHED = FindDistance(
    subject=Subject(model=Checkpoint(stage=TRUNK)),
    target=BehaviourTarget(behaviour=Continuation(ahead=1), corpus=CORPUS, called="skip"),
    prompt=SoftPrompt(tokens=16),
    threshold=0.5,
)

MEASURE = Measure(
    subject=Subject(model=Checkpoint(stage=TRUNK)),
    evaluations=(Evaluation(name="clean", probe=LossProbe(corpus=CORPUS)),),
)
STEERED = FitIntervention(
    subject=Subject(
        model=Checkpoint(stage=TRUNK), edits=(PutBack(source=Checkpoint(stage=TRUNK), components=("norm",)),)
    ),
    pairs=Conditioned(
        texts=CorpusTexts(corpus=CORPUS),
        held_out=CorpusTexts(corpus=CORPUS, seed=1),
        condition="loud ",
        neutral="quiet ",
    ),
    sites=(Site(layer=1), Site(layer=2, part="mlp")),
)
DEEP = replace(MEASURE, subject=Subject(model=Rung(size="60k", depth=4), tokenizer=Bytes(), seed=3))
STORED = Activations(
    subject=MEASURE.subject, texts=CorpusTexts(corpus=CORPUS), sites=(Site(layer=1), Site(layer=2, part="mlp"))
)
DRAWN = replace(
    STORED, texts=MixtureTexts(mixture=TRUNK.mixture, count=500), stored="bf16", max_bytes=1e9, held_out=0.2
)
LEARNED = FitDictionary(
    activations=STORED,
    dictionaries=(
        Dictionary(latents=512, sparsity=TopK(k=16)),
        Dictionary(latents=512, sparsity=BatchTopK(k=8), shared=True, seed=1),
    ),
    subject=STORED.subject,
)
MEANT = MeasureFeatures(
    fit=LEARNED,
    activations=STORED,
    concepts=AttributeConcepts(text=GRAMMAR, certainty=0.8),
    followed=LEARNED.dictionaries[1:],
    subject=STORED.subject,
    least=20,
)
ATTRIBUTED = Attribute(
    subject=STORED.subject,
    tuned=STORED.subject,
    null=STORED.subject,
    dictionaries=(Fitted(fit=LEARNED, dictionary=LEARNED.dictionaries[0]),),
    site=LEARNED.read_sites[0],
    texts=AttributeTexts(text=GRAMMAR, count=8, length=8),
    properties=AttributeOdds(text=GRAMMAR, wanted=((0, 1),)),
    losses=(DotProduct(), SquaredError()),
)
TRANSFERRED = TransferDictionary(
    subject=STORED.subject,
    tuned=STORED.subject,
    dictionary=ATTRIBUTED.dictionaries[0],
    fresh=ATTRIBUTED.dictionaries[0],
    site=ATTRIBUTED.site,
    texts=AttributeTexts(text=GRAMMAR, count=10, length=8),
)
PREFERRED = FitReward(subject=STORED.subject, text=GRAMMAR, told=(0, -1, -1), length=8)
SHOWN = ShowFeatures(
    attribution=ATTRIBUTED,
    subject=ATTRIBUTED.subject,
    dictionary=ATTRIBUTED.dictionaries[0],
    texts=ATTRIBUTED.texts,
)
GOLDEN: list[tuple[Stage, str]] = [
    (PLAIN, "45e3158217f974c3b3bf"),
    (TRUNK, "b152fb55fc741b824d0b"),
    (BRANCH, "1788eba94bf453ef9307"),
    (LEXICON, "6f833fd2673526098db0"),
    (HIDDEN, "9c561f13f4516a1bd8e6"),
    (RELEASED, "f6d0740d3be4581076b0"),
    (FROZEN, "6847dc12ad3893060870"),
    (RELEARN, "a5f1c9163de92fa5f197"),
    (READ, "f3cce6186418a8ec22c2"),
    (ANSWERS, "cd3f07bf0da13b3c9de8"),
    (PROBED, "ad961945390fbd6b0e6d"),
    (PROMPTS, "f0c73f6a5f9796e3561a"),
    (WARM, "5f1a60a382444bc79a24"),
    (FISHER, "ff6cadb8eb3695c494b3"),
    (HELD, "a4d8d3a3696044a617ad"),
    (MEASURED, "40b695479cfc1de50831"),
    (replace(MEASURED, fragile=False), "41100b03cccff1d46125"),
    (SEARCHED, "cf186ac0c9a91c36762c"),
    (JUDGED, "409e468b793e7bf018cc"),
    (CALLED, "3f9cd8f0f514aacdfc38"),
    (HARDENED, "8b30e9050732b2ae5f66"),
    (MEASURE, "9b124b2aca6e284ffe41"),
    (STEERED, "694e9431bcbf49e2758f"),
    (DEEP, "9cec4b59adf2e7beba62"),
    (STORED, "16452bd2ff298637722c"),
    (DRAWN, "22bd9cb59cc9905ac730"),
    (TAGGED, "dd2bcac1ce1fc165e3e8"),
    (ATTACKED, "18d33c1c68c1b380d3d8"),
    (MATCHED, "31145136415d574af552"),
    (LEARNED, "5b7b91fd62b4b1129815"),
    (MEANT, "eb8e2a206417ee1423c6"),
    (ATTRIBUTED, "c13719657cd2ccb52f51"),
    (CompareAttributions(runs=(ATTRIBUTED, ATTRIBUTED), others=(ATTRIBUTED,)), "66f68f8d6eb9ac23d0fa"),
    (TRANSFERRED, "63b62bc79d05d258c52a"),
    (PREFERRED, "5560c7c9c00ad12ec9ac"),
    (SHOWN, "f2d937540dc142f505ae"),
]


@pytest.mark.parametrize(
    ("stage", "key"),
    GOLDEN,
    ids=[
        "plain",
        "trunk",
        "branch",
        "lexicon",
        "muon",
        "released",
        "frozen",
        "relearn",
        "read",
        "answers",
        "probed",
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
        "measure",
        "intervention",
        "depth",
        "activations",
        "drawn",
        "tagged",
        "attacked",
        "matched",
        "learned",
        "meant",
        "attributed",
        "compared",
        "transferred",
        "preferred",
        "shown",
    ],
)
def test_the_key_is_unchanged(stage: Stage, key: str) -> None:
    assert stage.key == key


def test_every_kind_has_a_golden_key() -> None:
    for room in (halflife.stages, halflife.prompts, halflife.interpret):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    found = [kind for kind in _subclasses(Stage) if kind.__module__.startswith("halflife.")]
    kinds = {kind.kind for kind in found if hasattr(kind, "kind")}  # bases have none
    assert kinds == {stage.kind for stage, _ in GOLDEN}


def _subclasses(kind: type[Stage]) -> set[type[Stage]]:
    return {inner for direct in kind.__subclasses__() for inner in (direct, *_subclasses(direct))}
