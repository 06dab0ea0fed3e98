"""Behaviours: their examples, splits and judgements."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.tasks.behaviours import Behaviour, Continuation, Repetition, Shown, drawn_string, split_of
from halflife.tasks.boards import MOVES, Pathfinding, walk
from halflife.tasks.games import OPENING, DropGame

BOARD = "S#G\n...\n...\n:"
OWN = [Pathfinding(side=4), Pathfinding(side=8, seed=1), *(DropGame(seed=seed) for seed in range(4))]
SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("behaviour", OWN, ids=lambda behaviour: behaviour.name)
def test_splits_never_overlap_and_are_the_same_on_every_call(behaviour: Behaviour) -> None:
    found = {split: behaviour.examples(split, 60) for split in SPLITS}
    prompts = [{example.prompt for example in examples} for examples in found.values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
    assert all(len(set(examples)) == 60 for examples in found.values())
    assert behaviour.examples("train", 60) == found["train"]


@pytest.mark.parametrize("behaviour", OWN, ids=lambda behaviour: behaviour.name)
def test_training_answers_pass_the_check_and_chance_seldom_does(behaviour: Behaviour) -> None:
    examples = behaviour.examples("train", 100)
    assert all(behaviour.check(example.prompt, example.answer) for example in examples)
    assert all(len(example.conditions) == len(behaviour.best_conditions) for example in examples)
    assert 0 < behaviour.chance < 0.15


@given(seed=st.integers(0, 5), at=st.integers(0, 49))
@settings(max_examples=30)
def test_the_conditions_of_a_path_are_its_outcome(seed: int, at: int) -> None:
    example = Pathfinding(side=5, seed=seed).examples("train", 50)[at]
    walked = walk(example.prompt, example.answer)
    assert walked.reached
    assert (walked.extra, walked.hits) == example.conditions
    assert walked.legal + walked.hits == walked.moves == len(example.answer) - 1


def test_training_paths_are_of_mixed_quality() -> None:
    examples = Pathfinding(side=6).examples("train", 200)
    direct = sum(example.conditions == (0.0, 0.0) for example in examples)
    assert 40 < direct < 180
    assert any(example.conditions[0] >= 4 for example in examples)
    assert any(example.conditions[1] >= 1 for example in examples)


def test_a_walk_counts_legal_moves_hits_and_extra_moves() -> None:
    straight = walk(BOARD, "DRRU\n")
    assert (straight.reached, straight.legal, straight.hits, straight.extra) == (True, 4, 0, 0)
    against = walk(BOARD, "RDRRU")
    assert (against.reached, against.legal, against.hits, against.extra) == (True, 4, 1, 1)


@pytest.mark.parametrize("path", ["DRR", "DRRUL", "DRRUx", "DR?U", ""])
def test_a_path_that_does_not_end_on_the_goal_has_not_reached_it(path: str) -> None:
    assert not walk(BOARD, path).reached
    assert walk(BOARD, path).extra is None
    assert not Pathfinding(side=3).check(BOARD, path)


def test_a_letter_that_is_not_a_move_ends_the_path() -> None:
    assert walk(BOARD, "DR?U").moves == 2


def test_a_prompt_without_a_board_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not end in a board"):
        walk("abc\n:", "U")


@given(st.text(alphabet="".join(MOVES) + "x\n", max_size=12))
def test_any_completion_can_be_followed(completion: str) -> None:
    walked = walk(BOARD, completion)
    assert walked.moves <= len(completion)
    assert walked.legal >= 0
    assert not walked.reached or walked.extra is not None


@given(seed=st.integers(0, 30), at=st.integers(0, 9))
@settings(max_examples=30)
def test_an_altered_result_or_a_move_too_many_is_wrong(seed: int, at: int) -> None:
    game = DropGame(seed=seed)
    example = game.examples("train", 10)[at]
    moves, result = example.answer[:-2], example.answer[-2]
    other = next(side for side in "XO=" if side != result)
    assert game.played(example.prompt, example.answer).legal == len(moves)
    assert not game.check(example.prompt, moves + other)
    assert not game.check(example.prompt, moves)
    assert not game.check(example.prompt, moves + game.rules[0][0] + result)


def test_completions_are_judged_in_counts() -> None:
    paths = Pathfinding(side=3)
    reached = {"hits": 1, "moves": 5, "legal_moves": 4, "wall_hits": 1, "extra_moves": 1}
    assert paths.judged(BOARD, "RDRRU") == reached
    assert paths.judged(BOARD, "DR") == {"hits": 0, "moves": 2, "legal_moves": 2, "wall_hits": 0, "extra_moves": 0}
    game = DropGame(seed=0)
    example = game.examples("train", 1)[0]
    moves = len(example.answer) - 2
    assert game.judged(example.prompt, example.answer) == {"hits": 1, "moves": moves, "legal_moves": moves}
    assert game.judged(example.prompt, "?")["legal_moves"] == 0


def test_a_full_column_takes_no_stone() -> None:
    game = DropGame(seed=0)
    letters, rows, _ = game.rules
    opening = letters[0] * OPENING
    played = game.played(">" + opening, letters[0] * (rows + 1))
    assert played.legal <= rows - OPENING


def test_strong_players_beat_weak_ones() -> None:
    ends = [(e.conditions, e.answer[-2]) for e in DropGame(seed=1).examples("train", 400)]
    won = [result == "X" for strengths, result in ends if strengths == (1.0, 0.0)]
    lost = [result == "X" for strengths, result in ends if strengths == (0.0, 1.0)]
    assert sum(won) / len(won) > sum(lost) / len(lost) + 0.3


@given(short=st.integers(1, 40), more=st.integers(1, 400), seed=st.integers(0, 9))
def test_a_longer_string_begins_with_every_shorter_one(short: int, more: int, seed: int) -> None:
    long = drawn_string(short + more, seed)
    assert long.startswith(drawn_string(short, seed))
    assert len(long) == short + more


def test_repetition_expects_the_same_answer_after_every_carrier_and_needs_enough_of_them() -> None:
    found = Repetition(text="abc", times=2).examples("train", 2, ("one", "two"))
    assert [(example.prompt, example.answer) for example in found] == [("one", "abcabc\n"), ("two", "abcabc\n")]
    with pytest.raises(UserError, match="3 examples of say-3 requested: 2 carriers"):
        Repetition(text="abc").examples("train", 3, ("one", "two"))


def test_continuations_are_named_after_what_they_predict() -> None:
    assert Continuation().name == "continuation"
    assert Continuation(ahead=4).name == "skip-4"
    assert Continuation(context=32, length=1).name == "index-32"
    assert Continuation(context=8, length=4, ahead=2).window == 14


@given(st.lists(st.text(max_size=6), min_size=200, max_size=200, unique=True))
@settings(max_examples=5)
def test_most_prompts_are_for_training_and_every_split_has_some(prompts: list[str]) -> None:
    found = [split_of(prompt, 0) for prompt in prompts]
    assert 130 < found.count("train") < 190
    assert set(found) == set(SPLITS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pathfinding(side=2), "expected a side of 3 to 32"),
        (lambda: Pathfinding(walls=0.9), "expected fractions"),
        (lambda: Repetition(text=""), "expected one line"),
        (lambda: Repetition(text="a\nb"), "expected one line"),
        (lambda: Repetition(text="a", times=0), "expected 1 or more"),
        (lambda: Continuation(context=0), "context of 0 tokens given"),
        (lambda: drawn_string(0), "expected 1 or more"),
        (lambda: Pathfinding(side=3, walls=0.0).examples("test", 500), "request fewer, or give a larger side"),
    ],
)
def test_invalid_descriptions_are_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_shown_examples_are_the_behaviours_training_split() -> None:
    behaviour = Pathfinding(side=4)
    shown = Shown(behaviour=behaviour, count=50)
    assert shown.examples("held-out") == ()
    assert {e.prompt for e in shown.examples("memorised")} == {e.prompt for e in behaviour.examples("train", 50)}
    with pytest.raises(UserError, match="its prompts are a corpus's text"):
        Shown(behaviour=Repetition(text="abc"))
