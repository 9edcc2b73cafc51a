"""What the fused kernels compute, in plain torch: used on a CPU, and what Triton is tested against.

All work in place where the names say so: these are the largest tensors of the training.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class FlashKept:
    """What attention keeps for its backward pass."""

    out: Tensor
    log_sum: Tensor | None = None
    random: Tensor | None = None


def norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """RMSNorm of x + delta into `out`; the sum replaces delta. Returns the sum and 1 / root mean square, float32.

    *Shape:* x, delta, out `(tokens, width)`; rows may be parts of longer ones.
    """
    total = x if delta is None else delta.add_(x)
    wide = total.float()
    rstd = (wide.square().mean(-1) + eps).rsqrt()
    out.copy_(weight * (wide * rstd[:, None]).to(out.dtype))
    return total, rstd


def norm_backward(
    x: Tensor, rstd: Tensor, weight: Tensor, grad: Tensor, stream: Tensor, *, normed: bool
) -> None:
    """Add the gradient of the norm's input x to `stream`. With `normed`, `grad` becomes the norm's output."""
    hat = x.float() * rstd[:, None]
    above = grad.float() * weight.float()
    share = (above * hat).mean(-1, keepdim=True)
    stream.copy_(stream.float() + rstd[:, None] * (above - hat * share))
    if normed:
        grad.copy_(weight * hat.to(grad.dtype))


def copy(source: Tensor, target: Tensor) -> None:
    """Rows of one matrix into part of another's."""
    target.copy_(source)


def swiglu(both: Tensor, out: Tensor) -> None:
    """out = silu(gate) * up. *Shape:* both `(tokens, >= 2 * width)`: gate, up; out `(tokens, width)`."""
    width = out.shape[1]
    gate, up = both[:, :width].float(), both[:, width : 2 * width].float()
    out.copy_(gate * gate.sigmoid() * up)


def swiglu_backward(both: Tensor, grad: Tensor, *, again: bool = True) -> None:
    """`both` becomes its own gradient; with `again`, `grad`, the gradient of the output, becomes the output."""
    width = grad.shape[1]
    gate, up, above = both[:, :width].float(), both[:, width : 2 * width].float(), grad.float()
    gated = gate.sigmoid()
    silu = gate * gated
    out, first = silu * up, above * up * gated * (1 + gate * (1 - gated))
    both[:, width : 2 * width].copy_(above * silu)
    both[:, :width].copy_(first)
    if again:
        grad.copy_(out)


def rotate(source: Tensor, target: Tensor, cosine: Tensor, sine: Tensor, *, back: bool = False) -> None:
    """Rotary positions, GLM's way: neighbours are pairs, and only the first part of a head turns.

    *Shape:* source, target `(tokens, heads, width)`, target may be source; cosine, sine `(tokens, pairs)`.
    `back`: turn the other way, which is the gradient.
    """
    half = cosine.shape[1]
    c, s = cosine[:, None].float(), sine[:, None].float() * (-1 if back else 1)
    even, odd = source[..., 0 : 2 * half : 2].float(), source[..., 1 : 2 * half : 2].float()
    first, second = even * c - odd * s, odd * c + even * s
    if target.data_ptr() != source.data_ptr():
        target[..., 2 * half :].copy_(source[..., 2 * half :])
    target[..., 0 : 2 * half : 2].copy_(first)
    target[..., 1 : 2 * half : 2].copy_(second)


def unpack_nf4(weight: Any, state: Any, target: Tensor) -> None:
    """A bitsandbytes nf4 weight into `target`, part of a wider matrix. *Shape:* target `(outputs, inputs)`."""
    from bitsandbytes.functional import dequantize_4bit

    target.copy_(dequantize_4bit(weight, state).reshape(target.shape))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of every row, float32; the logits become their gradient (of the sum).

    *Shape:* logits `(rows, words)`, targets `(rows)`.
    """
    import torch

    wide = logits.float()
    top = wide.logsumexp(-1, keepdim=True)
    losses = (top - wide.gather(-1, targets[:, None])).squeeze(-1)
    wide.sub_(top).exp_().scatter_add_(-1, targets[:, None], torch.full_like(top, -1.0))
    logits.copy_(wide)
    return losses


def attention(
    query: Tensor, key: Tensor, value: Tensor, begins: Tensor, longest: int, scale: float
) -> tuple[Tensor, FlashKept]:
    """Causal attention within documents.

    *Shape:* query and the result `(tokens, heads, width)`, key and value `(tokens, groups, width)`, begins
    `(documents + 1)` int32. `longest`: most tokens of a document.
    """
    out = _by_document(query, key, value, begins, scale)
    return out, FlashKept(out)


def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, begins: Tensor, longest: int, scale: float, kept: FlashKept
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key and value."""
    import torch

    inputs = [t.detach().requires_grad_() for t in (query, key, value)]
    with torch.enable_grad():
        out = _by_document(inputs[0], inputs[1], inputs[2], begins, scale)
    first, second, third = torch.autograd.grad(out, inputs, grad)
    return first, second, third


def _by_document(query: Tensor, key: Tensor, value: Tensor, begins: Tensor, scale: float) -> Tensor:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    parts = []
    for begin, end in itertools.pairwise(begins.tolist()):
        if end > begin:
            q, k, v = (t[begin:end].transpose(0, 1)[None] for t in (query, key, value))
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
