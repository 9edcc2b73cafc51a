"""What LoRA adapters add to a product, for kernels in which the first programs compute what all others then need.

The first RANKS * PARTS programs of a launch compute `t = down(x)`, a part of a number each; the others do their own part first and look at
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
def glance(t_ptr, RANKS: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr):
    """The words as they are now, to be loaded long before they are needed. *Shape:* (PARTS, WIDE)."""
    if RANKS > 0:
        r = tl.arange(0, WIDE)[None, :]
        place = t_ptr + tl.arange(0, PARTS)[:, None] * RANKS + r
        return tl.load(place, mask=(r < RANKS) & (r >= 0), other=1 << 62, volatile=True)
    else:
        return 0


@triton.jit
def complete(words, t_ptr, epoch, RANKS: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr):
    """The numbers of this step, waited for if they were not there at a glance. *Shape:* (WIDE,)."""
    if RANKS > 0:
        while tl.min(words >> 32) < epoch:
            words = glance(t_ptr, RANKS, WIDE, PARTS)
        return tl.sum(words.to(tl.int32).to(tl.float32, bitcast=True), axis=0)
    else:
        return 0.0


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
def down(
    x_ptr, norm_ptr, down_ptr, owner_ptr, adapter_ptr, t_ptr, epoch_ptr, program,
    K: tl.constexpr, NORM: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A part of one rank of the first halves for a single row; 0 if the rank belongs to another adapter.

    With NORM the factor of RMSNorm is still missing.
    """
    r, part = program % RANKS, program // RANKS
    mine = tl.load(owner_ptr + r) == tl.load(adapter_ptr)
    SPAN: tl.constexpr = triton.next_power_of_2((K + PARTS - 1) // PARTS)
    k = part * SPAN + tl.arange(0, SPAN)
    mask = (k < K) & mine
    x = tl.load(x_ptr + k, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        x *= tl.load(norm_ptr + k, mask=mask, other=0.0).to(tl.float32)
    value = tl.sum(x * tl.load(down_ptr + r * K + k, mask=mask, other=0.0).to(tl.float32))
    tell(t_ptr, program, value, tl.load(epoch_ptr))


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
