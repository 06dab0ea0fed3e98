"""Training towards another subject's predictions or activations."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from halflife.training.memory import divergence_bytes
from halflife.training.objective import Objective, ObjectiveSetting, Terms, Trained, check_strength


@dataclass(frozen=True, kw_only=True)
class Matching(Objective):
    """Adds strength times the distance to `teacher` on the batch's own tokens.

    Without sites, KL(teacher || model) in nats, a mean over the predicted tokens (distillation at temperature 1, arXiv
    1503.02531), logged as matching/kl. With sites, |a - t|^2 / |t|^2 of the model's and the teacher's activations a and
    t, a mean over all positions and sites (after FitNets, arXiv 1412.6550), logged as matching/mse: relative, so that
    strength has no unit, and for each position, since the first has by far the largest norm in many models. Logged
    without the strength; several of one form log their sum.

    The teacher is frozen and in evaluation mode.
    """

    teacher: Subject
    strength: float = 1.0
    sites: tuple[Site, ...] = ()

    def __post_init__(self) -> None:
        check_strength("matching", self.strength)
        if len(set(self.sites)) < len(self.sites):
            raise UserError(f"matching at {[site.name for site in self.sites]} given: expected each site once")

    def check(self, stage: Trained) -> None:
        theirs, ours, tokenizer = self.teacher.architecture, stage.architecture, stage.mixture.tokenizer
        if self.teacher.codec != tokenizer:
            raise UserError(
                f"matching a teacher with the tokenizer {self.teacher.codec}: expected the stage's, {tokenizer}"
            )
        longest = self.teacher.context_length
        if longest is not None and stage.mixture.sequence > longest:
            raise UserError(
                f"matching on sequences of {stage.mixture.sequence} tokens: the teacher reads at most {longest}; "
                "shorten them"
            )
        for site in self.sites:
            site.check(theirs)
            site.check(ours)
        if self.sites and theirs.width != ours.width:
            raise UserError(
                f"matching activations of {theirs.size}, {theirs.width} wide, by {ours.size}, {ours.width} wide: "
                "expected the same width; match the predictions, without sites"
            )
        own = vocabulary_of(tokenizer)
        if not self.sites and _logits(theirs, own) != _logits(ours, own):
            raise UserError(
                f"matching {_logits(theirs, own)} logits of {theirs.size} by {_logits(ours, own)} of {ours.size}: "
                "expected as many"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        return ("matching/mse",) if self.sites else ("matching/kl",)

    def step_tokens(self, stage: Trained) -> float:
        sequence, vocabulary = stage.mixture.sequence, vocabulary_of(stage.mixture.tokenizer)
        theirs, ours = (
            model.flops_per_token(sequence, vocabulary) for model in (self.teacher.architecture, stage.architecture)
        )
        return stage.batch_tokens / 3 * theirs / ours

    def memory_bytes(self, stage: Trained) -> float:
        return self.teacher.reading(0, stage.mixture.sequence).memory_bytes

    def token_bytes(self, stage: Trained) -> float:
        if self.sites:
            return 4.0 * 3 * len(self.sites) * stage.architecture.width  # the teacher's, the difference, its gradient
        return divergence_bytes(_logits(stage.architecture, vocabulary_of(stage.mixture.tokenizer)))

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        """Raises UserError when one of the models has no such site, or the teacher's checkpoint is corrupt."""
        from halflife.training.terms import matching_activations, matching_logits  # imports torch

        teacher = self.teacher.load(setting.context)
        if not self.sites:
            return Terms(on_batch=matching_logits(teacher, self.strength, "matching/kl"))
        for site in self.sites:
            teacher.hook_point(site)
            setting.model.hook_point(site)
        loss = matching_activations(teacher, self.sites, self.strength, "matching/mse")
        return Terms(on_batch=loss, sites=self.sites)


def _logits(model: Rung | Released, vocabulary: int) -> int:
    """Of a prediction; a released model may have more than its tokenizer has tokens."""
    return model.shape.vocabulary if isinstance(model, Released) else vocabulary
