"""Fitting dictionaries to stored activations: on the same batches, measured on held-out vectors and texts."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.data.activations import ActivationBatches, StoredActivations, Vectors
from halflife.errors import Diverged, UserError
from halflife.evaluation.cadence import due
from halflife.evaluation.scoring import mean_loss
from halflife.interpret import sae_lens
from halflife.interpret.autoencoder import Autoencoder, Autoencoders, Normal
from halflife.interpret.dictionary import Dictionary
from halflife.interpret.dictionary_recipe import PCA_ROWS, THRESHOLD_VALUES, DictionaryRecipe
from halflife.models.changes import Splice
from halflife.models.hooks import edited
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.rng import seed_of
from halflife.store.stage import Context
from halflife.training import checkpoints

CHUNK = 2048
"""Held-out vectors whose latents are in memory at once"""
REPORT_SECONDS = 0.5

Reconstruct = Callable[[Tensor], Tensor]
"""Activations (..., width) -> the same shape"""


def fit(
    recipe: DictionaryRecipe,
    sites: Sequence[Site],
    stored: StoredActivations,
    context: Context,
    load: Callable[[], Model] | None = None,
    metadata: Mapping[str, Any] = {},
    turns: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Train, measure and write a stage's dictionaries of some sites. Returns its summary. `load`: the model into which
    they are spliced; `metadata`: what their folders say of it; `turns` (sites, width, width): rotations of the vectors.

    On one CPU thread a resumed run ends with the same bits as an uninterrupted one. Raises Diverged when a loss is no
    longer finite, UserError when the stored activations are not.
    """
    for site in stored.sites:
        if not math.isfinite(stored.index.squares[site]):
            raise UserError(f"activations at {site} are not finite: store those of a model that has not diverged")
    run = _Run(recipe, sites, stored, context, turns)
    run.train()
    trained = {each: run.autoencoders(each) for each in recipe.dictionaries}
    points = run.points(trained)
    ranks = sorted({each.sparsity.k for each in recipe.dictionaries})
    spliced: dict[str, Mapping[Site, Reconstruct]] = {each.name: at for each, at in trained.items()}
    principal = [Principal.of(u.double()) for u in run.training_vectors()]
    for k in ranks:
        at = {site: each.rank(k) for site, each in zip(sites, principal, strict=True)}
        spliced[f"pca-{k}"] = at
        for site, u in zip(sites, run.held_out, strict=True):
            points[f"pca-{k}.{site.name}/fvu"] = unexplained(u, at[site].scaled(u))
    if load is not None:
        means = {site: torch.from_numpy(stored.index.mean(site.name)).float().to(context.device) for site in sites}
        points |= recovered(load(), run.texts(), spliced, means)
    context.record(recipe.tokens, points)
    for each, at in trained.items():
        for site in sites[:1] if each.shared else sites:
            where = "all" if each.shared else site.name
            sae_lens.write(recipe.folder(context.folder, each, site), at[site], {**metadata, "hook_name": where})
    run.report(recipe.steps, now=True)
    return {"tokens": recipe.tokens, "seconds_training": run.seconds, "scores": points}


class Group:
    """Dictionaries of one shape, which train as one tensor."""

    def __init__(
        self, recipe: DictionaryRecipe, sites: Sequence[Site], members: Sequence[Dictionary], width: int, device: str
    ) -> None:
        first = members[0]
        self.members, self.shared, self.sites = list(members), first.shared, list(sites)
        parts = ["all"] if self.shared else [site.name for site in sites]
        self.module = Autoencoders(
            width,
            first.latents,
            first.sparsity,
            [seed_of(each.seed, "dictionary", part) for each in members for part in parts],
            dead_after=recipe.dead_after,
        ).to(device)
        self.recipe = recipe
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=recipe.learning_rate, fused=True)

    def number(self, dictionary: Dictionary, site: int) -> int:
        """The place among the group's of a dictionary for the site of that place."""
        place = self.members.index(dictionary)
        return place if self.shared else place * len(self.sites) + site

    def step(self, u: Tensor, learning_rate: float) -> Tensor:
        """`u` (sites, rows, width), normalised. Returns the loss of the dictionaries, added up."""
        count = len(self.members)
        batch = u.expand(count, *u.shape) if self.shared else u.repeat(count, 1, 1)[:, None]
        fvu, auxiliary, penalty = self.module.losses(batch)
        loss = (fvu.mean(1) + self.recipe.auxiliary * auxiliary + penalty).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.module.after_step()
        return loss.detach()

    def _clip(self) -> None:
        """Each dictionary's gradient by its own norm, so that none affects another."""
        gradients = [part.grad.flatten(1) for part in self.module.parameters() if part.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(each, dim=1) for each in gradients]).norm(dim=0)
        factor = (self.recipe.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1)[:, None]
        for each in gradients:
            each.mul_(factor)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = dict(self.module.state_dict())
        moments = {
            f"{slot}.{name}": value
            for name, parameter in self.module.named_parameters()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
        }
        return weights, moments

    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(weights))
        for name, parameter in self.module.named_parameters():
            slots = {key.split(".", 1)[0]: value for key, value in moments.items() if key.split(".", 1)[1] == name}
            if slots:
                self.optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in slots.items()}


class _Run:
    def __init__(
        self,
        recipe: DictionaryRecipe,
        sites: Sequence[Site],
        stored: StoredActivations,
        context: Context,
        turns: NDArray[np.float32] | None,
    ) -> None:
        self.recipe, self.sites, self.stored, self.context = recipe, sites, stored, context
        self.turns = turns
        shapes: dict[Any, list[Dictionary]] = {}
        for each in recipe.dictionaries:
            shapes.setdefault((each.latents, each.sparsity, each.shared), []).append(each)
        width = stored.layout.width
        self.groups = [Group(recipe, sites, members, width, context.device) for members in shapes.values()]
        held_out = len(stored.layout.part("held-out"))
        stream = ActivationBatches(
            stored, rows=min(recipe.held_out_rows, held_out), key=(recipe.seed, "measured"), part="held-out"
        )
        self.held_out = self._scaled(stream.batch(0))
        """(sites, rows, width)"""
        self.seconds = 0.0
        self.reported = self.checkpointed = time.monotonic()
        self.resume_folder: Path | None = None

    def train(self) -> None:
        recipe = self.recipe
        batches = ActivationBatches(self.stored, rows=recipe.rows, key=(recipe.seed, "fit"))
        evaluated = set(due(recipe.at, recipe.steps)) - {recipe.steps}
        start = self._resumed()
        for step in range(start or 0, recipe.steps):
            if step in evaluated and step != start:
                self.context.record(step * recipe.rows, self.points())
            if step != start:
                self._maybe_checkpoint(step)
            u = self._scaled(batches.batch(step))
            learning_rate = recipe.learning_rate * recipe.schedule.lr_multiplier(step, recipe.steps)
            losses = [group.step(u, learning_rate) for group in self.groups]
            if not all(math.isfinite(loss) for loss in losses):
                raise Diverged(f"the loss of a dictionary is not finite at step {step + 1}")
            self.report(step + 1)

    def autoencoders(self, dictionary: Dictionary) -> dict[Site, Autoencoder]:
        """By site, as they are used; the same one at all sites if it is shared."""
        group = next(group for group in self.groups if dictionary in group.members)
        some = -(-len(self.sites) * self.held_out.shape[1] * dictionary.latents // THRESHOLD_VALUES)
        u = self.held_out[:, ::some]
        if dictionary.shared:
            return dict.fromkeys(self.sites, group.module.inference(group.number(dictionary, 0), u.flatten(0, 1)))
        return {
            site: group.module.inference(group.number(dictionary, place), u[place])
            for place, site in enumerate(self.sites)
        }

    def points(self, dictionaries: Mapping[Dictionary, Mapping[Site, Autoencoder]] | None = None) -> dict[str, float]:
        """By default of the dictionaries as they are now."""
        found = {}
        for each, at in (dictionaries or {each: self.autoencoders(each) for each in self.recipe.dictionaries}).items():
            measured = []
            for site, u in zip(self.sites, self.held_out, strict=True):
                one = measure(at[site], u)
                found |= {
                    f"{each.name}.{site.name}/{name}": value
                    for name, value in (("fvu", one.fvu), ("l0", one.l0), ("alive", float(one.fires.mean())))
                }
                measured.append(one)
            fires = torch.stack([one.fires for one in measured])
            found[f"{each.name}/fvu"] = sum(one.fvu for one in measured) / len(measured)
            found[f"{each.name}/alive"] = float((fires.amax(0) if each.shared else fires).mean())
        return found

    def training_vectors(self) -> Tensor:
        """(sites, rows, width): some of them, normalised."""
        rows = min(PCA_ROWS, len(self.stored.layout.part("train")))
        return self._scaled(ActivationBatches(self.stored, rows=rows, key=(self.recipe.seed, "pca")).batch(0))

    def texts(self) -> Tensor:
        """(texts, length) held-out tokens."""
        part, length = self.stored.layout.part("held-out"), self.stored.layout.length
        count = min(self.recipe.texts, len(part) // length)
        tokens = self.stored.read(part.start + np.arange(count * length)).tokens.reshape(count, length)
        return torch.from_numpy(tokens).to(self.context.device)

    def report(self, step: int, *, now: bool = False) -> None:
        elapsed = time.monotonic() - self.reported
        if elapsed < REPORT_SECONDS and not now:
            return
        self.seconds += elapsed
        self.reported += elapsed
        self.context.computing(elapsed)
        done = step * self.recipe.rows
        self.context.progress(done, self.recipe.tokens, done / max(self.seconds, 1e-9))

    def _scaled(self, vectors: Vectors) -> Tensor:
        return scaled(vectors, self.sites, self.context.device, self.turns)

    def _maybe_checkpoint(self, step: int) -> None:
        """Write `resume-<step>/`, if it is due, and remove the one before."""
        now = time.monotonic()
        if now - self.checkpointed < max(self.context.checkpoint_seconds, self.context.min_checkpoint_seconds):
            return
        folder, weights, moments = self.context.folder / f"resume-{step}", {}, {}
        for number, group in enumerate(self.groups):
            for into, values in zip((weights, moments), group.state(), strict=True):
                into |= {f"{number}/{name}": value for name, value in values.items()}
        state = {"step": step, "seconds": self.seconds}
        checkpoints.write(folder, weights=weights, optimizer=moments, state=state)
        self.context.checkpointed(step * self.recipe.rows, folder)
        if self.resume_folder is not None:
            shutil.rmtree(self.resume_folder)
        self.resume_folder, self.checkpointed = folder, time.monotonic()

    def _resumed(self) -> int | None:
        """The step of an earlier attempt's checkpoint, which is read; None if there is none."""
        folder = self.context.resume
        if folder is None:
            return None
        state = checkpoints.read_state(folder)
        weights, moments = checkpoints.read_weights(folder), checkpoints.read_optimizer(folder)
        for number, group in enumerate(self.groups):
            prefix = f"{number}/"
            group.load(*({k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
                         for values in (weights, moments)))  # fmt: skip
        self.seconds = state["seconds"]
        return state["step"]


def scaled(
    vectors: Vectors, sites: Sequence[Site], device: str = "cpu", turns: NDArray[np.float32] | None = None
) -> Tensor:
    """(sites, rows, width): in units of each vector's own scale, turned by the site's rotation if there are any."""
    raw = np.stack([vectors.values[site.name] for site in sites])
    u = Normal.of(torch.from_numpy(raw).to(device)).values
    return u if turns is None else u @ torch.from_numpy(turns).to(device)


@dataclass(frozen=True)
class Measured:
    fvu: float
    l0: float
    fires: Tensor
    """(latents,) float: 1 where a latent fires for some vector"""


def measure(autoencoder: Autoencoder, u: Tensor) -> Measured:
    """A dictionary on normalised vectors (rows, width)."""
    error, active, fires = 0.0, 0, torch.zeros(len(autoencoder.decoder), device=u.device)
    for part in u.split(CHUNK):
        codes, _ = autoencoder.codes(part)
        rebuilt = codes @ autoencoder.decoder + autoencoder.decoder_bias
        error += float((part - rebuilt).double().square().sum())
        active += int((codes > 0).sum())
        fires = torch.maximum(fires, (codes > 0).any(0).float())
    return Measured(error / float((u - u.mean(0)).double().square().sum()), active / len(u), fires)


def unexplained(u: Tensor, rebuilt: Tensor) -> float:
    """The fraction of the variance of vectors (rows, width) that their reconstruction leaves."""
    return float((u - rebuilt).double().square().sum() / (u - u.mean(0)).double().square().sum())


@dataclass(frozen=True)
class Principal:
    """The principal components of vectors."""

    mean: Tensor
    """(width,)"""
    values: Tensor
    """(width,): variances, largest first"""
    vectors: Tensor
    """(width, width): a column for each"""

    @classmethod
    def of(cls, u: Tensor) -> Principal:
        """Of vectors (rows, width), in float64."""
        mean = u.mean(0)
        values, vectors = torch.linalg.eigh((u - mean).T @ (u - mean) / len(u))
        return cls(mean, values.flip(0), vectors.flip(1))

    def rank(self, k: int) -> Projection:
        return Projection(self.mean.float(), self.vectors[:, :k].float())


@dataclass(frozen=True)
class Projection:
    """Vectors as their mean and k components, in units of their own scale."""

    mean: Tensor
    basis: Tensor
    """(width, k), orthonormal"""

    def scaled(self, u: Tensor) -> Tensor:
        return self.mean + (u - self.mean) @ self.basis @ self.basis.T

    def __call__(self, x: Tensor) -> Tensor:
        normal = Normal.of(x.float())
        return normal.restored(self.scaled(normal.values)).to(x)


def recovered(
    model: Model, texts: Tensor, spliced: Mapping[str, Mapping[Site, Reconstruct]], means: Mapping[Site, Tensor]
) -> dict[str, float]:
    """Losses of texts (count, length) in nats per token, as `FitDictionary` names them."""

    def loss(at: Mapping[Site, Reconstruct]) -> float:
        with edited(model, {site: Splice(change) for site, change in at.items()}):
            return mean_loss(model, texts)

    def losses(at: Mapping[Site, Reconstruct]) -> Iterator[tuple[str, float]]:
        yield "", loss(at)
        for site, change in at.items():
            yield f".{site.name}", loss({site: change})

    clean = loss({})
    constant = {site: lambda x, mean=mean: mean.to(x).expand_as(x) for site, mean in means.items()}
    ablated = dict(losses(constant))
    points = {"model/loss": clean, **{f"mean{part}/loss": value for part, value in ablated.items()}}
    for name, at in spliced.items():
        for part, value in losses(at):
            points[f"{name}{part}/loss"] = value
            if ablated[part] > clean:
                points[f"{name}{part}/recovered"] = (ablated[part] - value) / (ablated[part] - clean)
    return points
