"""The torch engine: one process, one device."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halflife.data.loss_mask import read
from halflife.errors import UserError
from halflife.models.hooks import tapped
from halflife.models.ladder import Rung
from halflife.models.linear_rows import on_a_line
from halflife.models.model import Model
from halflife.models.released import Released
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution
from halflife.training import checkpoints
from halflife.training.acceleration import accelerate, eagerly
from halflife.training.adapters import lora_norm
from halflife.training.attached import Attached
from halflife.training.memory import GPU_ACTIVATION_SHARE, rows_within
from halflife.training.objective import Terms
from halflife.training.prefetch import on_device
from halflife.training.ranks import Ranks, SingleProcess
from halflife.training.recipe import Recipe
from halflife.training.seen import Metrics, Seen
from halflife.training.torch_optimizers import build, load_state_tensors, state_tensors

KEPT_BYTES = 2**30


class TorchEngine:
    """Trains `model` in place. Implements training.engine.Engine."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        execution: Execution,
        terms: Sequence[Terms],
        companions: Sequence[Attached] = (),
        *,
        micro_rows: int | None = None,
    ) -> None:
        self.model, self.recipe, self.execution = model, recipe, execution
        self.on_batch = [term.on_batch for term in terms if term.on_batch]
        self.on_step = [term.on_step for term in terms if term.on_step]
        self.pulls = [term.pull for term in terms if term.pull]
        self.companions = companions
        self.sites = sorted({site for part in (*terms, *companions) for site in part.sites})
        if execution.compile and (inner := [site.name for site in self.sites if site.part != "residual"]):
            raise UserError(
                f"activations at {inner[0]}, inside a compiled layer, cannot be read: expected the part 'residual', or "
                "layers that are not compiled"
            )
        self.micro_rows = micro_rows or execution.micro_rows
        self.ranks: Ranks = SingleProcess()
        self.parameters_total = sum(parameter.numel() for parameter in model.parameters())
        self.device = next(model.parameters()).device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.place_lines = [on_a_line(model.embed, rows) for rows in recipe.mixture.lines]
        self.init_weights = [parameter.detach().clone() for parameter in self.parameters]
        start = [parameter.detach() for name, parameter in model.named_parameters() if ".lora_" not in name]
        self.init_norm = torch.nn.utils.get_total_norm(start)
        self.optimizer = build(recipe.optimizer, model)
        accelerate(model, execution)
        if self.device.type == "cpu":
            keep_memory()

    def gradients(self, batch: np.ndarray | Tensor, step: int) -> dict[str, Tensor]:
        tokens = on_device(batch, self.device)
        metrics = Metrics()
        for parameter in self.parameters:
            parameter.grad = None
        for companion in self.companions:
            companion.clear()
        if self.on_batch or self.companions:
            self._batch_gradients(tokens, step, metrics)
        for loss in self.on_step:
            with eagerly(self.execution):  # completions and examples have many lengths
                with self._autocast():
                    value = loss(self.model, tokens, step, metrics)
                value.backward()
        return metrics.values

    def _batch_gradients(self, tokens: Tensor, step: int, metrics: Metrics) -> None:
        rows = self.micro_rows or rows_that_fit(
            self.model.architecture, self.model.vocabulary, tokens.shape[1], self.device
        )
        if self.execution.compile:  # microbatches of one length, since each length is compiled separately
            rows = next(count for count in range(min(rows, len(tokens)), 0, -1) if len(tokens) % count == 0)
        masked = self.recipe.has_loss_mask
        predicted = (tokens[:, 1:] >= 0).sum() if masked else tokens[:, 1:].numel()
        for part in tokens.split(rows):
            seen = self._forward(part, predicted, len(part) / len(tokens), metrics)
            losses = [loss(self.model, part, step, seen) for loss in self.on_batch]
            losses += [companion.loss(seen) for companion in self.companions]
            del seen  # its logits are as large as the gradient that the backward pass allocates
            reduce(add, losses).backward()

    def _forward(self, rows: Tensor, predicted: Tensor | int, share: float, metrics: Metrics) -> Seen:
        with self._autocast(), tapped(self.model, self.sites) if self.sites else nullcontext({}) as activations:
            logits, targets = self._predicted(self.model, rows)

        def predict(model: Model) -> Tensor:
            with self._autocast():
                return self._predicted(model, rows)[0]

        return Seen(
            metrics.values,
            logits=logits,
            targets=targets,
            predicted=predicted,
            share=share,
            activations=activations,
            predict=predict,
        )

    def _predicted(self, model: Model, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets, with marks where they are not scored. A CPU leaves unscored positions out, which saves a
        small model a tenth of a step. A GPU would have to wait for their number."""
        if not self.recipe.has_loss_mask:
            return model(rows[:, :-1]), rows[:, 1:]
        if self.device.type != "cpu" or self.execution.compile:
            return model(read(rows)[:, :-1]), rows[:, 1:]
        scored = rows[:, 1:] >= 0
        hidden = model.hidden(model.embed(read(rows)[:, :-1]))
        return model.logits(hidden[scored][None]), rows[:, 1:][scored][None]

    def step(self, lr_multiplier: float) -> Tensor:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.max_grad_norm, norm, foreach=True)
        if self.recipe.gradient_noise:
            add_noise(gradients, self.recipe.gradient_noise)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_multiplier
            if group["shrink"]:
                torch._foreach_mul_([p.data for p in group["params"]], 1 - group["shrink"] * lr_multiplier)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        for pull in self.pulls:
            self._pull(pull(self.recipe.optimizer.learning_rate * lr_multiplier))
        for place in self.place_lines:
            place()
        for companion in self.companions:
            companion.step(lr_multiplier)
        return norm

    def _pull(self, back: Any) -> None:
        """A lerp towards theta_0 by `back`, one number or one for every weight."""
        data = [parameter.data for parameter in self.parameters]
        torch._foreach_lerp_(data, self.init_weights, back)  # pyright: ignore[reportPrivateImportUsage]

    def displacement(self) -> float:
        added = lora_norm(self.model)
        if added is None:
            # one difference at a time: all of them would take as much memory as the model
            pairs = zip(self.parameters, self.init_weights, strict=True)
            added = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.detach() - o) for p, o in pairs]))
        return (added / self.init_norm).item()

    def full_weights(self) -> dict[str, Tensor]:
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        for companion in self.companions:
            weights |= companion.weights()
        return weights

    def optimizer_state(self) -> dict[str, Tensor]:
        state = state_tensors(self.optimizer, self.model)
        for companion in self.companions:
            state |= companion.optimizer_state()
        return state

    def close(self) -> None:
        """There is nothing to free."""

    def save(self, folder: Path) -> dict[str, str]:
        return checkpoints.write_whole(folder, weights=self.full_weights(), optimizer=self.optimizer_state())

    def load(self, weights: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor] | None) -> None:
        if weights is not None:
            load_weights(self.model, weights)
        if optimizer is not None:
            load_state_tensors(self.optimizer, self.model, optimizer)
        for companion in self.companions:
            companion.load(weights, optimizer)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad(), self._autocast(), eagerly(self.execution):
            yield
        self.model.train()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def add_noise(gradients: list[Tensor], strength: float) -> None:
    """Add to each gradient Gaussian noise of `strength` times its root mean square, in place.

    Drawn at once, since many small draws are slow, from torch's generator, which the loop seeds for the step.
    """
    sizes = [gradient.numel() for gradient in gradients]
    drawn = torch.randn(sum(sizes), device=gradients[0].device).split(sizes)
    noise = [part.view_as(gradient) for part, gradient in zip(drawn, gradients, strict=True)]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    scales = [norm * (strength / math.sqrt(size)) for norm, size in zip(norms, sizes, strict=True)]
    torch._foreach_mul_(noise, scales)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(gradients, noise)  # pyright: ignore[reportPrivateImportUsage]


def load_weights(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Copy named weights into the model. A tied head is stored once, under the embedding's name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def rows_that_fit(architecture: Rung | Released, vocabulary: int, sequence: int, device: torch.device) -> int:
    """Rows of a microbatch, from the shape and the device alone, so that a stage always has the same microbatches."""
    budget = float(CPU_ACTIVATION_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    return rows_within(architecture, vocabulary, sequence, budget)


def keep_memory() -> None:
    """Make glibc keep the memory of large tensors for the next step, since fresh pages cost a tenth of a step's time.

    Does nothing without Linux and glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, KEPT_BYTES)
        mallopt(trim_threshold, KEPT_BYTES)
