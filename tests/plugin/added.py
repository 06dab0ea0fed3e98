"""What a user adds from outside the package: a probe, an edit, an objective and a kind of stage, one class each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.evaluation.probe import Measurement, Probe, Setting
from halflife.models.edit import Edit, Parents
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage
from halflife.training.objective import Objective, ObjectiveSetting, Terms


@dataclass(frozen=True, kw_only=True)
class FirstDirection(Probe):
    """The norm of the stream's first direction after block 1, on some letters."""

    letters: str

    def tokens_scored(self, sequence: int) -> float:
        return float(len(self.letters))

    def prepare(self, setting: Setting) -> Measurement:
        import torch

        tokens = torch.tensor([list(self.letters.encode())])
        return lambda model: {"norm": float(model.residuals(model.embed(tokens))[1][..., 0].norm())}


@dataclass(frozen=True, kw_only=True)
class Silenced(Edit):
    """The first directions of the stream are gone after block 1."""

    directions: int

    def prepare(self, parents: Parents) -> Callable[[Any], Any]:
        import torch

        from halflife.models.changes import ProjectOut
        from halflife.models.hooks import install

        def edit(model: Any) -> Any:
            width = model.embed.weight.shape[1]
            install(model, [(Site(layer=1), ProjectOut(torch.eye(width)[: self.directions]))])
            return model

        return edit


@dataclass(frozen=True, kw_only=True)
class ZLoss(Objective):
    """Adds strength (log Z)^2, a mean over predicted tokens, with Z the softmax's denominator (arXiv 2204.02311)."""

    strength: float

    @property
    def measures(self) -> tuple[str, ...]:
        return ("z-loss/loss",)

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        def loss(model: Any, batch: Any, step: int, seen: Any) -> Any:
            squares = seen.logits.float().logsumexp(-1).square()
            value = seen.mean((squares * (seen.targets >= 0)).sum())
            seen.log("z-loss/loss", value)
            return self.strength * value

        return Terms(on_batch=loss)


@dataclass(frozen=True, kw_only=True)
class CountParameters(Stage):
    """How many parameters of a subject are positive."""

    kind: ClassVar[str] = "count-parameters"

    subject: Subject

    @property
    def cost(self) -> Cost:
        return self.subject.reading(1.0, 1)

    def run(self, context: Context) -> dict[str, Any]:
        model = self.subject.load(context)
        positive = sum(int((parameter > 0).sum()) for parameter in model.parameters())
        context.record(0, {"positive/count": float(positive)})
        return {"tokens": 1.0, "positive": positive}
