"""What a model will need and what the device has, said before it is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kb.errors import ModelError
from rag.chatglm3.shape import GlmShape

if TYPE_CHECKING:
    import torch

Quantise = Literal["none", "int8", "nf4"]
ComputeDtype = Literal["bfloat16", "float16", "float32"]

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, one 8-bit constant for 64 weights, one 32-bit constant for 256 of those (double quantisation)."""
WORKING = 600_000_000
"""Activations, workspace of the libraries, the driver's context: measured between 0.4 and 0.6 GB."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a model takes on a device."""

    device: str
    weights: int
    cache: int
    """Key-value cache of all slots at full length."""
    working: int
    free: int
    """What the device has free now."""

    @property
    def needed(self) -> int:
        """All of it together."""
        return self.weights + self.cache + self.working

    @property
    def fits(self) -> bool:
        """Whether it can be tried."""
        return self.needed <= self.free

    def sentence(self) -> tuple[str, str]:
        """(Chinese, English): needed and free."""
        need, free = self.needed / 2**30, self.free / 2**30
        parts = (self.weights / 2**30, self.cache / 2**30, self.working / 2**30)
        return (
            f"{self.device}：需要约 {need:.1f} GiB（权重 {parts[0]:.1f}，缓存 {parts[1]:.1f}，其他 {parts[2]:.1f}），"
            f"可用 {free:.1f} GiB",
            f"{self.device}: needs about {need:.1f} GiB (weights {parts[0]:.1f}, cache {parts[1]:.1f}, "
            f"other {parts[2]:.1f}), {free:.1f} GiB free",
        )


def weight_bytes(shape: GlmShape, *, dtype: ComputeDtype, quantise: Quantise) -> int:
    """Resident bytes of the weights. Embedding, head, biases and norms are never quantised."""
    width = 4 if dtype == "float32" else 2
    rows = (shape.heads + 2 * shape.groups) * shape.head_dim
    linears = shape.layers * shape.hidden * (rows + shape.heads * shape.head_dim + 3 * shape.ffn)
    rest = shape.parameters - linears
    per_weight = {"none": float(width), "int8": 1.0, "nf4": NF4_BYTES}[quantise]
    return int(linears * per_weight + rest * width)


def free_bytes(device: str) -> int:
    """Free memory of "cpu" or of a CUDA device, in bytes."""
    if device == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, `device` is this thread's current GPU: Triton, streams and events go by that, not by where tensors lie."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    chosen: AbstractContextManager[Any] = torch.cuda.device(device)
    return chosen


def plan_memory(
    shape: GlmShape, *, device: str, dtype: ComputeDtype, quantise: Quantise, cached_tokens: int
) -> MemoryPlan:
    """The plan for one device. `cached_tokens`: length of all slots of the cache together."""
    wide = 2 if dtype == "float32" else 1
    small = min(WORKING, 20 * shape.parameters)
    weights = weight_bytes(shape, dtype=dtype, quantise=quantise)
    return MemoryPlan(
        device, weights, cached_tokens * shape.kv_bytes_per_token * wide, small, free_bytes(device)
    )


def out_of_memory(plan: MemoryPlan, *, quantise: Quantise, cause: str = "") -> ModelError:
    """The error for a model that does not fit, with what to change, in the order in which it helps."""
    zh, en = plan.sentence()
    options_zh, options_en = [], []
    if quantise != "nf4":
        options_zh.append("用 4 位量化（generator.quantise = nf4）")
        options_en.append("quantise to 4 bits (generator.quantise = nf4)")
    if plan.cache > plan.working:
        options_zh.append("缩短上下文或减少同时提问的人数（generator.context_tokens）")
        options_en.append("shorten the context or serve fewer at once (generator.context_tokens)")
    if plan.device != "cpu":
        options_zh.append("关闭占用显存的其他程序，或改用 CPU（generator.device = cpu）")
        options_en.append("close other programs on the GPU, or use the CPU (generator.device = cpu)")
    else:
        options_zh.append("关闭占用内存的其他程序")
        options_en.append("close other programs")
    return ModelError(
        f"Not enough memory. {en}. You can: {'; '.join(options_en)}.{' ' + cause if cause else ''}",
        zh=f"内存不够。{zh}。可以：{'；'.join(options_zh)}。{cause}",
    )
