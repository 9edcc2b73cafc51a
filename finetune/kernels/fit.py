"""Whether a run can use the fused layers, what they need, and how they are best laid out."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from finetune.attention import new_cards
from finetune.config import RunConfig
from finetune.kernels.plate import UNIT, up
from finetune.methods import quantise_of, resolve_targets
from kb.errors import SettingsError
from rag.chatglm3.memory import ComputeDtype, weight_bytes
from rag.chatglm3.shape import GlmShape

if TYPE_CHECKING:
    from finetune.memory import Layout, MemoryNeed

LOGITS = 256 * 2**20
"""Bytes of one chunk of logits."""
PASS_TOKENS = 200
"""What unpacking all weights twice costs, in tokens of training (8 ms on one H200)."""
ROOMY = 0.03
"""What keeping the inputs of products saves, of the four products with all weights."""
LAUNCH_TOKENS = 3200
"""Tokens of a row below which the GPU waits for the CPU to launch (measured: 0.14 s a row beside an H200)."""


def why_not(config: RunConfig, *, device: str, dtype: ComputeDtype) -> tuple[str, str] | None:
    """Why the fused layers cannot train this (Chinese, English), or None if they can."""
    method, train = config.method, config.train
    cuda = device.startswith("cuda")
    found = [
        (train.kernels == "off", "已关闭（--kernels off）", "they are switched off"),
        (method.finetuning_type not in ("qlora", "lora"), "只支持 LoRA 与 QLoRA", "only LoRA and QLoRA"),
        (quantise_of(config) == "int8", "不支持 int8 底座", "not with an int8 base"),
        (method.lora_dropout > 0, "不支持 LoRA dropout", "not with LoRA dropout"),
        (method.use_dora, "不支持 DoRA", "not with DoRA"),
        (not train.packing, "需要打包（--packing）", "they need packing"),
        (train.compile == "on", "已指定 --compile on", "--compile on was asked for"),
        (cuda and dtype != "bfloat16", "需要 bf16", "they need bf16"),
        (dtype == "float16", "需要 bf16", "they need bf16"),
        (
            cuda and not new_cards(),
            "需要 Ampere（计算能力 8.0）或更新的显卡",
            "they need cards of compute capability 8 or more",
        ),
        (not cuda and train.kernels == "auto", "只在 GPU 上更快", "they are faster on a GPU only"),
        (
            cuda and importlib.util.find_spec("triton") is None,
            "没有安装 triton（pip install triton）",
            "Triton is missing (pip install triton)",
        ),
    ]
    return next(((zh, en) for broken, zh, en in found if broken), None)


def must_say(config: RunConfig, *, device: str, dtype: ComputeDtype) -> tuple[str, str] | None:
    """What to tell somebody who may expect fused layers and gets none. Raises SettingsError if they were asked for."""
    why = why_not(config, device=device, dtype=dtype)
    if why is None or config.train.kernels == "off":
        return None
    if config.train.kernels == "on":
        raise SettingsError(
            f"--kernels on: fused layers cannot train this: {why[1]}.",
            zh=f"--kernels on：融合内核不适用：{why[0]}。",
        )
    if not device.startswith("cuda") or config.method.finetuning_type not in ("qlora", "lora"):
        return None
    return f"未使用融合内核：{why[0]}。", f"Trained without fused layers: {why[1]}."


def ranks(config: RunConfig) -> dict[str, int]:
    """Rank in the border of each plate."""
    targets, rank = resolve_targets(config.method.lora_target), config.method.lora_rank
    inside = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate_up": ("gate_up_proj",)}
    inside["down"] = ("down_proj",)
    return {kind: up(rank * sum(n in targets for n in names)) for kind, names in inside.items()}


def sizes(shape: GlmShape) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each plate."""
    wide, narrow = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    return {
        "qkv": (shape.hidden, wide + 2 * narrow),
        "o": (wide, shape.hidden),
        "gate_up": (shape.hidden, 2 * shape.ffn),
        "down": (shape.ffn, shape.hidden),
    }


def trained_bytes(count: int, config: RunConfig, *, width: int) -> int:
    """Weights, gradients (one pass's beside their sum), float32 masters, moments."""
    moments = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 0}[config.train.optim]
    return count * (3 * width + (4 if width == 2 else 0) + moments)


def need(
    shape: GlmShape, config: RunConfig, *, layout: Layout, dtype: ComputeDtype, count: int
) -> MemoryNeed:
    """The peak of a step, counted tensor by tensor as `stack` makes them. `count`: trained weights."""
    from finetune.memory import MemoryNeed

    width = 4 if dtype == "float32" else 2
    rank, size = ranks(config), sizes(shape)
    hidden, heads = shape.hidden * width, shape.heads * shape.head_dim * width
    columns = {k: i + rank[k] + (UNIT if k == "qkv" else 0) for k, (i, _) in size.items()}
    plates = sum((o + rank[k]) * columns[k] for k, (_, o) in size.items()) * width
    rooms = sum(columns.values()) * width
    light = hidden + 4
    qkv = size["qkv"][1] * width
    both = size["gate_up"][1] * width
    middles = (rank["qkv"] + rank["o"] + rank["gate_up"]) * width
    attended = light + qkv + heads + 4 * shape.heads + middles
    full = attended + hidden + 4 + both
    if layout.roomy:
        full += (columns["qkv"] + columns["gate_up"] + columns["down"]) * width
        rooms -= (columns["qkv"] + columns["gate_up"]) * width
    flash = 4 * heads + 4 * heads // width + qkv + rank["qkv"] * width
    kept, layers = layout.kept, shape.layers
    stream = 3 * hidden
    at_work = max(full + hidden, attended + flash) - light
    top = layers * light + kept * (full - light)
    peak = max(
        top + 3 * hidden,
        (layers - kept) * light + stream + at_work if kept < layers else 0,
        top + stream + max(hidden, flash),
    )
    edges = peak - top
    tokens = layout.tokens
    quantise = quantise_of(config)
    resident = plates * (layers if layout.resident else 1)
    return MemoryNeed(
        weight_bytes(shape, dtype=dtype, quantise=quantise) + resident,  # type: ignore[arg-type]
        trained_bytes(count, config, width=width),
        top * tokens,
        max(edges * tokens, 3 * hidden * tokens + LOGITS) + rooms * tokens,
    )


def cost(shape: GlmShape, layout: Layout) -> float:
    """Of a token, in products with all weights. Recomputing leaves out the down projection."""
    down = shape.hidden * shape.ffn
    whole = sum(i * o for i, o in sizes(shape).values())
    again = 2 * (1 - down / whole) * (1 - layout.kept / shape.layers)
    passes = 0.0 if layout.resident else 4 * PASS_TOKENS / layout.tokens
    return (
        (4 + again + passes) * max(1.0, LAUNCH_TOKENS / layout.tokens)
        + 4 * 40 / layout.tokens
        - ROOMY * layout.roomy
    )


def layouts(shape: GlmShape, *, sizes: list[int], switch: str) -> list[Layout]:
    """All that can be tried, the fastest first. `switch`: --gradient-checkpointing."""
    from finetune.memory import Layout

    keeping = {"off": [shape.layers], "on": [0], "auto": list(range(shape.layers + 1))}[switch]
    found = [
        Layout(size, recompute=kept < shape.layers, kernels=True, kept=kept, resident=resident, roomy=roomy)
        for size in sizes
        for kept in keeping
        for resident, roomy in ((False, False), (True, False), (True, kept == shape.layers))
    ]
    return sorted(found, key=lambda layout: cost(shape, layout))
