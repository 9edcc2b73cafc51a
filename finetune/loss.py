"""Cross entropy of a linear head that never holds all logits: rows in chunks, their gradient made on the way.

Of [rows, vocabulary] only one chunk exists at a time (65,024 words: 260 KB a row in float32), and rows without a label
are never multiplied at all.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 256 * 2**20
"""Logits of one chunk in float32."""


def rows_per_chunk(vocabulary: int, *, bytes_at_once: int = CHUNK_BYTES) -> int:
    """Rows whose float32 logits fit into `bytes_at_once`."""
    return max(1, bytes_at_once // (4 * vocabulary))


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = 0) -> Tensor:
    """Sum (not mean) of the cross entropy of `hidden @ weight.T`, float32.

    *Shape:* hidden `(rows, width)`, weight `(vocabulary, width)`, targets `(rows)` int64, every one a valid word.
    Gradients flow to `hidden`, and to `weight` if it wants one.
    """
    chunk = chunk or rows_per_chunk(weight.shape[0])
    return _function().apply(hidden, weight, targets, chunk)  # type: ignore[no-any-return]


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same with all logits at once: what the chunks are tested against."""
    import torch

    logits = (hidden @ weight.T).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def fused_logits(hidden: Tensor) -> bool:
    """Whether the Triton kernel takes the loss and its gradient out of 16-bit logits."""
    import torch

    return hidden.is_cuda and hidden.dtype == torch.bfloat16 and find_spec("triton") is not None


def _fused(hidden: Tensor, weight: Tensor, targets: Tensor, grad_hidden: Tensor | None) -> Tensor:
    """The loss; `grad_hidden` is filled in. The logits of a chunk are read twice and written once."""
    import torch

    from finetune.kernels import launch

    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    chunk = rows_per_chunk(weight.shape[0]) * 2
    logits = hidden.new_empty(min(chunk, hidden.shape[0]), weight.shape[0])
    for at in range(0, hidden.shape[0], chunk):
        rows = hidden[at : at + chunk]
        here = torch.mm(rows, weight.T, out=logits[: rows.shape[0]])
        total += launch.cross_entropy(here, targets[at : at + chunk]).sum()
        if grad_hidden is not None:
            torch.mm(here, weight, out=grad_hidden[at : at + chunk])
    return total


_made: Any = None


def _function() -> Any:
    """The autograd function; torch is imported only when it is wanted."""
    global _made
    if _made is not None:
        return _made
    import torch

    class LinearCrossEntropy(torch.autograd.Function):
        """Forward makes loss and gradients chunk by chunk; backward only scales them."""

        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
            want_hidden, want_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            # float16 would lose gradients before the loss is scaled up: keep them in float32 until then
            if fused_logits(hidden) and not want_weight:
                grad_hidden = torch.empty_like(hidden) if want_hidden else None
                ctx.save_for_backward(grad_hidden, None)
                ctx.dtypes = hidden.dtype, weight.dtype
                return _fused(hidden, weight, targets, grad_hidden)
            kept = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
            grad_hidden = torch.empty_like(hidden, dtype=kept) if want_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
            for at in range(0, hidden.shape[0], chunk):
                rows, wanted = hidden[at : at + chunk], targets[at : at + chunk, None]
                logits = (rows @ weight.T).float()
                top = logits.logsumexp(-1, keepdim=True)
                total += (top - logits.gather(-1, wanted)).sum()
                if not (want_hidden or want_weight):
                    continue
                gradient = logits.sub_(top).exp_()
                gradient.scatter_add_(-1, wanted, torch.full_like(top, -1.0))
                small = gradient.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[at : at + chunk] = small @ weight
                if grad_weight is not None:
                    grad_weight += small.T @ rows
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.dtypes = hidden.dtype, weight.dtype
            return total

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
            grad_hidden, grad_weight = ctx.saved_tensors
            scale, (hidden, weight) = gradients[0], ctx.dtypes
            first = None if grad_hidden is None else (grad_hidden * scale).to(hidden)
            second = None if grad_weight is None else (grad_weight * scale).to(weight)
            return first, second, None, None

    _made = LinearCrossEntropy
    return _made
