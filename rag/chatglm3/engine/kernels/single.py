"""Matrix products for one row, with what stands before and after them in the same kernel.

out = after(norm(x) @ W^T + bias + adapters): `after` is nothing, SwiGLU over two halves of W, or adding the residual.
Every program owns BN outputs and reads their weights once, as wide as they lie in memory. RMSNorm's factor is applied after
the sum, so nobody waits for it. Weights are of the model's dtype, or int8 with a scale for each output (INT8).
"""

import triton
import triton.language as tl

from rag.chatglm3.engine.kernels.adapters import complete, down, glance, ups


@triton.jit
def tile(w_ptr, rows, k, N, K, EVEN: tl.constexpr):
    """Weights as they lie in memory. *Shape:* (rows, k)."""
    place = w_ptr + rows.to(tl.int64)[:, None] * K + k[None, :]
    if EVEN:
        return tl.load(place)
    else:
        return tl.load(place, mask=(rows < N)[:, None] & (k < K)[None, :], other=0)


@triton.jit
def finish(y, factor, rows, N, scale_ptr, bias_ptr, up, inner, INT8: tl.constexpr, BIAS: tl.constexpr, RANKS: tl.constexpr):  # fmt: skip
    """int8's scale, the adapters (`up` (rows, WIDE) times `inner` (WIDE,)), RMSNorm's factor and the bias."""
    if INT8:
        y *= tl.load(scale_ptr + rows, mask=rows < N, other=0.0)
    if RANKS > 0:
        y += tl.sum(up.to(tl.float32) * inner[None, :], axis=1)
    y *= factor
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    return y


@triton.jit
def plain(
    x_ptr, norm_ptr, w_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr, epsilon,
    down_ptr, up_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr,
    N: tl.constexpr, K: tl.constexpr, INT8: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """x (K,) -> out (N,). W is (N, K), or (2N, K) with SWIGLU: gates first. Grid (RANKS * PARTS + groups,)."""
    program = tl.program_id(0)
    if program < RANKS * PARTS:
        down(
            x_ptr,
            norm_ptr,
            down_ptr,
            owner_ptr,
            adapter_ptr,
            t_ptr,
            epoch_ptr,
            program,
            K,
            NORM,
            RANKS,
            PARTS,
        )
        return
    even: tl.constexpr = N % BN == 0 and K % BK == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    rows = (program - RANKS * PARTS) * BN + tl.arange(0, BN)
    epoch, words = tl.load(epoch_ptr), glance(t_ptr, RANKS, WIDE, PARTS)
    up = ups(up_ptr, rows, N, RANKS, WIDE)
    up2 = ups(up_ptr, rows + N, total, RANKS, WIDE) if SWIGLU else 0.0
    sums = tl.zeros((BN, BK), tl.float32)
    sums2 = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for step in tl.static_range((K + BK - 1) // BK):
        k = step * BK + tl.arange(0, BK)
        weights = tile(w_ptr, rows, k, N, K, even)
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        sums += weights.to(tl.float32) * x[None, :]
        if SWIGLU:
            sums2 += tile(w_ptr, rows + N, k, total, K, even).to(tl.float32) * x[None, :]
    factor = tl.rsqrt(tl.sum(squares) / K + epsilon) if NORM else 1.0
    y = tl.sum(sums, axis=1)  # before the wait: what is left for later would keep its weights in registers
    y2 = tl.sum(sums2, axis=1) if SWIGLU else y
    inner = complete(words, t_ptr, epoch, RANKS, WIDE, PARTS)
    y = finish(y, factor, rows, N, scale_ptr, bias_ptr, up, inner, INT8, BIAS, RANKS)
    if SWIGLU:
        more = finish(y2, factor, rows + N, total, scale_ptr, bias_ptr, up2, inner, INT8, BIAS, RANKS)
        y = y * tl.sigmoid(y) * more
    if RESIDUAL:
        y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)
