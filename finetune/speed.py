"""How fast a device trains, for the time that a plan says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from finetune.config import RunConfig
from finetune.kernels import fit
from finetune.memory import Layout
from rag.chatglm3.memory import ComputeDtype
from rag.chatglm3.shape import GlmShape

EFFICIENCY = {True: 0.60, False: 0.43}
"""Share of the matrix-product speed that training reached on one H100, compiled or not (first measurements)."""
FUSED = 0.65
"""The same with fused layers."""
TOGETHER = 0.95
"""Share of their speed that several GPUs keep when they work together (an assumption)."""
PASSES = {"dpo": 1, "kto": 3}
"""Passes without gradients: the reference (once for all epochs; counted in each), and for kto twice the answers that
do not belong to their questions."""


def flops_per_token(shape: GlmShape, config: RunConfig, layout: Layout) -> float:
    """Floating point operations of training on one token, passes that only measure included.

    The head works on trained tokens only; counted whole.
    """
    whole = shape.parameters - shape.hidden * shape.vocabulary
    measured = 2.0 * PASSES.get(config.data.stage, 0)
    if layout.kernels:
        return whole * (fit.cost(shape, layout) + measured)
    frozen = config.method.finetuning_type in ("qlora", "lora", "ptuning")
    return whole * ((4.0 if frozen else 6.0) + (2.0 if layout.recompute else 0.0) + measured)


def matrix_rate(device: str, dtype: ComputeDtype, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Floating point operations a second of a matrix product, measured in well under a second."""
    import torch

    size = 8192 if device.startswith("cuda") else 768
    kind = getattr(torch, dtype)
    a = torch.randn(size, size, device=device, dtype=kind)
    best = math.inf
    for _ in range(4):
        begin = clock()
        product = a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, clock() - begin)
    del product
    return 2.0 * size**3 / best
