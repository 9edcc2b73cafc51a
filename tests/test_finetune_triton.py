"""Every Triton kernel against the plain torch that says what it computes.

Without a GPU the kernels run in Triton's interpreter, and each is compiled for a GPU to see that it can be.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.kernels import plain
from tests.conftest import ROOT

CUDA = torch.cuda.is_available()
TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not TRITON, reason="triton is not installed (a CPU build of torch has none)"
)
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32


@pytest.fixture
def launch() -> Any:
    """The kernels; interpreted where there is no GPU (see conftest)."""
    from finetune.kernels import launch

    return launch


def tensor(*size: int, seed: int = 0, wider: int = 0) -> torch.Tensor:
    """Random numbers; with `wider`, part of a wider matrix."""
    generator = torch.Generator().manual_seed(seed + sum(size))
    whole = torch.randn(*size[:-1], size[-1] + wider, generator=generator).to(DEVICE, DTYPE)
    return whole[..., : size[-1]]


def near(one: torch.Tensor, two: torch.Tensor) -> None:
    tolerance = 4e-2 if CUDA else 1e-5  # bfloat16
    torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


@needs_triton
@pytest.mark.parametrize("width", [64, 96])
@pytest.mark.parametrize("add", [False, True])
def test_norm(launch: Any, width: int, add: bool) -> None:
    weight = tensor(width, seed=3)
    results = []
    for ops in (plain, launch):
        x, delta, out = (
            tensor(7, width),
            tensor(7, width, seed=1) if add else None,
            tensor(7, width, wider=16),
        )
        total, rstd = ops.norm(x, delta, weight, 1e-5, out)
        stream, grad = tensor(7, width, seed=5, wider=16), tensor(7, width, seed=6)
        silent = grad.clone()
        ops.norm_backward(total, rstd, weight, silent, stream.clone(), normed=False)
        assert torch.equal(silent, grad)
        ops.norm_backward(total, rstd, weight, grad, stream, normed=True)
        near(grad, out)
        results.append((total, rstd, out, stream))
    for one, two in zip(*results, strict=True):
        near(one, two)


@needs_triton
def test_copy(launch: Any) -> None:
    whole = torch.zeros(7, 112, device=DEVICE, dtype=DTYPE)
    launch.copy(tensor(7, 96), whole[:, :96])
    assert torch.equal(whole[:, :96], tensor(7, 96)) and not whole[:, 96:].any()


@needs_triton
@pytest.mark.parametrize("width", [48, 1100])
def test_swiglu(launch: Any, width: int) -> None:
    results = []
    for ops in (plain, launch):
        both, out = tensor(5, 2 * width, wider=16), tensor(5, width, wider=32)
        ops.swiglu(both, out)
        grad = tensor(5, width, seed=2)
        spare, silent = both.clone(), grad.clone()
        ops.swiglu_backward(spare, silent, again=False)
        assert torch.equal(silent, grad)
        ops.swiglu_backward(both, grad)
        assert torch.equal(spare[:, : 2 * width], both)
        near(grad, out)
        results.append((both.clone(), out, grad))
    for one, two in zip(*results, strict=True):
        near(one, two)


@needs_triton
@pytest.mark.parametrize("heads", [2, 6])
def test_rotate(launch: Any, heads: int) -> None:
    angle = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE) * 6
    cosine, sine = angle.cos().to(DTYPE), angle.sin().to(DTYPE)
    results = []
    for ops in (plain, launch):
        row = tensor(5, heads * 32, wider=64)
        within = row.view(5, heads, 32)
        ops.rotate(within, within, cosine, sine)
        apart = torch.zeros_like(within)
        ops.rotate(within, apart, cosine, sine, back=True)
        near(apart, tensor(5, heads * 32, wider=64).view(5, heads, 32))
        results.append((within.clone(), apart))
    for one, two in zip(*results, strict=True):
        near(one, two)


@needs_triton
@pytest.mark.parametrize("nested", [False, True])
def test_unpack_nf4_to_the_bit(launch: Any, nested: bool) -> None:
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(24, 2112, generator=torch.Generator().manual_seed(0)).to(DEVICE, DTYPE)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
    results = [torch.zeros(24, 2128, device=DEVICE, dtype=DTYPE) for _ in range(2)]
    for ops, out in zip((plain, launch), results, strict=True):
        ops.unpack_nf4(packed, state, out[:, :2112])
    assert torch.equal(*results)
    assert results[0][:, 2112:].abs().max() == 0


@needs_triton
def test_cross_entropy(launch: Any) -> None:
    targets = torch.tensor([0, 3, 9000, 12_000, 7], device=DEVICE)
    results = []
    for ops in (plain, launch):
        logits = tensor(5, 12_032) * 3
        results.append((ops.cross_entropy(logits, targets), logits))
    for one, two in zip(*results, strict=True):
        near(one, two)


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from finetune.kernels import device

B, F = "*bf16", "*fp32"
KERNELS = {
    "norm": (dict(x=B, delta=B, weight=B, out=B, rstd=F, eps="fp32"), dict(ADD=True, BLOCK=4096), dict(num_warps=8)),
    "norm_backward": (dict(x=B, rstd=F, weight=B, grad=B, stream=B), dict(NORMED=True, BLOCK=4096), dict(num_warps=8)),
    "copy": (dict(source=B, target=B), dict(BLOCK=4096), {}),
    "swiglu": (dict(both=B, out=B), dict(BLOCK=1024), {}),
    "swiglu_backward": (dict(both=B, grad=B), dict(AGAIN=True, BLOCK=1024), {}),
    "rotate": (dict(source=B, target=B, cosine=B, sine=B, sign="fp32"), dict(HEADS=32, HALF=32, REST=64, COPY=True), {}),
    "unpack_nf4": (
        dict(packed="*u8", absmax="*u8", absmax_code=F, absmax_scale=F, offset=F, code=F, target=B),
        dict(NESTED=True, BLOCKS=32), dict(enable_fp_fusion=False),
    ),
    "cross_entropy": (dict(logits=B, targets="*i64", losses=F), dict(WORDS=65024, BLOCK=8192), dict(num_warps=16)),
}
found = [name for name, value in vars(device).items() if hasattr(value, "arg_names")]
assert sorted(found) == sorted(KERNELS), found
for name, (types, constants, options) in KERNELS.items():
    kernel = getattr(device, name)
    signature = {n: types.get(n, "constexpr" if n in constants else "i32") for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n][0] in "*i"}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    done = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    wide = done.asm["ptx"].count("ld.global.v4") + done.asm["ptx"].count("ld.global.L1")
    print(name, len(done.asm["cubin"]), wide)
    assert len(done.asm["cubin"]) > 1000
"""


@needs_triton
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("groups", [2, 8])
def test_attention_and_its_gradients(launch: Any, groups: int) -> None:
    begins = torch.tensor([0, 30, 31, 90, 100, 100], device="cuda", dtype=torch.int32)
    row = tensor(100, (8 + 2 * groups) * 128, wider=64)
    query, key, value = (
        row[:, a * 128 : b * 128].view(100, b - a, 128)
        for a, b in ((0, 8), (8, 8 + groups), (8 + groups, 8 + 2 * groups))
    )
    results = []
    for ops in (plain, launch):
        out, kept = ops.attention(query, key, value, begins, 60, 0.088)
        grad = tensor(100, 8, 128, seed=9)
        results.append((out, *ops.attention_backward(grad, query, key, value, begins, 60, 0.088, kept)))
    for one, two in zip(*results, strict=True):
        near(one, two)
