"""Distances between the next-token distributions of two subjects, or of one and the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.probe import Measurement, Probe, Setting
from halflife.evaluation.texts import Texts
from halflife.stages.subject import Subject


@dataclass(frozen=True, kw_only=True)
class DistanceProbe(Probe):
    """How far are a model's predictions from those of `reference`? Measures `kl`, the mean of KL(reference || model) in
    nats a token, `tv`, the mean total variation (from 0 to 1), and `tokens`.

    With `each`, also at every position: the evaluation `x` has the tasks `x` and `x-at-<position>`, from 0 on.
    """

    engines: ClassVar[tuple[str, ...]] = ("torch",)

    texts: Texts
    reference: Subject | None = None
    """None: the exact distribution, which `texts` must have"""
    first: int = 0
    """Predictions after earlier positions are left out."""
    each: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.texts.length:
            raise UserError(f"distances from position {self.first} on given: the texts have {self.texts.length}")

    def tokens_scored(self, sequence: int) -> float:
        return float(self.texts.count * self.texts.length * (2 if self.reference else 1))

    def memory_bytes(self) -> float:
        return self.reference.reading(0, self.texts.length).memory_bytes if self.reference else 0.0

    def prepare(self, setting: Setting) -> Measurement:
        """Raises UserError when the texts are longer than the model reads, have no exact distribution, or the
        reference has another tokenizer."""
        from halflife.interpret.distributions import distances, exact, predicted  # imports torch

        if self.texts.length > setting.sequence:
            raise UserError(
                f"texts of {self.texts.length} tokens given: the model reads {setting.sequence}; shorten them"
            )
        rows = self.texts.rows(setting.tokenizer, setting.results)
        if self.reference is None:
            table = self.texts.conditional(rows, setting.tokenizer, setting.results)
            if table is None:
                raise UserError("distances to the exact distribution given: these texts have none; give a reference")
            if unknown := np.flatnonzero(np.isnan(table[:, self.first :]).any((0, 2))).tolist():
                raise UserError(
                    f"distances from position {self.first} on given: the exact distribution is unknown after position "
                    f"{self.first + unknown[-1]}; begin later, or shorten the texts"
                )
            reference = exact(
                np.nan_to_num(table), max(table.shape[2], vocabulary_of(setting.tokenizer)), setting.device
            )
        else:
            if self.reference.codec != setting.tokenizer:
                raise UserError("distances to a subject with another tokenizer given: expected the same")
            reference = predicted(self.reference.load(setting), rows, setting.device)

        def measure(model: Any) -> dict[str, float]:
            kl, tv = distances(model, rows, reference, setting.device)
            kl, tv = kl[:, self.first :], tv[:, self.first :]
            found = {"kl": float(kl.mean()), "tv": float(tv.mean()), "tokens": float(kl.size)}
            for position, (one, other) in enumerate(zip(kl.T, tv.T, strict=True), self.first) if self.each else ():
                found |= {f"at-{position}/kl": float(one.mean()), f"at-{position}/tv": float(other.mean())}
            return found

        return measure
