"""What LoRA adapters add to a product, for kernels in which the first programs compute what all others then need.

The first RANKS programs of a launch compute `t = down(x)`, one number each, and count themselves on a flag; the others do
their own part first and look at `t` at the end. Programs start in order, so those that are waited for are never behind.
"""

import triton
import triton.language as tl


@triton.jit
def tell(t_ptr, r, value, flag_ptr):
    """Store a number and count it."""
    tl.store(t_ptr + r, value)
    tl.debug_barrier()
    tl.atomic_add(flag_ptr, 1, sem="release")


@triton.jit
def added(t_ptr, up_ptr, flag_ptr, epoch_ptr, rows, N, RANKS: tl.constexpr, WIDE: tl.constexpr):
    """up @ t for `rows`, once all of t is there. `epoch`: how often this launch ran. *Shape:* (BN,)."""
    wanted = tl.load(epoch_ptr) * RANKS
    while tl.atomic_add(flag_ptr, 0, sem="acquire") < wanted:
        pass
    tl.debug_barrier()
    r = tl.arange(0, WIDE)
    inner = tl.load(t_ptr + r, mask=r < RANKS, other=0.0, volatile=True)
    mask = (rows < N)[:, None] & (r < RANKS)[None, :]
    up = tl.load(up_ptr + rows[:, None] * RANKS + r[None, :], mask=mask, other=0.0)
    return tl.sum(up.to(tl.float32) * inner[None, :], axis=1)


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
