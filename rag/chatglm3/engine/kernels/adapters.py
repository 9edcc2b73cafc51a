"""What LoRA adapters add to a product, for kernels in which the first programs compute what all others then need.

The first RANKS programs of a launch compute `t = down(x)`, one number each; the others do their own part first and look at
`t` at the end. Programs start in order, so those that are waited for are never behind. A number is stored together with the
count of the step (`epoch`) in one 64-bit word: whoever reads it sees whether it is this step's.
"""

import triton
import triton.language as tl


@triton.jit
def tell(t_ptr, r, value, epoch):
    """Store a number of this step."""
    bits = value.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(t_ptr + r, (epoch.to(tl.int64) << 32) | bits)


@triton.jit
def complete(t_ptr, epoch_ptr, RANKS: tl.constexpr, WIDE: tl.constexpr):
    """The numbers of this step, waited for. *Shape:* (WIDE,)."""
    epoch = tl.load(epoch_ptr)
    place = t_ptr + tl.arange(0, WIDE)
    mask = tl.arange(0, WIDE) < RANKS
    words = tl.load(place, mask=mask, other=1 << 62, volatile=True)
    while tl.min(words >> 32) < epoch:
        words = tl.load(place, mask=mask, other=1 << 62, volatile=True)
    return words.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def ups(up_ptr, rows, N, RANKS: tl.constexpr, WIDE: tl.constexpr):
    """The adapters' second halves of `rows`, if there are any. *Shape:* (rows, WIDE)."""
    if RANKS > 0:
        r = tl.arange(0, WIDE)
        mask = (rows < N)[:, None] & (r < RANKS)[None, :]
        return tl.load(up_ptr + rows[:, None] * RANKS + r[None, :], mask=mask, other=0.0)
    else:
        return 0.0


@triton.jit
def down(x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr, epsilon, r, K: tl.constexpr, NORM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """One rank of the first halves for a single row; 0 if it belongs to another adapter."""
    mine = tl.load(owner_ptr + r) == tl.load(adapter_ptr)
    sums = tl.zeros((BK,), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for step in tl.static_range((K + BK - 1) // BK):
        k = step * BK + tl.arange(0, BK)
        mask = (k < K) & mine
        x = tl.load(x_ptr + k, mask=mask, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + k, mask=mask, other=0.0).to(tl.float32)
        sums += x * tl.load(down_ptr + r * K + k, mask=mask, other=0.0).to(tl.float32)
    value = tl.sum(sums)
    if NORM:
        value *= tl.rsqrt(tl.sum(squares) / K + epsilon)
    tell(t_ptr, r, value, tl.load(epoch_ptr))


@triton.jit
def down_rows(
    x_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, K: tl.constexpr, RANKS: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """For several rows, in a launch of its own: t (M, RANKS), 0 where the row's adapter does not own that rank."""
    r, m = tl.program_id(0), tl.program_id(1)
    mine = tl.load(owner_ptr + r) == tl.load(adapter_ptr + m)
    sums = tl.zeros((BK,), tl.float32)
    if mine:
        for at in tl.static_range(0, K, BK):
            k = at + tl.arange(0, BK)
            x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0).to(tl.float32)
            sums += x * tl.load(down_ptr + r * K + k, mask=k < K, other=0.0).to(tl.float32)
    tl.store(t_ptr + m * RANKS + r, tl.sum(sums))
