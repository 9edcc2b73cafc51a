"""Matrix products of a decoding step, with what stands before and after them in the same kernel.

out = after(norm(x) @ W^T + bias + adapters): `after` is nothing, SwiGLU over two halves of W, or adding the residual.

`single` is for one row: every program owns BN outputs and reads their weights once, as wide as they lie in memory.
`several` is for up to 64 rows: the same on tensor cores. RMSNorm's factor is applied after the sum, so no program waits
for it. KIND: 0 the model's own dtype, 1 nf4, 2 int8 with one scale for each output.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rag.chatglm3.engine.kernels.nf4 import nf4_pair, nf4_scales


@triton.jit
def _weights(
    w_ptr, rows, at, N, K: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr, ROWS_EVEN: tl.constexpr
):
    """One tile of weights as it lies in memory. *Shape:* (BN, BK), or (BN, BK / 2) bytes of nf4."""
    if KIND == 1:
        k = at // 2 + tl.arange(0, BK // 2)
        width = K // 2
    else:
        k = at + tl.arange(0, BK)
        width = K
    place = w_ptr + rows.to(tl.int64)[:, None] * width + k[None, :]
    if ROWS_EVEN and K % BK == 0:
        return tl.load(place)
    else:
        return tl.load(place, mask=(rows < N)[:, None] & (k < width)[None, :], other=0)


@triton.jit
def _partial(tile, x, rows, at, N, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr):  # fmt: skip
    """Products of a tile with its part of x, summed over 64 neighbours for nf4. *Shape:* (BN, BK) or (BN, BK / 64)."""
    if KIND == 1:
        even, odd = tl.split(tl.reshape(x, (BK // 2, 2)))
        high, low = nf4_pair(tile, table_ptr)
        sums = tl.sum(tl.reshape(high * even[None, :] + low * odd[None, :], (BN, BK // 64, 32)), axis=2)
        block = at // 64 + tl.arange(0, BK // 64)
        inside = (rows < N)[:, None] & (block < K // 64)[None, :]
        number = rows.to(tl.int64)[:, None] * (K // 64) + block[None, :]
        offset = tl.load(offset_ptr + rows, mask=rows < N, other=0.0)[:, None]
        return sums * nf4_scales(q_ptr, code_ptr, outer_ptr, offset, number, inside)
    else:
        return tile.to(tl.float32) * x[None, :]


@triton.jit
def _adapters(t_ptr, up_ptr, rows, N, RANKS: tl.constexpr, WIDE: tl.constexpr):
    """What the adapters add to a single row's outputs. *Shape:* (BN,)."""
    r = tl.arange(0, WIDE)
    inner = tl.load(t_ptr + r, mask=r < RANKS, other=0.0)
    mask = (rows < N)[:, None] & (r < RANKS)[None, :]
    up = tl.load(up_ptr + rows[:, None] * RANKS + r[None, :], mask=mask, other=0.0)
    return tl.sum(up.to(tl.float32) * inner[None, :], axis=1)


@triton.jit
def single(
    x_ptr, norm_ptr, w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, bias_ptr, residual_ptr, t_ptr, up_ptr,
    out_ptr, epsilon,
    N: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: x (K,) -> out (N,). W is (N, K), or (2N, K) with SWIGLU: gates first."""
    even: tl.constexpr = N % BN == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    tile = _weights(w_ptr, rows, 0, N, K, BK, KIND, even)
    if SWIGLU:
        other = _weights(w_ptr, rows + N, 0, total, K, BK, KIND, even)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    columns: tl.constexpr = BK // 64 if KIND == 1 else BK
    sums = tl.zeros((BN, columns), tl.float32)
    sums2 = tl.zeros((BN, columns), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for step in tl.static_range((K + BK - 1) // BK):
        at = step * BK
        if step > 0:
            tile = _weights(w_ptr, rows, at, N, K, BK, KIND, even)
            if SWIGLU:
                other = _weights(w_ptr, rows + N, at, total, K, BK, KIND, even)
        k = at + tl.arange(0, BK)
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        sums += _partial(
            tile, x, rows, at, N, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, K, BN, BK, KIND
        )
        if SWIGLU:
            sums2 += _partial(
                other,
                x,
                rows + N,
                at,
                total,
                q_ptr,
                code_ptr,
                outer_ptr,
                offset_ptr,
                table_ptr,
                K,
                BN,
                BK,
                KIND,
            )
    factor = tl.rsqrt(tl.sum(squares) / K + epsilon) if NORM else 1.0
    y = _finish(
        tl.sum(sums, axis=1) * factor, rows, N, offset_ptr, bias_ptr, t_ptr, up_ptr, KIND, BIAS, RANKS, WIDE
    )
    if SWIGLU:
        up = _finish(
            tl.sum(sums2, axis=1) * factor,
            rows + N,
            total,
            offset_ptr,
            bias_ptr,
            t_ptr,
            up_ptr,
            KIND,
            BIAS,
            RANKS,
            WIDE,
        )
        y = y * tl.sigmoid(y) * up
    if RESIDUAL:
        y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _finish(y, rows, N, scale_ptr, bias_ptr, t_ptr, up_ptr, KIND: tl.constexpr, BIAS: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """int8's scale, the bias and the adapters of a single row."""
    if KIND == 2:
        y *= tl.load(scale_ptr + rows, mask=rows < N, other=0.0)
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    if RANKS > 0:
        y += _adapters(t_ptr, up_ptr, rows, N, RANKS, WIDE)
    return y


@triton.jit
def _matrix(tile, rows, at, N, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, dtype: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr):  # fmt: skip
    """A tile of weights as numbers. *Shape:* (BN, BK)."""
    if KIND == 1:
        high, low = nf4_pair(tile, table_ptr)
        block = at // 64 + tl.arange(0, BK // 64)
        inside = (rows < N)[:, None] & (block < K // 64)[None, :]
        number = rows.to(tl.int64)[:, None] * (K // 64) + block[None, :]
        offset = tl.load(offset_ptr + rows, mask=rows < N, other=0.0)[:, None]
        scales = nf4_scales(q_ptr, code_ptr, outer_ptr, offset, number, inside)[:, :, None]
        high = tl.reshape(tl.reshape(high, (BN, BK // 64, 32)) * scales, (BN, BK // 2))
        low = tl.reshape(tl.reshape(low, (BN, BK // 64, 32)) * scales, (BN, BK // 2))
        return tl.reshape(tl.join(high.to(dtype), low.to(dtype)), (BN, BK))
    else:
        return tile.to(dtype)


@triton.jit
def several(
    x_ptr, norm_ptr, w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, bias_ptr, residual_ptr, t_ptr, up_ptr,
    out_ptr, epsilon, M,
    N: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """M rows, at most BM: x (M, K) -> out (M, N)."""
    even: tl.constexpr = N % BN == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    dtype = x_ptr.dtype.element_ty
    m = tl.arange(0, BM)
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.float32)
    sums2 = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    for at in tl.range(0, K, BK, num_stages=STAGES):
        k = at + tl.arange(0, BK)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        tile = _weights(w_ptr, rows, at, N, K, BK, KIND, even)
        if NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            x = (wide * tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)[None, :]).to(dtype)
        w = _matrix(
            tile, rows, at, N, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, dtype, K, BN, BK, KIND
        )
        sums = tl.dot(x, tl.trans(w), sums, input_precision="ieee")
        if SWIGLU:
            other = _weights(w_ptr, rows + N, at, total, K, BK, KIND, even)
            w2 = _matrix(
                other,
                rows + N,
                at,
                total,
                q_ptr,
                code_ptr,
                outer_ptr,
                offset_ptr,
                table_ptr,
                dtype,
                K,
                BN,
                BK,
                KIND,
            )
            sums2 = tl.dot(x, tl.trans(w2), sums2, input_precision="ieee")
    if NORM:
        factor = tl.rsqrt(squares / K + epsilon)[:, None]
        sums *= factor
        sums2 *= factor
    y = _finish_rows(sums, m, rows, M, N, offset_ptr, bias_ptr, t_ptr, up_ptr, KIND, BIAS, RANKS, WIDE)
    if SWIGLU:
        up = _finish_rows(
            sums2, m, rows + N, M, total, offset_ptr, bias_ptr, t_ptr, up_ptr, KIND, BIAS, RANKS, WIDE
        )
        y = y * tl.sigmoid(y) * up
    mask = (m < M)[:, None] & (rows < N)[None, :]
    place = m.to(tl.int64)[:, None] * N + rows[None, :]
    if RESIDUAL:
        y += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _finish_rows(y, m, rows, M, N, scale_ptr, bias_ptr, t_ptr, up_ptr, KIND: tl.constexpr, BIAS: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """int8's scale, the bias and the adapters of several rows. *Shape:* (BM, BN)."""
    if KIND == 2:
        y *= tl.load(scale_ptr + rows, mask=rows < N, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
    if RANKS > 0:
        r = tl.arange(0, WIDE)
        inner = tl.load(
            t_ptr + m[:, None] * RANKS + r[None, :], mask=(m < M)[:, None] & (r < RANKS)[None, :], other=0.0
        )
        up = tl.load(
            up_ptr + rows[:, None] * RANKS + r[None, :],
            mask=(rows < N)[:, None] & (r < RANKS)[None, :],
            other=0.0,
        )
        y += tl.dot(inner.to(up.dtype), tl.trans(up), input_precision="ieee")
    return y


@triton.jit
def adapters_down(
    x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, epsilon,
    K: tl.constexpr, NORM: tl.constexpr, RANKS: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """t (M, RANKS) = norm(x) @ down^T where the row's adapter owns that rank, else 0. Grid (RANKS, M)."""
    r, m = tl.program_id(0), tl.program_id(1)
    mine = tl.load(owner_ptr + r) == tl.load(adapter_ptr + m)
    sums = tl.zeros((BK,), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    if mine:
        for at in tl.static_range(0, K, BK):
            k = at + tl.arange(0, BK)
            x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0).to(tl.float32)
            if NORM:
                squares += x * x
                x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
            sums += x * tl.load(down_ptr + r * K + k, mask=k < K, other=0.0).to(tl.float32)
    value = tl.sum(sums)
    if NORM:
        value *= tl.rsqrt(tl.sum(squares) / K + epsilon)
    tl.store(t_ptr + m * RANKS + r, value)
