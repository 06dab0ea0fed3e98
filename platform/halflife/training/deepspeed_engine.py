"""The DeepSpeed engine: several processes that split a batch and, by ZeRO, their state (arXiv 1910.02054).

DeepSpeed reduces the gradients, shards and gathers; the optimizer is the torch engine's own (`torch_optimizers.build`),
so both engines take the same steps. All other operations work on fragments: the local piece of each parameter and of
its optimizer state, wherever the ZeRO stage keeps it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halflife.data.loss_mask import read
from halflife.errors import Diverged, UserError
from halflife.models.model import Model
from halflife.store.execution import Execution
from halflife.training import checkpoints
from halflife.training.acceleration import accelerate, eagerly
from halflife.training.adapters import lora_norm
from halflife.training.checkpoints import Piece
from halflife.training.fragments import Fragment, fragments_of, shards_of
from halflife.training.memory import BUCKET, LIVE
from halflife.training.objective import Loss, Terms
from halflife.training.prefetch import on_device
from halflife.training.ranks import DefaultGroup, Ranks, SingleProcess, all_sum, init_single_process
from halflife.training.recipe import Recipe
from halflife.training.seen import Metrics, Seen
from halflife.training.sharded_muon import ShardedMuon
from halflife.training.torch_engine import keep_memory, rows_that_fit
from halflife.training.torch_optimizers import Joined, build

WEIGHTS, OPTIMIZER = "weights", "optimizer"


class DeepSpeedEngine:
    """Trains `model` in place. Implements training.engine.Engine; every method is called on every rank."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        execution: Execution,
        terms: Sequence[Terms],
        *,
        micro_rows: int | None = None,
    ) -> None:
        self.pulls = [term.pull for term in terms if term.pull]
        self.model, self.recipe, self.execution, self.zero = model, recipe, execution, execution.zero
        self.micro_rows = micro_rows or execution.micro_rows
        self.device = next(model.parameters()).device
        deepspeed = ready(self.device)
        self.ranks: Ranks = DefaultGroup() if execution.workers > 1 else SingleProcess()
        self.parameters_total = sum(parameter.numel() for parameter in model.parameters())
        start = [parameter.detach() for name, parameter in model.named_parameters() if ".lora_" not in name]
        self.init_norm = torch.nn.utils.get_total_norm(start).item()
        self.optimizer = build(recipe.optimizer, model, ShardedMuon if self.zero else torch.optim.Muon)
        accelerate(model, execution)
        self.optimizer.register_step_pre_hook(self._before_step)
        self.optimizer.register_step_post_hook(self._after_step)
        self.norm = torch.zeros(())
        self.engine, *_ = deepspeed.initialize(
            model=_Loss(model, recipe, [term.on_batch for term in terms if term.on_batch]),
            optimizer=self.optimizer,
            config=self._settings(),
            dist_init_required=False,
        )
        self.fragments: list[Fragment] = fragments_of(self.engine, model, self.zero)
        self.owners = list({id(fragment.owner): fragment.owner for fragment in self.fragments}.values())
        for part in self.optimizer.parts if isinstance(self.optimizer, Joined) else (self.optimizer,):
            if isinstance(part, ShardedMuon):
                part.place(shards_of(self.engine, self.zero), self.fragments, self.ranks)
        self.init_weights = {id(owner): owner.detach().clone() for owner in self.owners}
        self.lr_multiplier = 1.0
        if self.device.type == "cpu":
            keep_memory()

    def _settings(self) -> dict[str, Any]:
        """DeepSpeed's configuration. Gradient accumulation is ours (`set_gradient_accumulation_boundary`)."""
        bucket = min(BUCKET, self.parameters_total)
        zero: dict[str, Any] = {"stage": self.zero, "reduce_bucket_size": bucket}
        if self.zero == 3:
            zero |= {"stage3_prefetch_bucket_size": bucket, "stage3_max_live_parameters": LIVE * bucket}
        else:
            zero |= {"allgather_bucket_size": bucket}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.recipe.max_grad_norm if self.zero else 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": zero,
            "steps_per_print": None,
        }

    @property
    def rank(self) -> int:
        return self.ranks.rank

    def gradients(self, batch: np.ndarray | Tensor, step: int) -> dict[str, Tensor]:
        own = len(batch) // self.ranks.count
        tokens = on_device(batch[self.rank * own : (self.rank + 1) * own], self.device)
        rows = self.micro_rows or rows_that_fit(
            self.model.architecture, self.model.vocabulary, batch.shape[1], self.device
        )
        metrics = Metrics()
        parts = tokens.split(rows)
        # losses are means over the predicted tokens of the global batch, and gradients are averaged over the ranks
        predicted = (torch.as_tensor(batch)[:, 1:] >= 0).sum() / self.ranks.count
        for number, part in enumerate(parts, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(parts))
            loss = self.engine(part, step, predicted, len(part) / len(tokens), metrics)
            self.engine.backward(loss, scale_wrt_gas=False)
        return {metric: all_sum(value.clone()).div_(self.ranks.count) for metric, value in metrics.values.items()}

    def step(self, lr_multiplier: float) -> Tensor:
        self.lr_multiplier = lr_multiplier
        self.engine.step()
        if self.zero:
            if not self.engine.was_step_applied():
                raise Diverged("the gradients are no longer finite")
            self.norm = torch.as_tensor(self.engine.get_global_grad_norm())
        return self.norm

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """For the parameters that the optimizer updates in this call: with ZeRO, the local shard of one group."""
        if not self.zero:  # DeepSpeed would clip without returning the norm
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self.norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.max_grad_norm, self.norm, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.lr_multiplier
            if group["shrink"] and group["params"]:
                torch._foreach_mul_([p.data for p in group["params"]], 1 - group["shrink"] * self.lr_multiplier)  # pyright: ignore[reportPrivateImportUsage]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Objectives pull the shards towards theta_0 before they are gathered."""
        for pull in self.pulls:
            back = pull(self.recipe.optimizer.learning_rate * self.lr_multiplier)
            for owner in (owner for group in optimizer.param_groups for owner in group["params"]):
                owner.data.lerp_(self.init_weights[id(owner)], back)

    def displacement(self) -> float:
        added = lora_norm(self.model)
        if added is not None:
            return added.item() / self.init_norm
        moved = [(owner.detach() - self.init_weights[id(owner)]).double().square().sum() for owner in self.owners]
        square = torch.stack(moved).sum()
        if self._sharded:  # otherwise every rank has all of it
            all_sum(square)
        return square.sqrt().item() / self.init_norm

    def full_weights(self) -> dict[str, Tensor]:
        """All weights on rank 0, empty elsewhere; one parameter at a time is gathered."""
        return self._on_rank_0(self.model.named_parameters())

    def optimizer_state(self) -> dict[str, Tensor]:
        """The whole optimizer state on rank 0, empty elsewhere; one tensor at a time is assembled."""
        pieces = {name: piece for kind, name, piece in self._pieces() if kind == OPTIMIZER}
        if not self._sharded:
            return {name: piece.values.view(piece.shape) for name, piece in pieces.items()} if self.rank == 0 else {}
        result = {}
        shapes = {name: shape for of in self.ranks.all_gather(_shapes(pieces)) for name, shape in of.items()}
        for name in sorted(shapes):
            whole = torch.zeros(math.prod(shapes[name]), device=self.device)
            if piece := pieces.get(name):
                whole.narrow(0, piece.offset, piece.values.numel()).copy_(piece.values)
            all_sum(whole)
            if self.rank == 0:
                result[name] = whole.view(shapes[name]).cpu()
        return result

    def save(self, folder: Path) -> dict[str, str]:
        if self.ranks.count == 1:
            return checkpoints.write_whole(folder, weights=self.full_weights(), optimizer=self.optimizer_state())
        frozen = ((name, value) for name, value in self.model.named_parameters() if not value.requires_grad)
        weights = {
            name: Piece(values=value.reshape(-1), offset=0, shape=tuple(value.shape))
            for name, value in self._on_rank_0(frozen).items()
        }
        optimizer = {}
        if self._sharded or self.rank == 0:
            for kind, name, piece in self._pieces():
                (weights if kind == WEIGHTS else optimizer)[name] = piece
        return checkpoints.write_shard(folder, self.rank, weights=weights, optimizer=optimizer)

    def load(self, weights: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor] | None) -> None:
        if weights is not None:
            for fragment in self.fragments:
                fragment.of(fragment.owner).copy_(fragment.part(weights[fragment.name]))
            self._publish()
        if optimizer is not None:
            self.optimizer.state.clear()
            slots: dict[str, list[str]] = {}
            for key in optimizer:
                slot, name = key.split(".", 1)
                slots.setdefault(name, []).append(slot)
            for fragment in self.fragments:
                state = self.optimizer.state[fragment.owner]
                for slot in slots.get(fragment.name, ()):
                    value = optimizer[f"{slot}.{fragment.name}"]
                    if value.ndim == 0 and fragment.shape != ():
                        state[slot] = value.to(self.device)
                        continue
                    if slot not in state:
                        state[slot] = torch.zeros_like(fragment.owner)
                    fragment.of(state[slot]).copy_(fragment.part(value))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad(), _autocast(self.recipe, self.device), eagerly(self.execution):
            yield
        self.model.train()

    def close(self) -> None:
        """Remove DeepSpeed's hooks, which would keep every trained model alive. Under ZeRO 3 its caches do so too, so
        the memory of the tensors themselves is freed."""
        self.engine.destroy()
        self.optimizer.state.clear()
        self.init_weights.clear()
        if self.zero == 3:
            sharded = self.engine.optimizer
            parameters: list[Any] = list(self.model.parameters())
            shards = [parameter.ds_tensor for parameter in parameters]
            flat = [*sharded.fp16_partitioned_groups_flat, sharded.lp_param_buffer, sharded.grad_partitions_flat_buffer]
            for tensor in (*self.owners, *flat, *shards, *parameters):
                tensor.data = torch.empty(0, device=self.device)
            for held in vars(sharded).values():  # views of these tensors
                if isinstance(held, (dict, list)):
                    held.clear()

    @property
    def _sharded(self) -> bool:
        return self.zero > 0 and self.ranks.count > 1

    def _pieces(self) -> Iterator[tuple[str, str, Piece]]:
        """(kind, name, piece) of every fragment: its weights, and its slots of the optimizer's state."""
        for fragment in self.fragments:
            slots = {(OPTIMIZER, f"{slot}.{fragment.name}"): value for slot, value in self._state(fragment).items()}
            for (kind, name), tensor in {(WEIGHTS, fragment.name): fragment.owner, **slots}.items():
                if piece := fragment.piece(tensor):
                    yield kind, name, piece

    def _state(self, fragment: Fragment) -> dict[str, Tensor]:
        state = self.optimizer.state.get(fragment.owner, {})
        return {slot: value for slot, value in state.items() if isinstance(value, Tensor)}

    def _on_rank_0(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
        from deepspeed.runtime.zero import GatheredParameters

        result = {}
        for name, parameter in parameters:
            with GatheredParameters(parameter, enabled=self.zero == 3):
                if self.rank == 0:
                    value = parameter.detach()
                    result[name] = value.cpu().clone() if self.zero == 3 else value
        return result

    def _publish(self) -> None:
        """Copy weights written into the optimizer's shards to the model's parameters."""
        if self.zero in (1, 2):
            self.engine.optimizer.update_lp_params()
        elif self.zero == 3:  # as at the end of a DeepSpeed step
            sharded = self.engine.optimizer
            sharded.parameter_offload.partition_all_parameters()
            for group in range(len(sharded.fp16_groups)):
                sharded._reassign_or_swap_out_partitioned_parameters(group)
            if persistent := sharded.persistent_parameters:
                persistent[0].all_gather(persistent)


class _Loss(nn.Module):
    """The loss of rows. One module, since DeepSpeed casts and gathers around its forward pass."""

    def __init__(self, model: Model, recipe: Recipe, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.model, self.recipe, self.losses = model, recipe, losses

    def forward(self, tokens: Tensor, step: int, predicted: Tensor, share: float, metrics: Metrics) -> Tensor:
        def predict(model: Model) -> Tensor:
            with _autocast(self.recipe, tokens.device):
                return model(read(tokens)[:, :-1])

        seen = Seen(
            metrics.values,
            logits=predict(self.model),
            targets=tokens[:, 1:],
            predicted=predicted,
            share=share,
            activations={},
            predict=predict,
        )
        return reduce(add, [loss(self.model, tokens, step, seen) for loss in self.losses])


def ready(device: torch.device) -> Any:
    """The module deepspeed, initialized in this process, which is alone or one of the ranks that the caller has joined.

    Nothing is compiled: on a CPU, DeepSpeed would spend a minute and a half on its shared-memory reduction, which only
    inference uses. Raises UserError when DeepSpeed is not installed.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
    except ImportError as error:
        raise UserError("the engine 'deepspeed' is not installed: install halflife[train]") from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    init_single_process(device)
    setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010  # none of its own operations is to be compiled
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return deepspeed


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def _shapes(pieces: dict[str, Piece]) -> dict[str, tuple[int, ...]]:
    return {name: piece.shape for name, piece in pieces.items()}
