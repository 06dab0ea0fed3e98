"""The embedded corpus: the text of pinned pure-Python packages that every installation has.

It has two disjoint domains: "Python source" (files without docstrings) and "library documentation" (the prose of the
docstrings). The digest is computed from the hashes in the packages' RECORD files, without reading any source, and is
the same on every machine with the pinned versions.
"""

from __future__ import annotations

import base64
import csv
import gc
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from halflife.data.deduplication import Seen
from halflife.data.extraction import (
    EXTRACTION_VERSION,
    docstring_nodes,
    parse,
    prose,
    without_docstrings,
)
from halflife.errors import UserError

Domain = Literal["source", "docs"]

PACKAGES: dict[str, tuple[str, ...]] = {
    "train": (
        "sympy", "networkx", "polars", "huggingface_hub", "pydantic", "optuna", "seaborn", "rich",
    ),
    "validation": ("alembic", "click", "Jinja2", "joblib", "urllib3"),
    "test": ("Werkzeug", "fsspec", "GitPython", "docker", "Mako"),
}  # fmt: skip
"""The packages of each split. They are disjoint, so validation is on libraries never trained on."""

SHORTEST = 200
"""Documents with fewer characters are dropped (empty __init__ files and the like)."""
WIDEST = 160
"""Files with more characters per line, on average, are dropped as tables."""

_LEFT_OUT = re.compile(
    r"(^|/)(tests?|testing|_?vendor(ed)?|third_?party|_antlr|_autolev.*|benchmarks?|protos|templates?)/"
    r"|(^|/)(test_|conftest)|_pb2|_test\.py$|_builtins\.py$|_mapping\.py$|(^|/)\.\./"
)
_GENERATED = re.compile(r"@generated|do not edit|auto-?generated|generated (by|from|with)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One text. Documents of one `package` are in one split; each user file is a package of its own."""

    split: str
    package: str
    name: str
    text: str


@dataclass(frozen=True)
class _Recorded:
    path: str
    sha256: str


def _distribution(package: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the embedded corpus needs the package {package}, which is not installed: "
            "install the pinned requirements (make install), or use your own files as the corpus"
        ) from None


def _record(package: str) -> list[_Recorded]:
    """The package's source files and their hashes, in order, from its RECORD."""
    text = _distribution(package).read_text("RECORD")
    rows = csv.reader((text or "").splitlines())
    files = [
        _Recorded(row[0], row[1].removeprefix("sha256="))
        for row in rows
        if row[0].endswith(".py") and row[1].startswith("sha256=") and not _LEFT_OUT.search(row[0])
    ]
    if not files:
        raise UserError(
            f"the package {package} has no RECORD of its files, which identifies the embedded corpus: "
            f"reinstall it from its wheel (pip install --force-reinstall {package})"
        )
    return sorted(files, key=lambda file: file.path)


def embedded_digest(domains: tuple[Domain, ...]) -> str:
    """Hash of the extraction version, the domains, and the hash of every file."""
    record = {
        package: [[file.path, file.sha256] for file in _record(package)]
        for packages in PACKAGES.values()
        for package in packages
    }
    description = {"extraction": EXTRACTION_VERSION, "domains": sorted(domains), "splits": PACKAGES, "record": record}
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]


def versions() -> dict[str, str]:
    return {name: _distribution(name).version for names in PACKAGES.values() for name in names}


def _sources(package: str) -> Iterator[tuple[str, str]]:
    """(path, text) of the package's hand-written files. Raises UserError when a file was modified."""
    distribution = _distribution(package)
    for file in _record(package):
        data = bytes(distribution.locate_file(file.path).read_bytes())  # type: ignore[attr-defined]
        found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if found != file.sha256:
            raise UserError(
                f"{file.path} differs from the file that {package} installed, and so would the embedded corpus: "
                f"reinstall it (pip install --force-reinstall {package})"
            )
        text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
        if len(text) < SHORTEST or _GENERATED.search(text[:600]) or len(text) > WIDEST * (text.count("\n") + 1):
            continue
        yield file.path, text


def embedded_documents(domains: tuple[Domain, ...]) -> list[Document]:
    """Every document of the domains, deduplicated across all splits."""
    collecting = gc.isenabled()
    gc.disable()  # it would take nearly a third of the time, on millions of syntax-tree nodes without cycles
    try:
        return _embedded_documents(domains)
    finally:
        if collecting:
            gc.enable()


def _embedded_documents(domains: tuple[Domain, ...]) -> list[Document]:
    seen, seen_docstrings = Seen(), set[str]()
    documents: list[Document] = []

    def keep(split: str, package: str, name: str, text: str) -> None:
        if len(text) >= SHORTEST and not seen.repeats(text):
            documents.append(Document(split, package, name, text))

    for split, packages in PACKAGES.items():
        for package in packages:
            for path, source in _sources(package):
                tree = parse(source)
                if tree is None:
                    continue
                docstrings = docstring_nodes(tree)
                if "source" in domains:
                    keep(split, package, path, without_docstrings(source, docstrings))
                if "docs" in domains:
                    texts = []
                    for node in docstrings:
                        text = prose(str(node.value))
                        normal = " ".join(text.lower().split())
                        if normal and normal not in seen_docstrings:  # inherited methods repeat docstrings
                            seen_docstrings.add(normal)
                            texts.append(text)
                    keep(split, package, path + " (docs)", "\n\n".join(texts) + "\n")
    return documents
