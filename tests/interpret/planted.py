"""Planted streams: vectors that are sums of a few of known directions, as stored activations without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from halflife.data import activations
from halflife.data.activations import Index, Layout, StoredActivations
from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Bytes
from halflife.evaluation.texts import CorpusTexts
from halflife.interpret.autoencoder import Autoencoder
from halflife.interpret.dictionary import Dictionary, TopK
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject
from halflife.training.schedules import Schedule

RUNG = Rung(size="20k")
DEEP = Rung(size="30k", depth=4)
WIDTH, LENGTH, DIRECTIONS, ACTIVE = RUNG.width, 16, 32, 3
SITES = tuple(Site(layer=layer) for layer in (1, 2))


def directions(seed: int = 0) -> NDArray[np.float32]:
    """(DIRECTIONS, WIDTH), of unit norm."""
    drawn = np.random.default_rng(seed).standard_normal((DIRECTIONS, WIDTH))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def rotation(seed: int) -> NDArray[np.float32]:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)


def streams(count: int, rotations: list[NDArray[np.float32]], seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """By site (count, LENGTH, WIDTH): the same sums of ACTIVE directions at each, turned by the site's rotation, and
    growing with depth."""
    rng = np.random.default_rng(seed)
    which = np.argsort(rng.random((count * LENGTH, DIRECTIONS)), axis=1)[:, :ACTIVE]
    size = rng.uniform(0.5, 1.5, (count * LENGTH, ACTIVE, 1))
    sums = (size * directions()[which]).sum(1).reshape(count, LENGTH, WIDTH)
    return {
        site.name: (2.0**number * sums @ turned).astype(np.float32)
        for number, (site, turned) in enumerate(zip(SITES, rotations, strict=True))
    }


def blocks(
    count: int, sites: Sequence[Site], rotations: Sequence[NDArray[np.float32]], turned: int = DIRECTIONS, seed: int = 1
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """By site (count, LENGTH, WIDTH): the same sums of ACTIVE directions at each, of which the first `turned` are
    turned by the site's rotation; and which directions are active, (count, LENGTH, DIRECTIONS)."""
    rng = np.random.default_rng(seed)
    which = np.argsort(rng.random((count, LENGTH, DIRECTIONS)), axis=-1) < ACTIVE
    sizes = (which * rng.uniform(0.5, 1.5, which.shape)).astype(np.float32)
    own = directions()
    found = {}
    for site, rotation_ in zip(sites, rotations, strict=True):
        at = np.concatenate([own[:turned] @ rotation_, own[turned:]])
        found[site.name] = sizes @ at
    return found, which


def stored(folder: Path, vectors: dict[str, NDArray[np.float32]], training_texts: int) -> StoredActivations:
    texts, length, width = next(iter(vectors.values())).shape
    layout = Layout(
        sites=tuple(vectors), width=width, length=length, texts=texts, training_texts=training_texts,
        pass_texts=texts, shard_texts=texts, stored="fp32",
    )  # fmt: skip
    folder.mkdir(parents=True)
    index = Index.empty(layout)
    tokens = np.zeros((texts, length), np.uint32)
    activations.append(folder, 0, texts, {activations.TOKENS: tokens, **vectors}, index.files)
    for site, found in vectors.items():
        train = found[:training_texts].reshape(-1, width).astype(np.float64)
        index.sums[site], index.squares[site] = train.sum(0), float((train**2).sum())
    index.write(folder)
    return StoredActivations(folder)


def stage(
    *dictionaries: Dictionary, rung: Rung = RUNG, layers: tuple[Site, ...] = SITES, **changes: Any
) -> FitDictionary:
    """A fit of planted streams, which no stage has stored."""
    texts = CorpusTexts(corpus=Corpus(digest="planted"), count=10, length=LENGTH)
    given = Activations(subject=Subject(model=rung, tokenizer=Bytes()), texts=texts, sites=layers)
    given_fields: dict[str, Any] = {
        "activations": given, "rows": 512, "steps": 300, "learning_rate": 5e-3, "dead_after": 20_000,
        "schedule": Schedule(shape="wsd", warmup=0.05, decay=0.3),
    }  # fmt: skip
    return FitDictionary(dictionaries=dictionaries or (PLAIN,), **{**given_fields, **changes})


PLAIN = Dictionary(latents=DIRECTIONS, sparsity=TopK(k=ACTIVE))


def matched(dictionary: Autoencoder, truth: NDArray[np.float32]) -> tuple[float, Tensor]:
    """The mean cosine of the true directions with the latents matched one to one (MCC), and these latents."""
    cosines = truth @ dictionary.decoder.cpu().numpy().T
    rows, columns = linear_sum_assignment(-cosines)
    return float(cosines[rows, columns].mean()), torch.from_numpy(columns)
