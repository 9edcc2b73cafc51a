"""Matrix products of one row with nf4 weights: what `single.plain` does, bounded by arithmetic instead of memory.

Looking up a weight takes some six instructions, so x is brought into registers once: a program goes over many groups of BN
outputs and fetches the next group's bytes while it works on this one's. `long` is for more inputs than registers hold.
"""

import triton
import triton.language as tl

from rag.chatglm3.engine.kernels.adapters import complete, down, glance, ups
from rag.chatglm3.engine.kernels.nf4 import TIMES_ALPHA, nf4_eight, pairs
from rag.chatglm3.engine.kernels.single import finish, tile


@triton.jit
def _fetch(w_ptr, q_ptr, outer_ptr, offset_ptr, rows, word, part, N, K: tl.constexpr, BW: tl.constexpr):
    """Words of a group, their 8-bit scales, the factors of those and what is added to them."""
    rows = tl.minimum(
        rows, N - 1
    )  # rows past the end are read and not used: a mask would cost more than it saves
    packed = tile(w_ptr, rows, word, N, K // 8, BW == K // 8)
    block = rows.to(tl.int64)[:, None] * (K // 64) + (part // 2)[None, :]
    mask = (part < K // 32)[None, :]
    q = tl.load(q_ptr + block, mask=mask, other=0)
    if 256 % (K // 64) == 0:  # rows never share a factor with a part of another row
        outer = tl.load(outer_ptr + rows // (256 // (K // 64)))[:, None]
    else:
        outer = tl.load(outer_ptr + block // 256, mask=mask, other=0.0)
    return packed, q, outer, tl.load(offset_ptr + rows)


@triton.jit
def _eight(xs_ptr, word, K: tl.constexpr, KIND: tl.constexpr):
    """The numbers of x that belong to every word: four even ones, then four odd ones."""
    inside = word < K // 8
    even0, odd0 = pairs(xs_ptr, 4 * word, inside, KIND)
    even1, odd1 = pairs(xs_ptr, 4 * word + 1, inside, KIND)
    even2, odd2 = pairs(xs_ptr, 4 * word + 2, inside, KIND)
    even3, odd3 = pairs(xs_ptr, 4 * word + 3, inside, KIND)
    return even0, even1, even2, even3, odd0, odd1, odd2, odd3


@triton.jit
def _normed(xs_ptr, norms_ptr, word, epsilon, K: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr):
    """The same with RMSNorm, and at the end its factor."""
    x = _eight(xs_ptr, word, K, KIND)
    factor = 1.0
    if NORM:
        squares = x[0] * x[0]
        for i in tl.static_range(1, 8):
            squares += x[i] * x[i]
        factor = tl.rsqrt(tl.sum(squares) / K + epsilon)
        norm = _eight(norms_ptr, word, K, KIND)
        x = (
            x[0] * norm[0] * factor, x[1] * norm[1] * factor, x[2] * norm[2] * factor, x[3] * norm[3] * factor,
            x[4] * norm[4] * factor, x[5] * norm[5] * factor, x[6] * norm[6] * factor, x[7] * norm[7] * factor,
        )  # fmt: skip
    return x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], factor


@triton.jit
def _sums(packed, q, outer, offset, x, code_ptr, table_ptr, words, BN: tl.constexpr, BW: tl.constexpr, ASSEMBLE: tl.constexpr):  # fmt: skip
    """Products of a group's words with x, summed over 32 weights and scaled. *Shape:* (BN, BW / 4)."""
    w = nf4_eight(packed, table_ptr, words, ASSEMBLE)
    sums = w[0] * x[0][None, :]
    for i in tl.static_range(1, 8):
        sums += w[i] * x[i][None, :]
    sums = tl.sum(tl.reshape(sums, (BN, BW // 4, 4)), axis=2)
    return sums * ((tl.load(code_ptr + q.to(tl.int32)) * outer + offset[:, None]) * TIMES_ALPHA)


@triton.jit
def four_bits(
    x_ptr, xs_ptr, norm_ptr, norms_ptr, w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, words, bias_ptr,
    residual_ptr, out_ptr, epsilon, down_ptr, up_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr,
    N: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, RANKS: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr, ASSEMBLE: tl.constexpr,
):  # fmt: skip
    """x (K,) -> out (N,), K at most BK. `xs` and `norms` are x and norm with two neighbours as one integer, of KIND.

    Grid (RANKS * PARTS + PROGRAMS,).
    """
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
    program -= RANKS * PARTS
    BW: tl.constexpr = BK // 8
    total: tl.constexpr = 2 * N if SWIGLU else N
    word = tl.arange(0, BW)
    part = tl.arange(0, BW // 4)
    rows = program * BN + tl.arange(0, BN)
    packed, q, outer, offset = _fetch(w_ptr, q_ptr, outer_ptr, offset_ptr, rows, word, part, N, K, BW)
    if SWIGLU:
        packed2, q2, outer2, offset2 = _fetch(
            w_ptr, q_ptr, outer_ptr, offset_ptr, rows + N, word, part, total, K, BW
        )
    epoch, seen = tl.load(epoch_ptr), glance(t_ptr, RANKS, WIDE, PARTS)
    x = _normed(xs_ptr, norms_ptr, word, epsilon, K, KIND, NORM)
    factor = x[8]
    inner = tl.zeros((WIDE,), tl.float32)
    for group in range(program, (N + BN - 1) // BN, PROGRAMS):
        rows = group * BN + tl.arange(0, BN)
        after = rows + PROGRAMS * BN
        now, now_q, now_outer, now_offset = packed, q, outer, offset
        packed, q, outer, offset = _fetch(w_ptr, q_ptr, outer_ptr, offset_ptr, after, word, part, N, K, BW)
        if SWIGLU:
            now2, now_q2, now_outer2, now_offset2 = packed2, q2, outer2, offset2
            far = tl.where(after < N, after + N, total)
            packed2, q2, outer2, offset2 = _fetch(
                w_ptr, q_ptr, outer_ptr, offset_ptr, far, word, part, total, K, BW
            )
        up = ups(up_ptr, rows, N, RANKS, WIDE)
        up2 = ups(up_ptr, rows + N, total, RANKS, WIDE) if SWIGLU else 0.0
        sums = _sums(now, now_q, now_outer, now_offset, x, code_ptr, table_ptr, words, BN, BW, ASSEMBLE)
        y = tl.sum(sums, axis=1)
        if RANKS > 0:  # noqa: SIM102 - what is known when compiling stands alone
            if group == program:
                inner = complete(seen, t_ptr, epoch, RANKS, WIDE, PARTS) * factor
        y = finish(y, 1.0, rows, N, offset_ptr, bias_ptr, up, inner, False, BIAS, RANKS)
        if SWIGLU:
            sums = _sums(
                now2, now_q2, now_outer2, now_offset2, x, code_ptr, table_ptr, words, BN, BW, ASSEMBLE
            )
            y2 = tl.sum(sums, axis=1)
            more = finish(y2, 1.0, rows + N, total, offset_ptr, bias_ptr, up2, inner, False, BIAS, RANKS)
            y = y * tl.sigmoid(y) * more
        if RESIDUAL:
            y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
        tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def long(
    x_ptr, xs_ptr, w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, words, bias_ptr, residual_ptr, out_ptr,
    down_ptr, up_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr,
    N: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    RANKS: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ASSEMBLE: tl.constexpr,
):  # fmt: skip
    """The same for any K, without norm and SwiGLU; one group of outputs a program. Grid (RANKS * PARTS + groups,)."""
    program = tl.program_id(0)
    if program < RANKS * PARTS:
        down(
            x_ptr, x_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr, program, K, False, RANKS, PARTS
        )
        return
    BW: tl.constexpr = BK // 8
    KW: tl.constexpr = K // 8
    fits: tl.constexpr = N % BN == 0 and KW % BW == 0
    rows = (program - RANKS * PARTS) * BN + tl.arange(0, BN)
    offset = tl.load(offset_ptr + rows, mask=rows < N, other=0.0)
    epoch, seen = tl.load(epoch_ptr), glance(t_ptr, RANKS, WIDE, PARTS)
    up = ups(up_ptr, rows, N, RANKS, WIDE)
    sums = tl.zeros((BN, BW // 4), tl.float32)
    for step in tl.static_range((KW + BW - 1) // BW):
        word = step * BW + tl.arange(0, BW)
        part = step * (BW // 4) + tl.arange(0, BW // 4)
        packed = tile(w_ptr, rows, word, N, KW, fits)
        x = _eight(xs_ptr, word, K, KIND)
        mask = (rows < N)[:, None] & (part < K // 32)[None, :]
        block = rows.to(tl.int64)[:, None] * (K // 64) + (part // 2)[None, :]
        q = tl.load(q_ptr + block, mask=mask, other=0)
        outer = tl.load(outer_ptr + block // 256, mask=mask, other=0.0)
        sums += _sums(packed, q, outer, offset, x, code_ptr, table_ptr, words, BN, BW, ASSEMBLE)
    inner = complete(seen, t_ptr, epoch, RANKS, WIDE, PARTS)
    y = finish(tl.sum(sums, axis=1), 1.0, rows, N, offset_ptr, bias_ptr, up, inner, False, BIAS, RANKS)
    if RESIDUAL:
        y += tl.load(residual_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, y.to(out_ptr.dtype.element_ty), mask=rows < N)
