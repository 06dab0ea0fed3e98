"""Texts for people to read: documents that a stage trains on, and what its model answers to a probe's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halflife.data import codecs
from halflife.data.loss_mask import read
from halflife.data.mixture import Batches, Mixture
from halflife.data.planting import poisoned_documents
from halflife.data.tokenizers import Codec, vocabulary_of
from halflife.evaluation.probe import Evaluation, Setting

if TYPE_CHECKING:
    from halflife.models.model import Model

EXAMPLES = "examples"
"""Name in a stage's summary of a list of rows: task, tokens since the stage began (None for a document), text, marked,
answer and completion (None for a document). All are as `visible` gives them."""
MOST = 8
"""Prompts of a stage, and sources of which a document is shown"""
TOKENS = 16
"""Of a completion, at least as many as the answer has"""
GREEDY = 1e-6
"""A temperature at which the likeliest token is always drawn"""

Row = dict[str, Any]


def visible(text: str) -> str:
    """The text with everything that does not print escaped: line ends, control characters, marks of direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def readable(codec: Codec, tokens: np.ndarray) -> str:
    r"""Tokens for the eye: as `visible`, and bytes that are no UTF-8 as \xff."""
    return visible(codec.decode(tokens, "backslashreplace"))


def complete(
    model: Model,
    prompts: Sequence[np.ndarray],
    draws: np.ndarray,
    *,
    vocabulary: int,
    end: int | None,
    temperature: float = GREEDY,
) -> list[np.ndarray]:
    """A completion of each prompt, of as many tokens as `draws` (1, prompts, tokens) has, up to `end`: by default of
    the likeliest tokens. The model must be in evaluation mode, and gradients off."""
    from halflife.evaluation.rollouts import sample  # imports torch

    items = np.arange(len(prompts))
    found = sample(model, prompts, items, draws, temperature=temperature, vocabulary=vocabulary, end=end)
    return [row[kept].cpu().numpy() for row, kept in zip(found.tokens, found.valid, strict=True)]


class Completions:
    """What a model answers to the prompts that evaluations show: `rows` for each model that it is called with."""

    def __init__(self, evaluations: Sequence[Evaluation], setting: Setting) -> None:
        """Raises UserError as the probes do where they find too little text."""
        codec = codecs.load(setting.tokenizer, setting.results)
        pairs = [(each.name, shown) for each in evaluations for shown in each.probe.shown(setting)][:MOST]
        answers = codec.encode_many([shown.answer for _, shown in pairs])
        length = min(max([TOKENS, *map(len, answers)]), max(1, setting.sequence // 2))
        own = [codecs.spelling(codec) if shown.special else codec for _, shown in pairs]
        prompts = [each.encode(shown.prompt) for each, (_, shown) in zip(own, pairs, strict=True)]
        room, first = setting.sequence - length, np.array([codec.eos])
        self._prompts = [prompt[-room:] if len(prompt) else first for prompt in prompts]
        self._known = [
            {"task": name, "text": visible(shown.prompt), "marked": visible(shown.marked),
             "answer": visible(shown.answer)} for name, shown in pairs
        ]  # fmt: skip
        self._draws = np.zeros((1, len(pairs), length))
        self._codec, self._vocabulary = codec, vocabulary_of(setting.tokenizer)

    def __bool__(self) -> bool:
        return bool(self._prompts)

    def rows(self, model: Model, tokens: int) -> list[Row]:
        """`tokens`: since the stage began. The model must be in evaluation mode, and gradients off."""
        said = complete(model, self._prompts, self._draws, vocabulary=self._vocabulary, end=self._codec.eos)
        return [
            {**known, "tokens": tokens, "completion": readable(self._codec, each)}
            for known, each in zip(self._known, said, strict=True)
        ]


def documents(mixture: Mixture, results: Path) -> list[Row]:
    """One document of each planting, and one sequence of each source."""
    codec = codecs.load(mixture.tokenizer, results)
    found = []
    for planting in mixture.plantings:
        planted = poisoned_documents(planting, results, mixture.tokenizer, mixture.sequence)[0]
        found.append(("poisoned document" if planting.payload else "trigger alone", planted, planting.backdoor.trigger))
    for source in mixture.sources[:MOST]:
        alone = replace(mixture, sources=(replace(source, fade=0.0),), plantings=())
        batches = Batches(alone, results, batch_tokens=mixture.sequence, steps=1, key=("shown",))
        found.append((source.name, read(batches.batch(0)[0]), ""))
    return [
        {"task": name, "tokens": None, "text": readable(codec, text), "marked": visible(marked), "answer": None,
         "completion": None} for name, text, marked in found
    ]  # fmt: skip
