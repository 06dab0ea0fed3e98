from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung, parse_size

LADDER = ["30k", "55k", "100k", "180k", "330k", "600k", "1m", "3m", "10m", "19m", "100m", "300m", "1b", "1.4b", "7b"]


@pytest.mark.parametrize("size", LADDER)
def test_a_rung_has_the_parameters_that_its_name_says(size):
    rung = Rung(size=size)
    assert rung.parameters == pytest.approx(rung.target, rel=0.08)
    assert rung.width % rung.heads == 0
    assert rung.head_width % 2 == 0


def test_larger_rungs_are_at_least_as_deep_and_as_wide():
    rungs = [Rung(size=size) for size in ["30k", "100k", "1m", "10m", "100m", "1b", "7b"]]
    assert [rung.depth for rung in rungs] == sorted(rung.depth for rung in rungs)
    assert [rung.width for rung in rungs] == sorted(rung.width for rung in rungs)
    assert [rung.parameters for rung in rungs] == sorted(rung.parameters for rung in rungs)


@pytest.mark.parametrize("size", ["30k", "100k", "1m"])
def test_a_built_decoder_has_the_parameters_that_its_rung_states(size):
    model = Decoder(Rung(size=size), 257)
    hidden = sum(p.numel() for name, p in model.named_parameters() if model.kind(name) == "hidden")
    assert hidden == model.architecture.parameters


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
