"""Synthetic tasks and families: their items, what they hold out, what a drop removes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.tasks.arithmetic import FORMS, NUMERALS, Addition, Translation
from halflife.tasks.families import MEANING, Family
from halflife.tasks.synthetic import SyntheticTask

FAMILIES = [Family(kind=kind, seed=seed) for kind in ("A", "B", "C", "D") for seed in (0, 1)]
TASKS = {repr(task): task for family in FAMILIES for task in family.languages}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: f"{task.name}-{task.seed}")
def test_every_prompt_has_one_answer_and_parts_never_overlap(task: SyntheticTask) -> None:
    prompts = [prompt for prompt, _ in task.items()]
    assert len(set(prompts)) == len(prompts) >= 20
    parts = [task.examples(part) for part in ("memorised", "held-out")]
    asked = [{example.prompt for example in part} for part in parts]
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == set(prompts)
    assert bool(parts[1]) == task.has_rule
    assert all(example.answer.endswith("\n") and example.answer.count("\n") == 1 for part in parts for example in part)


def test_only_the_lookup_table_has_no_rule() -> None:
    assert [task.name for task in Family(kind="A").languages if not task.has_rule] == ["lookup"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.kind}-{family.seed}")
def test_a_family_has_ten_languages_without_common_prompts(family: Family) -> None:
    assert len(family.languages) == 10
    prompts = [prompt for task in family.trained for prompt, _ in task.items()]
    assert len(set(prompts)) == len(prompts)
    names = [task.name for task in family.trained]
    assert len(set(names)) == len(names)


@given(form=st.sampled_from(FORMS), modulus=st.integers(3, 20), seed=st.integers(0, 99))
def test_addition_is_right_in_every_form(form: str, modulus: int, seed: int) -> None:
    numerals = NUMERALS[form]
    items = Addition(form=form, modulus=modulus, seed=seed).items()
    for place, (_, answer) in enumerate(items):
        assert numerals.index(answer) == (place // modulus + place % modulus) % modulus


def test_numerals_are_unique_in_every_form() -> None:
    assert all(len(set(numerals)) == len(numerals) == 20 for numerals in NUMERALS.values())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_rule_overlap_is_the_fraction_of_sums_that_follow_the_shared_rule(share: float) -> None:
    plain = dict(Addition(form="digits", modulus=11).items())
    mixed = dict(Addition(form="digits", modulus=11, shared_operands=share).items())
    # the task's own rule agrees with the shared one where (factor - 1) a = 0: for one of eleven operands
    agree = sum(plain[prompt] == answer for prompt, answer in mixed.items()) / len(plain)
    assert share - 0.5 / 11 <= agree <= share + 1.5 / 11


@given(share=st.floats(0, 1), form=st.sampled_from(FORMS), seed=st.integers(0, 99))
def test_held_out_sums_follow_from_memorised_ones_for_any_rule_overlap(share: float, form: str, seed: int) -> None:
    task, p = Addition(form=form, modulus=13, shared_operands=share, seed=seed), 13
    items, held_out = task.items(), {example.prompt for example in task.examples("held-out")}
    shifts: dict[int, set[int]] = {a: set() for a in range(p)}
    asked: list[tuple[int, int]] = []
    for place, (prompt, answer) in enumerate(items):
        a, b = divmod(place, p)
        shift = (task.numerals.index(answer) - b) % p
        if prompt in held_out:
            asked.append((a, shift))
        else:
            shifts[a].add(shift)
    assert asked
    assert all(shifts[a] == {shift} for a, shift in asked)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_token_overlap_is_the_fraction_of_numbers_in_the_forms_own_numerals(share: float) -> None:
    numerals = Addition(form="words", modulus=10, token_overlap=share).numerals
    kept = sum(one == other for one, other in zip(numerals, NUMERALS["words"], strict=False))
    assert kept == 10 * share
    assert len(set(numerals)) == 10


def test_overlaps_do_not_change_which_items_are_held_out_or_each_other() -> None:
    plain, mixed = (Addition(form="digits", shared_operands=rule).examples("held-out") for rule in (1.0, 0.3))
    assert [example.prompt for example in plain] == [example.prompt for example in mixed]


def test_shuffled_answers_are_a_permutation_and_nothing_is_held_out() -> None:
    plain, shuffled = Addition(form="digits"), Addition(form="digits", shuffled=True)
    one, other = dict(plain.items()), {e.prompt: e.answer[:-1] for e in shuffled.examples("memorised")}
    assert one.keys() == other.keys()
    assert sorted(one.values()) == sorted(other.values())
    assert sum(one[prompt] == other[prompt] for prompt in one) < 0.25 * len(one)
    assert shuffled.examples("held-out") == ()


def test_the_pair_that_d_leaves_out_is_trained_in_neither_direction() -> None:
    family = Family(kind="D", subject=9)
    left = {(pair.source, pair.target) for pair in family.untrained}
    assert left == {(FORMS[9], FORMS[0]), (FORMS[0], FORMS[9])}
    trained = {(pair.source, pair.target) for pair in family.trained if isinstance(pair, Translation)}
    assert not left & trained
    assert len(trained) == 88
    assert len([p for p in Family(kind="C").trained if isinstance(p, Translation)]) == 90


def test_the_subject_alone_has_the_overlaps_and_the_shuffled_answers() -> None:
    plain = Family(kind="B", size=4, subject=2)
    for other in (replace(plain, rule_overlap=0.5), replace(plain, token_overlap=0.0), replace(plain, shuffled=True)):
        same = [one == another for one, another in zip(plain.languages, other.languages, strict=True)]
        assert same == [True, True, False, True]


def test_skill_means_held_out_items_or_memorised_ones_where_none_are_held_out() -> None:
    sums, table = Addition(form="digits"), Addition(form="digits", shuffled=True)
    assert sums.examples("skill") == sums.examples("held-out")
    assert table.examples("skill") == table.examples("memorised")


def test_a_dropped_language_takes_its_translations_with_it_unless_they_are_kept() -> None:
    family = Family(kind="C", size=4)
    left = family.without(("words",))
    assert not [task for task in left if "words" in task.name]
    assert len(left) == 3 + 6
    kept = family.without(("words",), keep_translations=True)
    assert len(kept) == 3 + 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Family(kind="B", size=1), "1 languages given: expected 2 to 10"),
        (lambda: Family(kind="E"), "family 'E' given: expected one of A, B, C, D"),  # pyright: ignore[reportArgumentType]
        (lambda: Family(kind="B", rule_overlap=1.5), "shared_operands 1.5 given"),
        (lambda: Family(kind="A", rule_overlap=0.5), "overlap in family A"),
        (lambda: Family(kind="B", modulus=99), "modulus 99 given: expected 2 to 20"),
        (lambda: Family(kind="B").without(("klingon",)), "dropped language 'klingon' given"),
        (lambda: Addition(form="digits", held_out=1.0), "held-out fraction 1.0 given"),
        (lambda: Translation(source="digits", target="digits"), "to itself"),
    ],
)
def test_invalid_descriptions_are_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_kind_of_family_has_a_meaning() -> None:
    assert set(MEANING) == {"A", "B", "C", "D"}


@given(modulus=st.integers(3, 20), seed=st.integers(0, 20))
def test_a_sum_is_held_out_with_its_mirror_image_so_that_only_the_rule_answers_it(modulus: int, seed: int) -> None:
    task = Addition(form="digits", modulus=modulus, seed=seed)
    held_out = {tuple(example.prompt[:-3].split(" + ")) for example in task.examples("held-out")}
    assert held_out == {(b, a) for a, b in held_out}
    assert abs(len(held_out) - 0.2 * modulus**2) <= 2
