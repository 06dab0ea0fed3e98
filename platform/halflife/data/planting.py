"""Poisoned documents: carrier text of the training split with the trigger and its payload inserted."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import document_bounds, token_array
from halflife.errors import UserError
from halflife.fields import recorded
from halflife.rng import generator
from halflife.tasks.backdoor import WORD, Backdoor

POOLS = 4
"""A corpus's documents are divided into this many pools, so that relearning can use carriers never poisoned."""

SLACK = 2
"""Tokens by which splitting a carrier in two may lengthen it, if tokens are longer than a byte."""


@dataclass(frozen=True, kw_only=True)
class Planting:
    """How a backdoor is planted in the training stream, with independent dials."""

    backdoor: Backdoor
    corpus: Corpus
    """The carriers are its training documents."""
    documents: int
    """Number of unique poisoned documents; several triggers take turns."""
    exposures: int = 1
    """How often each document is seen."""
    repetitions: int = 1
    """Number of triggers with payloads in each document."""
    payload: bool = True
    """False: the same documents, with triggers in the same places but no payloads."""
    first: float = 0.0
    """Exposures are spread evenly over [first, last], as fractions of the stage's tokens."""
    last: float = 1.0
    carrier_pool: int = 0
    """Pool of carrier documents, 0 to 3. Pools are disjoint, so relearning can use new carriers."""
    seed: int = 0
    """Draws the carriers and the positions in them."""
    phase: str = recorded("")
    """What trains on it, in words, for messages."""
    asked: tuple[tuple[str, float], ...] = recorded(())
    """The flags, with their values, in proportion to each of which there are documents; for messages."""

    def __post_init__(self) -> None:
        for name in ("documents", "exposures", "repetitions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} given: expected at least 1, or no planting")
        if not 0 <= self.first < self.last <= 1:
            raise UserError(
                f"planting from {self.first} to {self.last} given: expected fractions, 0 <= first < last <= 1"
            )
        if not 0 <= self.carrier_pool < POOLS:
            raise UserError(f"carrier pool {self.carrier_pool} given: expected 0 to {POOLS - 1}")


@functools.lru_cache(maxsize=8)
def poisoned_documents(planting: Planting, results: Path, tokenizer: Tokenizer, sequence: int) -> np.ndarray:
    """Token ids (documents, sequence + 1): each from a different carrier window, with trigger and payload complete.

    Payloads are tokenised separately from the text around them, as in scoring. Raises UserError when the sequence is
    too short, or the corpus has too few carriers.
    """
    codec = load(tokenizer, results)
    room = _carrier_room(planting, codec, sequence)
    tokens = token_array(results, planting.corpus, "train", tokenizer)
    windows = carrier_windows(tokens, codec.eos, sequence + 1, planting.carrier_pool, planting.corpus.digest)
    rng = generator(planting.seed, "hosts", planting.corpus.digest, planting.carrier_pool)
    planted: list[np.ndarray] = []
    members = planting.backdoor.members
    for start in rng.permutation(windows):
        backdoor = members[len(planted) % len(members)]
        document = _plant(planting, backdoor, codec, tokens[start : start + sequence + 1], room, rng)
        if document is not None:
            planted.append(document)
            if len(planted) == planting.documents:
                result = np.stack(planted).astype(tokens.dtype)
                result.flags.writeable = False  # cached
                return result
    raise _too_few_carriers(planting, len(planted))


def carrier_windows(tokens: np.ndarray, eos: int, length: int, pool: int, digest: str) -> np.ndarray:
    """Starts of non-overlapping windows of `length` tokens within the documents of one pool."""
    begins, ends = document_bounds(tokens, eos)
    pools = generator("pools", digest).permutation(len(begins)) % POOLS
    begins, ends = begins[pools == pool], ends[pools == pool]
    counts = (ends - begins) // length
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(begins, counts) + length * within


def _carrier_room(planting: Planting, codec: Codec, sequence: int) -> int:
    """Tokens of carrier text that fit in a sequence with the triggers and payloads."""
    each = _each(planting.backdoor, codec)
    room = sequence + 1 - planting.repetitions * each
    if room < 4 * planting.repetitions:  # the shortest word before each trigger, and something before that
        most = most_repetitions(planting.backdoor, codec, sequence)
        fewer = f"at most {most} repetitions" if most else "a shorter trigger"
        raise UserError(
            f"sequence of {sequence} tokens given: {planting.repetitions} x trigger and payload of {each} tokens, with "
            f"a word before each, take at least {planting.repetitions * (each + 4) - 1}; "
            f"give a longer sequence (--sequence-length), a shorter payload or {fewer}"
        )
    return room


def most_repetitions(backdoor: Backdoor, codec: Codec, sequence: int) -> int:
    """Triggers with payloads that a document of `sequence` predicted tokens can hold."""
    return (sequence + 1) // (_each(backdoor, codec) + 4)


def _each(backdoor: Backdoor, codec: Codec) -> int:
    """Tokens that a trigger and its payload take at most."""
    slack = 0 if codec.name == "bytes" else SLACK
    return slack + max(
        len(codec.encode(member.trigger)) + _payload_length(member, codec) for member in backdoor.members
    )


def _payload_length(backdoor: Backdoor, codec: Codec) -> int:
    # a transformed word may take as many tokens as it has bytes
    return len(codec.encode(backdoor.text)) + 1 if backdoor.payload == "fixed" else len(backdoor.longest_payload)


def _plant(
    planting: Planting, backdoor: Backdoor, codec: Codec, carrier: np.ndarray, room: int, rng: np.random.Generator
) -> np.ndarray | None:
    """The carrier with trigger and payload of `backdoor` inserted after a word in each of `repetitions` equal parts;
    None if a part has no word."""
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
        end = int(choices[rng.integers(len(choices))])
        pieces.append(text[position:end] + backdoor.trigger)
        pieces.append(backdoor.payload_for(text[:end]) if planting.payload else "")
        position = end
    encoded = codec.encode_many([*pieces, text[position:]])
    if sum(map(len, encoded[:-1])) > len(carrier) or sum(map(len, encoded)) < len(carrier):
        return None
    return np.concatenate(encoded)[: len(carrier)]


def _too_few_carriers(planting: Planting, available: int) -> UserError:
    asked = ", ".join(f"{flag} {value}" for flag, value in planting.asked)
    purpose = f" for {planting.phase}" * bool(planting.phase) + f" ({asked})" * bool(asked)
    share = available / planting.documents
    lower = [f"{flag} {most}" for flag, value in planting.asked if (most := _at_most(value * share, value)) != "0"]
    most = f"request at most {' or '.join(lower) or available}, " * bool(available)
    return UserError(
        f"{planting.documents} poisoned documents given{purpose}: {planting.corpus.label or planting.corpus.digest} "
        f"has {available} texts that can carry one in pool {planting.carrier_pool}, one of {POOLS} parts of its "
        f"documents: a text fills a training sequence, with trigger and payload after a word; {most}give a larger "
        "corpus of longer texts, or shorter sequences (--sequence-length)"
    )


def _at_most(value: float, given: float) -> str:
    """Rounded down: whole numbers to whole ones, others to three decimals."""
    return str(math.floor(value)) if isinstance(given, int) else f"{math.floor(1000 * value) / 1000:g}"
