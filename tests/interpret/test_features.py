"""What features mean: planted concepts are found, and shared by blocks exactly as far as they were planted so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from analysis.interpret.dictionaries import OWN, SHARED, needed
from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.interpret import feature_measures as measures
from halflife.interpret import sae_lens
from halflife.interpret.autoencoder import Autoencoder, ScaledFeatures
from halflife.interpret.concepts import AttributeConcepts
from halflife.interpret.dictionary import Dictionary, TopK
from halflife.interpret.dictionary_fitting import fit
from halflife.interpret.feature_effects import effects
from halflife.interpret.feature_measurement import Sample, described, encoded, followed, specificities
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.interpret.measure_features import MeasureFeatures
from halflife.models.hooks import edited
from halflife.models.sites import Site
from halflife.models.start import freeze, fresh
from halflife.stages.activations import Activations
from halflife.tasks.attributes import AttributeGrammar
from tests.interpret import planted
from tests.interpret.planted import ACTIVE, DEEP, DIRECTIONS, LENGTH, WIDTH, rotation
from tests.training.fakes import Host

BLOCKS = tuple(Site(layer=layer) for layer in range(1, 5))
WIDTHS = {False: (16, 32, 64), True: (32, 64, 128)}
"""Of dictionaries per block, and shared ones"""
SAME = [np.eye(WIDTH, dtype=np.float32)] * len(BLOCKS)
TURNED = [rotation(number) for number in range(len(BLOCKS))]
TEXT = AttributeText(grammar=AttributeGrammar(strength=1.5))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(*dictionaries: Dictionary, **changes: Any) -> MeasureFeatures:
    stage = planted.stage(*dictionaries, rung=DEEP, layers=BLOCKS)
    return MeasureFeatures(
        **{"fit": stage, "activations": stage.activations, "concepts": AttributeConcepts(text=TEXT)} | changes
    )


def sharing(folder: Path, rotations: list[Any], turned: int) -> tuple[dict[str, float], float]:
    """Streams of four blocks of which the first `turned` directions are turned by each block's own rotation -> points
    of a shared dictionary over blocks, and R: the features that it needs, per one of a block's own."""
    vectors, active = planted.blocks(150, BLOCKS, rotations, turned)
    stored = planted.stored(folder / "stored", vectors, 100)
    every = [
        Dictionary(latents=latents, sparsity=TopK(k=ACTIVE), shared=shared)
        for shared, widths in WIDTHS.items() for latents in widths
    ]  # fmt: skip
    stage = planted.stage(*every, rung=DEEP, layers=BLOCKS, rows=128, steps=100, learning_rate=1e-2)
    host = Host(folder / "run")
    host.folder.mkdir()
    fit(stage, BLOCKS, stored, host)
    u = torch.stack([torch.from_numpy(vectors[site.name]).flatten(0, 1) for site in BLOCKS])
    u = u / u.square().mean(-1, keepdim=True).sqrt()
    labels, nothing = torch.from_numpy(active).flatten(0, 1).float(), np.zeros(0, np.int64)
    first, other = (
        Sample(u[:, part], labels[part], nothing, nothing) for part in (slice(100 * LENGTH), slice(100 * LENGTH, None))
    )
    points, present = described(BLOCKS, first, other)
    curves: dict[str, list[tuple[int, float]]] = {SHARED: [], OWN: []}
    for each in every:
        at = {site: sae_lens.read(stage.folder(host.folder, each, site)) for site in BLOCKS}
        found = specificities(each.name, at, first, other, present)
        curves[SHARED if each.shared else OWN].append((each.latents, found[f"{each.name}/specificity"]))
        if each.shared and each.latents == 64:
            points |= followed(encoded(at, other.u), other, features(*every, least=20))
    counts = needed(curves)
    return points, counts[SHARED][0] / counts[OWN][0]


def test_directions_that_all_blocks_share_need_one_dictionary_and_mean_the_same(tmp_path: Path) -> None:
    points, ratio = sharing(tmp_path, SAME, DIRECTIONS)
    assert ratio == pytest.approx(1, abs=0.25)
    assert points["concepts/present"] == 1
    assert points["persistence"] == pytest.approx(1, abs=1e-5)
    assert points["same_concept"] == pytest.approx(1, abs=1e-5)
    assert points["same_trigger"] == pytest.approx(1, abs=1e-5)
    assert points["site_entropy"] == pytest.approx(1, abs=1e-5)
    assert points["single_site"] == 0
    assert points["same_concept_permuted"] < 0.1
    assert points["persistence_permuted"] < 0.2


def test_directions_that_each_block_turns_need_as_many_dictionaries_and_agree_as_permuted_ones_do(
    tmp_path: Path,
) -> None:
    points, ratio = sharing(tmp_path, TURNED, DIRECTIONS)
    assert 0.7 * len(BLOCKS) < ratio < 1.3 * len(BLOCKS)
    for name in ("same_concept", "same_trigger", "persistence"):
        assert points[name] == pytest.approx(points[f"{name}_permuted"], abs=0.06), name


@pytest.mark.slow
def test_half_shared_directions_lie_in_between(tmp_path: Path) -> None:
    points, ratio = sharing(tmp_path, TURNED, DIRECTIONS // 2)
    assert 1.3 < ratio < 3.2
    assert 0.3 < points["persistence"] < 0.8
    assert points["same_concept"] > points["same_concept_permuted"] + 0.3


@given(st.integers(0, 2**32 - 1))
def test_a_concept_is_its_own_best_sign_and_always_saying_yes_is_none(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    labels = (torch.rand(60, 4, generator=draws) < torch.rand(4, generator=draws)).float()
    labels[0], labels[1] = 0, 1
    assert measures.f1(labels, labels).diagonal() == pytest.approx(1, abs=1e-5)
    assert measures.f1(torch.ones(60, 1), labels) == pytest.approx(0, abs=1e-4)
    assert measures.f1_of(labels, labels) == pytest.approx(1, abs=1e-5)


def test_a_concept_is_present_where_a_linear_probe_finds_it_and_not_where_one_part_of_it_is() -> None:
    draws = torch.Generator().manual_seed(0)
    symbols = torch.nn.functional.one_hot(torch.randint(8, (4000, 2), generator=draws), 8).float()
    pair = symbols[:, 0, 0] * symbols[:, 1, 0]
    labels = torch.stack([symbols[:, 1, 0], pair], 1)
    noise = 0.05 * torch.randn(4000, 16, generator=draws)
    both, one = symbols.flatten(1) + noise, torch.cat([torch.zeros(4000, 8), symbols[:, 1]], 1) + noise
    half = slice(2000), slice(2000, None)
    found = [measures.probed(u[half[0]], labels[half[0]], u[half[1]], labels[half[1]]) for u in (both, one)]
    assert (found[0] > 0.95).all()
    assert found[1][0] > 0.95
    assert found[1][1] < 0.4


def test_signs_are_scored_on_other_text_than_they_are_chosen_on() -> None:
    draws = torch.Generator().manual_seed(0)
    codes, labels = torch.rand(200, 500, generator=draws), (torch.rand(200, 1, generator=draws) < 0.3).float()
    signs = measures.Detectors.chosen(codes[:100], labels[:100])
    assert signs.specificity(codes[:100], labels[:100]) > 0.15  # the best of 500 that say nothing
    assert signs.specificity(codes[100:], labels[100:]) < 0.1


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_the_null_of_an_agreement_is_its_mean_over_all_permutations(seed: int, count: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    similar, mass = (torch.rand(*shape, generator=draws, dtype=torch.float64) for shape in ((count, count), (count,)))
    own, null = measures.agreement(similar, mass)
    every = [measures.agreement(similar[:, list(order)], mass)[0] for order in permutations(range(count))]
    assert null == pytest.approx(float(np.mean(every)))
    assert own == every[0]


def test_removing_a_feature_changes_logits_as_an_edit_of_the_model_does() -> None:
    model = freeze(fresh(planted.RUNG, 12, 0.0, 0), "fp32")
    site, draws = Site(layer=1), torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(40, WIDTH, generator=draws), dim=1)
    dictionary = Autoencoder(rows, torch.zeros(40), rows, torch.zeros(WIDTH), k=4)
    texts = torch.randint(12, (3, 9), generator=draws)

    def logits() -> Tensor:
        with torch.no_grad():
            return model.logits(model.hidden(model.embed(texts)))

    found = effects(model, texts, {site: dictionary}, torch.arange(40))
    for feature in found.fired[0].argsort(descending=True)[:3].tolist():
        active: list[Tensor] = []

        def noted(x: Tensor, positions: Tensor, feature: int = feature, active: list[Tensor] = active) -> Tensor:
            active.append(dictionary.codes(x)[0][..., feature] > 0)
            return x

        with edited(model, {site: noted}):
            clean = logits()
        with edited(model, {site: ScaledFeatures(dictionary, [feature], 0.0)}):
            change = (logits() - clean)[active[0]].mean(0)
        assert found.fired[0, feature] == active[0].sum()
        assert torch.allclose(found.change[0, feature], change, atol=1e-5)


def test_concepts_of_a_grammar_are_its_symbols_and_what_the_exact_posterior_is_sure_of(tmp_path: Path) -> None:
    grammar, tokenizer = TEXT.grammar, TEXT.tokenizer()
    values, symbols = grammar.sample(np.random.default_rng(0), 40, 24)
    concepts = AttributeConcepts(text=TEXT)
    labels = concepts.labels(TEXT.symbol_ids(tokenizer, tmp_path)[symbols], tokenizer, tmp_path)
    at = {name: labels[..., number] for number, name in enumerate(concepts.names)}
    assert labels.shape == (40, 24, len(concepts.names))
    a, b = 0, 1
    assert np.array_equal(at["a"], symbols == a)
    assert np.array_equal(at["after a"][:, 1:], symbols[:, :-1] == a)
    assert np.array_equal(at["ab"][:, 1:], (symbols[:, :-1] == a) & (symbols[:, 1:] == b))
    assert not at["ab"][:, 0].any()
    sure = np.stack([at[f"attribute 0 is {value}"] for value in range(3)], -1)
    assert sure.sum(-1).max() == 1
    right = sure[np.arange(40), :, values[:, 0]]
    assert right.sum() / sure.sum() > 0.9  # the certainty
    assert sure[:, -1].any(-1).mean() > 0.5


def test_turned_activations_are_rotated_and_their_dictionaries_fit_no_model(tmp_path: Path) -> None:
    turned = planted.stage(turned=True, steps=30, rows=128)
    turns = torch.from_numpy(turned.turns())
    assert torch.allclose(turns @ turns.mT, torch.eye(WIDTH).expand_as(turns), atol=1e-5)
    stored = planted.stored(tmp_path / "stored", planted.streams(60, SAME[:2]), 50)
    points = [
        fit(turned, turned.read_sites, stored, Host(tmp_path), turns=each)["scores"] for each in (None, turned.turns())
    ]
    rank = f"pca-{ACTIVE}.residual-1/fvu"
    assert points[0][rank] == pytest.approx(points[1][rank], rel=1e-4)  # a rotation keeps the variances
    assert points[0] != points[1]


SHARING = Dictionary(latents=32, sparsity=TopK(k=3), shared=True)
FEW: Callable[[], Activations] = lambda: replace(features(SHARING).activations, sites=BLOCKS[:2])  # noqa: E731


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: features(followed=(SHARING,)), "to be followed given: the stage fits"),
        (lambda: features(followed=(planted.PLAIN,)), "followed over sites given: expected a shared one"),
        (lambda: features(rows=0), "rows = 0 of features to measure given: expected at least 1"),
        (lambda: features(activations=FEW()), "dictionary of residual-3 given: activations are stored at residual-1"),
        (lambda: features(activations=replace(features().activations, held_out=0)), "without held-out texts given"),
        (lambda: features(subject=planted.stage().activations.subject), "expected a model of the same shape"),
        (lambda: AttributeConcepts(text=TEXT, certainty=0.4), "certainty 0.4 of a concept given"),
        (
            lambda: replace(planted.stage(), turned=True, subject=planted.stage().activations.subject),
            "dictionaries of turned activations given with a subject",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(make: Callable[[], Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_plan_counts_what_it_costs() -> None:
    plain = features(SHARING, planted.PLAIN)
    followed_too = replace(plain, followed=(SHARING,), subject=plain.activations.subject)
    assert followed_too.cost.flops > plain.cost.flops
    assert set(plain.tasks) >= {SHARING.name, f"{SHARING.name}.residual-4", "streams", "concepts.residual-1"}
    assert isinstance(plain.fit, FitDictionary)
