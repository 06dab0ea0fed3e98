"""Storing activations, from the texts to the last checksum, beside the bare forward pass over the same texts.

In CPU time of all threads, though shards are written while the next is computed: the least that a machine with one
core reaches. Interleaved.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from halflife.data.corpus import prepare_corpus
from halflife.data.tokenizers import Bytes
from halflife.evaluation.scoring import evaluating
from halflife.evaluation.texts import CorpusTexts
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds
from tests.training.fakes import Host

LEAST = 0.8
SIZES = {"100k": 2048, "1m": 384}
"""Texts of 128 tokens, a second or two of forward passes"""
LENGTH = 128


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return [figure for size in SIZES for figure in _figures(size, count, Path(folder))]


def _figures(size: str, count: int, results: Path) -> list[Figure]:
    texts = CorpusTexts(
        corpus=prepare_corpus("python-source", results), split="train", count=SIZES[size], length=LENGTH
    )
    one = Activations(subject=Subject(model=Rung(size=size), tokenizer=Bytes()), texts=texts, sites=(Site(layer=1),))
    stages = {
        "one site": one,
        "three sites": replace(one, sites=(*one.sites, Site(layer=2), Site(layer=2, part="mlp"))),
    }
    found: dict[str, list[float]] = {name: [] for name in ("bare", *stages)}
    contenders = {"bare": _bare(one, results), **{name: _stored(stage, results) for name, stage in stages.items()}}
    for each in rounds(contenders, count):
        for name, speed in each.items():
            found[name].append(speed)
    result = []
    for name in stages:
        share = ratio(found[name], found["bare"])
        result.append(
            Figure(
                name=f"{size}: activations stored at {name}, of the forward pass", value=share.median, unit="x speed",
                target=f">= {LEAST}", reached=share.median >= LEAST, low=share.low, high=share.high,
            )
        )  # fmt: skip
    return result


def _bare(stage: Activations, results: Path) -> Callable[[], float]:
    """Tokens per second."""
    model = stage.subject.load(Host(results))
    tokens = torch.from_numpy(stage.texts.rows(stage.subject.codec, results))
    parts = tokens.split(stage.layout(0).pass_texts)

    def turn() -> float:
        began = time.process_time()
        with evaluating(model):
            for part in parts:
                model.hidden(model.embed(part))
        return stage.tokens / (time.process_time() - began)

    return turn


def _stored(stage: Activations, results: Path) -> Callable[[], float]:
    def turn() -> float:
        host = Host(results / "stored")
        host.results = results
        host.checkpoint_seconds = 20.0
        host.folder.mkdir()
        began = time.process_time()
        stage.run(host)
        spent = time.process_time() - began
        shutil.rmtree(host.folder)
        return stage.tokens / spent

    return turn
