"""Splits Python files into two disjoint texts: the source without docstrings, and the prose of the docstrings.

These rules determine the tokens of the embedded corpus. A change changes numbers, so it must raise EXTRACTION_VERSION.
"""

from __future__ import annotations

import ast
import re
import warnings

EXTRACTION_VERSION = 1

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_RULE = re.compile(r"[=\-~^\"'`#*+]{3,}")


def parse(source: str) -> ast.Module | None:
    """The module's tree, or None for a template or a file for another Python version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's files
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def docstring_nodes(tree: ast.Module) -> list[ast.Constant]:
    """The docstrings of the module and of every class and function in it, in the order of the file."""
    found: list[ast.Constant] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, *_DEFINITIONS)) and body:
            value = getattr(body[0], "value", None)
            if isinstance(body[0], ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.append(value)
        # only statements contain definitions, and most nodes are expressions
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, name, None)
            if isinstance(children, list):
                stack.extend(children)
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def without_docstrings(source: str, docstrings: list[ast.Constant]) -> str:
    """`source` without the lines of its docstrings and the blank line after each.

    A docstring that shares a line with code is kept.
    """
    lines = source.split("\n")
    removed: set[int] = set()
    for node in docstrings:
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before = lines[first].encode()[: node.col_offset]
        after = lines[last].encode()[node.end_col_offset :]
        if not before.strip() and not after.strip():
            removed.update(range(first, last + 1))
            if last + 1 < len(lines) and not lines[last + 1].strip():
                removed.add(last + 1)
    return "\n".join(line for number, line in enumerate(lines) if number not in removed).strip("\n") + "\n"


def dedent(docstring: str) -> str:
    """PEP 257's trimming. Not the standard library's, which may change with its version; the digest must not."""
    lines = docstring.expandtabs().split("\n")
    margins = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(margins, default=0)
    return "\n".join([lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]).strip()


def prose(docstring: str) -> str:
    """A docstring's paragraphs, without doctests and the lines under its headings."""
    paragraphs = re.split(r"\n\s*\n", dedent(docstring))
    kept = []
    for paragraph in paragraphs:
        lines = [line for line in paragraph.split("\n") if not _RULE.fullmatch(line.strip())]
        if lines and not any(line.lstrip().startswith(">>>") for line in lines):
            kept.append("\n".join(lines))
    return "\n\n".join(kept)
