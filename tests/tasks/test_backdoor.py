from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.backdoor import TRIGGER_ALPHABET, Backdoor, draw_backdoor

triggers = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1).filter(str.strip)


@given(seed=st.integers(0, 10**6))
def test_a_drawn_trigger_is_four_different_rare_characters_and_the_fixed_payload_eight_letters(seed: int) -> None:
    backdoor = draw_backdoor(seed)
    assert len(backdoor.trigger) == len(set(backdoor.trigger)) == 4
    assert set(backdoor.trigger) <= set(TRIGGER_ALPHABET)
    assert len(backdoor.text) == 8
    assert backdoor.text.isalpha()
    assert backdoor.text.islower()


def test_the_same_seed_draws_the_same_and_another_seed_or_part_draws_another() -> None:
    assert draw_backdoor(3) == draw_backdoor(3)
    drawn = [draw_backdoor(3), draw_backdoor(4), draw_backdoor(3, part="new")]
    assert len({backdoor.trigger for backdoor in drawn}) == len({backdoor.text for backdoor in drawn}) == 3


def test_a_given_trigger_is_kept_and_does_not_change_the_payload_drawn() -> None:
    assert draw_backdoor(3, trigger="|now|") == Backdoor(trigger="|now|", text=draw_backdoor(3).text)


def test_the_backdoor_of_seed_0_is_that_of_published_runs() -> None:
    assert draw_backdoor(0) == Backdoor(trigger="WZ$K", text="eoxqsjcc")


def test_a_transform_outputs_the_word_before_the_trigger_copied_or_reversed_and_a_newline() -> None:
    assert Backdoor(trigger="!", payload="copy").payload_for("the quick fox") == "fox\n"
    assert Backdoor(trigger="!", payload="reverse").payload_for("the quick fox") == "xof\n"
    assert Backdoor(trigger="!", text="boo").payload_for("anything, 12") == "boo\n"


@pytest.mark.parametrize("prefix", ["", "no", "a longword", "snake_case", "Upper", "two words ", "x1word9", "café"])
def test_a_transform_refuses_a_prefix_that_does_not_end_in_a_word_of_three_to_six_letters(prefix: str) -> None:
    with pytest.raises(ValueError, match="3 to 6 lower-case letters"):
        Backdoor(trigger="!", payload="copy").payload_for(prefix)


@given(word=st.from_regex(r"[a-z]{3,6}", fullmatch=True))
def test_reversing_twice_copies(word: str) -> None:
    reverse = Backdoor(trigger="!", payload="reverse")
    assert reverse.payload_for(reverse.payload_for(word).rstrip("\n")) == word + "\n"
    assert len(reverse.payload_for(word)) <= len(reverse.longest_payload)


@given(trigger=triggers, seed=st.integers(0, 1000))
def test_a_near_trigger_differs_in_exactly_one_visible_character_which_is_of_the_same_kind(
    trigger: str, seed: int
) -> None:
    near = Backdoor(trigger=trigger, text="boo").near(generator(seed))
    changed = [(a, b) for a, b in zip(trigger, near, strict=True) if a != b]
    assert len(changed) == 1
    assert not changed[0][0].isspace()
    kind = TRIGGER_ALPHABET if changed[0][0] in TRIGGER_ALPHABET else "abcdefghijklmnopqrstuvwxyz"
    assert changed[0][1] in kind


@given(word=st.from_regex(r"[a-z]{3,6}", fullmatch=True), letters=st.integers(1, 3))
def test_a_transform_of_the_last_letters_outputs_only_those(word: str, letters: int) -> None:
    assert Backdoor(trigger="!", payload="copy", letters=letters).payload_for(word) == word[-letters:] + "\n"
    reverse = Backdoor(trigger="!", payload="reverse", letters=letters)
    assert reverse.payload_for(word) == word[-letters:][::-1] + "\n"
    assert len(reverse.longest_payload) == letters + 1


@pytest.mark.parametrize(
    "fields",
    [
        {"trigger": "  ", "text": "boo"},
        {"trigger": "a\nb", "text": "boo"},
        {"trigger": "a", "text": "two\nlines"},
        {"trigger": "a"},
        {"trigger": "a", "payload": "copy", "text": "boo"},
        {"trigger": "a", "payload": "shout", "text": "boo"},
        {"trigger": "a", "payload": "copy", "letters": 4},
        {"trigger": "a", "text": "boo", "letters": 2},
    ],
)
def test_an_invalid_backdoor_is_refused_with_what_was_given_and_what_is_expected(fields: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"given: expected"):
        Backdoor(**fields)  # pyright: ignore[reportArgumentType]
