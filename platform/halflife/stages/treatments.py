"""Treatments: named functions Train -> Train. A study sweeps them by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from halflife.data.mixture import Source
from halflife.errors import UserError
from halflife.stages.fisher import Fisher
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.training.objective import Objective
from halflife.training.objectives import EWC, KL, L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import Parameters, parameters_named

Treatment = Callable[[Train], Train]


# --- regularizers ---


def _weight_decay(train: Train, value: float) -> Train:
    return replace(train, optimizer=replace(train.optimizer, weight_decay=value))


def _coupled_weight_decay(train: Train, value: float) -> Train:
    if not isinstance(train.optimizer, AdamW):
        raise UserError(f"weight decay coupled to {type(train.optimizer).__name__}'s learning rates: only AdamW has it")
    return replace(train, optimizer=replace(train.optimizer, weight_decay=value, decay="coupled"))


def _dropout(train: Train, value: float) -> Train:
    return replace(train, dropout=value)


def _label_smoothing(train: Train, value: float) -> Train:
    objectives = (
        replace(objective, label_smoothing=value) if isinstance(objective, NextToken) else objective
        for objective in train.objectives
    )
    return replace(train, objectives=tuple(objectives))


def _gradient_noise(train: Train, value: float) -> Train:
    return replace(train, gradient_noise=value)


def _l2sp(train: Train, value: float) -> Train:
    return _with(train, L2SP(strength=value))


def _batch_tokens(train: Train, value: float) -> Train:
    return replace(train, batch_tokens=int(value))


def _rate(train: Train, value: float) -> Train:
    return replace(train, optimizer=replace(train.optimizer, learning_rate=value * train.optimizer.learning_rate))


def _tokens(train: Train, value: float) -> Train:
    return replace(train, tokens=round(value * train.tokens))


def _optimizer(kind: type[AdamW | SGD | Muon]) -> Callable[[Train, float], Train]:
    def apply(train: Train, value: float) -> Train:
        optimizer = kind(learning_rate=value, weight_decay=train.optimizer.weight_decay)
        start = train.start
        carried = not isinstance(start, Checkpoint) or isinstance(start.stage.optimizer, kind)
        return replace(train, optimizer=optimizer, optimizer_state=train.optimizer_state if carried else "reset")

    return apply


# --- interventions against forgetting ---


def dropped(train: Train) -> tuple[Source, ...]:
    """The sources that the start's stage trained on and this one does not."""
    return _lost(train, _before(train))


def replay(train: Train, before: tuple[Source, ...], fraction: float) -> Train:
    """The sources of `before`, the mixture before the drop, that `train` lacks get `fraction` of its sequences, split
    by their weights. The maximum is what they had, so at 1 nothing is dropped."""
    if not 0 <= fraction <= 1:
        raise UserError(f"replay {fraction}: expected a fraction of the sequences from 0 to 1, such as 0.01")
    return _again(train, before, min(fraction, _share(train, before)))


def anneal(train: Train, before: tuple[Source, ...], fraction: float) -> Train:
    """The sources of `before`, the mixture before the drop, that `train` lacks are dropped gradually: their share falls
    linearly to 0 over this first fraction of the stage (0: at once)."""
    if not 0 <= fraction <= 1:
        raise UserError(f"annealing over {fraction}: expected a fraction of the stage from 0 to 1, such as 0.25")
    return _again(train, before, _share(train, before), fade=fraction) if fraction else train


def _lost(train: Train, before: tuple[Source, ...]) -> tuple[Source, ...]:
    present = {source.content for source in train.mixture.sources}
    return tuple(source for source in before if source.content not in present)


def _share(train: Train, before: tuple[Source, ...]) -> float:
    """The dropped sources' fraction of the sequences before the drop."""
    return sum(source.weight for source in _lost(train, before)) / sum(source.weight for source in before)


def _again(train: Train, before: tuple[Source, ...], share: float, fade: float = 0.0) -> Train:
    """`train` with the lost sources back at their places, with this share of the sequences."""
    lost = _lost(train, before)
    if not lost or not share:
        return train
    if share == 1:
        raise UserError("all of the trunk's sources were dropped: expected a replay below 1, and no annealing")
    kept = sum(source.weight for source in train.mixture.sources)
    scale = share / (1 - share) * kept / sum(source.weight for source in lost)
    if math.isclose(scale, 1.0, rel_tol=1e-9):
        scale = 1.0  # nothing was dropped: the same weights to the bit, the same stage
    own = {source.content: source for source in train.mixture.sources}
    sources = [own.pop(s.content, None) or replace(s, weight=scale * s.weight, fade=fade) for s in before]
    return replace(train, mixture=replace(train.mixture, sources=(*sources, *own.values())))


def _replay(train: Train, value: float) -> Train:
    return replay(train, _before(train), value)


def _anneal(train: Train, value: float) -> Train:
    return anneal(train, _before(train), value)


def _ewc(train: Train, value: float) -> Train:
    """The Fisher is on the dropped sources; if nothing was dropped, on all sources of the start."""
    before = _start(train, "ewc").stage.mixture
    remembered = replace(before, sources=dropped(train) or before.sources, plantings=())
    fisher = Fisher(subject=Subject(model=_start(train, "ewc")), mixture=remembered, seed=train.seed)
    return _with(train, EWC(strength=value, fisher=fisher))


def _kl(train: Train, value: float) -> Train:
    return _with(train, KL(strength=value))


def _before(train: Train) -> tuple[Source, ...]:
    return _start(train, "replay or annealing").stage.mixture.sources


def _start(train: Train, name: str) -> Checkpoint:
    if not isinstance(train.start, Checkpoint):
        raise UserError(f"{name} in a stage that starts from no checkpoint: use it in branches")
    return train.start


def _with(train: Train, objective: Objective) -> Train:
    return replace(train, objectives=(*train.objectives, objective))


def _trains(parameters: Parameters) -> Treatment:
    """At a fork the optimizer state is reset, since it belongs to other parameters."""

    def apply(train: Train) -> Train:
        state = "reset" if isinstance(train.start, Checkpoint) else train.optimizer_state
        return replace(train, parameters=parameters, optimizer_state=state)

    return apply


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Treatments whose names end in a finite number, from `least` to `most`."""

    apply: Callable[[Train, float], Train]
    number: str = "strength"
    least: float = 0.0
    most: float = math.inf
    example: str = "0.1"
    order: int = 0
    """Of several treatments those of the lowest order are applied first, whatever the order of their names."""

    def value(self, text: str) -> float:
        """NaN if `text` is not a valid number of the kind."""
        try:
            value = float(text)
        except ValueError:
            return math.nan
        whole = value.is_integer() or not isinstance(self.least, int)
        return value if self.least <= value <= self.most and value < math.inf and whole else math.nan


TINY = 1e-12
"""Learning rates and multiples are above 0."""
_L2SP = Kind(apply=_l2sp)
REGULARIZERS: Mapping[str, Kind] = {
    "weight-decay": Kind(apply=_weight_decay),
    "weight-decay-coupled": Kind(apply=_coupled_weight_decay),
    "dropout": Kind(apply=_dropout, most=1.0),
    "label-smoothing": Kind(apply=_label_smoothing, most=1.0),
    "gradient-noise": Kind(apply=_gradient_noise),
    "l2sp": _L2SP,
    "batch-tokens": Kind(apply=_batch_tokens, number="whole number", least=1, example="4096"),
    "rate": Kind(apply=_rate, number="multiple", least=TINY),
    "tokens": Kind(apply=_tokens, number="multiple", least=TINY, example="2"),
    "adamw": Kind(apply=_optimizer(AdamW), number="learning rate", least=TINY, order=-1),
    "sgd": Kind(apply=_optimizer(SGD), number="learning rate", least=TINY, order=-1),
    "muon": Kind(apply=_optimizer(Muon), number="learning rate", least=TINY, order=-1),
}
"""Changes of a trunk's or a branch's training. rate and tokens multiply the stage's; an optimizer's number is its
learning rate."""
INTERVENTIONS: Mapping[str, Kind] = {
    "replay": Kind(apply=_replay, number="fraction", most=1.0, order=1),
    "anneal": Kind(apply=_anneal, number="fraction of the stage", most=1.0, order=1),
    "l2sp": _L2SP,
    "ewc": Kind(apply=_ewc),
    "kl": Kind(apply=_kl),
}
"""Changes after the drop that slow forgetting or drop gradually. What was dropped follows from the mixture of the stage
that the branch starts from. In addition: lora-RANK, frozen-embeddings, frozen-LAYERS."""
TREATMENTS: Mapping[str, Kind] = {**REGULARIZERS, **INTERVENTIONS}


def regularize(name: str) -> Treatment:
    """The treatment called `name`: "none", or a regularizer and its number such as "weight-decay-0.1".

    Several are joined by "+". Raises UserError when the name is none of these.
    """
    return _joined(name, "regularizer", REGULARIZERS)


def intervene(name: str) -> Treatment:
    """As `regularize`, with interventions: "replay-0.01", "ewc-1", "lora-8", "frozen-embeddings", "kl-1+rate-0.5"."""
    return _joined(name, "intervention", TREATMENTS)


def _joined(name: str, word: str, kinds: Mapping[str, Kind]) -> Treatment:
    names = name.split("+") if name != "none" else []
    if sum(part.startswith(("replay-", "anneal-")) for part in names) > 1:
        raise UserError(f"{word} {name!r}: expected one of replay and anneal, since each defines what follows the drop")
    parts = sorted((_parse(part, word, kinds) for part in names), key=lambda part: part[0])

    def treatment(train: Train) -> Train:
        for _, apply in parts:
            train = apply(train)
        return train

    return treatment


def _parse(name: str, word: str, kinds: Mapping[str, Kind]) -> tuple[int, Treatment]:
    """The order and the treatment of one name."""
    if kinds is TREATMENTS and name.startswith(("lora-", "frozen-")):
        return 0, _trains(parameters_named(name))
    stem, _, number = name.rpartition("-")
    try:
        float(number)
        kind = kinds[stem]
    except (ValueError, KeyError):
        raise UserError(
            f"unknown {word} {name!r}: expected none, or one of {', '.join(kinds)} "
            "with its number, such as weight-decay-0.1 (joined by + for several)"
        ) from None
    value = kind.value(number)
    if math.isnan(value):
        least = f"of at least {kind.least:g}" if kind.least != TINY else "above 0"
        span = least if kind.most == math.inf else f"from {kind.least:g} to {kind.most:g}"
        raise UserError(f"{word} {name!r}: expected a {kind.number} {span}, such as {stem}-{kind.example}")
    return kind.order, lambda train: kind.apply(train, value)
