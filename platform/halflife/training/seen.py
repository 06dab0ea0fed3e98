"""What one step of training has computed, shared by its objectives and companions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from halflife.models.model import Model
from halflife.models.sites import Site


@dataclass
class Metrics:
    """Values that objectives log. Reading one waits for the device, so they stay there until they are needed."""

    values: dict[str, Tensor] = field(default_factory=dict)
    """By metric; scalars"""

    def log(self, metric: str, value: Tensor) -> None:
        """Add to a metric `<task>/<measure>` of this step: a microbatch logs its share of the step's mean."""
        value = value.detach().float()
        self.values[metric] = self.values[metric] + value if metric in self.values else value


@dataclass
class Seen(Metrics):
    """The forward pass over some rows of a batch."""

    logits: Tensor = field(kw_only=True)
    """(rows, n, vocabulary), with the graph: at all positions, or as (1, predicted, vocabulary) at the predicted ones
    of all rows"""
    targets: Tensor = field(kw_only=True)
    """(rows, n) int64, in the same arrangement; negative where not predicted"""
    predicted: Tensor | int = field(kw_only=True)
    """Number of predicted tokens of the global batch"""
    share: float = field(kw_only=True)
    """Of these rows in the global batch"""
    activations: Mapping[Site, Tensor] = field(kw_only=True)
    """(rows, sequence, width), with the graph, at the sites that were requested"""
    predict: Callable[[Model], Tensor] = field(kw_only=True)
    """Another model's logits on the same rows, arranged as `logits`, in the stage's precision"""

    def mean(self, total: Tensor) -> Tensor:
        """From a sum over these rows' predicted tokens to their share of the mean over the global batch."""
        return total / self.predicted
