"""Log-probabilities of given words under a linear head, never holding all logits.

The chunks are those of finetune.loss. What comes back is one number a row, since preferences weigh every answer
differently: the gradient of a chunk is made on the way and only scaled later, unless the head itself is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.forward import hidden_states
from finetune.loss import rows_per_chunk

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.methods import Trainee
    from finetune.pack import Batch


def linear_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = 0) -> Tensor:
    """log softmax(hidden @ weight.T)[target] of every row, float32.

    *Shape:* hidden `(rows, width)`, weight `(vocabulary, width)`, targets `(rows)`; the result `(rows)`. Gradients flow
    to `hidden`, and to `weight` if it wants one.
    """
    chunk = chunk or rows_per_chunk(weight.shape[0])
    return _function().apply(hidden, weight, targets, chunk)  # type: ignore[no-any-return]


def answer_log_probs(trainee: Trainee, batch: Batch) -> Tensor:
    """Summed log-probability of each document's trained words. *Shape:* (documents), float32."""
    import torch

    hidden = hidden_states(trainee, batch)
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.where)
    each = linear_log_probs(rows, trainee.glm.get_output_embeddings().weight, batch.targets)
    return torch.zeros(len(batch.ends), device=each.device).index_add(0, batch.owner, each)


_made: Any = None


def _function() -> Any:
    """The autograd function; torch is imported only when it is wanted."""
    global _made
    if _made is not None:
        return _made
    import torch

    def rises(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities, and their gradient by the logits (which it overwrites)."""
        top = logits.logsumexp(-1, keepdim=True)
        found = (logits.gather(-1, wanted) - top).squeeze(-1)
        gradient = logits.sub_(top).exp_().neg_()
        gradient.scatter_add_(-1, wanted, torch.ones_like(top))
        return found, gradient

    class LinearLogProbs(torch.autograd.Function):
        """Forward makes each row's own gradient; only a trained head is gone through again backward."""

        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
            want_hidden, want_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
            out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
            kept = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
            grad_hidden = torch.empty_like(hidden, dtype=kept) if want_hidden else None
            for at in range(0, hidden.shape[0], chunk):
                wanted = targets[at : at + chunk, None]
                logits = (hidden[at : at + chunk] @ weight.T).float()
                if grad_hidden is None:
                    out[at : at + chunk] = (logits.gather(-1, wanted) - logits.logsumexp(-1, True)).squeeze(
                        -1
                    )
                    continue
                out[at : at + chunk], gradient = rises(logits, wanted)
                grad_hidden[at : at + chunk] = gradient.to(weight.dtype) @ weight
            ctx.save_for_backward(grad_hidden, *((hidden, weight, targets) if want_weight else ()))
            ctx.chunk, ctx.dtype = chunk, hidden.dtype
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
            grad_hidden, *whole = ctx.saved_tensors
            above = gradients[0][:, None]
            first = None if grad_hidden is None else (grad_hidden * above).to(ctx.dtype)
            second = None
            if whole:
                hidden, weight, targets = whole
                total = torch.zeros_like(weight, dtype=torch.float32)
                for at in range(0, hidden.shape[0], ctx.chunk):
                    rows = hidden[at : at + ctx.chunk]
                    logits = (rows @ weight.T).float()
                    gradient = rises(logits, targets[at : at + ctx.chunk, None])[1]
                    scaled = gradient.mul_(above[at : at + ctx.chunk]).to(weight.dtype)
                    total += scaled.T @ rows
                second = total.to(weight.dtype)
            return first, second, None, None

    _made = LinearLogProbs
    return _made
