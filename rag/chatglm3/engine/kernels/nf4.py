"""bitsandbytes' nf4 in our kernels: two weights a byte (the even one in the high half), one scale for 64 weights.

With double quantisation a scale is `code[q] * outer[block // 256] + offset`: q is 8 bits, code a table of 256.
Source: bitsandbytes/functional.py, `QuantState`.

The 16 numbers are looked up without memory: `prmt` picks bytes of registers, four weights at a time, once for the highest
byte of their float32 and once for the next, which then fills the two lowest bytes too. With the factor `ALPHA` taken into the
scale, no number is more than 0.11 % off, less than the rounding to bfloat16 that bitsandbytes' own product has (0.39 %).
"""

import struct

import triton
import triton.language as tl

NUMBERS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""What the 16 codes mean (Dettmers et al. 2023, appendix E)."""
ALPHA = 1.0275794899081734


def filled(high: int, low: int) -> float:
    """The float32 whose bytes are high, low, low, low."""
    value: float = struct.unpack(">f", bytes((high, low, low, low)))[0]
    return value


def nearest(number: float) -> tuple[int, int]:
    """The two bytes that come nearest to `number` when filled."""
    if number == 0.0:
        return 0, 0
    bits = int.from_bytes(struct.pack(">f", number)[:2], "big")
    near = [divmod(bits + step, 256) for step in (-2, -1, 0, 1)]
    return min(near, key=lambda pair: abs(filled(*pair) - number))


def words() -> tuple[int, ...]:
    """The bytes of all numbers, four to an integer: the highest ones, then the next ones; and a mask of the lookup."""
    out = []
    for which in (0, 1):
        column = [nearest(number * ALPHA)[which] for number in NUMBERS]
        out += [int.from_bytes(bytes(column[i : i + 4]), "little", signed=True) for i in (0, 4, 8, 12)]
    return (*out, 0x32103210)


def _half(shift: int, each: int) -> str:
    """Four nibbles to four floats: nibble 2i is the odd weight of byte i, 2i + 1 the even one."""
    first = shift // 8
    lines = [f"shr.b32 s, s, {shift};", f"shr.b32 t, t, {shift};"] if shift else []
    for name, at in (("h", 0), ("l", 4)):
        one, two, three, four = (f"${9 + each * (at + i)}" for i in range(4))
        lines += [
            f"prmt.b32 a, {one}, {two}, s;",
            f"prmt.b32 b, {three}, {four}, s;",
            f"prmt.b32 {name}, a, b, t;",
        ]
    for nibble in range(4):
        target = first + nibble // 2 + (0 if nibble % 2 else 4)
        lines.append(f"prmt.b32 ${target}, l, h, 0x{4 + nibble}{nibble}{nibble}{nibble};")
    return " ".join(lines)


def assembly(each: int) -> str:
    """Four bytes, $8, to the four even ($0 to $3) and the four odd weights ($4 to $7); `each`: registers of an argument."""
    return (
        "{ .reg .b32 s, t, a, b, h, l; and.b32 s, $8, 0x77777777; shr.b32 t, $8, 1; "
        f"lop3.b32 t, t, 0x44444444, ${9 + 8 * each}, 0xEA; {_half(0, each)} {_half(16, each)} }}"
    )


OF_BYTES, OF_WORDS = tl.constexpr(assembly(4)), tl.constexpr(assembly(1))
BYTE_OPERANDS = tl.constexpr(",".join(["=&r"] * 8 + ["r"] * 37))
WORD_OPERANDS = tl.constexpr(",".join(["=&r"] * 8 + ["r"] * 10))
TIMES_ALPHA = tl.constexpr(1 / ALPHA)


@triton.jit
def nf4_pair(packed, table_ptr, words, ASSEMBLE: tl.constexpr):
    """The even and the odd weight of every byte, before scaling and times ALPHA, in float32.

    `words` come from outside, not as constants: so they stay in registers. Without ASSEMBLE (Triton's interpreter) the
    weights are read from a table of the same numbers.
    """
    if ASSEMBLE:
        return tl.inline_asm_elementwise(
            OF_BYTES,
            BYTE_OPERANDS,
            [
                packed,
                words[0],
                words[1],
                words[2],
                words[3],
                words[4],
                words[5],
                words[6],
                words[7],
                words[8],
            ],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=4,
        )
    else:
        both = packed.to(tl.int32)
        return tl.load(table_ptr + (both >> 4)), tl.load(table_ptr + (both & 15))


@triton.jit
def nf4_eight(packed, table_ptr, words, ASSEMBLE: tl.constexpr):
    """The same for four bytes in an int32: their four even weights, then their four odd ones."""
    if ASSEMBLE:
        return tl.inline_asm_elementwise(
            OF_WORDS,
            WORD_OPERANDS,
            [
                packed,
                words[0],
                words[1],
                words[2],
                words[3],
                words[4],
                words[5],
                words[6],
                words[7],
                words[8],
            ],
            dtype=(tl.float32,) * 8,
            is_pure=True,
            pack=1,
        )
    else:
        return (
            tl.load(table_ptr + ((packed >> 4) & 15)), tl.load(table_ptr + ((packed >> 12) & 15)),
            tl.load(table_ptr + ((packed >> 20) & 15)), tl.load(table_ptr + ((packed >> 28) & 15)),
            tl.load(table_ptr + (packed & 15)), tl.load(table_ptr + ((packed >> 8) & 15)),
            tl.load(table_ptr + ((packed >> 16) & 15)), tl.load(table_ptr + ((packed >> 24) & 15)),
        )  # fmt: skip


@triton.jit
def nf4_scales(q_ptr, code_ptr, outer_ptr, offset, block, mask):
    """Scales of blocks of 64 weights, over ALPHA. *Shape:* block and mask any, offset broadcast against them."""
    q = tl.load(q_ptr + block, mask=mask, other=0).to(tl.int32)
    outer = tl.load(outer_ptr + block // 256, mask=mask, other=0.0)
    return (tl.load(code_ptr + q) * outer + offset) * TIMES_ALPHA


@triton.jit
def pairs(x_ptr, at, mask, KIND: tl.constexpr):
    """Even and odd numbers that lie beside each other, in float32. `x_ptr` points to both as one integer.

    KIND: 0 bfloat16, 1 float16, 2 float32.
    """
    both = tl.load(x_ptr + at, mask=mask, other=0)
    if KIND == 0:
        return (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)
    elif KIND == 1:
        even, odd = (
            both.to(tl.int16).to(tl.float16, bitcast=True),
            (both >> 16).to(tl.int16).to(tl.float16, bitcast=True),
        )
        return even.to(tl.float32), odd.to(tl.float32)
    else:
        return both.to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32).to(
            tl.float32, bitcast=True
        )


@triton.jit
def dequantise(w_ptr, q_ptr, code_ptr, outer_ptr, offset_ptr, table_ptr, words, out_ptr, size, K: tl.constexpr, BLOCK: tl.constexpr, ASSEMBLE: tl.constexpr):  # fmt: skip
    """nf4 -> the dtype of `out`, as rows of K weights. `size`: bytes."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    high, low = nf4_pair(tl.load(w_ptr + at, mask=inside, other=0), table_ptr, words, ASSEMBLE)
    offset = tl.load(offset_ptr + at // (K // 2), mask=inside, other=0.0)
    scale = nf4_scales(q_ptr, code_ptr, outer_ptr, offset, at // 32, inside)
    dtype = out_ptr.dtype.element_ty
    both = tl.join((high * scale).to(dtype), (low * scale).to(dtype))
    tl.store(out_ptr + 2 * at[:, None] + tl.arange(0, 2)[None, :], both, mask=inside[:, None])
