"""What an attribution is of, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.evaluation.texts import Texts
from halflife.interpret.attribution_losses import ChangeLoss, Divergence, DotProduct
from halflife.interpret.attribution_truth import Properties
from halflife.interpret.dictionary_edits import Learned
from halflife.models.sites import Site
from halflife.stages.subject import Subject

FILE = "attribution.safetensors"
EDITED = ("everywhere", "active")
"""Ways in which features are moved by an edit of any text"""


@dataclass(frozen=True, kw_only=True)
class AttributionRecipe:
    """The fields of an `attribution.Attribute`."""

    subject: Subject
    tuned: Subject
    null: Subject | None = None
    """After the same training without what it is for. Any further training moves a model."""
    dictionaries: tuple[Learned, ...]
    """Of the subject's stream"""
    site: Site
    texts: Texts
    """Half of them for edits' factors"""
    properties: Properties | None = None
    """What latents may stand for; the first is what fine-tuning was for."""
    property_texts: Texts | None = None
    """On which it is measured what latents stand for; by default `texts`. What a text is about hardly changes within
    it, so hundreds of texts are needed, not thousands of tokens."""
    intended: Texts | None = None
    """The same texts, as far as their tokens go, with the exact distribution that fine-tuning was to reach"""
    losses: tuple[ChangeLoss, ...] = (DotProduct(), Divergence())
    counts: tuple[int, ...] = (1, 2, 5, 10)
    """Of top latents that are edited together"""
    draws: int = 8
    """Backward passes from random directions, by which the lengths of latents' effects are known"""
    random_sets: int = 8
    """Of latents, for each count"""
    path: int = 0
    """Points of integrated gradients for the way "change"; 0: the gradient at the subject"""
    planted: int = 16
    planted_size: float = 0.05
    """Of a latent's activation, or of the mean one of those of all tokens where it is active"""
    least: float = 0.005
    """Share of the tokens for which a latent is active, to be ranked"""
    first: int = 0
    """Predictions after earlier positions are left out."""
    seed: int = 0
