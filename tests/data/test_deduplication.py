from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halflife.data.deduplication import Seen


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
