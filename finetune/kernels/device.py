"""Fused kernels in Triton. `plain` says what each computes; `launch` calls them. Imports Triton: only for a GPU."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["eps"])
def norm(
    x, delta, weight, out, rstd, width, x_row, delta_row, out_row, eps, ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """RMSNorm of a row; with ADD, delta becomes x + delta first and is what is normed."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + row * delta_row + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(delta.dtype.element_ty)
        tl.store(delta + row * delta_row + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(rstd + row, scale)
    normed = (value * scale).to(out.dtype.element_ty).to(tl.float32)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + column, (normed * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    x, rstd, weight, grad, stream, width, x_row, grad_row, stream_row, NORMED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """stream += gradient of the norm's input; with NORMED, grad becomes the norm's output."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(grad + row * grad_row + column, mask=inside, other=0.0).to(tl.float32) * gain
    before = tl.load(stream + row * stream_row + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(rstd + row)
    normed = value * scale
    share = tl.sum(above * normed, axis=0) / width
    after = before + scale * (above - normed * share)
    tl.store(stream + row * stream_row + column, after.to(stream.dtype.element_ty), mask=inside)
    if NORMED:
        rounded = normed.to(grad.dtype.element_ty).to(tl.float32)
        tl.store(grad + row * grad_row + column, (rounded * gain).to(grad.dtype.element_ty), mask=inside)


@triton.jit
def copy(source, target, width, source_row, target_row, BLOCK: tl.constexpr):
    """Rows of one matrix into another's."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    tl.store(
        target + row * target_row + column,
        tl.load(source + row * source_row + column, mask=inside),
        mask=inside,
    )


@triton.jit
def swiglu(both, out, width, both_row, out_row, BLOCK: tl.constexpr):
    """out = silu(gate) * up, where a row of `both` is gate, then up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(both + row * both_row + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * both_row + width + column, mask=inside, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_row + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(both, grad, width, both_row, grad_row, AGAIN: tl.constexpr, BLOCK: tl.constexpr):
    """`both` becomes its gradient; with AGAIN, `grad` (of the output) becomes the output."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    here = both + row * both_row + column
    gate = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(here + width, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(grad + row * grad_row + column, mask=inside, other=0.0).to(tl.float32)
    gated = tl.sigmoid(gate)
    silu = gate * gated
    slope = gated * (1.0 + gate * (1.0 - gated))
    tl.store(here, (above * up * slope).to(both.dtype.element_ty), mask=inside)
    tl.store(here + width, (above * silu).to(both.dtype.element_ty), mask=inside)
    if AGAIN:
        tl.store(grad + row * grad_row + column, (silu * up).to(grad.dtype.element_ty), mask=inside)


@triton.jit
def rotate(
    source, target, cosine, sine, heads, source_row, source_head, target_row, target_head, sign,
    HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Turn the first 2*HALF numbers of every head, pair by pair; with COPY, take the other REST along."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    inside = head < heads
    from_row = source + row * source_row + head * source_head
    to_row = target + row * target_row + head * target_head
    place = tl.arange(0, 2 * HALF)[None, :]
    value = tl.load(from_row + place, mask=inside, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(value, (HEADS, HALF, 2)))
    pair = tl.arange(0, HALF)[None, :]
    c = tl.load(cosine + row * HALF + pair).to(tl.float32)
    s = tl.load(sine + row * HALF + pair).to(tl.float32) * sign
    turned = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (HEADS, 2 * HALF))
    if COPY:
        other = 2 * HALF + tl.arange(0, REST)[None, :]
        rest = tl.load(from_row + other, mask=inside)
        tl.store(to_row + other, rest, mask=inside)
    tl.store(to_row + place, turned.to(target.dtype.element_ty), mask=inside)


@triton.jit
def unpack_nf4(
    packed, absmax, absmax_code, absmax_scale, offset, code, target, blocks, target_row,
    NESTED: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """64 weights to a block, two to a byte (the high half first) -> a row of a wider matrix. `blocks`: of a row."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    number = row * blocks + block
    if NESTED:
        scale = tl.load(absmax_code + tl.load(absmax + number, mask=inside, other=0).to(tl.int32))
        scale = scale * tl.load(absmax_scale + number // 256, mask=inside, other=0.0) + tl.load(offset)
    else:
        scale = tl.load(absmax + number, mask=inside, other=0.0)
    byte = tl.arange(0, 32)[None, :]
    pair = tl.load(packed + number[:, None] * 32 + byte, mask=inside[:, None], other=0).to(tl.int32)
    high = tl.load(code + (pair >> 4)) * scale[:, None]
    low = tl.load(code + (pair & 15)) * scale[:, None]
    weights = tl.reshape(tl.join(high, low), (BLOCKS, 64)).to(target.dtype.element_ty)
    place = target + row * target_row + block[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(place, weights, mask=inside[:, None])


@triton.jit
def cross_entropy(logits, targets, losses, row_size, WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """losses = -log softmax(logits)[target]; logits become their gradient."""
    row = tl.program_id(0).to(tl.int64)
    here = logits + row * row_size
    target = tl.load(targets + row)
    column = tl.arange(0, BLOCK)
    top = tl.full((), -float("inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for begin in range(0, WORDS, BLOCK):
        at = begin + column
        value = tl.load(here + at, mask=at < WORDS, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(value, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(value - higher), axis=0)
        top = higher
    log_sum = top + tl.log(total)
    tl.store(losses + row, log_sum - tl.load(here + target).to(tl.float32))
    tl.debug_barrier()
    for begin in range(0, WORDS, BLOCK):
        at = begin + column
        value = tl.load(here + at, mask=at < WORDS, other=-float("inf")).to(tl.float32)
        share = tl.exp(value - log_sum) - tl.where(at == target, 1.0, 0.0)
        tl.store(here + at, share.to(logits.dtype.element_ty), mask=at < WORDS)
