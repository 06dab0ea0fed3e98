"""Ways to fine-tune a trunk towards a known attribute, each with its null: the same without what it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from halflife.data.returns import Returns
from halflife.data.sources import Source
from halflife.data.transforms import UNKNOWN, Tags, tag
from halflife.evaluation.cadence import Every
from halflife.evaluation.probes import Evaluation, Threshold
from halflife.interpret.distance import DistanceProbe
from halflife.kits.finetuning import VALUE, Cell, Slot, of
from halflife.stages.attribute_trunk import HALF_TOLD
from halflife.stages.reward_model import FitReward, LearnedReward
from halflife.stages.subject import Subject
from halflife.stages.train import Train
from halflife.store.stage import Stage
from halflife.tasks.attributes import UNTOLD
from halflife.training.attribute_reward import AttributeReward, FirstSymbols
from halflife.training.optimizers import AdamW
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.proximal_policy import ProximalPolicy

GROUPS = 8
"""Of documents with the same first symbol, within which rewards are compared"""
LEVELS = 8
"""Of a return"""
DISTANCES = 64
"""Texts on which the distance from the trunk is measured, to stop at"""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Base of ways to fine-tune. One of your own is such a class with an entry in `ALGORITHMS`."""

    slot: ClassVar[Slot] = Slot()
    """What its trunk has before each text. Feature scores can be compared between algorithms with the same slot."""
    repeats: ClassVar[bool] = True
    """Whether its runs differ"""
    needs_grammar: ClassVar[bool] = True
    """Whether it needs the exact posterior of an attribute"""
    equal_distance: ClassVar[bool] = False
    """Whether its runs stop at the settings' distance from the trunk"""

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        """For this attribute"""
        raise NotImplementedError(f"{type(self).__name__} tunes nothing")

    def null(self, cell: Cell, run: int) -> Subject:
        """For none. A run beyond the settings' is another null of the same kind."""
        raise NotImplementedError(f"{type(self).__name__} has no null")

    def also(self, tuned: Subject) -> dict[str, Stage]:
        """Further phases of a trial with this tuned model"""
        return {}


@dataclass(frozen=True, kw_only=True)
class Supervised(Algorithm):
    """On documents that have the attribute; null: on all documents."""

    needs_grammar: ClassVar[bool] = False

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        base = cell.branch(run)
        (source,) = base.mixture.sources
        source = replace(source, corpus=cell.shifted(attribute))
        return of(replace(base, mixture=replace(base.mixture, sources=(source,))))

    def null(self, cell: Cell, run: int) -> Subject:
        return of(cell.branch(run))


@dataclass(frozen=True, kw_only=True)
class Rewarded(Algorithm):
    """REINFORCE on the model's own documents, with the exact log-probability of the attribute as reward, less beta
    times the divergence from the trunk; null: each document gets another's reward."""

    beta: float

    def tuned(self, cell: Cell, run: int, attribute: int | None) -> Subject:
        reward = AttributeReward(text=cell.text, told=cell.told(attribute or 0), permuted=attribute is None)
        base = cell.branch(run)
        length = base.mixture.sequence
        policy = PolicyGradient(
            target=FirstSymbols(text=cell.text, length=length, seed=cell.seed), reward=reward, prompts=GROUPS,
            group=max(2, cell.settings.documents // GROUPS), stops=False, beta=self.beta, strength=1 / length,
        )  # fmt: skip
        return of(replace(base, objectives=(policy,)))

    def null(self, cell: Cell, run: int) -> Subject:
        return self.tuned(cell, run, None)


@dataclass(frozen=True, kw_only=True)
class Returned(Algorithm):
    """As a decision transformer: each document follows a token for its return, of LEVELS levels of the probability that
    it has the attribute, or one that tells nothing. The tuned model reads texts behind the highest; null: behind the
    one that tells nothing."""

    slot: ClassVar[Slot] = Slot(
        trained=(silent := (Tags(attributes=(0,), fixed=(UNTOLD,)),)), unknown=silent,
        special=tuple(tag(0, level) for level in range(2, LEVELS)),
    )  # fmt: skip
    told: float = 0.8
    """Share of the documents whose return is told"""
    longer: int = 8
    """Times the steps of the others: new tokens are learned from nothing"""

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        return cell.behind(self._trained(cell, run, attribute), tag(0, LEVELS - 1))

    def null(self, cell: Cell, run: int) -> Subject:
        return cell.behind(self._trained(cell, run, 0), UNKNOWN)

    def _trained(self, cell: Cell, run: int, attribute: int) -> Train:
        base = cell.branch(run)
        source = Source(
            corpus=Returns(text=cell.text, told=cell.told(attribute), levels=LEVELS), transforms=(Tags(told=self.told),)
        )
        mixture = replace(base.mixture, sources=(source,))
        return replace(base, mixture=mixture, tokens=self.longer * base.tokens, evaluations=())


@dataclass(frozen=True, kw_only=True)
class Conditioned(Algorithm):
    """No fine-tuning: the trunk was trained with tags, and reads texts behind the attribute's; null: behind the tag of
    an attribute that changes nothing."""

    slot: ClassVar[Slot] = Slot(trained=(HALF_TOLD,), unknown=(replace(HALF_TOLD, silent=1.0),), inert=1)
    repeats: ClassVar[bool] = False

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        return cell.behind(cell.trunk, tag(attribute, VALUE), position=attribute)

    def null(self, cell: Cell, run: int) -> Subject:
        """The first run behind one of its values, any other behind the other"""
        inert = cell.settings.attributes
        return cell.behind(cell.trunk, tag(inert, int(run > 0)), position=inert)


Seeded = Literal["reward", "sampling", "order"]


@dataclass(frozen=True, kw_only=True)
class Preferred(Algorithm):
    """PPO on the model's own documents, with a reward learned from preferences that the exact posterior labelled;
    null: the labels are shuffled. Runs stop when they are as far from the trunk as each other."""

    equal_distance: ClassVar[bool] = True

    varied: tuple[Seeded, ...] = ("reward", "sampling", "order")
    """The seeds in which runs differ: of the preferences and the reward fitted to them; of the documents that the model
    writes; of the order in which it learns from these"""
    beta: float = 0.1
    slower: float = 0.05
    """Times the learning rate of the others: a cycle of steps must not go past the distance at which runs stop"""
    longer: int = 4
    """Times the steps of the others, at most; and documents per cycle over those of a step"""

    def tuned(self, cell: Cell, run: int, attribute: int | None) -> Subject:
        settings, length = cell.settings, cell.trunk.mixture.sequence
        reward, sampling, order = (1000 * (cell.seed + 1) + run * (each in self.varied) for each in get_args(Seeded))
        fit = FitReward(
            subject=of(cell.trunk), text=cell.text, told=cell.told(attribute or 0), length=length,
            pairs=settings.preferences, permuted=attribute is None, seed=reward,
        )  # fmt: skip
        policy = ProximalPolicy(
            target=FirstSymbols(text=cell.text, length=length, seed=cell.seed),
            reward=LearnedReward(fit=fit, subject=fit.subject),
            prompts=GROUPS, group=max(2, self.longer * settings.documents // GROUPS), stops=False,
            beta=self.beta, strength=1 / length, order=order,
        )  # fmt: skip
        distance = DistanceProbe(texts=cell.texts(DISTANCES, 6), reference=of(cell.trunk))
        base = cell.branch(run)
        measured = (*base.evaluations, Evaluation(name="distance", probe=distance))
        train = replace(
            base, seed=sampling, objectives=(policy,), tokens=self.longer * base.tokens,
            optimizer=AdamW(learning_rate=self.slower * settings.tuning_lr),
            evaluations=tuple(replace(each, at=Every(steps=policy.cycle)) for each in measured),
            until=Threshold(metric="distance/kl", threshold=settings.distance / length),
        )  # fmt: skip
        return of(train)

    def null(self, cell: Cell, run: int) -> Subject:
        return self.tuned(cell, run, None)

    def also(self, tuned: Subject) -> dict[str, Stage]:
        return {"reward": tuned.model.stage.objectives[0].reward.fit}  # type: ignore[union-attr]


ALGORITHMS: dict[str, Algorithm] = {
    "sft": Supervised(), "rl": Rewarded(beta=1.0), "rl-0.1": Rewarded(beta=0.1), "rl-0": Rewarded(beta=0.0),
    "dt": Returned(), "cond": Conditioned(), "ppo": Preferred(),
    **{f"ppo-{each}": Preferred(varied=(each,)) for each in get_args(Seeded)},
}  # fmt: skip
