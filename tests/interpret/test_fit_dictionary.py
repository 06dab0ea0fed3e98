"""Dictionaries of stored activations: planted directions are found, shared or not; runs resume; bad input is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halflife.data.activations import StoredActivations
from halflife.data.tokenizers import Lexicon
from halflife.errors import UserError
from halflife.evaluation.cadence import Every
from halflife.interpret import sae_lens
from halflife.interpret.dictionary import BatchTopK, Dictionary, JumpReLU, TopK
from halflife.interpret.dictionary_fitting import Principal, fit, unexplained
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from tests.interpret import planted
from tests.interpret.planted import ACTIVE, PLAIN, SITES, WIDTH, directions, matched, rotation, stage, streams
from tests.training.fakes import Host, Interrupted

SAME, TURNED = [np.eye(WIDTH, dtype=np.float32)] * 2, [rotation(number) for number in range(2)]
MCC = 0.95
SHARED = tuple(Dictionary(latents=latents, sparsity=TopK(k=ACTIVE), shared=True) for latents in (64, 128))
OWN = Dictionary(latents=64, sparsity=TopK(k=ACTIVE))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    return planted.stored(tmp_path_factory.mktemp("planted") / "same", streams(500, SAME), 450)


def fitted(given: FitDictionary, stored: StoredActivations, host: Host) -> dict[str, float]:
    host.folder.mkdir(parents=True, exist_ok=True)
    return fit(given, given.read_sites, stored, host)["scores"]


def recovery(given: FitDictionary, host: Host, dictionary: Dictionary, rotations: list[Any]) -> float:
    """The mean over sites of the correlation of true directions with latents (MCC)."""
    found = [
        matched(sae_lens.read(given.folder(host.folder, dictionary, site)), directions() @ turned)[0]
        for site, turned in zip(SITES, rotations, strict=True)
    ]
    return sum(found) / len(found)


@pytest.mark.parametrize(("rotations", "ratio"), [(SAME, 1), (TURNED, 2)], ids=["same", "turned"])
def test_directions_are_recovered_and_shared_as_far_as_blocks_share_them(
    tmp_path: Path, rotations: list[Any], ratio: int
) -> None:
    """The ratio: latents of a shared dictionary over those of a block's own, at equal recovery of its directions."""
    stored = planted.stored(tmp_path / "stored", streams(500, rotations), 450)
    given, host = stage(OWN, *SHARED, rows=192, steps=180, learning_rate=1e-2), Host(tmp_path / "run")
    points = fitted(given, stored, host)
    assert recovery(given, host, OWN, rotations) > MCC
    found = {each.latents: recovery(given, host, each, rotations) for each in SHARED}
    assert min(latents for latents, mcc in found.items() if mcc > MCC) / OWN.latents == ratio
    shared = points[f"{SHARED[0].name}/fvu"] / points[f"{OWN.name}/fvu"]
    assert shared < 1.5 if ratio == 1 else shared > 3
    assert points[f"{OWN.name}/fvu"] < 0.1 * points[f"pca-{ACTIVE}.residual-1/fvu"]


def test_learned_thresholds_recover_directions_at_as_many_active_latents(
    tmp_path: Path, same: StoredActivations
) -> None:
    learned = replace(OWN, sparsity=JumpReLU(k=ACTIVE))
    given, host = stage(learned, rows=192, steps=180, learning_rate=1e-2), Host(tmp_path / "run")
    points = fitted(given, same, host)
    assert recovery(given, host, learned, SAME) > MCC
    assert points[f"{learned.name}.residual-1/l0"] == pytest.approx(ACTIVE, rel=0.15)
    thresholds = sae_lens.read(given.folder(host.folder, learned, SITES[0])).threshold
    assert thresholds is not None
    assert len(thresholds.unique()) > 1  # each latent's own


def test_dictionaries_of_one_pass_are_as_each_fitted_alone(tmp_path: Path, same: StoredActivations) -> None:
    several = (
        PLAIN,
        replace(PLAIN, seed=1),
        replace(PLAIN, shared=True),
        *(replace(PLAIN, sparsity=rule(k=ACTIVE)) for rule in (BatchTopK, JumpReLU)),
    )
    run: dict[str, Any] = {"steps": 20, "rows": 64}
    together = fitted(stage(*several, **run), same, Host(tmp_path / "together"))
    for each in several:
        alone = fitted(stage(each, **run), same, Host(tmp_path / each.name))
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=1e-3), name
    assert together[f"{several[0].name}/fvu"] != together[f"{several[1].name}/fvu"]


def test_what_it_measures_is_of_the_dictionary_that_it_writes(tmp_path: Path, same: StoredActivations) -> None:
    given, host = stage(replace(PLAIN, sparsity=BatchTopK(k=ACTIVE)), steps=50, rows=128), Host(tmp_path)
    points = fitted(given, same, host)
    (each,) = given.dictionaries
    part = same.layout.part("held-out")
    x = torch.from_numpy(same.read(np.arange(part.start, part.stop)).values["residual-2"])
    dictionary = sae_lens.read(given.folder(tmp_path, each, SITES[1]))
    codes, normal = dictionary.codes(x)
    u = normal.values
    assert points[f"{each.name}.residual-2/fvu"] == pytest.approx(unexplained(u, dictionary(u)), rel=1e-4)
    assert points[f"{each.name}.residual-2/l0"] == pytest.approx(float((codes > 0).sum(1).float().mean()), abs=0.01)
    assert points[f"{each.name}.residual-2/l0"] == pytest.approx(ACTIVE, rel=0.05)
    assert points[f"{each.name}.residual-2/alive"] == float((codes > 0).any(0).float().mean())
    assert set(host.points[given.tokens]) == set(points)
    assert {name.split("/")[0] for name in points} == set(given.tasks)


def test_points_by_step_fall(tmp_path: Path, same: StoredActivations) -> None:
    host = Host(tmp_path)
    fitted(stage(steps=40, rows=64, at=Every(steps=20)), same, host)
    values = [host.points[step * 64][f"{PLAIN.name}/fvu"] for step in (0, 20, 40)]
    assert values == sorted(values, reverse=True)


def test_an_interrupted_fit_resumes_and_ends_with_the_same_bits(tmp_path: Path, same: StoredActivations) -> None:
    given = stage(PLAIN, replace(PLAIN, shared=True, seed=3), steps=12, rows=64, dead_after=100, at=Every(steps=5))
    whole, first = Host(tmp_path / "whole"), Host(tmp_path / "first", interrupt_at=7)
    fitted(given, same, whole)
    with pytest.raises(Interrupted):
        fitted(given, same, first)
    rest = Host(tmp_path / "rest", resume=first.checkpoints[-1])
    fitted(given, same, rest)
    assert sorted(rest.points) == [10 * 64, 12 * 64]
    assert rest.points == {step: whole.points[step] for step in rest.points}
    for path in (tmp_path / "whole" / "final").rglob("*.safetensors"):
        other = tmp_path / "rest" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_what_principal_components_leave_is_the_eigenvalues_that_they_lack() -> None:
    u = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 11.0) + 3
    components = Principal.of(u.double())
    for k in (1, 4, 9):
        expected = float(components.values[k:].sum() / components.values.sum())
        assert unexplained(u, components.rank(k).scaled(u)) == pytest.approx(expected, rel=1e-5)


def test_activations_that_are_not_finite_are_refused_before_compute(tmp_path: Path) -> None:
    vectors = streams(20, SAME)
    vectors["residual-2"][3, 5, 0] = np.inf
    stored, host = planted.stored(tmp_path / "stored", vectors, 15), Host(tmp_path / "run")
    with pytest.raises(UserError, match="activations at residual-2 are not finite"):
        fitted(stage(), stored, host)
    assert not host.points


OTHER = Subject(model=Rung(size="60k"), tokenizer=stage().activations.subject.codec)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: Dictionary(latents=8, sparsity=TopK(k=9)),
            "k = 9 of a dictionary of 8 latents given: expected 1 to 8",
        ),
        (lambda: Dictionary(latents=8, sparsity=BatchTopK(k=0)), "k = 0 of a dictionary of 8 latents"),
        (lambda: replace(stage(), dictionaries=()), "a fit of no dictionary"),
        (lambda: stage(PLAIN, PLAIN), f"dictionary {PLAIN.name} given several times"),
        (lambda: stage(sites=(Site(layer=0),)), "site residual-0 of a dictionary given: activations are stored at"),
        (lambda: stage(steps=0), "steps = 0 of a dictionary's fit"),
        (lambda: stage(learning_rate=0), "learning rate 0 of a dictionary's fit"),
        (lambda: stage(activations=replace(stage().activations, held_out=0)), "activations without held-out texts"),
        (lambda: stage(subject=OTHER), "a dictionary of 20k.* with a subject 60k given: expected a model of the same"),
        (
            lambda: stage(subject=replace(stage().activations.subject, tokenizer=Lexicon(pieces=("a",)))),
            "the same tokenizer",
        ),
        (lambda: stage(at=Every(steps=0)), "evaluation every 0 steps"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(make: Callable[[], Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_plan_counts_what_it_costs() -> None:
    one, two = stage(OWN), stage(OWN, replace(OWN, seed=1))
    assert two.cost.flops == 2 * one.cost.flops
    assert two.cost.disk_bytes == 2 * one.cost.disk_bytes
    assert one.cost.memory_bytes < two.cost.memory_bytes
    assert one.key != two.key
