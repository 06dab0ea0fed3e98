"""A stage of any kind is blocked, with a one-line reason, when its parents lack a result that it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.evaluation.probes import Ends, Evaluation, TaskProbe, Threshold
from halflife.evaluation.targets import TaskTarget
from halflife.evaluation.texts import CorpusTexts
from halflife.interpret.intervention import FitIntervention
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.prompts.attacks import PromptAttacks
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import SoftPrompt
from halflife.stages.activations import Activations
from halflife.stages.edits import PutBack
from halflife.stages.fisher import Fisher
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.plan import Plan
from halflife.store.run import Unavailable, run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.tasks.families import Family
from halflife.training.objectives import NextToken
from halflife.training.optimizers import SGD, AdamW
from halflife.training.recipe import Snapshot
from tests.interpret.written import Written

LANGUAGE = Family(kind="C", size=4, modulus=7).languages[0]
CORPUS, SITES = Corpus(digest="none"), (Site(layer=1),)
TARGET = TaskTarget(task=LANGUAGE)
PROMPTS = (SoftPrompt(tokens=0), SoftPrompt(tokens=2, label="two"))
TRUNK = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=LANGUAGE, loss="answers"),), sequence=64),
    tokens=256,
    batch_tokens=256,
    optimizer=AdamW(learning_rate=0.01),
)
PROBE = Evaluation(name="b", probe=TaskProbe(tasks=(LANGUAGE,), trials=4), at=Ends())
NEVER = Snapshot(name="strong", when=Threshold(metric="b/logprob", threshold=1.0))
UNREACHED = Checkpoint(stage=replace(TRUNK, evaluations=(PROBE,), snapshots=(NEVER,)), at="strong")
DIVERGED = Checkpoint(stage=replace(TRUNK, optimizer=SGD(learning_rate=1e42, weight_decay=0.0)))


def fit(model: Checkpoint, **changes: object) -> FitSoftPrompts:
    fields = {"targets": (TARGET,), "prompts": PROMPTS, "examples": 8, "num_eval": 8, "steps": 2, **changes}
    return FitSoftPrompts(subject=Subject(model=model), **fields)  # pyright: ignore[reportArgumentType]


def find(model: Checkpoint) -> FindDistance:
    return FindDistance(
        subject=Subject(model=model), target=TARGET, prompt=PROMPTS[1], threshold=1.0, examples=8, num_eval=8, steps=2
    )


def children(model: Checkpoint) -> dict[str, Stage]:
    """One stage of each kind that reads a checkpoint."""
    return {
        "train": replace(TRUNK, start=model, optimizer_state="reset"),
        "fisher": Fisher(subject=Subject(model=model), mixture=TRUNK.mixture, batches=1),
        "fit": fit(model),
        "find": find(model),
        "prompts": MeasureSoftPrompts(fit=fit(model), prompts=("two",), bits=(8,), fragile=False),
        "measure": Measure(subject=Subject(model=model), evaluations=(PROBE,)),
        "weights": Measure(
            subject=Subject(model=Checkpoint(stage=TRUNK), edits=(PutBack(source=model, components=("head",)),)),
            evaluations=(PROBE,),
        ),
        "activations": Activations(subject=Subject(model=model), texts=CorpusTexts(corpus=CORPUS), sites=SITES),
        "intervention": FitIntervention(subject=Subject(model=model), pairs=Written(), sites=SITES, steps=1, batch=2),
    }


def assert_blocked(stage: Stage, store: Store, reason: str) -> None:
    with pytest.raises(Unavailable) as error:
        run_stage(stage, store)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert store.outcome(stage) is None
    plan = Plan([stage], store)
    while (ready := plan.take()) is not None:
        plan.completed(ready.key, run_stage(ready, store))
    assert reason in plan.blocked[stage.key]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("kind", children(UNREACHED))
def test_an_unreached_snapshot_blocks_its_children(store: Store, kind: str) -> None:
    assert_blocked(children(UNREACHED)[kind], store, "never reached snapshot 'strong'")


@pytest.mark.parametrize("kind", children(DIVERGED))
def test_a_diverged_parent_blocks_its_children(store: Store, kind: str) -> None:
    stage = children(DIVERGED)[kind]
    assert_blocked(stage, store, f"parent {DIVERGED.stage.folder_name} ended as diverged")


def test_attacks_by_prompts_that_all_diverged_block_a_branch(store: Store) -> None:
    wild = SoftPrompt(tokens=2, learning_rate=1e38, label="wild")
    model = Checkpoint(stage=TRUNK)
    attacks = PromptAttacks(strength=1.0, attacks=(fit(model, prompts=(wild,)),), target=TARGET, examples=8, batch=4)
    branch = replace(TRUNK, start=model, objectives=(NextToken(), attacks))
    assert_blocked(branch, store, "every soft prompt to train against diverged")
