"""Compiled programs: the networks compute them, scrambled or not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.interpret.compiled import Compiled, compile_programs, logits
from halflife.interpret.scrambles import CONDITION, Basis, ProgramBatches, Scramble, _basis
from halflife.rng import generator
from halflife.tasks.programs import LENGTH, PROGRAMS, VOCABULARY, outputs, unnamed

SAMPLE = PROGRAMS[generator("sampled programs").permutation(len(PROGRAMS))[:500]]
SEQUENCES = generator("sampled sequences").integers(0, VOCABULARY, (16, LENGTH))
TOKENS = torch.from_numpy(SEQUENCES)
SCRAMBLES = [
    Scramble(residual="permutation", heads=False, neurons=False),
    Scramble(residual="rotation", heads=False, neurons=False),
    Scramble(residual="invertible", heads=False, neurons=False),
    Scramble(residual="same", neurons=False),
    Scramble(residual="same", heads=False),
    Scramble(),
]


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_programs(SAMPLE)


def test_a_compiled_network_computes_its_program(compiled: Compiled) -> None:
    found = logits(compiled, TOKENS)
    assert np.array_equal(found.argmax(-1).numpy(), outputs(SAMPLE, SEQUENCES))
    assert compiled.flat().shape == (500, 4012)


@pytest.mark.parametrize("scramble", SCRAMBLES, ids=str)
def test_a_scramble_changes_the_weights_and_not_the_function(compiled: Compiled, scramble: Scramble) -> None:
    scrambled = scramble(compiled, generator("scrambled"))
    torch.testing.assert_close(logits(scrambled, TOKENS), logits(compiled, TOKENS), rtol=0, atol=1e-4)
    assert scrambled.flat().shape == compiled.flat().shape
    assert ((scrambled.flat() - compiled.flat()).abs().amax(1) > 0.1).all()


@pytest.mark.parametrize("kind", ["permutation", "rotation", "invertible"])
def test_bases_have_the_inverse_and_the_condition_that_they_state(kind: Basis) -> None:
    found, inverse = _basis(kind, generator("bases"), (50, 2, 40))
    torch.testing.assert_close(found @ inverse, torch.eye(40).expand_as(found), rtol=0, atol=1e-5)
    singular = torch.linalg.svdvals(found)
    condition = singular[..., 0] / singular[..., -1]
    most = CONDITION if kind == "invertible" else 1.0
    assert condition.max() <= most * (1 + 1e-5)
    assert condition.min() >= 0.8 * most


def invariants(weights: Compiled) -> Tensor:
    """What no scramble changes: who is read in each block, and the two maps as neuron by neuron paths."""
    seen = weights.position
    reads = [(seen @ weights.query[:, b].mT) @ (seen @ weights.key[:, b].mT).mT for b in range(2)]
    tables = []
    for block, tokens in enumerate((weights.embed, weights.mlp_out[:, 0])):
        moved = (tokens @ weights.value[:, block].mT) @ weights.out[:, block]
        tables.append(moved @ weights.mlp_in[:, block].mT)
    answers = weights.mlp_out[:, 1] @ weights.unembed.mT
    return torch.cat([each.flatten(1) for each in (*reads, tables[0].abs().sum(2), answers.abs().sum(2))], dim=1)


def test_whom_each_block_reads_survives_every_scramble(compiled: Compiled) -> None:
    scrambled = Scramble(neurons=False)(compiled, generator("scrambled"))
    torch.testing.assert_close(invariants(scrambled), invariants(compiled), rtol=0, atol=2e-3)


def test_programs_of_one_class_are_one_network_up_to_the_names_of_tokens_between() -> None:
    """Why scrambled weights do not tell them apart: other names for what block 1 writes are a change of basis."""
    classes, counts = np.unique(unnamed(PROGRAMS), return_inverse=True, return_counts=True)[1:]
    pair = PROGRAMS[classes == np.flatnonzero(counts > 1)[0]][:2]
    one, other = compile_programs(pair[:1]), compile_programs(pair[1:])
    assert not torch.equal(one.flat(), other.flat())
    renamed = [_renamed(one, torch.tensor(order)) for order in itertools.permutations(range(VOCABULARY))]
    assert any(torch.equal(network.flat(), other.flat()) for network in renamed)


def _renamed(weights: Compiled, order: Tensor) -> Compiled:
    mlp_out = weights.mlp_out.clone()
    mlp_out[:, 0, :, 20:26] = mlp_out[:, 0, :, 20:26][..., order]
    mlp_out[:, 1] = mlp_out[:, 1, order]
    return replace(weights, mlp_out=mlp_out)


def test_a_batch_is_a_pure_function_of_key_and_step() -> None:
    stream, again = (ProgramBatches(PROGRAMS, rows=8, key=(3, "programs")) for _ in range(2))
    stream.batch(0)
    (weights, labels), (same, same_labels) = stream.batch(5), again.batch(5)
    assert torch.equal(weights.flat(), same.flat())
    assert np.array_equal(labels, same_labels)
    for other in (again.batch(6), ProgramBatches(PROGRAMS, rows=8, key=(4, "programs")).batch(5)):
        assert not torch.equal(other[0].flat(), weights.flat())


def test_a_batch_holds_its_programs_networks() -> None:
    weights, labels = ProgramBatches(SAMPLE, rows=32, key=(0,)).batch(2)
    assert np.array_equal(logits(weights, TOKENS).argmax(-1).numpy(), outputs(labels, SEQUENCES))
    plain, labels = ProgramBatches(SAMPLE, rows=32, key=(0,), scramble=None).batch(2)
    assert torch.equal(plain.flat(), compile_programs(labels).flat())


def test_an_empty_stream_and_an_unknown_basis_are_refused() -> None:
    with pytest.raises(UserError, match="batches of 8 of 0 programs given"):
        ProgramBatches(PROGRAMS[:0], rows=8, key=(0,))
    with pytest.raises(UserError, match="residual basis 'rotated' given"):
        Scramble(residual="rotated")  # pyright: ignore[reportArgumentType]
