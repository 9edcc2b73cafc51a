"""When memory runs out in the first step: the next smaller way to carry it out. What is learned stays the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune.config import RunConfig
from finetune.memory import Layout
from finetune.methods import Trainee, checkpoint_layers, fuse_layers
from kb.errors import ModelError


@dataclass(frozen=True)
class Smaller:
    """The model, set up for a layout that needs less, and what was changed."""

    layout: Layout
    trainee: Trainee
    zh: str
    en: str


def smaller(layout: Layout, *, trainee: Trainee, config: RunConfig, longest: int, reason: str) -> Smaller:
    """The next smaller layout, in force. `longest`: tokens of what must lie in one row. Raises ModelError if there is none."""
    can = config.train.gradient_checkpointing != "off" and not trainee.prefix
    half = replace(layout, tokens=max(longest, layout.tokens // 2))
    shorter = Smaller(half, trainee, f"每行缩短为 {half.tokens} 个 token", f"rows of {half.tokens} tokens")
    if layout.tokens > longest and layout.tokens > 2048:
        return shorter
    if layout.kernels and (layout.resident or (layout.kept and can)):
        kept = 0 if can else layout.kept
        less = replace(layout, resident=False, roomy=False, recompute=can, kept=kept)
        fused = fuse_layers(trainee, kept=kept, resident=False)
        zh, en = "开启重算，权重随用随解", "recomputing, weights unpacked when they are needed"
        return Smaller(less, fused, zh, en)
    if not layout.recompute and can:
        checkpoint_layers(trainee)
        again = replace(layout, recompute=True)
        return Smaller(again, trainee, "开启重算（gradient checkpointing）", "gradient checkpointing on")
    if layout.tokens > longest:
        return shorter
    raise ModelError(
        f"out of memory with the smallest rows ({longest} tokens): {reason} Use a smaller --cutoff-len, "
        "--finetuning-type qlora, or a smaller --lora-rank.",
        zh=f"行缩到最短（{longest} 个 token）内存仍不够：{reason} 请减小 --cutoff-len、改用 "
        "--finetuning-type qlora 或减小 --lora-rank。",
    )
