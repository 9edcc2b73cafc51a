"""Matrix products for one row, with what stands before and after them in the same kernel.

out = after(norm(x) @ W^T + bias + adapters): `after` is nothing, SwiGLU over two halves of W, or adding the residual.
Every program owns BN outputs and reads their weights once, as wide as they lie in memory. RMSNorm's factor is applied after
the sum, so nobody waits for it. `plain` reads weights of the model's dtype, or int8 with a scale for each output (INT8);
`four_bits` nf4.
"""

import triton
import triton.language as tl

from rag.chatglm3.engine.kernels.adapters import added, tell
from rag.chatglm3.engine.kernels.nf4 import nf4_pair, nf4_scales, pairs


@triton.jit
def _tile(w_ptr, rows, k, N, K, EVEN: tl.constexpr):
    """Weights as they lie in memory. *Shape:* (rows, k)."""
    place = w_ptr + rows.to(tl.int64)[:, None] * K + k[None, :]
    if EVEN:
        return tl.load(place)
    else:
        return tl.load(place, mask=(rows < N)[:, None] & (k < K)[None, :], other=0)


@triton.jit
def _finish(y, rows, N, scale_ptr, bias_ptr, t_ptr, up_ptr, flag_ptr, epoch_ptr, INT8: tl.constexpr, BIAS: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """int8's scale, the bias and the adapters."""
    if INT8:
        y *= tl.load(scale_ptr + rows, mask=rows < N, other=0.0)
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    if RANKS > 0:
        y += added(t_ptr, up_ptr, flag_ptr, epoch_ptr, rows, N, RANKS, WIDE)
    return y


@triton.jit
def _down(x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, flag_ptr, epsilon, r, K: tl.constexpr, NORM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """One rank of the adapters' first half."""
    value = 0.0
    if tl.load(owner_ptr + r) == tl.load(adapter_ptr):
        sums = tl.zeros((BK,), tl.float32)
        squares = tl.zeros((BK,), tl.float32)
        for step in tl.static_range((K + BK - 1) // BK):
            k = step * BK + tl.arange(0, BK)
            x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
            if NORM:
                squares += x * x
                x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
            sums += x * tl.load(down_ptr + r * K + k, mask=k < K, other=0.0).to(tl.float32)
        value = tl.sum(sums)
        if NORM:
            value *= tl.rsqrt(tl.sum(squares) / K + epsilon)
    tell(t_ptr, r, value, flag_ptr)


@triton.jit
def plain(
    x_ptr, norm_ptr, w_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr, epsilon,
    down_ptr, up_ptr, owner_ptr, adapter_ptr, t_ptr, flag_ptr, epoch_ptr,
    N: tl.constexpr, K: tl.constexpr, INT8: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """x (K,) -> out (N,). W is (N, K), or (2N, K) with SWIGLU: gates first."""
    program = tl.program_id(0)
    if program < RANKS:
        _down(
            x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, flag_ptr, epsilon, program, K, NORM, BK
        )
        return
    even: tl.constexpr = N % BN == 0 and K % BK == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    rows = (program - RANKS) * BN + tl.arange(0, BN)
    sums = tl.zeros((BN, BK), tl.float32)
    sums2 = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for step in tl.static_range((K + BK - 1) // BK):
        k = step * BK + tl.arange(0, BK)
        tile = _tile(w_ptr, rows, k, N, K, even)
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        sums += tile.to(tl.float32) * x[None, :]
        if SWIGLU:
            sums2 += _tile(w_ptr, rows + N, k, total, K, even).to(tl.float32) * x[None, :]
    factor = tl.rsqrt(tl.sum(squares) / K + epsilon) if NORM else 1.0
    y = _finish(
        tl.sum(sums, axis=1) * factor, rows, N, scale_ptr, bias_ptr, t_ptr, up_ptr, flag_ptr, epoch_ptr,
        INT8, BIAS, RANKS, WIDE,
    )  # fmt: skip
    if SWIGLU:
        up = _finish(
            tl.sum(sums2, axis=1) * factor, rows + N, total, scale_ptr, bias_ptr, t_ptr, up_ptr, flag_ptr, epoch_ptr,
            INT8, BIAS, RANKS, WIDE,
        )  # fmt: skip
        y = y * tl.sigmoid(y) * up
    if RESIDUAL:
        y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _scaled(tile, even, odd, rows, part, N, q_ptr, code_ptr, outer_ptr, offset, table_ptr, words, K: tl.constexpr, BN: tl.constexpr, BB: tl.constexpr, ASSEMBLE: tl.constexpr):  # fmt: skip
    """Products of a tile of bytes with x, summed over 16 bytes and scaled. *Shape:* (BN, BB / 16)."""
    high, low = nf4_pair(tile, table_ptr, words, ASSEMBLE)
    sums = tl.sum(tl.reshape(high * even[None, :] + low * odd[None, :], (BN, BB // 16, 16)), axis=2)
    inside = (rows < N)[:, None] & (part < K // 32)[None, :]
    block = rows.to(tl.int64)[:, None] * (K // 64) + (part // 2)[None, :]
    return sums * nf4_scales(q_ptr, code_ptr, outer_ptr, offset[:, None], block, inside)


@triton.jit
def four_bits(
    x_ptr, xs_ptr, norm_ptr, norms_ptr, w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, words, bias_ptr, residual_ptr,
    out_ptr, epsilon, down_ptr, up_ptr, owner_ptr, adapter_ptr, t_ptr, flag_ptr, epoch_ptr,
    N: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, ASSEMBLE: tl.constexpr,
):  # fmt: skip
    """The same for nf4. `xs` and `norms` are x and norm with two neighbours as one integer, of KIND."""
    program = tl.program_id(0)
    if program < RANKS:
        _down(
            x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, flag_ptr, epsilon, program, K, NORM, BK
        )
        return
    BB: tl.constexpr = BK // 2
    KB: tl.constexpr = K // 2
    fits: tl.constexpr = N % BN == 0 and KB % BB == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    rows = (program - RANKS) * BN + tl.arange(0, BN)
    offset = tl.load(offset_ptr + rows, mask=rows < N, other=0.0)
    sums = tl.zeros((BN, BB // 16), tl.float32)
    sums2 = tl.zeros((BN, BB // 16), tl.float32)
    squares = tl.zeros((BB,), tl.float32)
    if SWIGLU:
        offset2 = tl.load(offset_ptr + rows + N, mask=rows < N, other=0.0)
    for step in tl.static_range((KB + BB - 1) // BB):
        b = step * BB + tl.arange(0, BB)
        part = step * (BB // 16) + tl.arange(0, BB // 16)
        tile = _tile(w_ptr, rows, b, N, KB, fits)
        even, odd = pairs(xs_ptr, b, b < KB, KIND)
        if NORM:
            squares += even * even + odd * odd
            norm_even, norm_odd = pairs(norms_ptr, b, b < KB, KIND)
            even *= norm_even
            odd *= norm_odd
        sums += _scaled(
            tile,
            even,
            odd,
            rows,
            part,
            N,
            q_ptr,
            code_ptr,
            outer_ptr,
            offset,
            table_ptr,
            words,
            K,
            BN,
            BB,
            ASSEMBLE,
        )
        if SWIGLU:
            other = _tile(w_ptr, rows + N, b, total, KB, fits)
            sums2 += _scaled(
                other, even, odd, rows + N, part, total, q_ptr, code_ptr, outer_ptr, offset2, table_ptr, words, K, BN, BB, ASSEMBLE
            )  # fmt: skip
    factor = tl.rsqrt(tl.sum(squares) / K + epsilon) if NORM else 1.0
    y = _finish(
        tl.sum(sums, axis=1) * factor, rows, N, offset_ptr, bias_ptr, t_ptr, up_ptr, flag_ptr, epoch_ptr,
        False, BIAS, RANKS, WIDE,
    )  # fmt: skip
    if SWIGLU:
        up = _finish(
            tl.sum(sums2, axis=1) * factor, rows + N, total, offset_ptr, bias_ptr, t_ptr, up_ptr, flag_ptr, epoch_ptr,
            False, BIAS, RANKS, WIDE,
        )  # fmt: skip
        y = y * tl.sigmoid(y) * up
    if RESIDUAL:
        y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)
