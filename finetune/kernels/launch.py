"""The functions of `plain`, through Triton. Triton compiles each in about a second and keeps it on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.kernels import device
from finetune.kernels.plain import FlashKept

if TYPE_CHECKING:
    from torch import Tensor


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """See plain.norm."""
    import torch

    rows, width = x.shape
    rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
    other = x if delta is None else delta
    device.norm[(rows,)](
        x, other, weight, out, rstd, width, x.stride(0), other.stride(0), out.stride(0), eps,
        ADD=delta is not None, BLOCK=_power(width), num_warps=8,
    )  # fmt: skip
    return other, rstd


def norm_backward(
    x: Tensor, rstd: Tensor, weight: Tensor, grad: Tensor, stream: Tensor, *, normed: bool
) -> None:
    """See plain.norm_backward."""
    rows, width = x.shape
    device.norm_backward[(rows,)](
        x, rstd, weight, grad, stream, width, x.stride(0), grad.stride(0), stream.stride(0),
        NORMED=normed, BLOCK=_power(width), num_warps=8,
    )  # fmt: skip


def copy(source: Tensor, target: Tensor) -> None:
    """See plain.copy."""
    rows, width = source.shape
    block = _power(width)
    device.copy[(rows,)](source, target, width, source.stride(0), target.stride(0), BLOCK=block, num_warps=4)


def swiglu(both: Tensor, out: Tensor) -> None:
    """See plain.swiglu."""
    rows, width = out.shape
    grid = (rows, -(-width // 1024))
    device.swiglu[grid](both, out, width, both.stride(0), out.stride(0), BLOCK=1024, num_warps=4)


def swiglu_backward(both: Tensor, grad: Tensor, *, again: bool = True) -> None:
    """See plain.swiglu_backward."""
    rows, width = grad.shape
    grid = (rows, -(-width // 1024))
    device.swiglu_backward[grid](
        both, grad, width, both.stride(0), grad.stride(0), AGAIN=again, BLOCK=1024, num_warps=4
    )


def rotate(source: Tensor, target: Tensor, cosine: Tensor, sine: Tensor, *, back: bool = False) -> None:
    """See plain.rotate."""
    rows, heads, width = source.shape
    half = cosine.shape[1]
    rest = width - 2 * half
    copy = rest > 0 and source.data_ptr() != target.data_ptr()
    device.rotate[(rows,)](
        source, target, cosine, sine, heads, source.stride(0), source.stride(1), target.stride(0),
        target.stride(1), -1.0 if back else 1.0,
        HEADS=_power(heads), HALF=half, REST=max(1, rest), COPY=copy, num_warps=4,
    )  # fmt: skip


def unpack_nf4(weight: Any, state: Any, target: Tensor) -> None:
    """See plain.unpack_nf4. Rounds as bitsandbytes does: no multiply-add."""
    rows, width = target.shape
    nested, inner = bool(state.nested), state.state2 if state.nested else None
    blocks, at_once = width // 64, 32
    device.unpack_nf4[(rows, -(-blocks // at_once))](
        weight, state.absmax,
        inner.code if inner else state.code, inner.absmax if inner else state.code,
        state.offset if inner else state.code, state.code, target, blocks, target.stride(0),
        NESTED=nested, BLOCKS=at_once, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """See plain.cross_entropy."""
    import torch

    rows, words = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    device.cross_entropy[(rows,)](
        logits, targets, losses, logits.stride(0), WORDS=words, BLOCK=8192, num_warps=16
    )
    return losses


def attention(
    query: Tensor, key: Tensor, value: Tensor, begins: Tensor, longest: int, scale: float
) -> tuple[Tensor, FlashKept]:
    """See plain.attention. FlashAttention as torch has it; key and value heads stay grouped."""
    import torch

    out, log_sum, random, _, _ = torch.ops.aten._flash_attention_forward(
        query, key, value, begins, begins, longest, longest, 0.0, True, False, scale=scale
    )
    return out, FlashKept(out, log_sum, random)


def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, begins: Tensor, longest: int, scale: float, kept: FlashKept
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See plain.attention_backward."""
    import torch

    assert kept.log_sum is not None and kept.random is not None
    unused = torch.empty(0, device=query.device)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, kept.out, kept.log_sum, begins, begins, longest, longest, 0.0, True,
        kept.random, unused, scale=scale,
    )  # fmt: skip
    return found


def variants() -> int:
    """How many kernels Triton has compiled in this process: a step must not add one."""
    kernels = [k for k in vars(device).values() if hasattr(k, "device_caches")]
    return sum(len(cache[0]) for k in kernels for cache in k.device_caches.values())
