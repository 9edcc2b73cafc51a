"""Attention over packed rows: every document sees only itself, and no square mask of the whole row is ever made.

Registered with transformers as "zhiwen_packed". The kernel is chosen by what torch has, not by its version:
`torch.nn.attention.varlen` on a GPU in 16 bits, else one scaled dot product per document.
"""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "zhiwen_packed"
_registered = False
_flash = True
"""Whether the cards here are new enough for torch's kernel; known before anything is compiled."""


def register() -> str:
    """Make the name known to transformers (once). Returns it."""
    global _registered, _flash
    if not _registered:
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(NAME, packed_attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        if (kernel := varlen_kernel()) is not None:
            varlen_options(kernel)  # now: found out while compiling, it would make the compiler start again
        _flash = new_cards()
        _registered = True
    return NAME


def new_cards() -> bool:
    """Whether every GPU can run FlashAttention, which torch's kernel is: compute capability 8 or more (not T4, V100, 2080)."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return all(torch.cuda.get_device_capability(number)[0] >= 8 for number in range(count))


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Where documents begin is in cu_seqlens."""


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    cu_seqlens: Tensor | None = None,
    longest: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within documents.

    *Shape:* query `(1, heads, tokens, width)`, key and value `(1, groups, tokens, width)`; the result
    `(1, tokens, heads, width)`.
    """
    if cu_seqlens is None or query.shape[0] != 1:
        raise ValueError(f"{NAME} works on one packed row with cu_seqlens; use sdpa for anything else.")
    short = query.element_size() == 2  # the kernel knows 16 bits only
    if query.is_cuda and short and _flash and (kernel := varlen_kernel()) is not None:
        return _varlen(kernel, query, key, value, cu_seqlens, longest, scaling), None
    import torch

    compiler: Any = torch.compiler
    eager = compiler.disable(_by_document)  # a loop over documents is no fixed graph
    return eager(query, key, value, cu_seqlens, scaling, dropout), None


def _by_document(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scaling: float, dropout: float
) -> Tensor:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    begins = cu_seqlens.tolist()
    parts = [
        scaled_dot_product_attention(
            query[:, :, begin:end],
            key[:, :, begin:end],
            value[:, :, begin:end],
            is_causal=True,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=True,
        )
        for begin, end in itertools.pairwise(begins)
        if end > begin
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def varlen_kernel() -> Any:
    """torch's attention over documents of different length, or None if this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _varlen(
    kernel: Any, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int, scaling: float
) -> Tensor:
    flat = [t.squeeze(0).transpose(0, 1) for t in (query, key, value)]
    q, k, v = flat
    options = varlen_options(kernel)
    if "enable_gqa" not in options:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    out = kernel(q, k, v, cu_seqlens, cu_seqlens, longest, longest, scale=scaling, **options)
    return out[None]  # type: ignore[no-any-return]


_options: dict[str, Any] | None = None


def varlen_options(kernel: Any) -> dict[str, Any]:
    """How this torch's kernel is told "causal" and "grouped heads": read from its signature, once."""
    global _options
    if _options is None:
        known = inspect.signature(kernel).parameters
        causal = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
        _options = {**causal, **({"enable_gqa": True} if "enable_gqa" in known else {})}
    return _options
