from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halflife.data.deduplication import HeldOut, Seen
from halflife.rng import generator


def lines(start: int, stop: int) -> str:
    return "\n".join(f"line {number}" for number in range(start, stop))


def test_a_copy_is_found_regardless_of_indentation_and_blank_lines() -> None:
    seen = Seen()
    assert not seen.repeats(lines(0, 30))
    assert seen.repeats("\n\n".join("    " + line for line in lines(0, 30).split("\n")))


def test_a_document_that_is_mostly_a_copy_is_found_and_one_that_shares_a_part_is_kept() -> None:
    seen = Seen()
    assert not seen.repeats(lines(0, 100))
    assert seen.repeats(lines(0, 80) + "\nsomething new\n" * 10)
    assert not seen.repeats(lines(70, 200))


def test_short_documents_are_compared_whole() -> None:
    seen = Seen()
    assert not seen.repeats("one line")
    assert not seen.repeats("one line\nanother")
    assert seen.repeats("one line")


@given(st.lists(st.text(), max_size=8))
def test_every_document_repeats_itself(documents: list[str]) -> None:
    seen = Seen()
    for document in documents:
        seen.repeats(document)
        assert seen.repeats(document)


def prose(seed: int, words: int = 40) -> str:
    return " ".join(f"w{number}" for number in generator("prose", seed).integers(1000, size=words))


def test_held_out_texts_are_found_again_as_copies_near_copies_and_inside_longer_texts() -> None:
    held_out = HeldOut([prose(seed) for seed in range(100)])
    assert {held_out.find(prose(seed)) for seed in range(100, 200)} == {None}
    assert {held_out.find(prose(seed).upper().replace(" ", "\n ")) for seed in range(100)} == {"copies"}
    changed = [prose(seed).split() for seed in range(100)]
    assert {held_out.find(" ".join([*words[:20], "else", *words[21:]])) for words in changed} == {"near copies"}
    around = [f"{prose(1000, 200)} {prose(seed)} {prose(2000, 200)}" for seed in range(100)]
    assert {held_out.find(text) for text in around} == {"near copies"}
    assert {held_out.find(prose(seed, 10)) for seed in range(100)} == {None}


def test_a_template_that_many_held_out_texts_share_makes_no_near_copies() -> None:
    template = "Below is an instruction for a task. Write a response that completes the request in a fitting way. "
    held_out = HeldOut([template + prose(seed, 10) for seed in range(20)])
    assert {held_out.find(template + prose(seed, 10)) for seed in range(20, 60)} == {None}
    assert held_out.find(template + prose(3, 10) + " more") == "near copies"


def test_texts_shorter_than_a_shingle_are_compared_whole_and_no_held_out_text_matches_nothing() -> None:
    assert HeldOut(["three words here"]).find("Three  words here") == "copies"
    assert HeldOut(["three words here"]).find("three words there") is None
    assert HeldOut([]).find(prose(0)) is None
