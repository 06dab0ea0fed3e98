"""Sites of our decoder: what is read is what flows, and what is changed is changed there and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.models.changes import Add, AddByActivation, Affine, At, Noise, ProjectOut, Replace, Splice
from halflife.models.decoder import Decoder
from halflife.models.hooks import Change, edited, tapped
from halflife.models.ladder import Rung
from halflife.models.sites import Part, Site

LENGTH = 12
EVERY = [Site(layer=layer) for layer in range(3)]
EVERY += [Site(layer=layer, part=part) for layer in (1, 2) for part in ("attention", "mlp")]


@pytest.fixture(scope="module")
def model() -> Decoder:
    model = Decoder(Rung(size="30k"), 50)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def embedded(model: Decoder) -> Tensor:
    return model.embed(torch.randint(0, 50, (3, LENGTH), generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def vector(embedded: Tensor) -> Tensor:
    return torch.randn(embedded.shape[-1], generator=torch.Generator().manual_seed(3))


def read(model: Decoder, x: Tensor, sites: list[Site]) -> dict[Site, Tensor]:
    with tapped(model, sites) as taps:
        model.hidden(x)
    return dict(taps)


def test_what_attention_and_mlp_add_to_the_stream_is_its_change(model, embedded):
    found = read(model, embedded, EVERY)
    assert torch.equal(found[Site(layer=0)], embedded)
    for layer in (1, 2):
        parts = found[Site(layer=layer, part="attention")] + found[Site(layer=layer, part="mlp")]
        torch.testing.assert_close(found[Site(layer=layer - 1)] + parts, found[Site(layer=layer)])
    assert torch.equal(model.norm(found[Site(layer=2)]), model.hidden(embedded))


def test_reading_changes_nothing_and_leaves_nothing_behind(model, embedded):
    expected = model.hidden(embedded)
    with tapped(model, EVERY):
        assert torch.equal(model.hidden(embedded), expected)
    assert torch.equal(model.hidden(embedded), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_hooks_are_removed_after_an_error_too(model, embedded, vector):
    expected = model.hidden(embedded)
    with pytest.raises(ZeroDivisionError), edited(model, {Site(layer=1): Add(vector)}):
        raise ZeroDivisionError
    assert torch.equal(model.hidden(embedded), expected)


@pytest.mark.parametrize("site", EVERY, ids=str)
def test_replacing_an_activation_by_another_runs_gives_that_runs_activation(model, embedded, site):
    other = embedded.flip(0)
    there = read(model, other, [site])[site]
    with edited(model, {site: Replace(there)}):
        assert torch.equal(read(model, embedded, [site])[site], there)


def test_replacing_the_whole_stream_at_a_layer_reproduces_the_other_run(model, embedded):
    other = embedded.flip(0)
    for layer in range(3):
        there = read(model, other, [Site(layer=layer)])[Site(layer=layer)]
        with edited(model, {Site(layer=layer): Replace(there)}):
            torch.testing.assert_close(model.hidden(embedded), model.hidden(other), rtol=1e-5, atol=1e-5)


CHANGES: dict[str, Change] = {
    "add": Add(torch.ones(32), 2.0),
    "add by activation": AddByActivation(torch.ones(32), torch.linspace(-1, 1, 32), 0.1),
    "affine": Affine(torch.eye(32) * 0.5, torch.ones(32)),
    "project out": ProjectOut(torch.eye(32)[:2]),
    "splice": Splice(torch.tanh),
    "replace": Replace(torch.linspace(-1, 1, LENGTH * 32).view(1, LENGTH, 32)),
    "noise": Noise(0.5, seed=1),
    "at": At((0, 5, 11), Add(torch.ones(32))),
}


@pytest.mark.parametrize("site", EVERY, ids=str)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_edit_is_the_same_at_selected_columns_and_after_cached_keys_and_values(model, embedded, site, change):
    """The fast paths compute the last block at some columns only, and texts in two passes."""
    columns = torch.tensor([[3, 7], [2, 11], [0, 1]])
    plain = model.hidden(embedded)
    with edited(model, {site: change}):
        whole = model.hidden(embedded)
        torch.testing.assert_close(model.hidden_at(embedded, columns), whole.take_along_dim(columns[..., None], 1))
        _, past = model.prefill(embedded[:, :5], torch.tensor([5, 5, 5]))
        rest = torch.arange(LENGTH - 5).expand(3, -1)
        torch.testing.assert_close(model.hidden_at(embedded[:, 5:], rest, past), whole[:, 5:], rtol=1e-4, atol=1e-5)
    assert float((whole - plain).abs().max()) > 0.01


def test_positions_after_texts_of_different_lengths_are_the_texts_own(model, embedded):
    lengths = torch.tensor([5, 3, 4])
    change = At((6,), Add(torch.ones(32)))
    with edited(model, {Site(layer=1): change}):
        _, past = model.prefill(embedded[:, :5], lengths)
        found = [model.hidden_at(embedded[:, :4], torch.arange(4).expand(3, -1), past)]
        for row, length in enumerate(lengths):
            text = torch.cat([embedded[row, :length], embedded[row, :4]])[None]
            torch.testing.assert_close(found[0][row], model.hidden(text)[0, length:], rtol=1e-4, atol=1e-5)


def test_an_edit_at_positions_leaves_earlier_ones_untouched_to_the_bit(model, embedded, vector):
    plain = model.hidden(embedded)
    with edited(model, {Site(layer=1): At((4, 9), Add(vector))}):
        found = model.hidden(embedded)
    assert torch.equal(found[:, :4], plain[:, :4])
    assert not torch.equal(found[:, 4], plain[:, 4])


def test_edits_apply_in_order_and_taps_read_after_them(model, embedded, vector):
    site = Site(layer=1)
    plain = read(model, embedded, [site])[site]
    with edited(model, [(site, Add(vector)), (site, Splice(lambda x: 2 * x))]), tapped(model, [site]) as taps:
        model.hidden(embedded)
    torch.testing.assert_close(taps[site], 2 * (plain + vector))


def test_a_projected_activation_has_nothing_along_the_directions(model, embedded, vector):
    directions = torch.stack([vector, vector.roll(1)])
    with edited(model, {Site(layer=1): ProjectOut(directions)}):
        found = read(model, embedded, [Site(layer=1)])[Site(layer=1)]
    assert float((found @ directions.T).abs().max()) < 1e-4 * float(found.norm())


def test_a_vector_gets_its_gradient_through_the_model(model, embedded, vector):
    leaf = vector.clone().requires_grad_()
    with edited(model, {Site(layer=0): Add(leaf)}):
        model.logits(model.hidden(embedded)).square().sum().backward()
    assert leaf.grad is not None
    shifted = [model.logits(model.hidden(embedded + vector + sign * 1e-2 * vector)).square().sum() for sign in (1, -1)]
    slope = (shifted[0] - shifted[1]) / 2e-2
    torch.testing.assert_close(leaf.grad @ vector, slope, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("layer", "part", "message"),
    [
        (3, "residual", "the model has 2 blocks"),
        (0, "mlp", "expected 1 or more for the part 'mlp'"),
        (-1, "residual", "expected 0 or more"),
        (1, "norm", "expected one of residual, attention, mlp"),
    ],
)
def test_a_site_that_does_not_exist_is_refused(model, layer: int, part: Part, message: str):
    with pytest.raises(UserError, match=message), tapped(model, [Site(layer=layer, part=part)]):
        pass
