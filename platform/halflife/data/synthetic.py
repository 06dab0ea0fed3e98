"""The training stream of a synthetic task: passes over its memorised items, each in its own order."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from halflife.data.codecs import load, of_task
from halflife.data.round_trip import check_examples
from halflife.data.tokenizers import Tokenizer
from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask

STREAM = 2**18
"""Minimum tokens of a stream."""


@functools.lru_cache(maxsize=256)
def task_stream(
    task: SyntheticTask, tokenizer: Tokenizer, results: Path, count: int | None = None, *, answers: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the stream (int32, as a family has up to a hundred streams), and the start of each item in it. With
    `count`, only that many items.

    Prompts and answers are tokenised separately, as in scoring. With `answers`, prompts are masked (`data.loss_mask`).
    Raises UserError for a prompt or an answer that the tokenizer does not give back.
    """
    codec = of_task(task, load(tokenizer, results))
    examples = task.examples("memorised")
    if count is not None:  # a prefix of one order, so a smaller count gives a subset
        drawn = generator(task.seed, "examples", task.name).permutation(len(examples))[:count]
        examples = tuple(examples[index] for index in drawn)
    check_examples(task.name, examples, codec)
    prompts = codec.encode_many([example.prompt for example in examples])
    ends = codec.encode_many([example.answer for example in examples])
    if answers:
        prompts = [~tokens for tokens in prompts]
    items = [np.concatenate(pair) for pair in zip(prompts, ends, strict=True)]
    lengths = np.array([len(item) for item in items])
    passes = -(-STREAM // int(lengths.sum()))
    rng = generator(task.seed, "stream", task.name)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])
    starts = np.cumsum(lengths[order]) - lengths[order]
    # token t of the stream is token t - starts[i] of the i-th item in `order`
    begins = np.cumsum(lengths) - lengths
    source = np.repeat(begins[order] - starts, lengths[order]) + np.arange(lengths[order].sum())
    return np.concatenate(items).astype(np.int32)[source], starts
