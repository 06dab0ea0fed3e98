"""A corpus: documents in named splits that never meet, kept in the results folder and read by digest."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.fields import recorded


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A handle: the digest is the identity, the label is for people."""

    digest: str
    label: str = recorded("")
