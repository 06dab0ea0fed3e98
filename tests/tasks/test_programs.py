"""The language of programs: what they compute, and what no reader can tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.tasks.programs import (
    LENGTH,
    MOVERS,
    PROGRAMS,
    TABLES,
    VOCABULARY,
    ceiling,
    functions,
    outputs,
    split,
    unnamed,
)

SEQUENCES = np.random.default_rng(0).integers(0, VOCABULARY, (64, LENGTH))


def test_there_are_ten_movers_and_ten_tables_and_every_combination() -> None:
    assert len({tuple(mover) for mover in MOVERS}) == len({tuple(table) for table in TABLES}) == 10
    assert len(np.unique(PROGRAMS, axis=0)) == 10_000


@given(st.integers(0, len(PROGRAMS) - 1), st.lists(st.integers(0, VOCABULARY - 1), min_size=LENGTH, max_size=LENGTH))
def test_a_program_moves_maps_moves_and_maps(number: int, tokens: list[int]) -> None:
    s1, f1, s2, f2 = PROGRAMS[number]
    z = [TABLES[f1][tokens[MOVERS[s1][i]]] for i in range(LENGTH)]
    expected = [TABLES[f2][z[MOVERS[s2][i]]] for i in range(LENGTH)]
    assert outputs(PROGRAMS[number : number + 1], np.array([tokens]))[0, 0].tolist() == expected


def test_programs_of_one_function_answer_alike_and_others_do_not() -> None:
    """2,836 functions: the 45 moves behind the one constant map among 64 count once, as no input tells them apart."""
    some = np.concatenate([PROGRAMS[::7], PROGRAMS[-100:]])
    answers = np.unique(outputs(some, SEQUENCES).reshape(len(some), -1), axis=0, return_inverse=True)[1].reshape(-1)
    assert len(np.unique(np.column_stack([functions(some), answers]), axis=0)) == answers.max() + 1
    assert len(np.unique(functions(some))) == answers.max() + 1
    assert len(np.unique(functions(PROGRAMS))) == 2836


@pytest.mark.parametrize(
    ("classes", "whole", "slots"),
    [(functions, 0.2836, (0.6292, 0.700, 0.4822, 0.730)), (unnamed, 0.770, (1.0, 0.78, 1.0, 0.83))],
)
def test_the_ceilings_of_readers_are_as_computed(classes, whole, slots) -> None:
    seen = classes(PROGRAMS)
    assert ceiling(PROGRAMS, seen) == pytest.approx(whole, abs=1e-9)
    assert [ceiling(PROGRAMS[:, [slot]], seen) for slot in range(4)] == pytest.approx(slots, abs=1e-9)


def test_held_out_programs_are_pairs_that_training_never_saw_of_parts_that_it_did() -> None:
    train, held_out = split("train"), split("held-out")
    assert (len(train), len(held_out)) == (8500, 1500)
    pairs = [{(s1, f2) for s1, _, _, f2 in part.tolist()} for part in (train, held_out)]
    assert not pairs[0] & pairs[1]
    assert all(len(np.unique(train[:, slot])) == 10 for slot in range(4))
    assert not np.array_equal(split("held-out", seed=1), held_out)
