"""The decoder's operations, optimised for CPUs; elsewhere, torch's own.

Matrix products use oneDNN, which uses AVX-512 on processors of any vendor: on one core about twice as fast as MKL,
which does not. Normalisation, rotation and gating have hand-written backward passes, because on a CPU each pass over
memory costs as much as a small product. On a GPU, under autocast and for types other than float32, torch's operations
and autograd are used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def plain(x: Tensor) -> bool:
    """Whether to use torch's own operations on `x`."""
    if torch.compiler.is_compiling():
        return True  # the compiler fuses them
    return x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) times weight (outputs, inputs), transposed: (..., outputs)."""
    if plain(x) or not _ONEDNN:
        return F.linear(x, weight)
    return _Linear.apply(x, weight)


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) * gain over the last dimension (arXiv 1910.07467)."""
    if plain(x):
        return F.rms_norm(x, (x.shape[-1],), gain, epsilon)
    return _RMSNorm.apply(x, gain, epsilon)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of the concatenation (..., 2 n) of gate and up: (..., n) (arXiv 2002.05202)."""
    if plain(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _SwiGLU.apply(gate_up)


def rope_cache(
    length: int, heads: int, head_width: int, base: float, like: Tensor, start: Tensor | None = None
) -> Tensor:
    """Cosine and sine of the rotary angles: (length, 1, heads, head width / 2, 2).

    Copied for each head, so that the rotation multiplies long contiguous rows. With `start` (rows,), the first position
    of each row, the result is (rows, length, 1, ...).
    """
    half = head_width // 2
    frequency = base ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    position = torch.arange(length, device=like.device, dtype=torch.float32)
    if start is not None:
        position = start[:, None] + position
    angle = position[..., None] * frequency
    numbers = torch.polar(torch.ones_like(angle), angle)[..., None, None, :]
    return torch.view_as_real(numbers.expand(*angle.shape[:-1], 1, heads, -1).contiguous())


def rotate_qkv(qkv: Tensor, rope_cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split (batch, length, 3, heads, head width) into query, key and value, each (batch, heads, length, head width),
    query and key rotated by their position (arXiv 2104.09864).

    Adjacent elements are the real and imaginary part of one number.
    """
    if plain(qkv):
        # real arithmetic: the compiler has no kernels for complex numbers
        real, imaginary = qkv[:, :, :2].float().unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = rope_cache.unbind(-1)
        rotated = torch.stack((real * cosine - imaginary * sine, real * sine + imaginary * cosine), dim=-1)
        q, k = rotated.flatten(-2).to(qkv.dtype).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)
    return _RotateQKV.apply(qkv, torch.view_as_complex(rope_cache))


def dropout(x: Tensor, probability: float) -> Tensor:
    """x with random elements set to 0 and the others scaled up to keep the mean (arXiv 1207.0580).

    `probability` is rounded to multiples of 1 / 65,536. Uses torch's global generator.
    """
    if plain(x):
        return F.dropout(x, probability)
    return _Dropout.apply(x, probability)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x (n, i) times weight (o, i), transposed, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        # the inputs are needed only for the gradient of the weight, which a frozen matrix does not get
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape
        gradient = gradients[0].reshape(-1, outputs)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _product(gradient, weight.t()).view(*gradients[0].shape[:-1], inputs)
        if ctx.needs_input_grad[1]:
            rows = x.reshape(-1, inputs)
            # both orders give the same sums; the one whose result has longer rows is faster
            if inputs >= outputs:
                to_weight = _product(gradient.t(), rows.t())
            else:
                to_weight = _product(rows.t(), gradient.t()).t().contiguous()
        return to_x, to_weight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, gain)
        return normed * gain

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, gain = ctx.saved_tensors
        gradient = gradients[0]
        product = gradient * normed
        along = (product @ gain).div_(-gain.numel()).unsqueeze(-1)
        to_x = (gradient * gain).addcmul_(normed, along).mul_(scale)
        return to_x, product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        to_gate, to_up = result.chunk(2, dim=-1)
        torch.mul(gradients[0], activated, out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=to_gate)
        return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        # torch draws one random number per element, which costs more than the products around it; 16 bits suffice
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        dropped = round(probability * 65536)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape).to(x.dtype).ge_(dropped - 32768)
        mask = kept.mul_(65536 / max(1, 65536 - dropped))
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


class _RotateQKV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rope_cache: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(rope_cache)
        result = qkv.new_empty(qkv.shape)
        torch.mul(_complex(qkv)[:, :, :2], rope_cache, out=_complex(result)[:, :, :2])
        result[:, :, 2] = qkv[:, :, 2]
        return tuple(part.transpose(1, 2) for part in result.unbind(2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rope_cache,) = ctx.saved_tensors
        batch, heads, length, head_width = gradients[0].shape
        result = gradients[0].new_empty(batch, length, 3, heads, head_width)
        back = rope_cache.conj().resolve_conj().select(-3, 0)
        pairs = _complex(result)
        for index in range(2):
            torch.mul(_complex(gradients[index].transpose(1, 2)), back, out=pairs[:, :, index])
        result[:, :, 2] = gradients[2].transpose(1, 2)
        return result, None


def _complex(x: Tensor) -> Tensor:
    """Adjacent elements of the last dimension as complex numbers, without a copy where the layout allows it."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
