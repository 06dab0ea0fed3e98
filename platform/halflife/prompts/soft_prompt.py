"""Soft prompts, described: number of vectors, position, initialization, and what is trained to produce the vectors.

A soft prompt P (k, width) is inserted among the input embeddings of a frozen model, and only P is trained (Lester et
al., arXiv 2104.08691). A conditional one is g(c), a network from an example's conditions to P (Nordby, arXiv
2505.14943). Vectors are in units of the root mean square of the model's own embeddings, so that learning rates and
noise mean the same in every model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.targets import TargetItems

LONGEST = 65_536


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise."""

    scale: float = 1.0
    """Standard deviation, in units of the embeddings' root mean square."""

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise UserError(f"initial noise of scale {self.scale}: expected 0 or a positive number, such as 1")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Embeddings of tokens drawn from the whole vocabulary except the end-of-text token."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Embeddings of words drawn from the target's own training examples (prompts and answers), those of `letters`
    letters or more, joined by spaces."""

    letters: int = 3

    def __post_init__(self) -> None:
        if self.letters < 1:
            raise UserError(f"initial words of {self.letters} letters: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Embeddings of the tokens of a text, repeated where it has fewer than k. With as many tokens as the text has and
    no training this is a hard prompt."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("an empty initial text for a soft prompt: expected at least one character")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The vectors that an earlier stage ended with, then `rest` for the further ones: a warm start from a smaller k
    (or the same). The prompts of `stage` are fitted to the same target, with any number of tokens up to this k."""

    stage: Any
    """A FitSoftPrompts (`prompts.fit_stage`); a parent."""
    prompts: tuple[str, ...]
    """Names of prompts of that stage; the one with the lowest training loss is used."""
    rest: Noise | Vocabulary | Words | Text = Vocabulary()


Initial = Noise | Vocabulary | Words | Text | WarmStart


@dataclass(frozen=True, kw_only=True)
class Direct:
    """The k vectors themselves are trained; conditions are ignored."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Every number of the prompt is an affine function of the conditions, with slope 0 initially."""


InputModel = Direct | Linear


@dataclass(frozen=True, kw_only=True)
class SoftPrompt:
    """One soft prompt to fit: k, position, initialization, input model, learning rate, restart.

    Restarts differ in the random draws of the initialization. All prompts of a stage see the same examples in the same
    order, so differences between them are paired.
    """

    tokens: int
    """k. 0 is the baseline: nothing is trained, and the loss is the model's own."""
    position: Literal["start", "answer"] | int = "start"
    """start: before the text. answer: between prompt and answer. A number: after that many tokens of the text. Targets
    before the prompt cannot be changed by it and are not scored."""
    initial: Initial = Vocabulary()
    model: InputModel = Direct()
    learning_rate: float = 0.03
    """Of Adam, in units of the embeddings' root mean square."""
    restart: int = 0
    label: str = ""
    """Replaces the derived name."""

    def __post_init__(self) -> None:
        """Raises UserError for values that no model and no text allow."""
        if not 0 <= self.tokens <= LONGEST:
            raise UserError(f"a soft prompt of {self.tokens} tokens given: expected 0 (the baseline) to {LONGEST:,}")
        inside = isinstance(self.position, int) and not isinstance(self.position, bool) and self.position >= 0
        if not inside and self.position not in ("start", "answer"):
            raise UserError(
                f"soft prompt at {self.position!r} given: expected 'start', 'answer' (before the answer), or a number "
                "of tokens of the text from 0"
            )
        if not isinstance(self.initial, Initial):
            raise UserError(f"soft prompt initialized from {self.initial!r}: expected {_kinds()}, or their classes")
        if not isinstance(self.model, InputModel):
            raise UserError(f"input model {self.model!r} given: expected Direct() or Linear()")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UserError(f"learning rate {self.learning_rate} of a soft prompt: expected a positive number")
        if "/" in self.label:
            raise UserError(f"soft prompt named {self.label!r}: expected a name without '/', which splits metric names")

    @property
    def name(self) -> str:
        """Unique among prompts that differ: `k4-start-vocabulary-direct-0.03-r0`, with a digest where the
        initialization has fields that are not its defaults."""
        if self.label:
            return self.label
        if not self.tokens:
            return f"k0-{self.position}"
        parts = [f"k{self.tokens}", str(self.position), _named(self.initial), _named(self.model)]
        return "-".join([*parts, f"{self.learning_rate:g}", f"r{self.restart}"])

    def num_parameters(self, width: int, conditions: int) -> int:
        """Trained numbers."""
        return (conditions + 1 if isinstance(self.model, Linear) else 1) * self.tokens * width


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How prompts are fitted: shared by all runs of a stage."""

    steps: int
    batch: int
    """Examples per step, for each run."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0


INITIALS: dict[str, type] = {"noise": Noise, "vocabulary": Vocabulary, "words": Words}
"""Initializations that need no argument, by name."""


def initial(name: str) -> Initial:
    """The initialization called `name` on the command line: noise, vocabulary, words, or text:... .

    Raises UserError for any other.
    """
    if name.startswith("text:"):
        return Text(text=name.removeprefix("text:"))
    if name not in INITIALS:
        raise UserError(f"unknown initialization {name!r}: expected {_kinds()} or text:..., such as text:please")
    return INITIALS[name]()


def _kinds() -> str:
    return ", ".join(INITIALS)


def _named(value: Initial | InputModel) -> str:
    """The class in lower case; with a digest of the fields that are not its defaults."""
    differing = {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if field.compare and getattr(value, field.name) != field.default
    }
    kind = type(value).__name__.lower()
    if not differing:
        return kind
    plain = {name: getattr(given, "key", None) or repr(given) for name, given in differing.items()}
    return f"{kind}.{hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6]}"


def words_of(target: TargetItems, initial: Words, codec: Codec) -> list[str]:
    """The words to draw from, sorted. Raises UserError when the target's texts have no such word."""
    texts = [codec.decode(np.append(item.tokens, item.targets[-1])) for item in target.train]
    words = sorted({word for text in texts for word in re.findall(rf"[^\W\d_]{{{initial.letters},}}", text)})
    if not words:
        raise UserError(
            f"soft prompts initialized from the words of {target.name}: its texts have none of {initial.letters} "
            "letters; expected another initialization, such as vocabulary"
        )
    return words
