"""Counter-based random numbers: a draw depends on its key only, never on earlier draws."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for `key`; the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """A Philox generator for `key`, such as (seed, "batch", step)."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))
