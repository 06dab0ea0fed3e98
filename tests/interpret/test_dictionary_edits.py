"""Dictionaries in a model: spliced in, features removed, read from a fit, a companion or a folder of SAELens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halflife.data.mixture import Mixture, Source
from halflife.errors import UserError
from halflife.evaluation.probes import Evaluation, LossProbe
from halflife.evaluation.scoring import mean_loss
from halflife.evaluation.texts import CorpusTexts
from halflife.interpret import sae_lens
from halflife.interpret.dictionary import BatchTopK, Dictionary, TopK
from halflife.interpret.dictionary_companion import DictionaryCompanion
from halflife.interpret.dictionary_edits import Companioned, Fitted, Imported, ScaleFeatures, SpliceDictionary, imported
from halflife.interpret.dictionary_fitting import unexplained
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.models.hooks import tapped
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.activations import Activations
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.training.checkpoints import read_weights
from halflife.training.optimizers import AdamW
from halflife.training.seen import Metrics
from tests.data.samples import sample_corpus

SITES = (Site(layer=1), Site(layer=2))
TOP = Dictionary(latents=64, sparsity=TopK(k=8))
SHARED = Dictionary(latents=48, sparsity=BatchTopK(k=8), shared=True)
BESIDE = DictionaryCompanion(
    name="beside", sites=SITES, dictionary=TOP, optimizer=AdamW(learning_rate=0.01), dead_after=10_000
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def fit(store: Store) -> FitDictionary:
    corpus = sample_corpus(store.root)
    trunk = Train(
        start=Rung(size="20k"), mixture=Mixture(sources=(Source(corpus=corpus),), sequence=32), tokens=40 * 512,
        batch_tokens=512, optimizer=AdamW(learning_rate=0.01), companions=(BESIDE,),
    )  # fmt: skip
    subject = Subject(model=Checkpoint(stage=trunk))
    texts = CorpusTexts(corpus=corpus, split="train", count=200, length=32)
    stored = Activations(subject=subject, texts=texts, sites=SITES, held_out=0.2)
    fit = FitDictionary(
        activations=stored,
        dictionaries=(TOP, SHARED),
        subject=subject,
        steps=60,
        rows=256,
        learning_rate=1e-2,
        texts=20,
    )
    assert run_stage(fit, store).status == "complete"
    return fit


class Folders:
    """Parents of an edit, in a store."""

    device = "cpu"

    def __init__(self, store: Store) -> None:
        self.store, self.results = store, store.root

    def parent(self, stage: Any) -> Path:
        folder = self.store.verified(stage)
        assert folder
        return folder


def edited(fit: FitDictionary, *edits: Any) -> Subject:
    assert fit.subject is not None
    return replace(fit.subject, edits=edits)


def scores(fit: FitDictionary, store: Store) -> dict[str, float]:
    outcome = store.outcome(fit)
    assert outcome
    return outcome.summary["scores"]


def held_out_texts(fit: FitDictionary, store: Store) -> Tensor:
    rows, training = fit.activations.rows(store.root)
    return torch.from_numpy(rows[training:][: fit.texts])


@pytest.mark.parametrize("dictionary", [TOP, SHARED])
def test_a_subject_with_a_dictionary_spliced_in_has_the_loss_that_the_fit_measured(
    fit: FitDictionary, store: Store, dictionary: Dictionary
) -> None:
    found, texts, parents = scores(fit, store), held_out_texts(fit, store), Folders(store)
    learned = Fitted(fit=fit, dictionary=dictionary)
    assert mean_loss(edited(fit).load(parents), texts) == pytest.approx(found["model/loss"], rel=1e-6)
    for sites, name in ((SITES, dictionary.name), (SITES[1:], f"{dictionary.name}.residual-2")):
        subject = edited(fit, *(SpliceDictionary(dictionary=learned, site=site) for site in sites))
        assert mean_loss(subject.load(parents), texts) == pytest.approx(found[f"{name}/loss"], rel=1e-5)


def test_dictionaries_recover_more_of_the_loss_than_principal_components_and_the_mean_none(
    fit: FitDictionary, store: Store
) -> None:
    found = scores(fit, store)
    assert found["model/loss"] < found["mean/loss"]
    for site in SITES:
        top, pca = (found[f"{name}.{site.name}/recovered"] for name in (TOP.name, "pca-8"))
        assert max(pca, 0) < top < 1
        assert top == pytest.approx(
            (found[f"mean.{site.name}/loss"] - found[f"{TOP.name}.{site.name}/loss"])
            / (found[f"mean.{site.name}/loss"] - found["model/loss"])
        )
    assert {name.split("/")[0] for name in found} == set(fit.tasks)


def test_any_probe_measures_a_subject_whose_features_are_removed(fit: FitDictionary, store: Store) -> None:
    corpus: Any = fit.activations.texts
    probe = Evaluation(name="clean", probe=LossProbe(corpus=corpus.corpus, sequences=8))
    learned = Fitted(fit=fit, dictionary=TOP)

    def loss(*edits: Any) -> float:
        stage = Measure(subject=edited(fit, *edits), evaluations=(probe,))
        run_stage(stage, store)
        return dict(store.points(stage).select("name", "value").iter_rows())["clean/loss"]

    every, site = tuple(range(64)), SITES[0]
    kept = loss(ScaleFeatures(dictionary=learned, site=site, features=every, factor=1.0))
    removed = loss(ScaleFeatures(dictionary=learned, site=site, features=every))
    assert kept == loss()
    assert removed > kept + 0.1


def test_a_companions_dictionary_is_the_one_that_trained(fit: FitDictionary, store: Store) -> None:
    assert fit.subject is not None
    checkpoint: Any = fit.subject.model
    learned, parents = Companioned(checkpoint=checkpoint, name="beside"), Folders(store)
    weights = read_weights(checkpoint.folder(parents.parent(checkpoint.stage)))
    module = BESIDE.build(32, 0)
    module.load_state_dict({name: weights[f"companion.beside.{name}"] for name in module.state_dict()})
    model, texts = fit.subject.load(parents), held_out_texts(fit, store)
    with torch.no_grad(), tapped(model, SITES) as taps:
        model(texts)
        module(taps, metrics := Metrics())
    points = dict(store.points(checkpoint.stage).sort("step").select("name", "value").iter_rows())
    for site in SITES:
        one, x = learned.load(parents, site), taps[site].flatten(0, 1)
        u = one.codes(x)[1].values
        left = unexplained(u, one(u))
        assert left == pytest.approx(float(metrics.values[f"fvu-{site.name}"]), rel=1e-4)
        assert left < points[f"beside/fvu-{site.name}"]  # the mean of all its training


def test_an_imported_dictionary_is_the_same_and_one_that_has_changed_is_refused(
    fit: FitDictionary, store: Store, tmp_path: Path
) -> None:
    parents, site = Folders(store), SITES[1]
    ours = Fitted(fit=fit, dictionary=TOP).load(parents, site)
    sae_lens.write(tmp_path, ours)
    learned = imported(tmp_path)
    assert (learned.width, learned.latents) == (32, 64)
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(learned.load(parents, site)(x), ours(x))
    edited(fit, SpliceDictionary(dictionary=learned, site=site)).load(parents)
    sae_lens.write(tmp_path, replace(ours, k=7))
    with pytest.raises(UserError, match="its files have changed since"):
        learned.load(parents, site)
    elsewhere = replace(learned, path="/nowhere")
    assert SpliceDictionary(dictionary=elsewhere, site=site) == SpliceDictionary(dictionary=learned, site=site)


def spliced(fit: FitDictionary, learned: Any, site: Site = SITES[0], model: Any = None) -> Subject:
    assert fit.subject is not None
    edit = SpliceDictionary(dictionary=learned, site=site)
    if model is not None:
        return Subject(model=model, tokenizer=fit.subject.codec, edits=(edit,))
    return replace(fit.subject, edits=(edit,))


IMPORTED = Imported(digest="d", width=48, latents=10, path="")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda fit: Fitted(fit=fit, dictionary=replace(TOP, seed=9)), "dictionary 64-top8-s9 given: the stage fits"),
        (
            lambda fit: spliced(fit, Fitted(fit=fit, dictionary=TOP), model=Rung(size="60k")),
            "a dictionary of 20k in 60k given: expected a model of the same shape",
        ),
        (
            lambda fit: spliced(fit, Fitted(fit=fit, dictionary=TOP), Site(layer=0)),
            "site residual-0 of a dictionary given: it is fitted at residual-1, residual-2",
        ),
        (lambda fit: spliced(fit, Fitted(fit=fit, dictionary=TOP), Site(layer=7)), "layer 7 of 20k given"),
        (lambda fit: spliced(fit, IMPORTED), "a dictionary of vectors 48 wide in 20k given, which is 32 wide"),
        (
            lambda fit: spliced(fit, Companioned(checkpoint=fit.subject.model, name="beside"), Site(layer=0)),
            "companion beside reads residual-1, residual-2",
        ),
        (
            lambda fit: Companioned(checkpoint=fit.subject.model, name="other"),
            "companion 'other' given: the stage trains no dictionary of that name",
        ),
        (
            lambda fit: ScaleFeatures(dictionary=IMPORTED, site=SITES[0], features=(3, 10)),
            r"features \(3, 10\) of a dictionary given: expected some from 0 to 9",
        ),
        (lambda fit: ScaleFeatures(dictionary=IMPORTED, site=SITES[0], features=()), r"features \(\) of a dictionary"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused_in_one_line(
    fit: FitDictionary, make: Callable[[FitDictionary], Any], line: str
) -> None:
    with pytest.raises(UserError, match=line) as error:
        make(fit)
    assert "\n" not in str(error.value)
