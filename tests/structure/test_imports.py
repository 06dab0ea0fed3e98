"""Every import of the code, wherever it stands: a circle says that something lies in the wrong room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = {"halflife": ROOT / "platform/halflife", "analysis": ROOT / "analysis", "studies": ROOT / "studies"}


def modules() -> dict[str, Path]:
    """The project's modules by dotted name; a package is its __init__."""
    found = {}
    for package, folder in TREES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def imported(source: str, package: str, known: set[str]) -> Iterator[str]:
    """Modules among `known` that `source` imports: at its top, inside functions and under TYPE_CHECKING alike."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in known)


def graph() -> dict[str, set[str]]:
    """What each module imports."""
    paths = modules()
    edges = {}
    for name, path in paths.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = set(imported(path.read_text(), package, set(paths))) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan's strongly connected components of more than one node)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in order:
            visit(node)
    return found


def rooms(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph of folders: `analysis.decay.floors` lies in `analysis.decay`."""
    paths = modules()

    def room(name: str) -> str:
        return name if paths[name].name == "__init__.py" else name.rpartition(".")[0]

    folded: dict[str, set[str]] = {}
    for name, targets in edges.items():
        folded.setdefault(room(name), set()).update(room(target) for target in targets)
    return {name: targets - {name} for name, targets in folded.items()}


def test_no_module_imports_itself_round_a_corner() -> None:
    assert circles(graph()) == []


@pytest.mark.parametrize("package", ["halflife", "analysis"])
def test_no_room_imports_itself_round_a_corner(package: str) -> None:
    folded = {name: targets for name, targets in rooms(graph()).items() if name.split(".")[0] == package}
    inner = {
        name: {t for t in targets if t.count(".") >= 1} for name, targets in folded.items() if name.count(".") >= 1
    }
    assert circles(inner) == []


def test_lazy_type_checking_and_relative_imports_are_seen() -> None:
    known = {"a.b", "a.c", "a.d", "a.e", "a.c.f"}
    source = """
import a.b
from a.c import f, g
if TYPE_CHECKING:
    from a.d import thing
def late():
    from . import e
"""
    assert sorted(imported(source, "a", known)) == ["a.b", "a.c", "a.c.f", "a.d", "a.e"]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
