from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung, parse_size
from halflife.store.identity import fields_of

LADDER = ["30k", "55k", "100k", "180k", "330k", "600k", "1m", "3m", "10m", "19m", "100m", "300m", "1b", "1.4b", "7b"]


@pytest.mark.parametrize("size", LADDER)
def test_a_rung_has_the_parameters_that_its_name_says(size):
    rung = Rung(size=size)
    assert rung.parameters == pytest.approx(rung.target, rel=0.08)
    assert rung.width % rung.heads == 0
    assert rung.head_width % 2 == 0


def test_larger_rungs_are_at_least_as_deep_and_as_wide():
    rungs = [Rung(size=size) for size in ["30k", "100k", "1m", "10m", "100m", "1b", "7b"]]
    assert [rung.layers for rung in rungs] == sorted(rung.layers for rung in rungs)
    assert [rung.width for rung in rungs] == sorted(rung.width for rung in rungs)
    assert [rung.parameters for rung in rungs] == sorted(rung.parameters for rung in rungs)


@pytest.mark.parametrize("size", ["30k", "100k", "1m"])
def test_a_built_decoder_has_the_parameters_that_its_rung_states(size):
    model = Decoder(Rung(size=size), 257)
    hidden = sum(p.numel() for name, p in model.named_parameters() if model.kind(name) == "hidden")
    assert hidden == model.architecture.parameters


@pytest.mark.parametrize("size", ["60k", "100k", "1m", "10m"])
@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_a_rung_of_any_depth_has_its_parameters_and_states_memory_and_flops_of_its_layers(size, depth):
    rung = Rung(size=size, depth=depth)
    model = Decoder(rung, 257)
    assert len(model.blocks) == depth == rung.layers
    assert rung.parameters == pytest.approx(rung.target, rel=0.08)
    assert sum(p.numel() for name, p in model.named_parameters() if model.kind(name) == "hidden") == rung.parameters
    assert rung.flops_per_token(64) - rung.flops_per_token(0) == 6 * depth * rung.width * 64
    assert Rung.of_identity(rung.identity) == rung


def test_a_depth_is_part_of_the_key_only_where_it_is_set():
    assert fields_of(Rung(size="60k")) == {"size": "60k"}
    assert fields_of(Rung(size="60k", depth=4)) == {"size": "60k", "depth": 4}
    assert Rung(size="60k").identity == "60k"


@pytest.mark.parametrize("depth", [0, -1, 13])
def test_a_depth_without_room_for_its_layers_is_refused(depth):
    with pytest.raises(UserError, match="expected 1 to 12"):
        Rung(size="60k", depth=depth)


@pytest.mark.parametrize("name", ["", "big", "19", "1k", "-1m", "1e6", "30b", "100 k k"])
def test_an_invalid_size_is_refused_with_an_example(name):
    with pytest.raises(UserError, match="such as 100k"):
        parse_size(name)


@given(st.integers(20_000, 10**9))
def test_any_count_on_the_ladder_is_a_size(count):
    assert parse_size(str(count)) == count
    assert Rung(size=str(count)).parameters == pytest.approx(count, rel=0.35)


def test_describe_says_what_a_rung_derives():
    text = Rung(size="100k").describe()
    for part in ("2 layers", "width 64", "4 heads of 16", "100,352"):
        assert part in text


def test_describing_the_largest_rung_builds_nothing():
    assert Rung(size="20b").parameters > 10**10
    assert torch.get_default_dtype() == torch.float32
