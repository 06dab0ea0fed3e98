"""What `MeasureFeatures` measures, and on which text."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.errors import UserError
from halflife.interpret.concepts import Concepts
from halflife.interpret.dictionary import Dictionary
from halflife.interpret.fit_dictionary import FitDictionary, check_same
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """The fields of a `MeasureFeatures`."""

    fit: FitDictionary
    activations: Activations
    """The fit's own, or those of another model of the same shape, at the same sites"""
    concepts: Concepts
    followed: tuple[Dictionary, ...] = ()
    subject: Subject | None = None
    """In which the effects of features are measured"""
    rows: int = 8192
    """Tokens for choosing signs, and held-out tokens for scoring them, at most"""
    least: int = 50
    """Tokens for which a feature fires at each of two sites, if they are compared; for effects a tenth of it"""
    effects: int = 32
    """Features whose effects are measured: those that fire most"""
    texts: int = 16
    """Held-out texts on which they are measured"""
    shown: int = 24
    """Features in the summary"""
    seed: int = 0
    """Of the choice of tokens"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for each in self.followed:
            if each not in self.fit.dictionaries:
                known = ", ".join(own.name for own in self.fit.dictionaries)
                raise UserError(f"dictionary {each.name} to be followed given: the stage fits {known}")
            if not each.shared:
                raise UserError(f"dictionary {each.name} to be followed over sites given: expected a shared one")
        for name in ("rows", "least", "effects", "texts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} of features to measure given: expected at least 1")
        if lacking := [site for site in self.fit.read_sites if site not in self.activations.sites]:
            known = ", ".join(site.name for site in self.activations.sites)
            raise UserError(f"a dictionary of {lacking[0].name} given: activations are stored at {known}")
        if not self.activations.held_out:
            raise UserError("activations without held-out texts given: features are measured on them")
        for other in (self.activations.subject, self.subject):
            if other is not None:
                check_same(self.fit.activations.subject, other)
        if self.subject is not None and self.fit.turned:
            raise UserError("effects of dictionaries of turned activations given: they fit no model; leave out subject")
