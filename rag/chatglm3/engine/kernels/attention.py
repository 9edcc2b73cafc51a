"""Attention of one new token in every row over its slot of the cache.

`pieces`: one program for each row, key-value group and piece of the positions. It turns the queries (and the new key, which
the program that owns the new position writes to the cache), and leaves an unfinished softmax. `join` puts the pieces
together. The number of positions comes from the device, so one captured graph serves every length.
"""

import triton
import triton.language as tl


@triton.jit
def _turned(place, d, cos, sin, mask, ROTARY: tl.constexpr):
    """Rotary embedding of vectors at `place`: neighbouring dimensions of the first ROTARY form the pairs."""
    own = tl.load(place + d, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(place + (d ^ 1), mask=mask, other=0.0).to(tl.float32)
    sign = tl.where(d % 2 == 0, -1.0, 1.0)
    return own * cos + tl.where(d < ROTARY, partner * sign, 0.0) * sin


@triton.jit
def pieces(
    qkv_ptr, keys_ptr, values_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, part_ptr, top_ptr, sum_ptr,
    scale, length, slot_stride, group_stride,
    GROUPS: tl.constexpr, PER_GROUP: tl.constexpr, BH: tl.constexpr, DIM: tl.constexpr, ROTARY: tl.constexpr,
    PIECE: tl.constexpr, BT: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """qkv (M, (heads + 2 GROUPS) * DIM) -> part (M * GROUPS, PIECES, BH, DIM), top and sum (M * GROUPS, PIECES, BH)."""
    row, group, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions_ptr + row)
    slot = tl.load(slots_ptr + row)
    start = piece * PIECE
    if (start > position) | (position >= length):
        return
    d = tl.arange(0, DIM)
    h = tl.arange(0, BH)
    turning = d < ROTARY
    cos = tl.load(cos_ptr + position * (ROTARY // 2) + d // 2, mask=turning, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * (ROTARY // 2) + d // 2, mask=turning, other=0.0).to(tl.float32)
    width: tl.constexpr = (GROUPS * PER_GROUP + 2 * GROUPS) * DIM
    line = qkv_ptr + row * width
    heads = line + (group * PER_GROUP + h)[:, None] * DIM
    q = _turned(heads, d[None, :], cos[None, :], sin[None, :], (h < PER_GROUP)[:, None], ROTARY)
    dtype = keys_ptr.dtype.element_ty
    q = (q * scale).to(dtype)
    key_line = line + (GROUPS * PER_GROUP + group) * DIM
    new_key = _turned(key_line, d, cos, sin, d < DIM, ROTARY).to(dtype)
    new_value = tl.load(key_line + GROUPS * DIM + d).to(dtype)
    base = slot.to(tl.int64) * slot_stride + group * group_stride
    if position < start + PIECE:
        tl.store(keys_ptr + base + position * DIM + d, new_key)
        tl.store(values_ptr + base + position * DIM + d, new_value)
    top = tl.full((BH,), -1e30, tl.float32)
    total = tl.zeros((BH,), tl.float32)
    mixed = tl.zeros((BH, DIM), tl.float32)
    for at in range(start, tl.minimum(start + PIECE, position + 1), BT):
        t = at + tl.arange(0, BT)
        old = (t < position)[:, None]
        is_new = (t == position)[:, None]
        keys = tl.load(keys_ptr + base + t[:, None] * DIM + d[None, :], mask=old, other=0.0)
        values = tl.load(values_ptr + base + t[:, None] * DIM + d[None, :], mask=old, other=0.0)
        keys = tl.where(is_new, new_key[None, :], keys)
        values = tl.where(is_new, new_value[None, :], values)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee")
        scores = tl.where((t <= position)[None, :], scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2((scores - higher[:, None]) * 1.4426950408889634)
        fade = tl.exp2((top - higher) * 1.4426950408889634)
        total = total * fade + tl.sum(weights, axis=1)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(dtype), values, input_precision="ieee")
        top = higher
    at_piece = (row * GROUPS + group) * PIECES + piece
    tl.store(top_ptr + at_piece * BH + h, top)
    tl.store(sum_ptr + at_piece * BH + h, total)
    tl.store(part_ptr + (at_piece * BH + h)[:, None] * DIM + d[None, :], mixed)


@triton.jit
def join(
    part_ptr, top_ptr, sum_ptr, positions_ptr, out_ptr, length,
    GROUPS: tl.constexpr, PER_GROUP: tl.constexpr, BH: tl.constexpr, DIM: tl.constexpr,
    PIECE: tl.constexpr, PIECES: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The pieces of every head together: out (M, heads * DIM). Grid (M, heads). Rows that take no part get zeros."""
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions_ptr + row)
    count = tl.where(position < length, position // PIECE + 1, 0)
    group, h = head // PER_GROUP, head % PER_GROUP
    p = tl.arange(0, BP)
    d = tl.arange(0, DIM)
    place = ((row * GROUPS + group) * PIECES + p) * BH + h
    tops = tl.load(top_ptr + place, mask=p < count, other=-1e30)
    share = tl.exp2((tops - tl.max(tops)) * 1.4426950408889634)
    share = tl.where(p < count, share, 0.0)
    total = tl.sum(share * tl.load(sum_ptr + place, mask=p < count, other=0.0))
    part = tl.load(part_ptr + place[:, None] * DIM + d[None, :], mask=(p < count)[:, None], other=0.0)
    mixed = tl.sum(part * share[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    heads: tl.constexpr = GROUPS * PER_GROUP
    tl.store(out_ptr + (row * heads + head) * DIM + d, mixed.to(out_ptr.dtype.element_ty))
