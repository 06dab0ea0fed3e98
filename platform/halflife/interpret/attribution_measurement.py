"""Attribute at work: models, texts and dictionaries to points and files."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.interpret.attribution_edits import (
    Effect,
    Reproduction,
    Transfer,
    alignment,
    correlations,
    cosine,
    matched,
    reliability,
)
from halflife.interpret.attribution_losses import centred
from halflife.interpret.attribution_recipe import EDITED, FILE, AttributionRecipe
from halflife.interpret.attribution_scores import Attribution, MovedFeatures, Predictions, attributed, split
from halflife.interpret.autoencoder import Autoencoder
from halflife.models.changes import Add, Replace
from halflife.rng import seed_of
from halflife.store.stage import Context

Points = dict[str, float]
SHOWN = 200
"""Latents of the summary, at most"""


def measured(stage: AttributionRecipe, context: Context) -> dict[str, Any]:
    """A stage's points and its summary."""
    started = time.perf_counter()
    work = _Work(stage, context)
    points = work.change()
    found = work.attribution()
    truth = work.truth()
    for number, (own, known) in enumerate(zip(found, truth, strict=True)):
        name = f"d{number}"
        points |= {f"{name}/live": float(work.live(own).sum())}
        points |= {f"{name}/{key}": value for key, value in work.transferred(own, work.dictionaries[number]).items()}
        points |= {f"{name}.{key}": value for key, value in work.scored(own, known).items()}
        points |= {f"{name}.{key}": value for key, value in work.edited(own, work.dictionaries[number]).items()}
    points |= work.planted(found[0])
    context.record(0, {name: value for name, value in points.items() if math.isfinite(value)})
    work.save(found)
    seconds = time.perf_counter() - started
    context.computing(seconds)
    rows, length = work.texts.shape
    return {"tokens": rows * length, "seconds_training": seconds, "latents": work.table(found[0], truth[0])}


class _Work:
    def __init__(self, stage: AttributionRecipe, context: Context) -> None:
        self.stage, self.context = stage, context
        rows = stage.texts.rows(stage.subject.codec, context.results)
        self.texts = torch.from_numpy(rows).to(context.device)
        self.compared = torch.from_numpy(np.unique(rows[:, stage.first :])).to(context.device)
        base, tuned = stage.subject.load(context), stage.tuned.load(context)
        null = None if stage.null is None else stage.null.load(context)
        self.base, self.tuned = self.predictions(base), self.predictions(tuned)
        self.null = None if null is None else self.predictions(null)
        self.dictionaries = [each.load(context, stage.site).to(context.device) for each in stage.dictionaries]
        self.random = torch.Generator().manual_seed(seed_of(stage.seed, "attribution") % 2**63)
        half = len(rows) // 2
        self.reproduction = Reproduction(
            self.base, self.tuned, self.null, self.texts[:half], self.texts[half:], self._intended(rows)[half:]
            if stage.intended is not None else None,
        )  # fmt: skip

    def predictions(self, model: Any, *changes: Any) -> Predictions:
        return Predictions(model, self.stage.site, self.compared, self.stage.first, changes)

    def _intended(self, rows: Any) -> Tensor:
        """log p(next | text, what fine-tuning is for) - log p(next | text) of the compared tokens, centred; 0 where
        it is not known: (texts, positions, compared)."""
        stage, codec, results = self.stage, self.stage.subject.codec, self.context.results
        assert stage.intended is not None
        tables = [each.conditional(rows, codec, results) for each in (stage.intended, stage.texts)]
        columns = self.compared.cpu().numpy()
        wanted, usual = (torch.from_numpy(table[:, stage.first :, columns]) for table in tables if table is not None)
        known = ((wanted > 0) & (usual > 0)).all(-1, keepdim=True)
        return torch.where(known, centred(wanted.log() - usual.log()), 0).float().to(self.texts.device)

    def change(self) -> Points:
        """What fine-tuning did, whatever features it used."""
        b, (fit, held_out) = self.reproduction.change(), (self.reproduction.fit, self.reproduction.held_out)
        size = b.square().sum().clamp(min=1e-30)
        with torch.no_grad():
            p, q = (each(held_out).log_softmax(-1) for each in (self.tuned, self.base))
            other = self.null or self.base
            put_in = [self.base(held_out, Replace(each.stream(held_out))) for each in (self.tuned, other)]
            vector = (self.tuned.stream(fit) - other.stream(fit)).mean((0, 1))
        left = (b - centred(put_in[0] - put_in[1])).square().sum() / size
        points = {
            "change/size": float(size / b[..., 0].numel()), "change/kl": float((p.exp() * (p - q)).sum(-1).mean()),
            "change/unconditional": float(b.mean((0, 1)).square().sum() * b[..., 0].numel() / size),
            "change/outside": float(left),
        }  # fmt: skip
        if self.reproduction.intended is not None:
            points["change/intended"] = cosine(b, self.reproduction.intended)
        if float(vector.norm()) == 0:
            return points
        return points | _effects("mean-difference", self.reproduction.effect(partial(Add, vector)))

    def attribution(self) -> list[Attribution]:
        rows, length = self.texts.shape
        stage, started = self.stage, time.perf_counter()

        def report(done: int) -> None:
            tokens = done * length
            self.context.progress(tokens, rows * length, tokens / (time.perf_counter() - started))

        return attributed(
            self.base, self.tuned, self.null, self.texts, self.dictionaries, stage.losses, draws=stage.draws,
            chunk=self._chunk, random=self.random, path=stage.path, on_text=report,
        )  # fmt: skip

    @property
    def _chunk(self) -> int:
        return max(1, SCORED_TOKENS // 4 // self.texts.shape[1])

    def live(self, found: Attribution) -> Tensor:
        return found.frequency >= self.stage.least

    def transferred(self, found: Attribution, dictionary: Autoencoder) -> Points:
        parts = (self.reproduction.fit, self.reproduction.held_out)
        base, tuned = ([each.stream(texts) for texts in parts] for each in (self.base, self.tuned))
        seen = Transfer.of(dictionary, (base[0], base[1]), (tuned[0], tuned[1]), self.live(found))
        names = {"fvu": seen.own, "fvu_tuned": seen.tuned, "fvu_mapped": seen.mapped, "collapsed": seen.collapsed}
        return names if self.live(found).any() else {}

    def truth(self) -> list[Tensor | None]:
        """(latents, properties) for each dictionary."""
        if self.stage.properties is None:
            return [None] * len(self.dictionaries)
        texts, codec = self.stage.property_texts or self.stage.texts, self.stage.subject.codec
        rows = texts.rows(codec, self.context.results)
        values = self.stage.properties.values(rows, codec, self.context.results)[:, self.stage.first :]
        known = torch.from_numpy(values).to(self.texts.device).flatten(0, 1)
        streams = [self.base.stream(part)[:, self.stage.first :] for part in
                   torch.from_numpy(rows).to(self.texts.device).split(self._chunk)]  # fmt: skip
        return [
            correlations(torch.cat([split(each, part)[0].flatten(0, 1) for part in streams]), known)
            for each in self.dictionaries
        ]

    def scored(self, found: Attribution, truth: Tensor | None) -> Points:
        """At `<loss>.<way>`."""
        live, points = self.live(found), {}
        for (loss, way), scores in found.scores.items():
            name = f"{loss}.{way}"
            points[f"{name}/reliability"] = reliability(scores, live)
            if truth is None or int(live.sum()) < 3:
                continue
            known, lengths = truth[live], scores.squares[live].sqrt().clamp(min=1e-30)
            all_of = alignment(scores.cosine[live], known)
            points |= {
                f"{name}/alignment": float(all_of[0]),
                f"{name}/alignment_raw": float(alignment(scores.total[live], known)[0]),
                f"{name}/alignment_single": float(alignment(scores.by_text[:, live] / lengths, known)[:, 0].mean()),
            }
            if len(all_of) > 1:
                points[f"{name}/selectivity"] = float(all_of[0] - all_of[1:].abs().max())
        return points

    def edited(self, found: Attribution, dictionary: Autoencoder) -> Points:
        """At `<loss>.<way>.<count>` for the first loss."""
        live, points = self.live(found), {}
        for way in EDITED:
            scores = found.scores[self.stage.losses[0].name, way]
            order = scores.cosine.abs().masked_fill(~live, -1).argsort(descending=True)
            likeness = torch.stack([found.frequency.clamp(min=1e-9).log(), scores.squares.clamp(min=1e-30).log()], 1)
            for count in self.stage.counts:
                if 2 * count > int(live.sum()):
                    continue  # too few others to compare with
                name, top = f"{self.stage.losses[0].name}.{way}.{count}", order[:count]
                sets = [matched(top, live, likeness, self.random) for _ in range(self.stage.random_sets)]
                own, *others = (
                    self.reproduction.effect(_moving(dictionary, features, scores.coefficients[features], way))
                    for features in (top, *sets)
                )
                points |= _effects(name, own)
                means = Effect(*np.mean([(each.explained, each.undone, each.intended) for each in others], 0).tolist())
                points |= {f"{key}_random": value for key, value in _effects(name, means).items()}
        return points

    def planted(self, found: Attribution) -> Points:
        """At `planted.<way>`: live latents of the first dictionary, from rare to frequent, one at a time."""
        stage, live, dictionary = self.stage, self.live(found), self.dictionaries[0]
        order = found.frequency.masked_fill(~live, torch.inf).argsort()[: int(live.sum())]
        chosen = (
            order[torch.linspace(0, len(order) - 1, min(stage.planted, len(order))).round().long()]
            if len(order)
            else order
        )
        points = {}
        for way in EDITED if len(chosen) else ():
            areas = []
            for latent in chosen:
                size = stage.planted_size
                if way == "everywhere":
                    size *= float(found.codes[..., latent].sum() / (found.codes[..., latent] > 0).sum())
                moved = MovedFeatures(dictionary, latent[None], torch.full((1,), size, device=latent.device), way)
                other = self.predictions(self.base.model, moved)
                given: Mapping[str, Any] = {"draws": 0, "chunk": self._chunk, "random": self.random}
                seen = attributed(self.base, other, None, self.texts, [dictionary], stage.losses[:1], **given)[0]
                key = (stage.losses[0].name, way)
                scores = seen.scores[key].total / found.scores[key].squares.sqrt().clamp(min=1e-30)
                areas.append(float((scores[latent] > scores[live]).float().sum() / max(1, int(live.sum()) - 1)))
            points |= {f"planted.{way}/first": float(np.mean([area >= 1 for area in areas]))}
            points |= {f"planted.{way}/auc": float(np.mean(areas))}
        return points

    def save(self, found: list[Attribution]) -> None:
        tensors = {}
        for number, own in enumerate(found):
            tensors[f"d{number}.live"] = self.live(own)
            for (loss, way), scores in own.scores.items():
                lengths = (scores.squares * scores.size).sqrt().clamp(min=1e-30)
                halves = torch.stack([scores.by_text[part::2].sum(0) / lengths for part in (0, 1)])
                tensors[f"d{number}.{loss}.{way}"] = halves
        folder = self.context.folder / "final"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / FILE)

    def table(self, found: Attribution, truth: Tensor | None) -> dict[str, Any]:
        """Of the first dictionary and loss, by the way "active"; of many latents, every n-th."""
        live = self.live(found).nonzero()[:, 0]
        live = live[:: 1 + len(live) // SHOWN]
        scores = found.scores[self.stage.losses[0].name, "active"]
        table: dict[str, Any] = {"latent": live.tolist(), "score": _rounded(scores.cosine[live])}
        return table if truth is None else table | {"truth": _rounded(truth[live, 0])}


def _moving(dictionary: Autoencoder, features: Tensor, coefficients: Tensor, way: str) -> Any:
    return lambda factor: MovedFeatures(dictionary, features, factor * coefficients, way)


def _effects(name: str, effect: Effect) -> Points:
    return {f"{name}/explained": effect.explained, f"{name}/undone": effect.undone, f"{name}/toward": effect.intended}


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
