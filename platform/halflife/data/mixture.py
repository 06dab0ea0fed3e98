"""Mixtures: what a stage trains on, and `batch(step)` as a pure function of (mixture, seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Bytes, Tokenizer
from halflife.tasks.backdoor import Backdoor


@dataclass(frozen=True, kw_only=True)
class Source:
    """One corpus's training split and its share of the sequences."""

    corpus: Corpus
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Planting:
    """How a backdoor gets into the training stream; each dial apart from the others."""

    backdoor: Backdoor
    corpus: Corpus
    """Whose training documents are the hosts."""
    documents: int
    """Unique poisoned documents."""
    exposures: int = 1
    """How often each of them is seen."""
    repetitions: int = 1
    """Trigger and payload this many times in each document."""
    first: float = 0.0
    """Time of insertion, as fractions of the stage's tokens: exposures are spread evenly over [first, last]."""
    last: float = 1.0
    hosts: int = 0
    """Which pool of host documents: pools never share a document, so relearning can use new hosts."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    sources: tuple[Source, ...]
    plantings: tuple[Planting, ...] = ()
    tokenizer: Tokenizer = Bytes()
    sequence: int = 128
    """Predicted tokens a sequence."""
