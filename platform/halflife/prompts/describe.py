"""Soft prompts, described: how many vectors, where they stand, how they begin, and what is trained to give them.

A soft prompt P (k, width) stands among the input embeddings of a frozen model, and only P is trained (Lester et al.,
arXiv 2104.08691); a conditional one is g(c), a network from an example's conditions to P (Nordby, arXiv 2505.14943).
Vectors are kept in units of the root mean square of the model's own embeddings, so that rates and noise mean the same
in every model.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from halflife.errors import UserError
from halflife.fields import recorded

LONGEST = 65_536


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian numbers."""

    scale: float = 1.0
    """Standard deviation, in units of the embeddings' root mean square."""

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise UserError(f"noise of scale {self.scale} to begin with: expected 0 or a positive number, such as 1")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Embeddings of tokens drawn from the whole vocabulary, the separator left out."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Embeddings of words drawn from the target's own training examples (prompts and answers), those of `letters`
    letters or more, one after another with spaces between them."""

    letters: int = 3

    def __post_init__(self) -> None:
        if self.letters < 1:
            raise UserError(f"words of {self.letters} letters to begin a soft prompt with: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Embeddings of the tokens of a text, over again where it has fewer than k. With as many tokens as the text has
    and no training this is a hard prompt."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("an empty text to begin a soft prompt with: expected at least one character")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The vectors that an earlier stage ended with, then `rest` for the further ones: a warm start from a smaller k
    (or the same). The prompts of `stage` are fitted to the same target, with any number of tokens up to this k."""

    stage: Any
    """A prompts.stages.FitSoftPrompts; a parent."""
    prompts: tuple[str, ...]
    """Names of some of its prompts: what was best in training is begun from."""
    rest: Noise | Vocabulary | Words | Text = Vocabulary()


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The vectors of a peft PromptTuning adapter, made by `prompts.peft.prepare_adapter`."""

    digest: str
    tokens: int
    folder: str = recorded()
    """Where it lies on this machine."""


Initial = Noise | Vocabulary | Words | Text | WarmStart | Adapter


@dataclass(frozen=True, kw_only=True)
class Direct:
    """The k vectors themselves are trained; conditions are not looked at."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Every number of the prompt is an affine function of the conditions; it begins without a slope."""


@dataclass(frozen=True, kw_only=True)
class MLP:
    """A hidden layer (GELU) of the conditions, then every number of the prompt is an affine function of it. The last
    layer begins at the initial vectors, without a slope."""

    hidden: int = 64


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One network for all k tokens: (a learned code of the token, the conditions) -> what is added to its initial
    vector, which stays. What is trained hardly grows with k."""

    hidden: int = 64
    code: int = 8
    """Numbers that tell a token from the others."""


InputModel = Direct | Linear | MLP | Shared


@dataclass(frozen=True, kw_only=True)
class SoftPrompt:
    """One soft prompt to be fitted: k, position, beginning, input model, rate, and which restart.

    Restarts differ in what is drawn for the beginning; they and all prompts of a stage see the same examples in the
    same order, so that differences between them are paired.
    """

    tokens: int
    """k. 0 is the baseline: nothing is trained, and the loss is the model's own."""
    position: Literal["start", "answer"] | int = "start"
    """start: before the text. answer: between prompt and answer. A number: inside, after so many tokens of the text.
    What stands before the prompt cannot be changed by it and is not asked for."""
    initial: Initial = Vocabulary()
    model: InputModel = Direct()
    learning_rate: float = 0.03
    """Of Adam, in units of the embeddings' root mean square."""
    restart: int = 0
    label: str = ""
    """Replaces the derived name, where that is not wanted."""

    def __post_init__(self) -> None:
        """Raises UserError for what no model and no text allow."""
        if not 0 <= self.tokens <= LONGEST:
            raise UserError(f"a soft prompt of {self.tokens} tokens given: expected 0 (the baseline) to {LONGEST:,}")
        inside = isinstance(self.position, int) and not isinstance(self.position, bool) and self.position >= 0
        if not inside and self.position not in ("start", "answer"):
            raise UserError(
                f"soft prompt at {self.position!r} given: expected 'start', 'answer' (before the answer), or after how "
                "many tokens of the text, a number from 0"
            )
        if not isinstance(self.initial, Initial):
            raise UserError(f"soft prompt begun from {self.initial!r}: expected {_words(INITIALS)}, or their classes")
        if not isinstance(self.model, InputModel):
            raise UserError(f"input model {self.model!r} given: expected {_words(INPUT_MODELS)}, or their classes")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UserError(f"learning rate {self.learning_rate} of a soft prompt: expected a positive number")
        if "/" in self.label:
            raise UserError(f"soft prompt named {self.label!r}: expected a name without '/', which parts metric names")
        if isinstance(self.initial, Adapter) and self.initial.tokens != self.tokens:
            raise UserError(
                f"a soft prompt of {self.tokens} tokens begun from an adapter of {self.initial.tokens}: "
                "expected as many tokens as it has"
            )

    @property
    def name(self) -> str:
        """Unique among prompts that differ: `k4-start-vocabulary-direct-0.03-r0`, with a digest where a beginning or
        an input model is not the plain one of its kind."""
        if self.label:
            return self.label
        if not self.tokens:
            return f"k0-{self.position}"
        parts = [f"k{self.tokens}", str(self.position), _named(self.initial), _named(self.model)]
        return "-".join([*parts, f"{self.learning_rate:g}", f"r{self.restart}"])

    def trained(self, width: int, conditions: int) -> int:
        """Numbers that are trained."""
        k = self.tokens
        if isinstance(self.model, Direct) or not k:
            return k * width
        if isinstance(self.model, Linear):
            return (conditions + 1) * k * width
        hidden = self.model.hidden
        if isinstance(self.model, MLP):
            return (conditions + 1) * hidden + (hidden + 1) * k * width
        return k * self.model.code + (self.model.code + conditions + 1) * hidden + (hidden + 1) * width


INITIALS: dict[str, type] = {"noise": Noise, "vocabulary": Vocabulary, "words": Words}
"""By name: beginnings that need nothing further."""
INPUT_MODELS: dict[str, type] = {"direct": Direct, "linear": Linear, "mlp": MLP, "shared": Shared}


def initial(name: str) -> Initial:
    """The beginning called `name`, as a command line gives it: noise, vocabulary, words, or text:... .

    Raises UserError for any other.
    """
    if name.startswith("text:"):
        return Text(text=name.removeprefix("text:"))
    if name not in INITIALS:
        raise UserError(
            f"unknown initialisation {name!r}: expected {_words(INITIALS)} or text:..., such as text:please"
        )
    return INITIALS[name]()


def input_model(name: str) -> InputModel:
    """The input model called `name`. Raises UserError when there is none."""
    if name not in INPUT_MODELS:
        raise UserError(f"unknown input model {name!r}: expected {_words(INPUT_MODELS)}")
    return INPUT_MODELS[name]()


def _words(table: dict[str, type]) -> str:
    return ", ".join(table)


def _named(value: Initial | InputModel) -> str:
    """The class in lower case; with a digest of what differs from the class's defaults."""
    from dataclasses import fields

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
