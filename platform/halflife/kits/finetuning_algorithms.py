"""Ways to fine-tune a trunk towards a known attribute, each with its null: the same without what it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from halflife.data.returns import Returns
from halflife.data.sources import Source
from halflife.data.transforms import UNKNOWN, Tags, tag
from halflife.kits.finetuning import VALUE, Cell, Slot, of
from halflife.stages.attribute_trunk import HALF_TOLD
from halflife.stages.subject import Subject
from halflife.stages.train import Train
from halflife.tasks.attributes import UNTOLD
from halflife.training.attribute_reward import AttributeReward, FirstSymbols
from halflife.training.policy_gradient import PolicyGradient

GROUPS = 8
"""Of documents with the same first symbol, within which rewards are compared"""
LEVELS = 8
"""Of a return"""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Base of ways to fine-tune. One of your own is such a class with an entry in `ALGORITHMS`."""

    slot: ClassVar[Slot] = Slot()
    """What its trunk has before each text. Feature scores can be compared between algorithms with the same slot."""
    repeats: ClassVar[bool] = True
    """Whether its runs differ"""

    @property
    def text(self) -> str:
        """What it does, for people"""
        raise NotImplementedError(f"{type(self).__name__} says not what it does")

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        """For this attribute"""
        raise NotImplementedError(f"{type(self).__name__} tunes nothing")

    def null(self, cell: Cell, run: int) -> Subject:
        """For none. A run beyond the settings' is another null of the same kind."""
        raise NotImplementedError(f"{type(self).__name__} has no null")


@dataclass(frozen=True, kw_only=True)
class Supervised(Algorithm):
    """On documents that have the attribute; null: on all documents."""

    @property
    def text(self) -> str:
        return "supervised, on documents that have the attribute"

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

    @property
    def text(self) -> str:
        return f"by reward, at KL strength {self.beta:g}"

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

    @property
    def text(self) -> str:
        return f"on documents behind one of {LEVELS} return tokens, read behind the highest"

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

    @property
    def text(self) -> str:
        return "not tuned: a model trained with tags, behind the attribute's tag"

    def tuned(self, cell: Cell, run: int, attribute: int) -> Subject:
        return cell.behind(cell.trunk, tag(attribute, VALUE), position=attribute)

    def null(self, cell: Cell, run: int) -> Subject:
        """Every second run behind its other value"""
        inert = cell.settings.attributes
        return cell.behind(cell.trunk, tag(inert, run % 2), position=inert)


ALGORITHMS: dict[str, Algorithm] = {
    "sft": Supervised(), "rl": Rewarded(beta=1.0), "rl-0.1": Rewarded(beta=0.1), "rl-0": Rewarded(beta=0.0),
    "dt": Returned(), "cond": Conditioned(),
}  # fmt: skip
