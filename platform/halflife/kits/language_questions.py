"""What studies of a dropped language ask: how long it lasts, what that depends on, and whether it is erased."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halflife.kits.elicitation import elicited
from halflife.kits.questions import FACTOR, at_reference, declared, effects
from halflife.tracking.questions import Against, Contrast, Crossing, Decay, First, Mean, Quantity, Question, Trend
from halflife.tracking.schema import Axis

SHARING = "ABDC"
"""Families, from sharing nothing to sharing most."""
HIDDEN = {"choice": "by forced choice", "shots": "with examples in context", "layer": "by a linear probe"}
"""Readings that do not need the model to say it."""
KEPT = Against(role="absent", how="retention")
HALF_LIFE = Quantity(
    name="half_life", label="the language's half-life", measure="branch/dropped/hits", unit="tokens",
    moment=Crossing(threshold=0.5), transform="log", against=KEPT,
)  # fmt: skip
"""Tokens until half of the success above the never-learned control's is gone for good."""
RETAINED = Quantity(
    name="retained", label="the language's mean retention", measure="branch/dropped/hits", moment=Mean(), against=KEPT
)
RELEARNING = Quantity(
    name="relearning", label="relearning until half of the items are right", measure="relearn-all/dropped/hits",
    unit="tokens", moment=Crossing(threshold=0.5, direction="above"), transform="log",
)  # fmt: skip
UNTRAINED = Quantity(
    name="untrained", label="success on the pair that was left out of training", measure="branch/untrained/hits",
    moment=First(),
)  # fmt: skip
LEFT = Quantity(name="share_left", label="the share left of the advantage at the drop", derived="share_left")


def asked(
    axes: tuple[Axis, ...],
    focus: str,
    size: int,
    *,
    several: bool,
    soft_prompts: tuple[int, ...],
    task: bool = False,
) -> dict[str, Any]:
    """What a declaration asks. `axes`: besides size and seed; further values are varied in the `focus` family, overlaps
    in B, at `size` parameters. `several`: whether there are several sizes. `task`: what leaves is the user's task, in
    the only family."""
    half_life, retained = HALF_LIFE, RETAINED
    if task:
        half_life = replace(HALF_LIFE, label="the task's half-life")
        retained = replace(RETAINED, label="the task's mean retention")
    what = "the task" if task else "the dropped language"
    families = sorted(next(axis.values for axis in axes if axis.name == "family"), key=SHARING.index)
    reference = at_reference(axes, "family")
    own = reference | {"family": focus}
    primary: list[Question] = [_saved(what, "the task" if task else "the language", own)]
    further: list[Question] = [
        Decay(
            name=f"decay_{family}", outcome="skill", where={"family": family},
            label=f"How long does {what if task else f'a language of family {family}'} last?",
        )
        for family in families
    ]  # fmt: skip
    if len(families) > 1:
        primary.insert(0, _shared(half_life, families[-1], families[0], reference))
        further += [_shared(half_life, high, families[0], reference, primary=False) for high in families[1:-1]]
        further += [_shared(retained, high, families[0], reference, primary=False) for high in families[1:]]
    if several:
        primary.insert(-1, _size(half_life, focus, own, within=not task))
        others = [family for family in families if family != focus]
        further += [_size(half_life, family, reference | {"family": family}, primary=False) for family in others]
        further.append(_size(retained, focus, own, primary=False, within=not task))
    further += [
        Contrast(
            name=f"hidden_{reading}", quantity=LEFT.name, axis="reading", high=reading, low="said", where=own,
            label=f"Erased, or only not said: is more of it found {text} than in what the model says?",
        )
        for reading, text in HIDDEN.items()
    ]  # fmt: skip
    for quantity in (half_life, retained):
        for axis in axes:
            if axis.name != "family":
                at = own | {"parameters": size} | ({"family": "B"} if axis.name.endswith("_overlap") else {})
                further += effects((axis,), quantity, at)
    if "D" in families:
        label = "Does translation generalise to the pair that was left out of training?"
        where = reference | {"family": "D"}
        further.append(
            Contrast(name="untrained", label=label, quantity="untrained", high="treatment", low="absent", where=where)
        )
    measured, of_prompts = elicited(soft_prompts, what, own)
    return declared((half_life, retained, RELEARNING, LEFT, UNTRAINED, *measured), (*primary, *further, *of_prompts))


def _shared(quantity: Quantity, high: str, low: str, where: dict[str, Any], *, primary: bool = True) -> Question:
    judged: dict[str, Any] = {
        "primary": True, "prediction": "positive", "margin": FACTOR,
        "reason": "a quarter more or less training until half is lost decides nothing about what to keep in the data",
    }  # fmt: skip
    return Contrast(
        name=f"{quantity.name}_{high}_against_{low}", quantity=quantity.name, axis="family", high=high, low=low,
        label=f"Does a language last longer that shares more with those that stay: {quantity.label} in family {high} "
        f"against {low}?",
        where=where, **(judged if primary else {}),
    )  # fmt: skip


def _size(
    quantity: Quantity, family: str, where: dict[str, Any], *, primary: bool = True, within: bool = True
) -> Question:
    """`within`: whether there are other families."""
    judged: dict[str, Any] = {
        "primary": True, "prediction": "positive", "margin": 0.1,
        "reason": "an exponent of 0.1 is a factor of 1.26 for ten times the parameters: no plan for a larger model "
        "would change",
    }  # fmt: skip
    return Trend(
        name=f"{quantity.name}_by_size_{family}", quantity=quantity.name, axis="parameters", where=where,
        label=f"Does size change {quantity.label}{f' in family {family}' if within else ''}?",
        **(judged if primary else {}),
    )  # fmt: skip


def _saved(what: str, it: str, where: dict[str, Any]) -> Question:
    return Contrast(
        name="savings",
        label=f"Is {what} relearned faster than it is learned by a model that never saw it?",
        quantity=RELEARNING.name,
        high="treatment",
        low="absent",
        primary=True,
        prediction="negative",
        margin=FACTOR,
        reason=f"a quarter of the relearning saved is too little to say that {it} is still there",
        where=where,
    )
