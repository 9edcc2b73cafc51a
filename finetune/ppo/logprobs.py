"""Log-probability and entropy of given words under a linear head, rows in chunks: all logits never exist at once.

The backward pass makes each chunk's logits again. The head itself gets no gradient (it is frozen in this stage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.loss import rows_per_chunk

if TYPE_CHECKING:
    from torch import Tensor


def word_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's target, and the entropy of each row's distribution, in nats, float32.

    *Shape:* hidden `(rows, width)`, weight `(vocabulary, width)`, targets `(rows)` int64; both results `(rows)`.
    Gradients flow to `hidden` through both.
    """
    chunk = chunk or rows_per_chunk(weight.shape[0])
    found: tuple[Tensor, Tensor] = _function().apply(hidden, weight, targets, temperature, chunk)
    return found


_made: Any = None


def _function() -> Any:
    """The autograd function; torch is imported only when it is wanted."""
    global _made
    if _made is not None:
        return _made
    import torch

    class WordLogprobs(torch.autograd.Function):
        """See `word_logprobs`."""

        @staticmethod
        def forward(
            ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
        ) -> tuple[Tensor, Tensor]:
            rows = hidden.shape[0]
            logprobs = torch.empty(rows, dtype=torch.float32, device=hidden.device)
            entropy = torch.empty_like(logprobs)
            for at in range(0, rows, chunk):
                part = slice(at, at + chunk)
                logs = (hidden[part] @ weight.T).float().div_(temperature).log_softmax(-1)
                logprobs[part] = logs.gather(-1, targets[part, None])[:, 0]
                entropy[part] = -(logs.exp() * logs).sum(-1)
            ctx.save_for_backward(hidden, weight, targets, entropy)
            ctx.numbers = temperature, chunk
            return logprobs, entropy

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, None]:
            hidden, weight, targets, entropy = ctx.saved_tensors
            temperature, chunk = ctx.numbers
            of_logprob, of_entropy = gradients
            kept = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
            out = torch.empty_like(hidden, dtype=kept)
            for at in range(0, hidden.shape[0], chunk):
                part = slice(at, at + chunk)
                logs = (hidden[part] @ weight.T).float().div_(temperature).log_softmax(-1)
                likely = logs.exp()
                # d entropy / d logit = -p (log p + entropy); d logprob / d logit = onehot - p
                logs.add_(entropy[part, None]).mul_(of_entropy[part, None]).add_(of_logprob[part, None])
                gradient = likely.mul_(logs).neg_()
                gradient.scatter_add_(-1, targets[part, None], of_logprob[part, None])
                out[part] = gradient.div_(temperature).to(weight.dtype) @ weight
            return out.to(hidden.dtype), None, None, None, None

    _made = WordLogprobs
    return _made
