"""The linear probe of every layer."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.data.codecs import load
from halflife.evaluation.probe import Measurement, Probe, Setting
from halflife.tasks.synthetic import PARTS, SyntheticTask


@dataclass(frozen=True, kw_only=True)
class LayerProbe(Probe):
    """Can a linear map read the answer from the residual stream at the prompt's last token? One result per layer: the
    evaluation `layer` has the tasks `layer-0` (the embedding) to `layer-<depth>` (the input of the head), with measures
    `hits`, `trials`, `chance` and `control`: the hits of the same map fitted to shuffled answers (a control task after
    Hewitt and Liang, arXiv 1909.03368; at chance unless the map itself memorises).

    Ridge regression onto the answer's characters, with its penalty chosen by leave-one-out, fitted on memorised items
    and scored on held-out ones. A task without held-out items is cross-validated on its memorised items.
    """

    tasks: tuple[SyntheticTask, ...]
    trials: int = 128
    """Items of each task, at most."""
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        items = (example for task in self.tasks for part in PARTS for example in task.examples(part))
        return float(sum(min(sequence, len(example.prompt)) for example in items))

    def prepare(self, setting: Setting) -> Measurement:
        from halflife.evaluation.layers import layer_measure  # imports torch

        codec = load(setting.tokenizer, setting.results)
        return layer_measure(self.tasks, self.trials, self.seed, codec, setting.sequence, setting.device)
