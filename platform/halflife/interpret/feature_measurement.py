"""MeasureFeatures at work: stored activations, dictionaries and labels to points, and to what excites features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.data import codecs
from halflife.data.activations import ActivationBatches, Part, StoredActivations
from halflife.data.tokenizers import Codec
from halflife.interpret import feature_measures as measures
from halflife.interpret import sae_lens
from halflife.interpret.autoencoder import Autoencoder
from halflife.interpret.dictionary import Dictionary
from halflife.interpret.dictionary_fitting import scaled
from halflife.interpret.feature_effects import effects, same_effects
from halflife.interpret.feature_measures import Detectors, Spread, countable, f1, probed
from halflife.interpret.feature_recipe import FeatureRecipe
from halflife.models.sites import Site
from halflife.rng import generator
from halflife.store.stage import Context

SNIPPET, EXCITING = 16, 3
"""Tokens of a text that excites a feature, and the number of such texts"""


@dataclass(frozen=True)
class Sample:
    """Some tokens of stored activations."""

    u: Tensor
    """(sites, rows, width), normalised"""
    labels: Tensor
    """(rows, concepts), 0 or 1"""
    texts: NDArray[np.int64]
    """(rows,)"""
    columns: NDArray[np.int64]
    """(rows,): places in their texts"""


def measured(stage: FeatureRecipe, context: Context) -> dict[str, Any]:
    """A stage's points and its summary."""
    started = time.perf_counter()
    fit, sites = stage.fit, stage.fit.read_sites
    stored = stage.activations.open(context.parent(stage.activations), *sites)
    rows, _ = stage.activations.rows(context.results)
    codec = stage.activations.subject.codec
    labels = stage.concepts.labels(rows, codec, context.results)
    turns = fit.turns() if fit.turned else None

    def sample(part: Part) -> Sample:
        count = min(stage.rows, len(stored.layout.part(part)))
        found = ActivationBatches(stored, rows=count, key=(stage.seed, "features"), part=part).batch(0)
        columns = found.positions - stored.layout.first_position
        chosen = torch.from_numpy(labels[found.texts, columns]).to(context.device, torch.float32)
        return Sample(scaled(found, sites, context.device, turns), chosen, found.texts, columns)

    parts = sample("train"), sample("held-out")
    folder = context.parent(fit)
    points, present = described(sites, *parts)
    most: list[dict[str, Any]] = []
    for each in fit.dictionaries:
        at = {site: sae_lens.read(fit.folder(folder, each, site)).to(context.device) for site in sites}
        points |= specificities(each.name, at, *parts, present)
        if each in stage.followed:
            codes = encoded(at, parts[1].u)
            points |= {f"{each.name}/{name}": value for name, value in followed(codes, parts[1], stage).items()}
            points[f"{each.name}/persistence_random"] = measures.persistence(_fires(_random(each, parts[1].u, stage)))[
                0
            ]
            if stage.subject is not None:
                own, null = _effects(stage, context, stored, at, codes)
                points |= {f"{each.name}/same_effect": own, f"{each.name}/same_effect_permuted": null}
            most = most or exciting(
                codes, parts[1], rows, codecs.load(codec, context.results), stage.concepts.names, stage.shown
            )
    context.record(0, {name: value for name, value in points.items() if np.isfinite(value)})
    seconds = time.perf_counter() - started
    context.computing(seconds)
    return {"tokens": stage.rows, "seconds_training": seconds, "features": most}


def described(sites: Sequence[Site], first: Sample, other: Sample) -> tuple[dict[str, float], Tensor]:
    """Points about the streams themselves, and which concepts are present, (sites, concepts)."""
    points, present = {}, []
    enough = countable(first.labels, other.labels)
    for site, u, held_out in zip(sites, first.u, other.u, strict=True):
        told = probed(u, first.labels, held_out, other.labels)
        present.append(enough & (told >= measures.PRESENT))
        points |= {
            f"concepts.{site.name}/present": float(present[-1][enough].double().mean()),
            f"concepts.{site.name}/probe": float(told[enough].mean()),
            f"streams.{site.name}/participation": measures.participation(u),
        }
    points["concepts/present"] = float(torch.stack(present)[:, enough].double().mean())
    if len(sites) > 1:
        centred = other.u - other.u.mean(1, keepdim=True)
        cosine = torch.nn.functional.cosine_similarity(centred[1:], centred[:-1], dim=-1)
        points["streams/adjacent_cosine"] = float(cosine.mean())
    return points, torch.stack(present)


def specificities(
    name: str, at: Mapping[Site, Autoencoder], first: Sample, other: Sample, present: Tensor
) -> dict[str, float]:
    """Not a number where no concept is present."""
    points, scores = {}, []
    for number, (site, autoencoder) in enumerate(at.items()):
        signs = Detectors.chosen(_codes(autoencoder, first.u[number]), first.labels)
        found = signs.specificity(_codes(autoencoder, other.u[number]), other.labels)[present[number]]
        scores.append(found)
        points[f"{name}.{site.name}/specificity"] = float(found.mean())
    points[f"{name}/specificity"] = float(torch.cat(scores).mean())
    return points


def followed(codes: Tensor, sample: Sample, stage: FeatureRecipe) -> dict[str, float]:
    """One dictionary over all sites, from its activations (sites, rows, latents)."""
    fires, spread = _fires(codes), Spread.of(codes)
    own, permuted = measures.persistence(fires)
    points = {
        "persistence": own, "persistence_permuted": permuted, "site_entropy": spread.entropy,
        "single_site": spread.single, "within_token": spread.within,
    }  # fmt: skip
    for name, (same, null) in measures.meanings(fires, sample.labels, stage.least).items():
        points |= {f"same_{name}": same, f"same_{name}_permuted": null}
    return points


def encoded(at: Mapping[Site, Autoencoder], u: Tensor) -> Tensor:
    """(sites, rows, latents)"""
    return torch.stack([_codes(each, own) for each, own in zip(at.values(), u, strict=True)])


def _codes(autoencoder: Autoencoder, u: Tensor) -> Tensor:
    return autoencoder.codes(u)[0]


def _fires(codes: Tensor) -> Tensor:
    return (codes > 0).float()


def _random(dictionary: Dictionary, u: Tensor, stage: FeatureRecipe) -> Tensor:
    """What random directions of the same number, as sparse, are active for: with streams as alike from site to site as
    these, they persist too."""
    drawn = generator(stage.seed, "random features").standard_normal((dictionary.latents, u.shape[-1]))
    rows = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).to(u)
    random = Autoencoder(rows, rows.new_zeros(len(rows)), rows, u.mean((0, 1)), k=dictionary.sparsity.k)
    return torch.stack([_codes(random, own) for own in u])


def _effects(
    stage: FeatureRecipe, context: Context, stored: StoredActivations, at: Mapping[Site, Autoencoder], codes: Tensor
) -> tuple[float, float]:
    assert stage.subject is not None
    held_out, length = stored.layout.part("held-out"), stored.layout.length
    count = min(stage.texts, len(held_out) // length)
    tokens = stored.read(held_out.start + np.arange(count * length)).tokens.reshape(count, length)
    often = (codes > 0).sum((0, 1)).argsort(descending=True)[: stage.effects]
    found = effects(stage.subject.load(context), torch.from_numpy(tokens).to(context.device), at, often)
    return same_effects(found, max(1, stage.least // 10))


def exciting(
    codes: Tensor, sample: Sample, rows: NDArray[np.int64], codec: Codec, names: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """The features of the largest firing mass, by their mean site: JSON data, as the stage describes it."""
    spread = Spread.of(codes)
    order = spread.mass.argsort(descending=True)[:count]
    order = order[spread.mass[order] > 0]
    place = torch.arange(len(codes), device=codes.device, dtype=torch.float64)
    found = []
    for latent in order[(spread.share[order] @ place).argsort()].tolist():
        own = codes[..., latent]
        scores = f1(_fires(own).amax(0)[:, None], sample.labels)[0]
        best = int(scores.argmax())
        top = own.amax(0).topk(min(EXCITING, own.shape[1]))
        texts = [
            _snippet(rows[sample.texts[row]], int(sample.columns[row]), codec)
            for row, value in zip(top.indices.tolist(), top.values.tolist(), strict=True) if value > 0
        ]  # fmt: skip
        found.append({
            "latent": latent, "share": [round(each, 3) for each in spread.share[latent].tolist()],
            "mass": round(float(spread.mass[latent]), 4), "concept": names[best],
            "specificity": round(float(scores[best]), 3), "texts": list(dict.fromkeys(texts)),
        })  # fmt: skip
    return found


def _snippet(text: NDArray[np.int64], column: int, codec: Codec) -> str:
    before = codec.decode(text[max(0, column - SNIPPET + 1) : column])
    return f"{before}[{codec.decode(text[column : column + 1])}]".replace("\n", "⏎")
