"""Terms of the field are explained where a section first uses them, and nothing else of a page changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.report.glossary import TERMS, explained


@pytest.mark.parametrize("term", TERMS)
def test_every_term_is_explained_at_hover(term):
    assert re.fullmatch(r'<p>A <abbr title="[^"<>]+">.*</abbr>, it says\.</p>', explained(f"<p>A {term}, it says.</p>"))


def test_a_term_is_explained_once_in_each_section_and_not_in_headings_links_or_code():
    page = (
        "<h2>half-life</h2><p>Half-lives, a half-life.</p><a>half-life</a><h2>b</h2><code>nat</code><td>half-life</td>"
    )
    found = explained(page)
    assert re.findall(r"<abbr [^>]*>([^<]*)</abbr>", found) == ["Half-lives", "half-life"]
    assert "<h2>half-life</h2>" in found
    assert "<a>half-life</a>" in found
    assert "<code>nat</code>" in found


def test_parts_of_words_and_of_attributes_are_no_terms():
    page = '<p title="the half-life">native, post-retention, trunked</p><img alt="γ">'
    assert explained(page) == page


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "<h2>", "</h2>", "γ", " half-life ", "&lt;nats&gt;", "<pre>", "</pre>"]))
)
def test_without_the_explanations_the_page_is_what_it_was(parts):
    page = "".join(parts)
    assert re.sub(r"</?abbr[^>]*>", "", explained(page)) == page
