from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from halflife.data.extraction import dedent, docstring_nodes, parse, prose, without_docstrings

SOURCE = textwrap.dedent('''
    """Module
    words."""
    x = "no docstring"

    class A:
        """Class words."""

        if x:
            async def f(self):
                """Method é words."""; y = 1
                return "no docstring"

            def g(self): "shares its line"

    try:
        def h():
            """In a try."""
            return 1
    except ValueError:
        def h():
            """In a handler."""
''')


def extracted() -> tuple[list[str], str]:
    tree = parse(SOURCE)
    assert tree is not None
    nodes = docstring_nodes(tree)
    return [str(node.value) for node in nodes], without_docstrings(SOURCE, nodes)


def test_every_docstring_is_found_in_the_order_of_the_file_and_no_other_string() -> None:
    docstrings, _ = extracted()
    assert docstrings == [
        "Module\nwords.", "Class words.", "Method é words.", "shares its line", "In a try.", "In a handler.",
    ]  # fmt: skip


def test_source_loses_the_lines_of_docstrings_and_keeps_the_code() -> None:
    _, source = extracted()
    assert "Module" not in source
    assert "Class words" not in source
    assert "In a try" not in source
    assert '"no docstring"' in source
    assert "y = 1" in source
    assert 'def g(self): "shares its line"' in source
    assert "class A:\n    if x:" in source


def test_a_file_that_does_not_parse_gives_no_tree() -> None:
    assert parse("def {{ name }}():") is None
    assert parse("x = '\0'") is None


def test_prose_has_the_paragraphs_without_doctests_and_rules() -> None:
    docstring = """Sum of things.

        Examples
        ========

        >>> 1 + 1
        2

        Words after.
    """
    assert prose(docstring) == "Sum of things.\n\nExamples\n\nWords after."


def test_dedent_takes_the_common_margin_of_all_lines_but_the_first() -> None:
    assert dedent("First\n      a\n        b\n\n      c  \n   ") == "First\na\n  b\n\nc"


@given(st.text(st.characters(codec="utf-8")))
def test_dedent_and_prose_settle_after_one_pass(text: str) -> None:
    assert dedent(text) == dedent(text).strip()
    assert ">>>" not in [line.lstrip()[:3] for line in prose(text).split("\n")]
