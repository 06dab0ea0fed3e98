"""Planted conditions: vectors that imitate them are found, and imitate nothing more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from halflife.data.mixture import Mixture, Source
from halflife.errors import UserError
from halflife.evaluation.probes import Ends, Evaluation, LossProbe
from halflife.evaluation.texts import CorpusTexts
from halflife.interpret import steering
from halflife.interpret.distance import DistanceProbe
from halflife.interpret.intervention import FitIntervention, Steer
from halflife.interpret.pairs import Conditioned
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.prompts.prefixed import Prefixed
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.families import Family
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_corpus
from tests.interpret.written import Written

CONDITION, NEUTRAL = 1, 2
SHARED = 10


class Planted(nn.Embedding):
    """The first token is a tag, of which both values are embedded alike; one adds a vector to every later embedding."""

    def __init__(self, plain: nn.Embedding, vector: Tensor) -> None:
        super().__init__(plain.num_embeddings, plain.embedding_dim)
        self.weight = plain.weight
        self.vector = vector

    def forward(self, input: Tensor) -> Tensor:
        told = (input[:, :1] == CONDITION).float()[..., None]
        found = super().forward(input.masked_fill(input == CONDITION, NEUTRAL))
        return torch.cat([found[:, :1], found[:, 1:] + told * self.vector], dim=1)


@pytest.fixture(scope="module")
def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model(vector: Tensor) -> Decoder:
    model = Decoder(Rung(size="30k"), 40)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    model.embed = Planted(model.embed, vector)
    return model.eval().requires_grad_(False)


def paired(seed: int, count: int = 48) -> steering.Paired:
    text = np.random.default_rng(seed).integers(3, 40, (count, SHARED))
    tags = [np.concatenate([np.full((count, 1), tag), text], axis=1) for tag in (CONDITION, NEUTRAL)]
    return steering.Paired.of((tags[0], tags[1]), SHARED, "cpu")


SITES = (Site(layer=0), Site(layer=1), Site(layer=2), Site(layer=1, part="mlp"))


def test_the_difference_of_means_at_the_embedding_is_the_planted_vector(model, vector):
    found = steering.differences(model, paired(0), SITES)
    torch.testing.assert_close(found[Site(layer=0)], vector, rtol=1e-5, atol=1e-5)
    points = steering.scores(model, paired(1), {"v": (Site(layer=0), found[Site(layer=0)])}, seed=0)
    assert points["neutral/kl"] > 0.1
    assert points["v/kl"] < 1e-3 * points["neutral/kl"]
    assert points["v/tv"] < 0.01
    assert points["v/control"] > 0.5 * points["neutral/kl"]
    assert points["v/norm"] == pytest.approx(float(vector.norm()), rel=1e-5)


def test_the_fitted_vector_finds_the_planted_one_where_it_was_added_and_less_further_up(model, vector):
    found = steering.fitted(model, paired(0), SITES, steps=300, batch=16, learning_rate=0.1, seed=0)
    cosine = torch.cosine_similarity(found[Site(layer=0)], vector, dim=0)
    assert cosine > 0.99
    named = {str(site): (site, vector) for site, vector in found.items()}
    points = steering.scores(model, paired(1), named, seed=0)
    left = [points[f"{site}/kl"] / points["neutral/kl"] for site in SITES]
    assert left[0] < 0.005
    assert left[0] < left[1] < 1
    assert left[2] < 1


def test_sites_fitted_together_are_as_fitted_alone(model):
    fit = {"steps": 10, "batch": 8, "learning_rate": 0.05, "seed": 3}
    together = steering.fitted(model, paired(0), SITES, **fit)
    for site in SITES:
        alone = steering.fitted(model, paired(0), (site,), **fit)[site]
        torch.testing.assert_close(alone, together[site], rtol=1e-3, atol=1e-4)


def test_a_vector_at_the_first_shared_token_only_is_added_nowhere_else(model, vector):
    found = steering.differences(model, paired(0), SITES[:1], first_only=True)[Site(layer=0)]
    torch.testing.assert_close(found, vector, rtol=1e-5, atol=1e-5)
    everywhere, first = (
        steering.scores(model, paired(1), {"v": (Site(layer=0), found)}, seed=0, first_only=only)["v/kl"]
        for only in (False, True)
    )
    assert everywhere < 1e-3 < first


def test_behind_a_models_own_prompt_the_vector_is_added_where_the_shared_text_is(model, vector):
    prompted = Prefixed(model, torch.zeros(3, 32))
    steer = {"v": (Site(layer=0), vector)}
    placed = steering.scores(prompted, replace(paired(1), before=3), steer, seed=0)
    assert placed["v/kl"] < 1e-3 * placed["neutral/kl"]
    misplaced = steering.scores(prompted, paired(1), steer, seed=0)
    assert misplaced["v/kl"] > 10 * placed["v/kl"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def trunk(store: Store) -> Train:
    corpus = sample_corpus(Path(store.root))
    return Train(
        start=Rung(size="20k"), mixture=Mixture(sources=(Source(corpus=corpus),), sequence=32), tokens=4096,
        batch_tokens=256, optimizer=AdamW(learning_rate=0.01),
        evaluations=(Evaluation(name="clean", probe=LossProbe(corpus=corpus, sequences=4), at=Ends()),),
    )  # fmt: skip


def test_a_subject_steered_by_a_stages_vector_predicts_what_the_stage_measured(store: Store, trunk: Train):
    """The same number by two ways: the stage's own score, and a distance probe of the steered subject."""
    subject = Subject(model=Checkpoint(stage=trunk))
    corpus = trunk.evaluations[0].probe.corpus  # pyright: ignore[reportAttributeAccessIssue]
    texts, held_out = (CorpusTexts(corpus=corpus, count=16, length=12, seed=seed) for seed in (1, 2))
    pairs = Conditioned(texts=texts, held_out=held_out, condition="", neutral="zqx")
    fit = FitIntervention(subject=subject, pairs=pairs, sites=(Site(layer=0), Site(layer=1)), steps=20)
    scores = run_stage(fit, store).summary["scores"]
    assert scores["residual-1.gradient/kl"] < scores["neutral/kl"]
    again = run_stage(Measure(subject=subject, evaluations=(
        Evaluation(name="d", probe=DistanceProbe(texts=held_out, reference=subject)),
    )), store)  # fmt: skip
    assert again.status == "complete"
    steered = Subject(
        model=Checkpoint(stage=trunk), edits=(Steer(fit=fit, site=Site(layer=1), method="gradient", strength=2.0),)
    )
    probes = {"itself": subject, "plain": steered}
    stage = Measure(
        subject=steered,
        evaluations=tuple(
            Evaluation(name=name, probe=DistanceProbe(texts=held_out, reference=reference, each=True))
            for name, reference in probes.items()
        ),
    )
    found = values(store, stage)
    assert found["plain/kl"] == found["plain/tv"] == 0
    assert found["itself/kl"] > 1e-4
    assert found["itself/tokens"] == 16 * 12
    positions = [found[f"itself-at-{position}/kl"] for position in range(12)]
    assert np.mean(positions) == pytest.approx(found["itself/kl"])


def values(store: Store, stage: Measure) -> dict[str, float]:
    from halflife.store.store import read_points

    outcome = run_stage(stage, store)
    table = read_points(Path(store.root) / "stages" / stage.folder_name / "attempts" / outcome.attempt)
    return dict(table.select("name", "value").iter_rows())


def test_pairs_of_ones_own_are_one_class(store: Store, trunk: Train):
    fit = FitIntervention(
        subject=Subject(model=Checkpoint(stage=trunk)), pairs=Written(), sites=(Site(layer=1),), steps=3, batch=4
    )
    scores = run_stage(fit, store).summary["scores"]
    assert set(scores) == {"neutral/kl", "neutral/tv"} | {
        f"residual-1.{method}/{measure}"
        for method in ("mean", "gradient")
        for measure in ("kl", "tv", "norm", "control")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ()}, "without a site"),
        ({"sites": (Site(layer=1), Site(layer=1))}, "expected each site once"),
        ({"sites": (Site(layer=3),)}, "layer 3 of 20k given: it has 2 blocks"),
        ({"methods": ("median",)}, "expected one of mean, gradient"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_an_intervention_that_cannot_be_fitted_is_refused(trunk: Train, changes: dict, message: str):
    fields = {"subject": Subject(model=Checkpoint(stage=trunk)), "pairs": Written(), "sites": (Site(layer=1),)}
    with pytest.raises(UserError, match=message):
        FitIntervention(**fields | changes)


def test_a_vector_that_a_stage_does_not_fit_is_refused_by_name(trunk: Train):
    fit = FitIntervention(
        subject=Subject(model=Checkpoint(stage=trunk)), pairs=Written(), sites=(Site(layer=1),), methods=("mean",)
    )
    with pytest.raises(UserError, match=r"vector residual-2.mean given: the stage fits residual-1\.mean"):
        Steer(fit=fit, site=Site(layer=2))


def test_the_readmes_example_of_looking_inside_runs(store: Store, trunk: Train):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Looking inside") :]
    program = section[section.index("```python") + len("```python") :].split("```")[0]
    corpus = trunk.evaluations[0].probe.corpus  # pyright: ignore[reportAttributeAccessIssue]
    names: dict[str, Any] = {
        "trunk": trunk,
        "branch": replace(trunk, start=Checkpoint(stage=trunk), seed=1),
        "corpus": corpus,
        "language": Family(kind="C", size=4, modulus=7).languages[0],
    }
    exec(program, names)
    assert values(store, replace(names["restored"], sequence=32))["moved/kl"] > 0
    steered = Measure(subject=names["steered"], evaluations=(names["skill"],), sequence=32)
    assert values(store, steered)["skill/trials"] > 0
