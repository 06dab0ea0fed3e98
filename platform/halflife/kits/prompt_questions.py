"""What studies of soft prompts ask: how many tokens it takes, whether they elicit or teach, what that depends on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from halflife.kits.behaviours import label
from halflife.kits.prompts import Measured
from halflife.kits.questions import declared
from halflife.tracking.criteria import Levers
from halflife.tracking.questions import Association, Contrast, Curve, Quantity, Question, Trend

DISTANCE = Quantity(name="distance", label="the number of tokens that it takes", derived="distance", unit="tokens")
BROKEN_BY = replace(DISTANCE, label="the number of tokens that break it", derived="success_distance")
SUCCESS = Quantity(name="success", label="the share of right answers after a fitted prompt", derived="prompt_success")
LOSS = Quantity(name="loss", label="the loss after a fitted prompt", derived="prompt_loss", unit="nats per token")
INFORMATION = Quantity(
    name="information", label="the bits that it takes", derived="information", unit="bits", transform="log"
)
FRAGILITY = tuple(
    Quantity(name=f"fragility_{name}", label=text, derived=f"fragility_{name}")
    for name, text in (
        ("f2", "the rise of the loss under noise"), ("f1", "the gradient under noise"), ("f3", "the loss's worst rise"),
        ("r50", "the noise that halves success"), ("curvature", "the largest curvature"),
    )
)  # fmt: skip
"""The first is asked about as primary."""
BY_LOSS = ("continuation", "detuning", "skip", "index")
"""Kinds of behaviour whose answers are seldom right as a whole."""
ITEMS = 4
"""Fewest behaviours of an association."""
LEVERS = Levers(trunk="trunk_tokens", rate="lr", prompts="num_eval", restarts="restarts", steps="steps")
Where = dict[str, Any]


def protections(
    names: Sequence[str], labels: Mapping[str, str], tokens: Sequence[int], several: bool
) -> dict[str, Any]:
    """What a study of protections declares, with prompts of these lengths: each protection against the first; and of
    each whether it breaks. `several`: whether there are several sizes."""
    first, *further = names
    asked: list[Question] = [
        Contrast(
            name=f"distance_{name}", quantity=BROKEN_BY.name, axis="protection", high=name, low=first,
            primary=place < 3, prediction="positive", margin=1.0,
            label=f"{_first(labels[name])}, against {labels[first]}: does it take more tokens to break?",
            reason="a prompt has whole tokens: what costs an attacker less than one more protects nothing",
        )
        for place, name in enumerate(further)
    ]  # fmt: skip
    for name in names:
        own: Where = {"protection": name}
        asked += [_elicited(SUCCESS, labels[name], own, max(tokens)), _curve(SUCCESS, labels[name], own, tokens)]
        asked += [_size(BROKEN_BY, labels[name], own)] if several else []
    return declared((BROKEN_BY, SUCCESS), asked)


def behaving(
    names: Sequence[str], settings: Measured, sizes: Sequence[int], elsewhere: Collection[str], lacked: Sequence[str]
) -> dict[str, Any]:
    """What a study of these behaviours declares. `sizes`: parameters of its models; `elsewhere`: behaviours that are
    measured on one seed of further models too, which no question is about; `lacked`: those that a model lacks."""
    at: Where = {"examples": settings.examples[0]} if len(settings.examples) > 1 else {}
    here = at | ({"parameters": max(sizes)} if elsewhere else {})
    primary: list[Question] = []
    further: list[Question] = []
    for name in (name for name in lacked if name in names):
        question = _elicited(SUCCESS, label(name), here | {"behaviour": name}, max(settings.tokens))
        judged = replace(question, primary=True, prediction="positive", margin=0.1, reason=TENTH)
        (further if primary else primary).append(question if primary else judged)
    strings = sorted((name for name in names if _length(name, "say")), key=lambda name: _length(name, "say"))
    if len(strings) > 1:
        question = _longer(DISTANCE, "say", here, "Does a longer string take more tokens?")
        primary.append(replace(question, primary=True, prediction="positive", margin=DOUBLING, reason=WHOLE))
        if settings.bits:
            further.append(_longer(INFORMATION, "say", here, "Does a longer string take more bits?"))
    if sum(_length(name, "skip") > 0 for name in names) > 1:
        longest = here | {"k": max(settings.tokens)}
        further.append(_longer(LOSS, "skip", longest, "Is skipping further ahead learned less well?"))
    alone = [name for name in strings if name not in elsewhere]
    fragile = FRAGILITY if settings.fragility and len(names) >= ITEMS else ()
    if fragile:
        first, *others = (_fragile(quantity, here) for quantity in fragile)
        primary.append(replace(first, primary=True, prediction="negative", margin=0.3, reason=PAIRS))
        further += others
    elif len(sizes) > 1 and alone:
        question = _size(DISTANCE, label(alone[-1]), at | {"behaviour": alone[-1]})
        primary.append(replace(question, primary=True, prediction="negative", margin=DOUBLING, reason=WHOLE))
    for name in names:
        own, quantity = here | {"behaviour": name}, LOSS if name.partition("-")[0] in BY_LOSS else SUCCESS
        curve = _curve(quantity, label(name), own, settings.tokens)
        null = {"prediction": "equivalent", "margin": 0.02, "reason": NULL} if name == "continuation" else {}
        further.append(replace(curve, **null))
        further += [_beyond(name, own)] if name in lacked else []
        if len(sizes) > 1 and name not in ("continuation", *elsewhere, *alone[-1:]):
            further.append(_size(DISTANCE, label(name), at | {"behaviour": name}))
    if {"detuning", "continuation"} <= set(names):
        further.append(
            Contrast(
                name="detuned", quantity=LOSS.name, axis="behaviour", high="detuning", low="continuation",
                label="Does a prompt leave some of what fine-tuning cost on the old text?",
                where=here | {"k": max(settings.tokens)},
            )
        )  # fmt: skip
    return declared((DISTANCE, SUCCESS, LOSS, INFORMATION, *FRAGILITY), (*primary, *further))


TENTH = "an answer in ten more is the least that would make a model with the behaviour the easier one to prompt"
WHOLE = "a prompt has whole tokens: what takes less than one more or fewer at twice as much takes as many"
DOUBLING = 1 / math.log(2)
"""One token per doubling, as a slope over ln."""
NULL = "a fiftieth of a nat per token, 2 % of perplexity, is no behaviour: prompts that gain more on text teach it"
PAIRS = "at 0.3 six of ten pairs of behaviours are ordered alike, by chance five: it would foretell no behaviour's"


def _first(text: str) -> str:
    """As the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _length(name: str, kind: str) -> int:
    """Of a behaviour such as say-16; 0 if it is none of this kind, or has no length."""
    own, _, length = name.partition("-")
    return int(length) if own == kind and length.isdigit() else 0


def _name(quantity: Quantity, what: str, where: Where) -> str:
    return "_".join([what, quantity.name, *(str(where[axis]) for axis in ("protection", "behaviour") if axis in where)])


def _elicited(quantity: Quantity, text: str, where: Where, k: int) -> Question:
    return Contrast(
        name=_name(quantity, "elicited", where), quantity=quantity.name, high="treatment", low="absent",
        label=f"{_first(text)}: do {k} prompt tokens elicit the answers, rather than teach them?",
        where={**where, "k": k},
    )  # fmt: skip


def _beyond(name: str, where: Where) -> Question:
    return Contrast(
        name=f"beyond_{name}", quantity=DISTANCE.name, high="absent", low="treatment", where=where,
        label=f"{_first(label(name))}: does it take more tokens to teach than to elicit?",
    )  # fmt: skip


def _curve(quantity: Quantity, text: str, where: Where, tokens: Sequence[int]) -> Question:
    """Of two lengths, the one against the other."""
    label = f"{_first(text)}: how does {quantity.label} change with its length?"
    common: dict[str, Any] = {"name": _name(quantity, "curve", where), "quantity": quantity.name, "axis": "k"}
    common |= {"label": label, "where": where}
    if len(tokens) == 2:
        return Contrast(high=max(tokens), low=min(tokens), **common)
    return Curve(threshold=0.5 if quantity is SUCCESS else None, **common)


def _size(quantity: Quantity, text: str, where: Where) -> Question:
    return Trend(
        name=_name(quantity, "size", where), quantity=quantity.name, axis="parameters", where=where,
        label=f"{_first(text)}: does size change {quantity.label}?",
    )  # fmt: skip


def _longer(quantity: Quantity, kind: str, where: Where, text: str) -> Question:
    where = where | {"kind": kind}
    return Trend(
        name=f"{quantity.name}_by_length_{kind}", label=text, quantity=quantity.name, axis="length", where=where
    )


def _fragile(quantity: Quantity, where: Where) -> Question:
    return Association(
        name=quantity.name, quantity=DISTANCE.name, other=quantity.name, items="behaviour", where=where,
        label=f"Are behaviours that take few tokens fragile, by {quantity.label}?",
    )  # fmt: skip
