"""The probe of the loss on text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halflife.data.corpus import Corpus
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.probe import Measurement, Probe, Setting
from halflife.rng import generator
from halflife.tasks.behaviours import Split


@dataclass(frozen=True, kw_only=True)
class LossProbe(Probe):
    """Cross-entropy on clean text: measures `loss` (nats per token) and `tokens`."""

    corpus: Corpus
    split: Split = "validation"
    sequences: int = 64
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        return self.sequences * sequence

    def prepare(self, setting: Setting) -> Measurement:
        import torch  # only where a model is measured

        from halflife.evaluation.scoring import mean_loss

        tokens = token_array(setting.results, self.corpus, self.split, setting.tokenizer)
        length = setting.sequence + 1
        windows = len(tokens) // length
        if not windows:
            raise UserError(
                f"sequence of {setting.sequence} tokens given: the {self.split} split of "
                f"{self.corpus.label or self.corpus.digest} has {len(tokens)}; shorten the sequence"
            )
        rng = generator(self.seed, "loss probe", self.split)
        starts = length * np.sort(rng.permutation(windows)[: self.sequences])  # all windows of a small split
        rows = torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))
        rows = rows.to(setting.device)
        count = float(rows[:, 1:].numel())
        return lambda model: {"loss": mean_loss(model, rows), "tokens": count}
