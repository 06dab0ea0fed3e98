"""Transforms of documents: tags before the text, fill-in-the-middle, the prompt after the text, reading backwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from halflife.data.documents import Documents
from halflife.data.loss_mask import read
from halflife.errors import UserError, check_choice
from halflife.rng import generator
from halflife.tasks.attributes import UNTOLD

UNKNOWN = "<unknown>"
"""The tag in the slot of an attribute of which nothing is told"""
PREFIX, SUFFIX, MIDDLE = "<prefix>", "<suffix>", "<middle>"
RETRODICT = "<retrodict>"
DISTRACTORS = tuple(f"<distractor-{index}>" for index in range(4))


class Transform:
    """Base of transforms: frozen dataclasses. One of your own is a class in a module that your study imports."""

    @property
    def exact(self) -> bool:
        """Whether the exact distribution of the next token, of data that have one, still holds: text keeps its order,
        and all that is added is evidence of a known weight, or none"""
        return False

    def added(self, choices: tuple[int, ...]) -> int:
        """Tokens by which it lengthens every document"""
        return 0

    def choices(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """Number of values of each attribute afterwards, from those before"""
        return choices

    def special(self, choices: tuple[int, ...]) -> tuple[str, ...]:
        """Names of the special tokens that it writes, given the number of values of each attribute"""
        return ()

    def lines(self, choices: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
        """Special tokens whose embeddings lie on a line, evenly spaced, in order"""
        return ()

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        """The changed documents; `ids` has the special tokens. A pure function of the generator's state."""
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


def _with_choices(
    transforms: Sequence[Transform], choices: tuple[int, ...]
) -> Iterator[tuple[Transform, tuple[int, ...]]]:
    """Each transform, and the number of values of each attribute of the documents that it gets."""
    for transform in transforms:
        yield transform, choices
        choices = transform.choices(choices)


def special_tokens(transforms: Sequence[Transform], choices: tuple[int, ...] = ()) -> tuple[str, ...]:
    """Names of the special tokens that a chain of transforms writes, each once, for a tokenizer's `special`."""
    found = [name for transform, known in _with_choices(transforms, choices) for name in transform.special(known)]
    return tuple(dict.fromkeys(found))


def added_tokens(transforms: Sequence[Transform], choices: tuple[int, ...] = ()) -> int:
    """Tokens by which a chain of transforms lengthens every document."""
    return sum(transform.added(known) for transform, known in _with_choices(transforms, choices))


def lines(transforms: Sequence[Transform], choices: tuple[int, ...] = ()) -> tuple[tuple[str, ...], ...]:
    """Special tokens whose embeddings lie on a line."""
    return tuple(line for transform, known in _with_choices(transforms, choices) for line in transform.lines(known))


def apply(
    transforms: Sequence[Transform], documents: Documents, ids: Mapping[str, int], key: tuple[int | str, ...]
) -> Documents:
    """The documents after every transform in turn. Each draws from its own key, so that a change of one leaves the
    others as they are."""
    for place, transform in enumerate(transforms):
        documents = transform.apply(documents, generator(*key, "transform", place), ids)
    return documents


def check_special(names: Sequence[str], ids: Mapping[str, int]) -> None:
    """Raises UserError when a special token is not one of the tokenizer's."""
    for name in names:
        if name not in ids:
            raise UserError(
                f"special token {name!r} given: the tokenizer has {', '.join(ids) or 'none'}; add it to its `special`, "
                "as `data.transforms.special_tokens` lists them"
            )


def tag(attribute: int, value: int, synonym: int = 0) -> str:
    """The name of a tag token; each of a value's synonyms is a token of its own."""
    return f"<{attribute}={value}{chr(ord('a') + synonym) if synonym else ''}>"


@dataclass(frozen=True, kw_only=True)
class Labels(Transform):
    """Gives all documents of a source the same values, for Tags: the text's language, or which corpus it is from."""

    values: tuple[int, ...]
    of: tuple[int, ...]
    """Number of values of each attribute"""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.of) or not all(0 <= v < n for v, n in zip(self.values, self.of, strict=False)):
            raise UserError(f"labels {self.values} of {self.of} values given: expected one from 0 to n - 1 for each")

    def choices(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        return self.of

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        return replace(documents, values=np.tile(self.values, (len(documents.tokens), 1)), choices=self.of)


@dataclass(frozen=True, kw_only=True)
class Tags(Transform):
    """Tag tokens before the text: one slot for each attribute, with its value's tag or UNKNOWN."""

    attributes: tuple[int, ...] | None = None
    """Those with a slot; None: all. The others vary without a tag."""
    told: float = 1.0
    """Probability that a slot has its value's tag, independently"""
    silent: float = 0.0
    """Share of the documents that tell nothing at all"""
    wrong: float = 0.0
    """Probability that a told value is another one. At 1 - 1/N (a grammar's `uninformative`) tags say nothing: the
    control of tags shuffled over the documents."""
    fixed: tuple[int, ...] | None = None
    """The same values in the slots of all documents, whatever their own are (UNTOLD: UNKNOWN): a condition. They are
    never made wrong; `wrong` is then only how far the exact conditional trusts them."""
    synonyms: int = 1
    """Tag tokens with one meaning, of which each document has a random one"""
    distractors: int = 0
    """Further slots, each with a random one of four tags that mean nothing"""
    scalar: bool = False
    """Tags tell a number: the embedding of value v is w0 + s w1 with s from -1 to 1, evenly spaced over the values. So
    an attribute on a fine grid has one direction, and values never trained on have their place."""
    any_order: bool = False
    """The slots come in a random order."""
    predicted: bool = False
    """Whether tags are predicted, from the second on"""

    def __post_init__(self) -> None:
        for name in ("told", "silent", "wrong"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name)} given: expected a probability")
        if not 1 <= self.synonyms <= 26 or self.distractors < 0:
            raise UserError(
                f"{self.synonyms} synonyms and {self.distractors} distractors given: expected 1 to 26, and 0 or more"
            )

    @property
    def exact(self) -> bool:
        return True

    def slots(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """The attributes with a slot. Raises UserError for those that the documents do not have."""
        slots = tuple(range(len(choices))) if self.attributes is None else self.attributes
        if not set(slots) <= set(range(len(choices))) or not (slots or self.distractors):
            raise UserError(f"tags of attributes {slots} given: the documents have {len(choices)}; see Labels")
        if self.fixed is not None:
            known = [choices[attribute] for attribute in slots]
            if len(self.fixed) != len(known) or not all(
                UNTOLD <= value < count for value, count in zip(self.fixed, known, strict=False)
            ):
                raise UserError(f"fixed tags {self.fixed} given: expected a value for each of attributes {slots}")
        return slots

    def added(self, choices: tuple[int, ...]) -> int:
        return len(self.slots(choices)) + self.distractors

    def special(self, choices: tuple[int, ...]) -> tuple[str, ...]:
        names = [
            tag(attribute, value, synonym)
            for attribute in self.slots(choices)
            for value in range(choices[attribute])
            for synonym in range(self.synonyms)
        ]
        return (UNKNOWN, *names, *(DISTRACTORS if self.distractors else ()))

    def lines(self, choices: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
        if not self.scalar:
            return ()
        return tuple(
            tuple(tag(attribute, value, synonym) for value in range(choices[attribute]))
            for attribute in self.slots(choices)
            for synonym in range(self.synonyms)
        )

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        tokens, choices = documents.tokens, documents.choices
        count, columns = len(tokens), []
        speaks = rng.random(count) >= self.silent
        for at, attribute in enumerate(self.slots(choices)):
            number = choices[attribute]
            table = np.array([[ids[tag(attribute, v, s)] for s in range(self.synonyms)] for v in range(number)])
            told, right = rng.random(count) < self.told, rng.random(count) >= self.wrong
            others, synonyms = rng.integers(1, number, count), rng.integers(0, self.synonyms, count)
            values = (documents.values[:, attribute] + np.where(right, 0, others)) % number
            if self.fixed is not None:
                values, told = np.full(count, self.fixed[at]), np.full(count, self.fixed[at] != UNTOLD)
            columns.append(np.where(told & speaks, table[values, synonyms], ids[UNKNOWN]))
        for _ in range(self.distractors):
            columns.append(np.array([ids[name] for name in DISTRACTORS])[rng.integers(0, len(DISTRACTORS), count)])
        tags = np.stack(columns, axis=1)
        if self.any_order:
            tags = rng.permuted(tags, axis=1)
        tokens = np.concatenate([tags if self.predicted else ~tags, tokens], axis=1)
        return replace(documents, tokens=tokens, prompt=documents.prompt + tags.shape[1])


Scored = Literal["all", "last"]


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(Transform):
    """Moves a middle span to the end (arXiv 2207.14255), as PSM: PREFIX p SUFFIX s MIDDLE m, or as SPM: PREFIX SUFFIX s
    MIDDLE p m (the paper's second variant). Documents that it leaves as they are end in three tokens not predicted."""

    rate: float = 0.5
    """Share of the documents that are changed"""
    suffix_first: float = 0.5
    """Share of the changed ones that are SPM"""
    of_prompt: bool = False
    """False: the span is between two uniform places of the text, after the prompt. True: it is the prompt but for its
    first `known` tokens, and the text is the suffix."""
    known: int = 0
    loss: Scored = "all"
    """last: of changed documents only the middle is predicted."""

    def __post_init__(self) -> None:
        check_choice("loss of fill-in-the-middle", self.loss, get_args(Scored))
        if not (0 <= self.rate <= 1 and 0 <= self.suffix_first <= 1):
            raise UserError(f"rates {self.rate} and {self.suffix_first} given: expected two shares, from 0 to 1")
        if self.known < 0 or (self.known and not self.of_prompt):
            raise UserError(f"{self.known} known tokens given: expected 0 or more of a prompt (of_prompt=True)")

    @property
    def exact(self) -> bool:
        return self.of_prompt

    def added(self, choices: tuple[int, ...]) -> int:
        return 3

    def special(self, choices: tuple[int, ...]) -> tuple[str, ...]:
        return (PREFIX, SUFFIX, MIDDLE)

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        tokens, (count, length) = documents.tokens, documents.tokens.shape
        start = 0 if self.of_prompt else documents.prompt
        cuts = np.sort(rng.integers(start, length + 1, (count, 2)), axis=1)
        if self.of_prompt:
            _check_prompt(documents, self.known + 1)
            cuts[:] = self.known, documents.prompt
        changed, spm = rng.random(count) < self.rate, rng.random(count) < self.suffix_first
        at = np.arange(length)
        # the part of each token, and so the order of parts: 0 before, 2 prefix, 4 suffix, 7 middle; markers 1, 3, 5
        parts = np.where(at < start, 0, np.where(at < cuts[:, :1], 2, np.where(at < cuts[:, 1:], 7, 4)))
        parts[spm] = np.where(parts[spm] == 2, 6, parts[spm])  # the prefix comes after the marker of the middle
        moved = read(tokens)
        if self.loss == "last":
            moved = np.where(parts == 7, moved, ~moved)
        moved = np.where(parts == 0, tokens, moved)
        markers = np.array([ids[PREFIX], ids[SUFFIX], ids[MIDDLE]])
        markers = np.broadcast_to(markers if self.loss == "all" else ~markers, (count, 3))
        order = np.concatenate([parts, np.broadcast_to([1, 3, 5], (count, 3))], axis=1).argsort(axis=1, kind="stable")
        moved = np.take_along_axis(np.concatenate([moved, markers], axis=1), order, axis=1)
        kept = np.concatenate([tokens, np.full((count, 3), ~ids[MIDDLE])], axis=1)
        prompt = 0 if self.of_prompt else start
        return replace(documents, tokens=np.where(changed[:, None], moved, kept), prompt=prompt)


@dataclass(frozen=True, kw_only=True)
class Retrodiction(Transform):
    """The text first, then RETRODICT and the prompt, its last token first: what stood before this text?"""

    prompt: int | None = None
    """Tokens of the prompt; None: the tags before the text"""
    loss: Scored = "last"
    """last: only the prompt is predicted."""

    def __post_init__(self) -> None:
        check_choice("loss of retrodiction", self.loss, get_args(Scored))
        if self.prompt is not None and self.prompt < 1:
            raise UserError(f"prompt of {self.prompt} tokens given: expected at least 1")

    @property
    def exact(self) -> bool:
        return self.prompt is None

    def added(self, choices: tuple[int, ...]) -> int:
        return 1

    def special(self, choices: tuple[int, ...]) -> tuple[str, ...]:
        return (RETRODICT,)

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        prompt, tokens = self.prompt or _check_prompt(documents, 1), read(documents.tokens)
        if prompt >= tokens.shape[1]:
            raise UserError(f"prompt of {prompt} tokens given: the documents have {tokens.shape[1]}; shorten it")
        marker = np.full((len(tokens), 1), ids[RETRODICT])
        first = np.concatenate([tokens[:, prompt:], marker], axis=1)
        if self.loss == "last":
            first = ~first
        return replace(documents, tokens=np.concatenate([first, tokens[:, :prompt][:, ::-1]], axis=1), prompt=0)


@dataclass(frozen=True, kw_only=True)
class Backwards(Transform):
    """The whole document, its last token first."""

    def apply(self, documents: Documents, rng: np.random.Generator, ids: Mapping[str, int]) -> Documents:
        return replace(documents, tokens=documents.tokens[:, ::-1], prompt=0)


def _check_prompt(documents: Documents, least: int) -> int:
    if documents.prompt < least:
        raise UserError(
            f"documents with a prompt of {documents.prompt} tokens given: expected at least {least}; put Tags before"
        )
    return documents.prompt
