"""The local fragment of each parameter, and of its optimizer state, under ZeRO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halflife.models.model import Model
from halflife.training.checkpoints import Piece


@dataclass(frozen=True, kw_only=True, eq=False)
class Fragment:
    """This process's consecutive elements of a parameter, and their place in the tensor that the optimizer updates."""

    name: str
    shape: tuple[int, ...]
    offset: int
    """In the parameter, flattened."""
    count: int
    owner: Tensor
    """The tensor that the optimizer updates: the parameter itself, or a flat buffer with fragments of many."""
    start: int
    """In the owner, flattened."""

    def of(self, tensor: Tensor) -> Tensor:
        """This fragment's view of a tensor shaped like the owner."""
        return tensor.data.view(-1).narrow(0, self.start, self.count)

    def part(self, whole: Tensor) -> Tensor:
        """This fragment's elements of a whole parameter, or of its state."""
        return whole.reshape(-1).narrow(0, self.offset, self.count)

    def piece(self, tensor: Tensor) -> Piece | None:
        """For writing; a scalar belongs to the parameter's first fragment."""
        if tensor.numel() == 1 and self.owner.numel() != 1:
            return Piece(values=tensor.detach().clone().reshape(1), offset=0, shape=()) if self.offset == 0 else None
        return Piece(values=self.of(tensor), offset=self.offset, shape=self.shape)


def shards_of(engine: Any, zero: int) -> list[Tensor]:
    """The tensors that a DeepSpeed engine's optimizer updates under ZeRO, in the same order on every rank."""
    sharded = engine.optimizer
    return sharded.fp32_partitioned_groups_flat if zero == 3 else sharded.single_partition_of_fp32_groups


def fragments_of(engine: Any, model: Model, zero: int) -> list[Fragment]:
    """The fragments of the trainable parameters of a DeepSpeed engine's model, in the order of `named_parameters`.

    Stages 1 and 2 flatten each parameter group and split it into equal parts, one per rank; stage 3 splits every
    parameter.
    """
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if zero == 0:
            shape = tuple(parameter.shape)
            found.append(Fragment(name=name, shape=shape, offset=0, count=parameter.numel(), owner=parameter, start=0))
        elif zero < 3:
            mapping: Any = getattr(parameter, "_hp_mapping")  # noqa: B009  # DeepSpeed's own attribute
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                owner = shards_of(engine, zero)[mapping.param_group_index]
                shape = tuple(parameter.shape)
                found.append(
                    Fragment(
                        name=name, shape=shape, offset=here.start, count=here.numel, owner=owner, start=there.start
                    )
                )
        else:
            sharded: Any = parameter
            group, start, share = engine.optimizer.grad_position[engine.optimizer.get_param_id(sharded)]
            offset = share * torch.distributed.get_rank()
            count = min(share, sharded.ds_numel - offset)
            if count > 0:
                owner = shards_of(engine, zero)[group]
                shape = tuple(sharded.ds_shape)
                found.append(Fragment(name=name, shape=shape, offset=offset, count=count, owner=owner, start=start))
    return found
