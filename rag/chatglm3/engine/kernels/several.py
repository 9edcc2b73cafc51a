"""Matrix products for up to 64 rows on tensor cores, with what stands after them in the same kernel."""

import triton
import triton.language as tl


@triton.jit
def normalise(x_ptr, norm_ptr, out_ptr, epsilon, K: tl.constexpr, BK: tl.constexpr):
    """RMSNorm of each row. Grid (M,)."""
    m, k = tl.program_id(0), tl.arange(0, BK)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x) / K + epsilon)
    norm = tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    tl.store(out_ptr + m * K + k, (x * factor * norm).to(out_ptr.dtype.element_ty), mask=k < K)


@triton.jit
def _tile(w_ptr, rows, k, N, K: tl.constexpr, dtype: tl.constexpr, EVEN: tl.constexpr):
    """Weights as numbers, inputs first. *Shape:* (k, rows)."""
    place = w_ptr + rows.to(tl.int64)[None, :] * K + k[:, None]
    if EVEN:
        return tl.load(place).to(dtype)
    else:
        return tl.load(place, mask=(rows < N)[None, :] & (k < K)[:, None], other=0).to(dtype)


@triton.jit
def _finish(y, m, rows, M, N, scale_ptr, bias_ptr, t_ptr, up_ptr, INT8: tl.constexpr, BIAS: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """int8's scale, the bias and the adapters. *Shape:* (BM, BN)."""
    if INT8:
        y *= tl.load(scale_ptr + rows, mask=rows < N, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
    if RANKS > 0:
        r = tl.arange(0, WIDE)
        inside = (m < M)[:, None] & (r < RANKS)[None, :]
        inner = tl.load(t_ptr + m[:, None] * RANKS + r[None, :], mask=inside, other=0.0)
        inside = (rows < N)[None, :] & (r < RANKS)[:, None]
        up = tl.load(up_ptr + rows[None, :] * RANKS + r[:, None], mask=inside, other=0.0)
        y += tl.dot(inner.to(up.dtype), up, input_precision="ieee")
    return y


@triton.jit
def several(
    x_ptr, w_ptr, scale_ptr, bias_ptr, residual_ptr, out_ptr, M, t_ptr, up_ptr,
    N: tl.constexpr, K: tl.constexpr, INT8: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """M rows, at most BM: x (M, K) -> out (M, N). W is (N, K), or (2N, K) with SWIGLU: gates first."""
    even: tl.constexpr = N % BN == 0 and K % BK == 0
    total: tl.constexpr = 2 * N if SWIGLU else N
    dtype = x_ptr.dtype.element_ty
    m = tl.arange(0, BM)
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.float32)
    sums2 = tl.zeros((BM, BN), tl.float32)
    for at in tl.range(0, K, BK, num_stages=STAGES):
        k = at + tl.arange(0, BK)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        sums = tl.dot(x, _tile(w_ptr, rows, k, N, K, dtype, even), sums, input_precision="ieee")
        if SWIGLU:
            sums2 = tl.dot(x, _tile(w_ptr, rows + N, k, total, K, dtype, even), sums2, input_precision="ieee")
    y = _finish(sums, m, rows, M, N, scale_ptr, bias_ptr, t_ptr, up_ptr, INT8, BIAS, RANKS, WIDE)
    if SWIGLU:
        up = _finish(
            sums2, m, rows + N, M, total, scale_ptr, bias_ptr, t_ptr, up_ptr, INT8, BIAS, RANKS, WIDE
        )
        y = y * tl.sigmoid(y) * up
    mask = (m < M)[:, None] & (rows < N)[None, :]
    place = m.to(tl.int64)[:, None] * N + rows[None, :]
    if RESIDUAL:
        y += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)
