"""Treatments: named functions Train -> Train. A study sweeps them by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from halflife.errors import UserError
from halflife.stages.train import Train
from halflife.training.losses import CrossEntropy
from halflife.training.penalties import L2SP


def _weight_decay(train: Train, value: float) -> Train:
    return replace(train, optimizer=replace(train.optimizer, weight_decay=value))


def _dropout(train: Train, value: float) -> Train:
    return replace(train, dropout=value)


def _label_smoothing(train: Train, value: float) -> Train:
    return replace(train, loss=CrossEntropy(label_smoothing=value))


def _l2sp(train: Train, value: float) -> Train:
    return replace(train, penalties=(*train.penalties, L2SP(strength=value)))


REGULARIZERS: dict[str, Callable[[Train, float], Train]] = {
    "weight-decay": _weight_decay,
    "dropout": _dropout,
    "label-smoothing": _label_smoothing,
    "l2sp": _l2sp,
}


def regularize(name: str) -> Callable[[Train], Train]:
    """The treatment called `name`: "none", or a regularizer and its strength such as "weight-decay-0.1".

    Several are joined by "+". Raises UserError when the name is none of these.
    """
    parts = [_parse(part) for part in name.split("+")] if name != "none" else []

    def treatment(train: Train) -> Train:
        for apply, value in parts:
            train = apply(train, value)
        return train

    return treatment


def _parse(name: str) -> tuple[Callable[[Train, float], Train], float]:
    kind, _, strength = name.rpartition("-")
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if kind not in REGULARIZERS or math.isnan(value):
        raise UserError(
            f"unknown regularizer {name!r}: expected none, or one of {', '.join(REGULARIZERS)} "
            "with its strength, such as weight-decay-0.1 (joined by + for several)"
        )
    most = math.inf if kind == "l2sp" else 1.0
    if not 0 <= value <= most or math.isinf(value):
        raise UserError(f"regularizer {name!r}: expected a strength from 0 to {most:g}, such as {kind}-0.1")
    return REGULARIZERS[kind], value
