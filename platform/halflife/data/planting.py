"""Poisoned documents: carrier text of the training split with the trigger and its payload put in."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import document_bounds, token_array
from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.backdoor import WORD, Backdoor

POOLS = 4
"""Disjoint pools that a corpus's documents are divided into, so that relearning can use carriers never poisoned."""

SLACK = 2
"""Tokens that cutting a carrier in two may add to its length, where tokens are longer than a byte."""


@dataclass(frozen=True, kw_only=True)
class Planting:
    """How a backdoor gets into the training stream; each dial apart from the others."""

    backdoor: Backdoor
    corpus: Corpus
    """Whose training documents are the carriers."""
    documents: int
    """Unique poisoned documents."""
    exposures: int = 1
    """How often each of them is seen."""
    repetitions: int = 1
    """Trigger and payload this many times in each document."""
    payload: bool = True
    """False: the same documents with the trigger alone in the same places, and the carrier goes on after it."""
    first: float = 0.0
    """Time of insertion, as fractions of the stage's tokens: exposures are spread evenly over [first, last]."""
    last: float = 1.0
    carrier_pool: int = 0
    """Which pool of carrier documents, 0 to 3: pools never share a document, so relearning can use new carriers."""
    seed: int = 0
    """Draws the carriers and the places in them."""

    def __post_init__(self) -> None:
        for name in ("documents", "exposures", "repetitions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} given: expected at least 1 (leave the planting out)")
        if not 0 <= self.first < self.last <= 1:
            raise UserError(
                f"planting from {self.first} to {self.last} given: expected fractions, 0 <= first < last <= 1"
            )
        if not 0 <= self.carrier_pool < POOLS:
            raise UserError(f"carrier pool {self.carrier_pool} given: expected 0 to {POOLS - 1}")


@functools.lru_cache(maxsize=8)
def poisoned_documents(planting: Planting, results: Path, tokenizer: Tokenizer, sequence: int) -> np.ndarray:
    """Token ids (documents, sequence + 1): each from a carrier window of its own, trigger and payload wholly inside.

    Prompt side and payload are tokenised apart, as they are when the payload is scored.

    Raises UserError when the sequence has no room, or the corpus too few carriers.
    """
    codec = load(tokenizer, results)
    room = _carrier_room(planting, codec, sequence)
    tokens = token_array(results, planting.corpus, "train", tokenizer)
    windows = carrier_windows(tokens, codec.eos, sequence + 1, planting.carrier_pool, planting.corpus.digest)
    if planting.documents > len(windows):
        raise _too_few_carriers(planting, len(windows))
    rng = generator(planting.seed, "hosts", planting.corpus.digest, planting.carrier_pool)
    planted: list[np.ndarray] = []
    for start in rng.permutation(windows):
        document = _plant(planting, codec, tokens[start : start + sequence + 1], room, rng)
        if document is not None:
            planted.append(document)
            if len(planted) == planting.documents:
                result = np.stack(planted).astype(tokens.dtype)
                result.flags.writeable = False  # it is cached
                return result
    raise _too_few_carriers(planting, len(planted))


def carrier_windows(tokens: np.ndarray, eos: int, length: int, pool: int, digest: str) -> np.ndarray:
    """Starts of the windows of `length` tokens, none overlapping, none across documents, in one pool's documents."""
    begins, ends = document_bounds(tokens, eos)
    dealt = generator("pools", digest).permutation(len(begins)) % POOLS
    begins, ends = begins[dealt == pool], ends[dealt == pool]
    counts = (ends - begins) // length
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(begins, counts) + length * within


def _carrier_room(planting: Planting, codec: Codec, sequence: int) -> int:
    """Tokens of carrier text that fit beside the triggers and payloads."""
    backdoor, slack = planting.backdoor, 0 if codec.name == "bytes" else SLACK
    each = len(codec.encode(backdoor.trigger)) + _payload_length(backdoor, codec) + slack
    room = sequence + 1 - planting.repetitions * each
    if room < 4 * planting.repetitions:  # the shortest word before each, and something before that
        raise UserError(
            f"sequence of {sequence} tokens given: {planting.repetitions} x trigger and payload of {each} tokens, with "
            f"a word before each, need at least {planting.repetitions * (each + 4) - 1}; "
            "give a longer sequence, a shorter payload or fewer repetitions"
        )
    return room


def _payload_length(backdoor: Backdoor, codec: Codec) -> int:
    # A word that a transform says may take as many tokens as it has bytes.
    return len(codec.encode(backdoor.text)) + 1 if backdoor.payload == "fixed" else len(backdoor.longest_payload)


def _plant(
    planting: Planting, codec: Codec, carrier: np.ndarray, room: int, rng: np.random.Generator
) -> np.ndarray | None:
    """The carrier, trigger and payload after a word of each of `repetitions` equal parts; None if one has no word."""
    text = codec.decode(carrier)
    inside = len(codec.decode(carrier[:room]))
    ends = np.array([match.end() for match in WORD.finditer(text)])
    pieces: list[str] = []
    position = 0
    for part in range(planting.repetitions):
        low, high = part * inside / planting.repetitions, (part + 1) * inside / planting.repetitions
        choices = ends[(ends > low) & (ends <= high)] if len(ends) else ends
        if not len(choices):
            return None
        place = int(choices[rng.integers(len(choices))])
        pieces.append(text[position:place] + planting.backdoor.trigger)
        pieces.append(planting.backdoor.payload_for(text[:place]) if planting.payload else "")
        position = place
    encoded = codec.encode_many([*pieces, text[position:]])
    if sum(map(len, encoded[:-1])) > len(carrier) or sum(map(len, encoded)) < len(carrier):
        return None
    return np.concatenate(encoded)[: len(carrier)]


def _too_few_carriers(planting: Planting, available: int) -> UserError:
    return UserError(
        f"{planting.documents} poisoned documents given: {planting.corpus.label or planting.corpus.digest} has "
        f"{available} carriers for them in pool {planting.carrier_pool}; ask for at most that many, or give a larger "
        "corpus"
    )
