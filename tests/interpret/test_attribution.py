"""Attribution of fine-tuning to features: planted changes are found, and gradients add up to first-order changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.texts import CorpusTexts, Texts
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_edits import Reproduction, Transfer, alignment, correlations, matched, reliability
from halflife.interpret.attribution_losses import ChangeLoss, Divergence, DotProduct, SquaredError, centred
from halflife.interpret.attribution_scores import WAYS, Attribution, MovedFeatures, Predictions, attributed, pulled
from halflife.interpret.autoencoder import Autoencoder
from halflife.interpret.compare_attributions import CompareAttributions, compared
from halflife.interpret.dictionary_edits import Fitted
from halflife.interpret.transfer_dictionary import transferred
from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.models.start import freeze, fresh
from halflife.stages.subject import Subject
from tests.interpret import planted

VOCABULARY, LATENTS, TEXTS = 12, 48, 24
SITE, LAST = Site(layer=1), Site(layer=2)
LOSSES = (DotProduct(), SquaredError(), Divergence())
ENOUGH = 32
"""Random directions, at which lengths are exact to a few per cent"""


@pytest.fixture(scope="module")
def model() -> Model:
    return weighted()


@pytest.fixture(scope="module")
def texts() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (TEXTS, 10)))


@pytest.fixture(scope="module")
def dictionary(model: Model) -> Autoencoder:
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, Rung(size="20k").width, generator=seeded(3)), dim=1)
    return Autoencoder(rows, torch.zeros(LATENTS), rows, torch.zeros(rows.shape[1]), k=6)


def weighted(noise: float = 0.0) -> Model:
    """A model of random weights, none of them 0; and with noise on each in proportion to the weights."""
    made, random = fresh(Rung(size="20k"), VOCABULARY, 0.0, 1), seeded()
    with torch.no_grad():
        for scale in (0.1, noise * 0.1):
            for parameter in made.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=random)
    return freeze(made, "fp32")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(model: Model, *changes: Any, site: Site = SITE) -> Predictions:
    return Predictions(model, site, torch.arange(VOCABULARY), changes=changes)


def run(
    tuned: Predictions,
    texts: Tensor,
    dictionary: Autoencoder,
    losses: Sequence[ChangeLoss] = LOSSES,
    null: Predictions | None = None,
    **more: Any,
) -> Attribution:
    base = replace(tuned, changes=())
    given: dict[str, Any] = {"draws": 2, "chunk": 12, "random": seeded(), **more}
    return attributed(base, tuned, null, texts, [dictionary], losses, **given)[0]


def moved(dictionary: Autoencoder, feature: int, size: float, way: str) -> MovedFeatures:
    return MovedFeatures(dictionary, torch.tensor([feature]), torch.tensor([size]), way)


def test_dot_product_and_squared_error_have_one_gradient_and_divergence_another() -> None:
    logits, tuned = torch.randn(2, 3, 9, generator=seeded(1)), torch.randn(2, 3, 9, generator=seeded(2))
    dot, mse, kl = (pulled(loss, logits, tuned) for loss in LOSSES)
    assert torch.allclose(dot, mse, rtol=1e-6, atol=1e-6)
    assert torch.allclose(dot, centred(tuned - logits), atol=1e-6)
    assert torch.allclose(kl, tuned.softmax(-1) - logits.softmax(-1), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_mean_square_along_random_directions_is_the_length_that_bounds_scores(loss: ChangeLoss) -> None:
    random, logits = seeded(), torch.randn(1, 5, generator=seeded(1))
    change, tuned = torch.randn(1, 5, generator=seeded(2)), torch.randn(1, 5, generator=seeded(3))
    noise = loss.noise(logits.expand(200_000, 5), random)
    p = logits.softmax(-1)[0]
    metric = torch.diag(p) - p.outer(p) if loss.name == "kl" else torch.eye(5) - 1 / 5
    length = (change @ metric @ change.T).item()
    assert (noise @ change.T).square().mean().item() == pytest.approx(length, rel=0.02)
    u = pulled(loss, logits, tuned)
    best = torch.linalg.pinv(metric) @ u[0]  # the change along which u gains most
    most = (u @ best).item() ** 2 / (best @ metric @ best).item()
    assert float(loss.size(logits, u)) == pytest.approx(most, rel=1e-3)


@pytest.fixture(scope="module")
def lengths(model: Model, texts: Tensor, dictionary: Autoencoder) -> Attribution:
    """An attribution with the lengths of effects, which do not depend on what is attributed."""
    return run(predictions(model), texts, dictionary, draws=ENOUGH)


@pytest.mark.parametrize("way", ["everywhere", "active"])
def test_a_change_of_one_feature_is_attributed_to_it(
    model: Model, texts: Tensor, dictionary: Autoencoder, lengths: Attribution, way: str
) -> None:
    """Rank 1, so an area under the ROC curve of 1, by the cosine score; and its coefficient is the planted one."""
    for feature in (3, 17, 40):
        found = run(predictions(model, moved(dictionary, feature, 0.02, way)), texts, dictionary, draws=0)
        for loss in LOSSES:
            scores = replace(found.scores[loss.name, way], squares=lengths.scores[loss.name, way].squares)
            cosines = scores.cosine.masked_fill(found.frequency == 0, -1)
            assert int(cosines.argmax()) == feature
            assert float(cosines[feature]) == pytest.approx(1, abs=0.1)
            assert float(scores.coefficients[feature]) == pytest.approx(0.02, rel=0.2)


def test_no_change_is_attributed_to_nothing(model: Model, texts: Tensor, dictionary: Autoencoder) -> None:
    found = run(predictions(model), texts, dictionary)
    for scores in found.scores.values():
        assert float(scores.total.abs().max()) < 1e-5
    tuned = predictions(model, moved(dictionary, 3, 0.5, "active"))
    same = run(tuned, texts, dictionary, null=tuned)
    assert all(float(scores.total.abs().max()) == 0 for scores in same.scores.values())


def test_what_the_null_did_is_taken_off(
    model: Model, texts: Tensor, dictionary: Autoencoder, lengths: Attribution
) -> None:
    both = MovedFeatures(dictionary, torch.tensor([3, 17]), torch.tensor([0.02, 0.02]), "everywhere")
    null = predictions(model, moved(dictionary, 17, 0.02, "everywhere"))
    found = run(predictions(model, both), texts, dictionary, null=null, draws=0)
    alone = run(predictions(model, moved(dictionary, 3, 0.02, "everywhere")), texts, dictionary, draws=0)
    scores, expected = (
        replace(each.scores["dot", "everywhere"], squares=lengths.scores["dot", "everywhere"].squares).cosine
        for each in (found, alone)
    )
    assert int(scores.argmax()) == 3
    assert torch.allclose(scores, expected, atol=0.02)


@pytest.mark.parametrize("loss", LOSSES[1:], ids=lambda loss: loss.name)
def test_latents_and_the_error_node_add_up_to_the_first_order_change_of_the_loss(
    model: Model, texts: Tensor, dictionary: Autoencoder, loss: ChangeLoss
) -> None:
    base, tuned = predictions(model), predictions(weighted(0.05))
    found = attributed(base, tuned, None, texts, [dictionary], (loss,), draws=1, chunk=12, random=seeded())[0]
    stream = base.stream(texts)
    for way, direction in (("active", stream), ("change", tuned.stream(texts) - stream)):
        scores, step = found.scores[loss.name, way], 3e-3
        ahead, behind = (left(loss, base, tuned, texts, stream + sign * step * direction) for sign in (1, -1))
        assert float(scores.total.sum() + scores.error.sum()) == pytest.approx((behind - ahead) / (2 * step), rel=0.01)


def test_along_the_path_to_the_other_stream_they_add_up_to_the_whole_change(
    model: Model, texts: Tensor, dictionary: Autoencoder
) -> None:
    base, tuned, loss = predictions(model), predictions(weighted(0.1)), SquaredError()
    given: dict[str, Any] = {"draws": 1, "chunk": 12, "random": seeded()}
    found = attributed(base, tuned, None, texts, [dictionary], (loss,), path=10, **given)[0]
    scores = found.scores["mse", "change"]
    start, end = (left(loss, base, tuned, texts, each.stream(texts)) for each in (base, tuned))
    assert float(scores.total.sum() + scores.error.sum()) == pytest.approx(start - end, rel=0.01)


def left(loss: ChangeLoss, base: Predictions, tuned: Predictions, texts: Tensor, stream: Tensor) -> float:
    """The loss that is left when this stream is in place of the base model's."""
    with torch.no_grad():
        return float(loss.value(base(texts, lambda x, positions: stream), tuned(texts)).double().sum())


@pytest.mark.parametrize("way", ["everywhere", "active"])
def test_editing_the_top_feature_reproduces_and_undoes_the_change_and_matched_ones_do_not(
    model: Model, texts: Tensor, dictionary: Autoencoder, way: str
) -> None:
    tuned = predictions(model, moved(dictionary, 3, 0.3, way))
    found = run(tuned, texts, dictionary, LOSSES[:1], draws=8)
    live, scores = found.frequency > 0, found.scores["dot", way]
    measure = Reproduction(predictions(model), tuned, None, texts[::2], texts[1::2], tuned(texts[1::2]))

    def effect(features: Tensor) -> Any:
        chosen = scores.coefficients[features]
        return measure.effect(lambda factor: MovedFeatures(dictionary, features, factor * chosen, way))

    own = effect(torch.tensor([3]))
    assert min(own.explained, own.undone) > 0.9
    likeness = torch.stack([found.frequency.log(), scores.squares.log()], 1)
    others = [effect(matched(torch.tensor([3]), live, likeness, seeded(seed))) for seed in range(4)]
    assert all(each.explained < 0.5 and each.undone < 0.5 for each in others)
    assert own.explained > 0.4 + sum(each.explained for each in others) / len(others)


def test_a_change_of_the_head_is_left_outside(model: Model, texts: Tensor, dictionary: Autoencoder) -> None:
    """No feature is responsible: in the place of the model's own stream, the tuned one's changes nothing."""
    tuned = fresh(Rung(size="20k"), VOCABULARY, 0.0, 1)
    tuned.load_state_dict(model.state_dict())  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        dict(tuned.named_parameters())["head.weight"].add_(0.1)
    assert predictions(tuned).stream(texts).equal(predictions(model).stream(texts))
    found = attributed(
        predictions(model), predictions(tuned), None, texts, [dictionary], LOSSES, draws=1, chunk=12, random=seeded()
    )[0]
    assert all(not found.scores[loss.name, "change"].total.any() for loss in LOSSES)


def test_matched_latents_are_others_that_fire_as_often() -> None:
    frequency = torch.linspace(0, 1, 50)[:, None]
    live = frequency[:, 0] > 0.1
    chosen = torch.tensor([10, 20, 45])
    found = matched(chosen, live, frequency, seeded())
    assert len(set(found.tolist()) | set(chosen.tolist())) == 6
    assert live[found].all()
    assert float((frequency[found] - frequency[chosen]).abs().max()) < 0.15


@given(st.integers(0, 2**31), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_alignment_is_a_correlation(seed: int, scale: float) -> None:
    truth = torch.randn(30, 2, generator=seeded(seed))
    found = alignment(torch.stack([scale * truth[:, 0] + 3, -truth[:, 1]]), truth)
    assert float(found[0, 0]) == pytest.approx(1, abs=1e-4)
    assert float(found[1, 1]) == pytest.approx(-1, abs=1e-4)
    assert float(found.abs().max()) <= 1 + 1e-4


def test_truth_of_latents_is_their_correlation_with_a_property() -> None:
    values = torch.randn(1000, 1, generator=seeded(1))
    codes = torch.cat([2 * values.relu(), torch.zeros_like(values), -values], 1)
    found = correlations(codes, values)[:, 0].tolist()
    assert found[0] == pytest.approx(0.5 / math.sqrt(0.5 - 1 / (2 * math.pi)), abs=0.05)  # of relu(x) and normal x
    assert found[1:] == pytest.approx([0, -1], abs=1e-6)


def test_scores_that_are_the_same_in_both_halves_are_reliable(
    model: Model, texts: Tensor, dictionary: Autoencoder
) -> None:
    found = run(predictions(model, moved(dictionary, 3, 0.1, "everywhere")), texts, dictionary)
    live = found.frequency > 0
    scores = found.scores["dot", "everywhere"]
    assert reliability(scores, live) > 0.95
    noise = replace(scores, by_text=torch.randn(400, LATENTS, generator=seeded(7)))
    assert abs(reliability(noise, live)) < 0.6
    assert set(WAYS) == {way for _, way in found.scores}


def test_a_rotated_stream_is_fitted_again_after_a_linear_map_and_a_latent_that_is_gone_has_collapsed() -> None:
    width = 16
    rows = torch.linalg.qr(torch.randn(width, width, generator=seeded(4))).Q
    own = Autoencoder(rows, torch.zeros(width), rows, torch.zeros(width), k=3)
    sizes = 0.5 + torch.rand(2, 60, 10, width, generator=seeded(5))
    sizes *= torch.rand(sizes.shape, generator=seeded(6)).argsort(-1) < 3
    base, live = (sizes[0] @ rows, sizes[1] @ rows), torch.ones(width, dtype=torch.bool)
    turn = torch.linalg.qr(torch.randn(width, width, generator=seeded(7))).Q
    seen = Transfer.of(own, base, (base[0] @ turn, base[1] @ turn), live)
    assert (seen.own, seen.mapped) == (pytest.approx(0, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert seen.tuned > 0.2
    assert Transfer.of(own, base, base, live).collapsed == 0
    sizes[..., 3] = 0
    assert Transfer.of(own, base, (sizes[0] @ rows, sizes[1] @ rows), live).collapsed == pytest.approx(1 / width)


def test_what_a_linear_map_undoes_is_told_from_what_needs_a_fresh_dictionary() -> None:
    """A rotated stream is fitted again after a map and by the rotated dictionary. Of sums of other directions, only a
    dictionary of these is one."""
    width, count = 16, 24
    many = torch.nn.functional.normalize(torch.randn(2, count, width, generator=seeded(1)), dim=2)

    def of(rows: Tensor) -> Autoencoder:
        return Autoencoder(rows, torch.zeros(count), rows, torch.zeros(width), k=1)

    which = torch.randint(0, count, (80, 10), generator=seeded(2))
    base, turn = many[0][which], torch.linalg.qr(torch.randn(width, width, generator=seeded(3))).Q
    found = transferred(of(many[0]), of(many[0] @ turn), base, base @ turn)
    assert max(found[f"{name}/fvu"] for name in ("own", "mapped", "fresh")) < 0.01
    assert found["raw/fvu"] > 0.3
    other = transferred(of(many[0]), of(many[1]), base, many[1][which.flip(0)])
    assert other["fresh/fvu"] < 0.01
    assert min(other["raw/fvu"], other["mapped/fvu"]) > 0.3


def test_attributions_that_contradict_themselves_are_refused_in_one_line(tmp_path: Path) -> None:
    texts: Any = CorpusTexts(corpus=Corpus(digest="0" * 16), count=8, length=16)
    subject = Subject(model=Rung(size="20k"), tokenizer=Bytes())
    fit = planted.stage()
    good: dict[str, Any] = {
        "subject": subject, "tuned": subject, "site": SITE, "texts": texts,
        "dictionaries": (Fitted(fit=fit, dictionary=fit.dictionaries[0]),),
    }  # fmt: skip
    Attribute(**good)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"site": Site(layer=9)}, "layer 9"), ({"dictionaries": ()}, "without a dictionary"),
        ({"losses": (DotProduct(), DotProduct())}, "loss dot given several times"),
        ({"counts": (0,)}, "counts"), ({"draws": 0}, "draws = 0"),
        ({"tuned": replace(subject, model=Rung(size="30k"))}, "expected a model of the same shape"),
        ({"texts": replace(texts, count=2)}, "at least 4 texts"),
    ]  # fmt: skip
    for changes, line in cases:
        with pytest.raises(UserError, match=line) as error:
            Attribute(**{**good, **changes})
        assert "\n" not in str(error.value)
    one = Attribute(**good)
    with pytest.raises(UserError, match="expected 2"):
        CompareAttributions(runs=(one,))
    with pytest.raises(UserError, match="other dictionaries"):
        CompareAttributions(runs=(one, replace(one, losses=(DotProduct(),))))
    exact = _NoDistribution()
    with pytest.raises(UserError, match="leave `intended` out"):
        replace(one, texts=exact, intended=exact).check(tmp_path)


class _NoDistribution(Texts):
    count, length = 8, 4

    def rows(self, tokenizer: Any, results: Path) -> Any:
        return np.zeros((8, 4), np.int64)


def test_copies_of_a_run_use_the_same_features_and_runs_for_other_things_do_not() -> None:
    one, other = (torch.randn(2, 200, generator=seeded(seed)) for seed in (1, 2))
    one, other = (each.mean(0).expand(2, -1) for each in (one, other))  # both halves alike
    same = compared([one, one], [other], top=20)
    assert (same["within"], same["overlap"], same["reliability"]) == (pytest.approx(1), 1, pytest.approx(1))
    assert same["path"] == pytest.approx(0, abs=1e-5)
    assert abs(same["between"]) < 0.2
    apart = compared([one, other], [], top=20)
    assert apart["path"] > 0.8
    assert "between" not in apart


def test_a_direction_that_is_gone_collapses_its_latent_and_no_other() -> None:
    """By v = Var_FT(z) / Var_M(z): below 0.01 of the one, and above 0.5 of all others."""
    width = 16
    rows = torch.linalg.qr(torch.randn(width, width, generator=seeded(4))).Q
    own = Autoencoder(rows, torch.zeros(width), rows, torch.zeros(width), k=3)
    sizes = 0.5 + torch.rand(120, 10, width, generator=seeded(5))
    sizes *= torch.rand(sizes.shape, generator=seeded(6)).argsort(-1) < 3
    before = own.codes(sizes @ rows)[0].flatten(0, 1).var(0)
    sizes[..., 3] = 0
    ratio = own.codes(sizes @ rows)[0].flatten(0, 1).var(0) / before
    assert float(ratio[3]) < 0.01
    assert float(ratio[torch.arange(width) != 3].min()) > 0.5
