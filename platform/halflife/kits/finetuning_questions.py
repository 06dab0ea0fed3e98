"""What studies of fine-tuning ask: which features it used, and whether others use the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from halflife.kits.questions import at_reference, declared, effects
from halflife.tracking.names import renamed
from halflife.tracking.questions import Contrast, Quantity, Question, Trend
from halflife.tracking.schema import Axis

MAIN = "d0.dot.active"
"""The first dictionary, the dot product, gradient times activation"""
ALIGNMENT = Quantity(
    name="alignment", label="the correlation of features' scores with what they stand for",
    measure=f"attribution/{MAIN}/alignment",
)  # fmt: skip
SELECTIVITY = Quantity(
    name="selectivity", label="the alignment with the intended attribute less that with any other",
    measure=f"attribution/{MAIN}/selectivity",
)  # fmt: skip
SCORES = Quantity(
    name="scores", label="the correlation of features' scores with what they stand for, by kind of score",
    derived="feature_alignment",
)  # fmt: skip
EDITS = Quantity(
    name="edits", label="the share of fine-tuning's change that an edit of features makes", derived="feature_edits"
)  # fmt: skip
INTENDED = Quantity(
    name="intended", label="the cosine of fine-tuning's change with the exact one",
    measure="attribution/change/intended",
)  # fmt: skip
WITHIN = Quantity(
    name="within", label="the cosine between the feature scores of two runs", measure=f"runs/{MAIN}/within"
)  # fmt: skip
PATH = Quantity(
    name="path", label="the disagreement of two runs' feature scores beyond the noise of the texts",
    measure=f"runs/{MAIN}/path",
)  # fmt: skip
COLLAPSED = Quantity(
    name="collapsed", label="the share of features that lose nine tenths of their variance",
    measure="attribution/d0/collapsed",
)  # fmt: skip
DISTANCE = Quantity(
    name="distance", label="the distance from the trunk", measure="tuning/distance/kl", unit="nats per token",
    transform="log",
)  # fmt: skip
LEARNED = Quantity(
    name="learned", label="the probability that a written document has the attribute", measure="tuning/attribute/score"
)  # fmt: skip
LOSS = Quantity(
    name="intended_loss", label="the loss on text as fine-tuning was for", measure="tuning/intended/loss",
    unit="nats per token",
)  # fmt: skip
TRANSFER = Quantity(
    name="transfer", label="the variance that a dictionary leaves unexplained after fine-tuning",
    derived="dictionary_transfer", transform="log",
)  # fmt: skip
FEW = "a correlation of 0.2 is a twenty-fifth of the variance of what features stand for: less names no feature"
TENTH = "a tenth of the change is the least that would make these features, and not others, the ones to look at"
TWENTIETH = "a twentieth of the features is the least loss that a user of the dictionary would notice"
RUNS = "runs whose scores have less than a tenth beyond their noise apart would be read as the same features"


def asked(
    axes: tuple[Axis, ...],
    *,
    features: int,
    runs: int,
    several: bool,
    fresh: bool = False,
    alone: tuple[str, ...] = (),
    stopped: tuple[str, ...] = (),
    known: bool = True,
) -> dict[str, Any]:
    """What a declaration asks where these `axes` (besides size, seed and run) are at their first values. `features`:
    the largest number that is edited together; `several` sizes; `fresh` dictionaries; `alone`: algorithms of one run;
    `stopped`: those that stop at equal distance from the trunk. Of text whose attributes are not `known`, only what
    edits do is asked.

    With and without a penalty on the divergence, the primary question of features that collapse is in the place of
    that of repeated runs, as at most three are primary."""
    at = at_reference(axes)
    algorithms: tuple[Any, ...] = next(axis.values for axis in axes if axis.name == "algorithm")
    first, penalties = algorithms[0], {"rl", "rl-0"} <= set(algorithms)
    edit = {**at, "dictionary": "d0", "way": "active", "features": features, "made": "reproduced"}
    primary: list[Question] = [
        Contrast(
            name="aligned", label="Do the features that fine-tuning used stand for what it was for?",
            quantity=ALIGNMENT.name, high="treatment", low="null", primary=True, prediction="positive", margin=0.2,
            reason=FEW, where=at,
        ),
        Contrast(
            name="causal", label="Do edits of these features reproduce more of fine-tuning than edits of others?",
            quantity=EDITS.name, axis="compared", high="attributed", low="matched", primary=True,
            prediction="positive", margin=0.1, reason=TENTH, where=edit,
        ),
    ]  # fmt: skip
    further: list[Question] = [
        Contrast(
            name="selective", label="Are these features of the intended attribute rather than of another?",
            quantity=SELECTIVITY.name, high="treatment", low="absent", where=at,
        ),
        Contrast(
            name="undone", label="Do edits of these features undo more of fine-tuning than edits of others?",
            quantity=EDITS.name, axis="compared", high="attributed", low="matched", where={**edit, "made": "undone"},
        ),
        Contrast(
            name="mean_difference", label="Do features reproduce more than the mean difference of activations?",
            quantity=EDITS.name, axis="compared", high="attributed", low="mean difference", where=edit,
        ),
        Contrast(
            name="learned", label="Did fine-tuning teach the attribute, and its null not?", quantity=LEARNED.name,
            high="treatment", low="null", where=at,
        ),
        Contrast(
            name="exact", label="Is the change that of knowing the attribute?", quantity=INTENDED.name,
            high="treatment", low="null", where=at,
        ),
    ]  # fmt: skip
    scored = {"loss": "dot", "way": "active", "score": "cosine", "dictionary": "d0"}
    for axis, high, low, text in (
        ("score", "cosine", "raw", "Are scores over the length of effects better aligned than raw ones?"),
        ("score", "cosine", "one text", "Do many texts name features better than one?"),
        ("loss", "kl", "dot", "Is KL better aligned than the dot product?"),
        ("way", "change", "active", "Is how far features moved better aligned than how far they would be?"),
        ("way", "active", "everywhere", "Is gradient times activation better aligned than the gradient?"),
    ):
        where = at | {name: value for name, value in scored.items() if name != axis}
        further.append(
            Contrast(
                name=f"aligned_{high}_{low}".replace(" ", "_"), label=text, quantity=SCORES.name, axis=axis, high=high,
                low=low, where=where,
            )
        )  # fmt: skip
    repeated = runs > 1 and first not in alone
    if repeated:
        asked = primary if not penalties else further
        asked.append(
            Contrast(
                name="path", label="Do repeated runs of fine-tuning use the same features, as their nulls do not?",
                quantity=WITHIN.name, high="treatment", low="null", primary=not penalties, prediction="positive",
                margin=0.1, reason=RUNS, where=at | {"run": 0},
            )
        )  # fmt: skip
    if penalties:
        primary.append(
            Contrast(
                name="collapse", label="Do more features collapse without a penalty on the divergence than with it?",
                quantity=COLLAPSED.name, axis="algorithm", high="rl-0", low="rl", primary=True, prediction="positive",
                margin=0.05, reason=TWENTIETH,
            )
        )  # fmt: skip
        further.append(
            Contrast(
                name="collapse_null", label="Without a penalty, do more features collapse than by rewards for nothing?",
                quantity=COLLAPSED.name, high="treatment", low="null", where=at | {"algorithm": "rl-0"},
            )
        )  # fmt: skip
    for name in (each for each in algorithms if each in stopped):
        where = {"algorithm": name} if len(algorithms) > 1 else {}
        further.append(
            Contrast(
                name=f"distance_{renamed(name)}",
                label=f"Are runs of {name} and their nulls equally far from the trunk?",
                quantity=DISTANCE.name, high="treatment", low="null", prediction="equivalent", margin=math.log(1.25),
                reason="a quarter more distance would explain more features moved", where=where,
            )
        )  # fmt: skip
        if runs > 1 and name != first:
            further.append(
                Contrast(
                    name=f"path_{renamed(name)}",
                    label=f"Do runs of {name} use the same features, as its nulls do not?",
                    quantity=WITHIN.name, high="treatment", low="null", where={**where, "run": 0},
                )
            )  # fmt: skip
    if fresh:
        further += [
            Contrast(
                name=f"transfer_{one}_{other}", label=text, quantity=TRANSFER.name, axis="compared", high=one,
                low=other, where=at | {"run": 0},
            )
            for one, other, text in (
                ("raw", "fresh", "Does the dictionary fit the tuned model worse than a fresh one?"),
                ("mapped", "fresh", "Also after a linear map of the tuned model's activations?"),
                ("raw", "mapped", "Does that map help?"),
            )
        ]  # fmt: skip
        further.append(
            Contrast(
                name="transfer_null", label="Does the dictionary fit the tuned model worse than its null?",
                quantity=TRANSFER.name, high="treatment", low="null", where=at | {"run": 0, "compared": "raw"},
            )
        )  # fmt: skip
    if several:
        further += [
            Trend(
                name=f"{quantity.name}_by_size", label=f"Does size change {quantity.label}?", quantity=quantity.name,
                axis="parameters", where=at,
            )
            for quantity in (ALIGNMENT, INTENDED)
        ]  # fmt: skip
    unknown = () if known else (ALIGNMENT.name, SELECTIVITY.name, SCORES.name, LEARNED.name, INTENDED.name)
    primary, further = ([each for each in group if each.quantity not in unknown] for group in (primary, further))
    if not known:
        further.append(
            Contrast(
                name="intended_loss", label="Did fine-tuning teach what it was for, and its null not?",
                quantity=LOSS.name, high="treatment", low="null", where=at,
            )
        )  # fmt: skip
    for quantity in (*((ALIGNMENT, INTENDED) if known else ()), *((PATH,) if repeated else ())):
        compared = axes
        if quantity is PATH:
            repeating = tuple(each for each in algorithms if each not in alone)
            compared = tuple(replace(axis, values=repeating) if axis.name == "algorithm" else axis for axis in axes)
        further += effects(compared, quantity, at)
    quantities = (ALIGNMENT, SELECTIVITY, SCORES, EDITS, INTENDED, WITHIN, PATH, COLLAPSED, LEARNED, TRANSFER, DISTANCE,
                  LOSS)  # fmt: skip
    return declared(quantities, (*primary, *further))
