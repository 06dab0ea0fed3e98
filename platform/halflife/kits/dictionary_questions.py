"""What studies of dictionaries ask: what sharing one costs, and what blocks share."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from halflife.interpret.dictionary import Dictionary
from halflife.kits.questions import FACTOR, at_reference, declared, effects
from halflife.tracking.questions import Against, Contrast, Quantity, Question, Trend
from halflife.tracking.schema import Axis

EXCESS = Quantity(
    name="excess", label="the loss above the text's exact entropy", measure="trunk/exact/kl", unit="nats per symbol",
)  # fmt: skip
"""KL(exact || model): the loss minus the entropy, without the noise of either."""
COST = Quantity(
    name="cost", label="the cost in loss of a dictionary beside the model", measure="trunk/exact/kl",
    unit="nats per symbol", against=Against(role="absent"),
)  # fmt: skip
NEEDED = Quantity(
    name="needed", label="the number of features needed for equal specificity", derived="features_needed",
    unit="features", transform="log",
)  # fmt: skip
SHARING = Quantity(
    name="sharing", label="the features that a shared dictionary needs, per one of a block's own", derived="sharing",
    transform="log",
)  # fmt: skip
AGREEMENT = Quantity(name="agreement", label="the agreement of a feature with itself over blocks", derived="agreement")
PERSISTENCE = Quantity(
    name="persistence", label="the probability that a feature that fires also fires in the next block",
    derived="persistence",
)  # fmt: skip
WRITTEN = replace(
    PERSISTENCE, name="persistence_written", label="the same of what MLPs write", derived="persistence_written"
)
MEANINGS = {
    "concept": "stand for the same concept", "trigger": "fire for the same concepts",
    "effect": "change the prediction alike",
}  # fmt: skip


def decoded(dictionary: Dictionary) -> Quantity:
    kind = "shared by all blocks" if dictionary.shared else "per block"
    return Quantity(
        name=f"unexplained_{'shared' if dictionary.shared else 'per_block'}",
        label=f"the variance that a fresh dictionary {kind} leaves unexplained",
        measure=f"dictionaries/{dictionary.name}/fvu", transform="log",
    )  # fmt: skip


def asked(
    axes: tuple[Axis, ...], own: Dictionary, shared: Dictionary, *, several: bool, written: bool
) -> dict[str, Any]:
    """What a declaration asks where these `axes` (besides size and seed) are at their first values, and how each of
    them changes that; with `several` sizes, and with dictionaries of what MLPs write. `own`, `shared`: the fresh
    dictionaries that are looked at closely."""
    at, fresh, fresh_shared = at_reference(axes), decoded(own), decoded(shared)
    primary = (_cost(at), _features(at), _decodable(fresh, at))
    further: list[Question] = [
        _learned(
            name="sharing_learned", label="Does training beside a shared dictionary make blocks share more features?",
            quantity=SHARING.name, where=at,
        ),
        Contrast(
            name="turned", label="Does a shared dictionary need more where nothing is shared?", quantity=NEEDED.name,
            axis="dictionary", high="shared", low="per block", role="positive", where=at,
        ),
        _learned(
            name="decodable_shared", label="Is the model easier to decode by a fresh shared dictionary?",
            quantity=fresh_shared.name, where=at,
        ),
        Contrast(
            name="detached", label="Does a dictionary without a gradient leave the loss as it is?",
            quantity=EXCESS.name, high="null", low="absent", where=at, margin=1e-6, prediction="equivalent",
            reason="its gradient does not flow, so the models are the same to the bit; anything else is a mistake",
        ),
    ]  # fmt: skip
    for meaning, words in MEANINGS.items():
        where = {**at, "meaning": meaning}
        further += [
            Contrast(
                name=f"same_{meaning}", label=f"Do features {words} in different blocks, more than permuted ones?",
                quantity=AGREEMENT.name, axis="latents", high="observed", low="permuted", where=where,
            ),
            _learned(
                name=f"same_{meaning}_learned", quantity=AGREEMENT.name, where={**where, "latents": "observed"},
                label=f"Does training beside a shared dictionary make features {words} in different blocks?",
            ),
        ]  # fmt: skip
    for null in ("permuted", "random"):
        further.append(
            Contrast(
                name=f"persistence_{null}", quantity=PERSISTENCE.name, axis="latents", high="observed", low=null,
                label="Do features persist from block to block more than "
                f"{'at other tokens' if null == 'permuted' else 'random directions on the same streams'}?", where=at,
            )
        )  # fmt: skip
    if written:
        further.append(
            Contrast(
                name="persistence_written", quantity=WRITTEN.name, axis="latents", high="observed", low="random",
                label="Do features of what MLPs write persist, more than random directions?", where=at,
            )
        )  # fmt: skip
    for role in ("absent", "untrained"):
        further.append(
            Contrast(
                name=f"persistence_{role}", quantity=PERSISTENCE.name, high="treatment", low=role,
                where={**at, "latents": "observed"},
                label="Do features persist more than in a model that trained without a dictionary?"
                if role == "absent" else "Do features persist more than in an untrained model?",
            )
        )  # fmt: skip
    if several:
        for quantity, text in ((COST, "the cost in loss"), (SHARING, "how much blocks share")):
            further.append(
                Trend(
                    name=f"{quantity.name}_by_size", label=f"Does size change {text}?", quantity=quantity.name,
                    axis="parameters", where=at,
                )
            )  # fmt: skip
    further += [_plateau(axis) for axis in axes if axis.name == "length" and len(axis.values) > 1]
    for quantity in (COST, fresh, SHARING):
        further += effects(axes, quantity, at)
    quantities = (EXCESS, COST, NEEDED, SHARING, fresh, fresh_shared, AGREEMENT, PERSISTENCE, WRITTEN)
    return declared(quantities, (*primary, *further))


def _learned(**fields: Any) -> Question:
    """What training beside the dictionary changes."""
    return Contrast(high="treatment", low="absent", **fields)


def _cost(at: dict[str, Any]) -> Question:
    return _learned(
        name="cost", label="What does a shared dictionary beside the model, with its gradient, cost in loss?",
        quantity=EXCESS.name, primary=True, prediction="equivalent", margin=0.01, where=at,
        reason="a hundredth of a nat is about half a percent of the text's entropy: no use of the model would show it",
    )  # fmt: skip


def _plateau(length: Axis) -> Question:
    return Contrast(
        name="plateau", label="Is a model without a dictionary at its plateau?", quantity=EXCESS.name, role="absent",
        axis=length.name, high=length.values[1], low=length.values[0], margin=0.002, prediction="equivalent",
        reason="what more training still gains bounds what the cost could become by it; a fifth of the cost's margin",
    )  # fmt: skip


def _features(at: dict[str, Any]) -> Question:
    return Contrast(
        name="features", label="Does one dictionary for all blocks need more features than one per block has?",
        quantity=NEEDED.name, axis="dictionary", high="shared", low="per block", primary=True, prediction="positive",
        margin=FACTOR, where=at,
        reason="with a quarter more latents or fewer, no one would choose between one dictionary and several",
    )  # fmt: skip


def _decodable(fresh: Quantity, at: dict[str, Any]) -> Question:
    return _learned(
        name="decodable", label="Is a model that trained beside a shared dictionary easier to decode by a fresh one?",
        quantity=fresh.name, primary=True, prediction="negative", margin=math.log(1.1), where=at,
        reason="a tenth less of unexplained variance would change no choice between models to interpret",
    )  # fmt: skip
