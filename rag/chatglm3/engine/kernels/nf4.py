"""bitsandbytes' nf4 inside a kernel: two weights a byte (the even one in the high half), one scale for 64 weights.

With double quantisation a scale is `code[q] * outer[block // 256] + offset`: q is 8 bits, code a table of 256.
Source: bitsandbytes/functional.py, `QuantState`.
"""

import triton
import triton.language as tl


@triton.jit
def nf4_scales(q_ptr, code_ptr, outer_ptr, offset, block, mask):
    """Scales of blocks of 64 weights. *Shape:* block and mask any, offset broadcast against them."""
    q = tl.load(q_ptr + block, mask=mask, other=0).to(tl.int32)
    return tl.load(code_ptr + q) * tl.load(outer_ptr + block // 256, mask=mask, other=0.0) + offset


@triton.jit
def nf4_pair(packed, table_ptr):
    """The even and the odd weight of every byte, before scaling, in float32."""
    both = packed.to(tl.int32)
    return tl.load(table_ptr + (both >> 4)), tl.load(table_ptr + (both & 15))
