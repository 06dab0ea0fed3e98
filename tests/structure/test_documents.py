"""Documents name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`((?:platform|analysis|studies|tests|docs)/[\w./]*|[\w./]*/\w+\.(?:py|md))`")
"""Paths in backticks: from the root, or of a module of a room of tests/."""


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    names = [name for name in NAMED.findall((ROOT / document).read_text(encoding="utf-8")) if "NAME" not in name]
    assert names
    missing = [name for name in names if not any((ROOT / folder / name).exists() for folder in ("", "tests"))]
    assert not missing
