"""Each product and each fused kernel of training alone, against torch and against what the card can do.

Where the time of a token goes at ChatGLM3-6B's shape (28 layers, 204 million weights each, rows of T tokens, bf16):
- products with frozen weights: 4 x 5.71e9 FLOP in the layers and 1.1e9 in the head, 30 us at 790 TFLOP/s. Nothing else
  is worth a tensor core; everything below is bytes, at about 4 TB/s on an H200;
- unpacking nf4: 2.5 bytes a weight, twice a row: 7 ms a row, 0.4 us a token at 16,384 and 7 us at 1,024;
- norms 2 x (32 + 40) KB, SwiGLU 82 + 164 KB, rotary 30 KB a token and layer: 11 MB, 2.8 us;
- LoRA's thin products read x, dy and P, G beside them: 7 MB, 1.8 us; its wide products ride on the frozen ones;
- attention within documents of 290 tokens: 1 % of the FLOP, 2 us at a third of the peak;
- logits: 390 KB a trained token, 0.1 us.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def timed(work: Callable[[], Any], *, rounds: int = 10) -> float:
    """Seconds of one call on the GPU."""
    import torch

    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(rounds):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / rounds


def row(name: str, work: Callable[[], Any], *, flop: float = 0, size: float = 0, peer: Any = None) -> Row:
    """One measurement; an error is its result."""
    try:
        seconds = timed(work)
        found: Row = {"name": name, "us": round(seconds * 1e6, 1)}
        if flop:
            found["tflops"] = round(flop / seconds / 1e12, 1)
        if size:
            found["gb_s"] = round(size / seconds / 1e9)
        if peer is not None:
            found["peer_us"] = round(timed(peer) * 1e6, 1)
        return found
    except Exception as error:  # noqa: BLE001 - a kernel that fails must not hide the others
        return {"name": name, "error": f"{type(error).__name__}: {error}"[:300]}


def card() -> list[Row]:
    """What the card can do: a product, at once and after three seconds of them, and a copy."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    found = [row("matmul 8192, cold", lambda: torch.mm(a, a, out=out), flop=2 * 8192**3)]
    until = time.perf_counter() + 3
    while time.perf_counter() < until:
        for _ in range(50):
            torch.mm(a, a, out=out)
        torch.cuda.synchronize()
    found.append(row("matmul 8192, after 3 s", lambda: torch.mm(a, a, out=out), flop=2 * 8192**3))
    big = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    found.append(row("copy", lambda: other.copy_(big), size=2 * 2**30))
    return found


PLATES = {"qkv": (4096, 4608, 48, 16), "o": (4096, 4096, 16, 0), "gate_up": (4096, 27_392, 16, 0), "down": (13_696, 4096, 16, 0)}  # fmt: skip


def products(tokens: int) -> list[Row]:
    """Every product of every plate."""
    return [found for name, sizes in PLATES.items() for found in plate(name, tokens, *sizes)]


def plate(name: str, tokens: int, inputs: int, outputs: int, rank: int, bias: int) -> list[Row]:
    """Forward (peer: contiguous, no LoRA), dx, and the four thin products."""
    import torch

    def make(*size: int) -> Any:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16) * 0.02

    matrix, room = make(outputs + rank, inputs + rank + bias), make(tokens, inputs + rank + bias)
    grad, dx = make(tokens, outputs + rank), make(tokens, inputs)
    out, whole = make(tokens, outputs + rank), make(outputs, inputs)
    middle, second, flop = make(tokens, rank), make(outputs, rank), 2.0 * tokens * inputs * outputs
    x, dy, y = room[:, :inputs], grad[:, :outputs], out[:, :outputs]
    first, plain, g = make(rank, inputs), room[:, :inputs].contiguous(), grad[:, outputs:]
    up, at = matrix[outputs:, :inputs], matrix[:outputs, inputs : inputs + rank]
    name = f"{tokens} {name}"
    return [
        row(f"{name} y", lambda: torch.mm(room, matrix[:outputs].T, out=y), flop=flop, peer=lambda: plain @ whole.T),
        row(f"{name} dx", lambda: torch.mm(grad, matrix[:, :inputs], out=dx), flop=flop, peer=lambda: dy @ whole),
        row(f"{name} P", lambda: torch.addmm(middle, x, up.T, beta=0, out=middle), size=2.0 * tokens * inputs),
        row(f"{name} G", lambda: torch.addmm(g, dy, at, beta=0, out=g), size=2.0 * tokens * outputs),
        row(f"{name} dB", lambda: torch.mm(dy.T, middle, out=second), size=2.0 * tokens * outputs),
        row(f"{name} dA", lambda: torch.mm(g.T, x, out=first), size=2.0 * tokens * inputs),
    ]  # fmt: skip


def fused(tokens: int) -> list[Row]:
    """The Triton kernels, with plain torch as the peer."""
    import torch

    from finetune.kernels import launch, plain

    def make(*size: int) -> Any:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    x, delta, stream, grad = (make(tokens, 4112)[:, :4096] for _ in range(4))
    weight, both, inner = make(4096), make(tokens, 27_408), make(tokens, 13_712)[:, :13_696]
    _, rstd = launch.norm(x, None, weight, 1e-5, stream)
    qkv = make(tokens, 4608)
    heads, angle = qkv[:, :4352].view(tokens, 34, 128), torch.rand(tokens, 32, device="cuda")
    cosine, sine = angle.cos().bfloat16(), angle.sin().bfloat16()
    apart = torch.empty_like(heads)
    words, targets = make(2048, 65_024), torch.randint(0, 65_024, (2048,), device="cuda")
    kb = 1024.0 * tokens
    return [
        row("norm + add", lambda: launch.norm(x, delta, weight, 1e-5, stream), size=32 * kb, peer=lambda: plain.norm(x, delta, weight, 1e-5, stream)),
        row("norm backward", lambda: launch.norm_backward(x, rstd, weight, grad, stream, normed=True), size=40 * kb, peer=lambda: plain.norm_backward(x, rstd, weight, grad, stream, normed=True)),
        row("swiglu", lambda: launch.swiglu(both, inner), size=80.25 * kb, peer=lambda: plain.swiglu(both, inner)),
        row("swiglu backward", lambda: launch.swiglu_backward(both, inner), size=160.5 * kb, peer=lambda: plain.swiglu_backward(both, inner)),
        row("rotate", lambda: launch.rotate(heads, heads, cosine, sine), size=8.5 * kb, peer=lambda: plain.rotate(heads, heads, cosine, sine)),
        row("rotate and copy", lambda: launch.rotate(heads, apart, cosine, sine, back=True), size=17 * kb),
        row("cross entropy 2048", lambda: launch.cross_entropy(words, targets), size=2048 * 65_024 * 6.0, peer=lambda: plain.cross_entropy(words, targets)),
        row("ones: room copy", lambda: stream.copy_(x), size=16 * kb),
    ]  # fmt: skip


def unpacking() -> list[Row]:
    """nf4 to bf16: ours into a wider matrix, bitsandbytes' as the peer."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from finetune.kernels import launch

    found = []
    for outputs, inputs in ((27_392, 4096), (4096, 13_696), (4096, 4096)):
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
        packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        out = torch.empty(outputs, inputs + 16, device="cuda", dtype=torch.bfloat16)
        launch.unpack_nf4(packed, state, out[:, :inputs])
        same = bool(torch.equal(out[:, :inputs], dequantize_4bit(packed, state)))
        one = row(
            f"unpack {outputs}x{inputs}",
            lambda packed=packed, state=state, out=out, inputs=inputs: launch.unpack_nf4(packed, state, out[:, :inputs]),
            size=2.52 * outputs * inputs,
            peer=lambda packed=packed, state=state: dequantize_4bit(packed, state),
        )  # fmt: skip
        found.append({**one, "bit_for_bit": same})
    return found


def flash(tokens: int) -> list[Row]:
    """Attention over documents of the benchmark's lengths; the peer repeats key and value heads."""
    import torch

    from finetune.kernels import launch
    from tests.bench._training_recipes import REAL, documents

    sizes: list[int] = []
    for document in documents(REAL, 1000):
        if sum(sizes) + len(document) <= tokens:
            sizes.append(len(document))
    total = sum(sizes)
    begins = torch.tensor([0, *sizes], device="cuda").cumsum(0).int()
    longest, scale = max(sizes), 128**-0.5
    qkv = torch.randn(total, 36, 128, device="cuda", dtype=torch.bfloat16)
    query, key, value = qkv[:, :32], qkv[:, 32:34], qkv[:, 34:]
    wide = [t.repeat_interleave(16, dim=1) for t in (key, value)]
    flop = 4.0 * 4096 * sum(n * n / 2 for n in sizes)
    out, kept = launch.attention(query, key, value, begins, longest, scale)
    _, kept_wide = launch.attention(query, *wide, begins, longest, scale)
    grad = torch.randn_like(out)
    first = launch.attention_backward(grad, query, key, value, begins, longest, scale, kept)
    other = launch.attention_backward(grad, query, *wide, begins, longest, scale, kept_wide)
    summed = other[1].float().view(total, 2, 16, 128).sum(2)
    error = float((first[1].float() - summed).abs().max() / summed.abs().max())
    found = [
        row("attention", lambda: launch.attention(query, key, value, begins, longest, scale), flop=flop, peer=lambda: launch.attention(query, *wide, begins, longest, scale)),
        row("attention backward", lambda: launch.attention_backward(grad, query, key, value, begins, longest, scale, kept), flop=2.5 * flop, peer=lambda: launch.attention_backward(grad, query, *wide, begins, longest, scale, kept_wide)),
    ]  # fmt: skip
    return [*found, {"name": "grouped dk against repeated", "error_share": error, "tokens": total}]


def measure(tokens: int = 16_384) -> list[Row]:
    """All of it; a part that fails says so and does not stop the others."""
    found: list[Row] = []
    parts: list[Callable[[], list[Row]]] = [
        card, lambda: products(tokens), lambda: products(1024), lambda: fused(tokens), unpacking, lambda: flash(tokens),
    ]  # fmt: skip
    for part in parts:
        try:
            found += part()
        except Exception as error:  # noqa: BLE001
            found.append({"name": "part", "error": f"{type(error).__name__}: {error}"[:600]})
    return found
