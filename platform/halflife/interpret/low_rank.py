"""An objective that presses streams into few dimensions, without a dictionary: the control of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from halflife.errors import UserError
from halflife.models.sites import Site
from halflife.training.objective import Objective, ObjectiveSetting, Terms, Trained, check_strength

if TYPE_CHECKING:
    from torch import Tensor

    from halflife.training.seen import Seen


@dataclass(frozen=True, kw_only=True)
class LowRank(Objective):
    """Adds strength times the mean over sites of the fraction of variance that the `rank` largest principal components
    of a batch's vectors, in units of their own scale, leave unexplained. Logs it as low-rank/fvu."""

    once: ClassVar[bool] = True

    sites: tuple[Site, ...]
    rank: int
    strength: float

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        check_strength("low rank", self.strength)
        if self.rank < 1 or not self.sites:
            raise UserError(f"rank {self.rank} at {len(self.sites)} sites given: expected at least 1 of each")

    def check(self, stage: Trained) -> None:
        for site in self.sites:
            site.check(stage.architecture)
        if self.rank >= stage.architecture.width:
            raise UserError(
                f"rank {self.rank} given: {stage.architecture.size} is {stage.architecture.width} wide; expected less"
            )

    def token_bytes(self, stage: Trained) -> float:
        return 12.0 * len(self.sites) * stage.architecture.width

    @property
    def measures(self) -> tuple[str, ...]:
        return ("low-rank/fvu",)

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        import torch  # descriptions import none

        from halflife.interpret.autoencoder import Normal

        def on_batch(model: Any, batch: Any, step: int, seen: Seen) -> Tensor:
            found = torch.stack([seen.activations[site].float().flatten(0, 1) for site in self.sites])
            u = Normal.of(found).values
            centred = u - u.mean(1, keepdim=True)
            values = torch.linalg.eigvalsh(centred.mT @ centred)  # ascending
            fvu = (values[:, : -self.rank].sum(1) / values.sum(1)).mean() * seen.share
            seen.log("low-rank/fvu", fvu)
            return self.strength * fvu

        return Terms(on_batch=on_batch, sites=self.sites)
