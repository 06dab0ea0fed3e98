"""The training stream of a language: its memorised items over and over, each pass in an order of its own."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from halflife.data.codecs import load
from halflife.data.tokenizers import Tokenizer
from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask

STREAM = 2**18
"""Tokens of a stream, at least."""


@functools.lru_cache(maxsize=256)
def language_stream(
    language: SyntheticTask, tokenizer: Tokenizer, results: Path, count: int | None = None, *, answers: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the stream (int32: a family has up to a hundred of them), and where each item begins in it; of
    `count` items only, if that is given.

    Prompts and answers are tokenised apart, as they are when the answer is scored. `answers`: only they are to be
    predicted, and prompts are marked (`data.marks`).
    """
    codec = load(tokenizer, results)
    examples = language.examples("memorised")
    if count is not None:  # a prefix of one order: fewer are among more
        drawn = generator(language.seed, "examples", language.name).permutation(len(examples))[:count]
        examples = tuple(examples[at] for at in drawn)
    prompts = codec.encode_many([example.prompt for example in examples])
    endings = codec.encode_many([example.answer for example in examples])
    if answers:
        prompts = [~tokens for tokens in prompts]
    items = [np.concatenate(pair) for pair in zip(prompts, endings, strict=True)]
    lengths = np.array([len(item) for item in items])
    passes = -(-STREAM // int(lengths.sum()))
    rng = generator(language.seed, "stream", language.name)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])
    ends = np.cumsum(lengths[order])
    starts = ends - lengths[order]
    # Gather: token t of the stream is token t - starts[i] of the i-th item in order.
    begins = np.cumsum(lengths) - lengths
    places = np.repeat(begins[order] - starts, lengths[order]) + np.arange(ends[-1])
    return np.concatenate(items).astype(np.int32)[places], starts
