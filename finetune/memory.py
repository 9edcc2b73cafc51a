"""Bytes that a training step needs, from the model's shape alone.

Coefficients of the activations were fitted to four measurements at ChatGLM3-6B's shape on one H100 (nf4, LoRA r=16 on all
linear layers, rows of 8,192 and 16,384 tokens, with and without recomputation, compiled or not: 7.8, 11.6, 36.7, 45.8 GiB).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune.bases import target_names
from finetune.config import RunConfig
from finetune.loss import CHUNK_BYTES, rows_per_chunk
from finetune.methods import quantise_of
from rag.chatglm3.memory import ComputeDtype, weight_bytes
from rag.chatglm3.shape import GlmShape

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Layout:
    """How a step is carried out."""

    tokens: int
    """Of one row (packed), or rows times their width (padded)."""
    recompute: bool = False
    """Gradient checkpointing."""
    compiled: bool = False
    packed: bool = True
    kernels: bool = False
    """Fused layers (finetune.kernels) instead of transformers' own."""
    kept: int = 0
    """Fused layers: how many keep all that their backward pass reads; the others compute it again."""
    resident: bool = False
    """Fused layers: all weights stay unpacked beside their 4 bits."""
    roomy: bool = False
    """Fused layers: kept layers keep the inputs of their products too, instead of making them again."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes, by what they are for."""

    weights: int
    trained: int
    """Trained weights, gradients, float32 masters and the optimiser's moments."""
    kept: int
    """Activations kept for the backward pass."""
    working: int
    """The largest thing that comes and goes: a chunk of logits, or one layer being computed again."""

    @property
    def total(self) -> int:
        """Peak."""
        return self.weights + self.trained + self.kept + self.working


def linear_sizes(shape: GlmShape) -> dict[str, tuple[int, int]]:
    """Linear layers of a block: name -> (inputs, outputs)."""
    own: Mapping[str, tuple[int, int]] | None = getattr(shape, "linears", None)
    if own:
        return dict(own)
    wide, narrow = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    return {
        "q_proj": (shape.hidden, wide),
        "k_proj": (shape.hidden, narrow),
        "v_proj": (shape.hidden, narrow),
        "o_proj": (wide, shape.hidden),
        "gate_up_proj": (shape.hidden, 2 * shape.ffn),
        "down_proj": (shape.ffn, shape.hidden),
    }


def trainable_count(shape: GlmShape, config: RunConfig) -> int:
    """Number of trained weights."""
    method, sizes = config.method, linear_sizes(shape)
    head = shape.hidden if config.data.stage == "rm" else 0
    match method.finetuning_type:
        case "full":
            return shape.parameters + (head - shape.hidden * shape.vocabulary if head else 0)
        case "freeze":
            whole = shape.parameters - shape.hidden * (2 * shape.vocabulary + 1)
            return whole // shape.layers * min(method.freeze_trainable_layers, shape.layers) + head
        case "ptuning":
            width = shape.groups * shape.head_dim
            out = 2 * shape.layers * width
            if not method.prefix_projection:
                return method.pre_seq_len * out
            first = width * shape.hidden + shape.hidden
            return method.pre_seq_len * width + first + shape.hidden * out + out
        case _:
            chosen = [sizes[name] for name in target_names(method.lora_target, shape=shape)]
            each = sum(
                method.lora_rank * (inputs + outputs) + (outputs if method.use_dora else 0)
                for inputs, outputs in chosen
            )
            return each * shape.layers + head


def trained_bytes(shape: GlmShape, config: RunConfig, *, dtype: ComputeDtype) -> int:
    """Weights (where the base does not hold them), gradients, masters, moments."""
    width = 4 if dtype == "float32" else 2
    own = width if config.method.finetuning_type in ("qlora", "lora", "ptuning") else 0
    moments = 8 if config.train.optim == "adamw" else 2
    if config.train.optim == "paged_adamw_8bit":
        moments = 0
    gradients = width if width == 4 else width + 4
    masters = 0 if width == 4 else 4
    return trainable_count(shape, config) * (own + gradients + masters + moments)


def layer_bytes(shape: GlmShape, *, dtype: ComputeDtype, compiled: bool) -> int:
    """Activations of one layer, for one token, that its backward pass reads."""
    width = 4 if dtype == "float32" else 2
    if compiled:
        return int(width * (8.5 * shape.hidden + 3 * shape.ffn))
    return int(width * (10.4 * shape.hidden + 4 * shape.ffn))


def need(
    shape: GlmShape, config: RunConfig, *, layout: Layout, dtype: ComputeDtype, gpus: int = 1
) -> MemoryNeed:
    """The peak of a step, on each of `gpus`."""
    if layout.kernels:
        from finetune.kernels import fit

        count = trainable_count(shape, config)
        return fit.need(shape, config, layout=layout, dtype=dtype, count=count)
    width = 4 if dtype == "float32" else 2
    quantise = quantise_of(config)
    weights = weight_bytes(shape, dtype=dtype, quantise=quantise)  # type: ignore[arg-type]
    trained = trained_bytes(shape, config, dtype=dtype)
    if gpus > 1 and config.train.parallel == "fsdp":
        weights, trained = _sharded(shape, config, weights=weights, dtype=dtype, gpus=gpus)
    tokens = layout.tokens
    one = layer_bytes(shape, dtype=dtype, compiled=layout.compiled) * tokens
    edges = 6 * shape.hidden * width * tokens
    kept = edges + shape.layers * (shape.hidden * width * tokens if layout.recompute else one)
    largest = max(a * b for a, b in linear_sizes(shape).values())
    unpacked_weights = largest * width if quantise != "none" else 0
    rows = min(rows_per_chunk(shape.vocabulary), tokens)
    logits = min(2 * CHUNK_BYTES, rows * shape.vocabulary * 8)
    working = max(logits, unpacked_weights + (one if layout.recompute else 0))
    if not layout.packed:
        kept = int(kept * 1.1)  # masks of the padded rows
    return MemoryNeed(weights, trained, kept, working)


def _sharded(
    shape: GlmShape, config: RunConfig, *, weights: int, dtype: ComputeDtype, gpus: int
) -> tuple[int, int]:
    """(weights, trained) on each GPU with FSDP: a part of everything, two layers whole, and the outer weights whole.

    Trained weights are held in float32 and gathered in the compute dtype; 4 bytes each for weight, gradient and moments.
    """
    width = 4 if dtype == "float32" else 2
    outer = 2 * shape.hidden * shape.vocabulary * width
    states = (weights - outer) // 33 if quantise_of(config) == "nf4" else 0  # block constants stay whole
    inner = weights - outer - states
    count = trainable_count(shape, config)
    base = 0 if config.method.finetuning_type == "full" else (inner + outer) // gpus
    gathered = 2 * inner // shape.layers + outer
    gradients = width * (2 * count // shape.layers) if config.method.finetuning_type == "full" else 0
    return base + states + gathered, 16 * count // gpus + gradients


def choose_layout(
    shape: GlmShape,
    config: RunConfig,
    *,
    dtype: ComputeDtype,
    free: int,
    longest: int,
    wanted: int,
    compiled: bool,
    kernels: bool = False,
    gpus: int = 1,
) -> tuple[Layout, MemoryNeed, bool]:
    """The fastest layout that fits into `free` bytes, what it needs, and whether it fits at all.

    `wanted`: tokens of a row beyond which a longer row wins nothing (a step has no more). `kernels`: fused layers are
    possible; where only transformers' own fit, those are taken, unless --kernels on asks for the others.
    """
    train = config.train
    packed = train.packing and config.method.finetuning_type != "ptuning"
    allowed = {"on": (True,), "off": (False,), "auto": (False, True)}[train.gradient_checkpointing]
    if config.method.finetuning_type == "ptuning":
        allowed = (False,)
    if not packed:
        sizes = [longest * train.per_device_train_batch_size]
        while sizes[-1] > longest:
            sizes.append(max(longest, sizes[-1] // 2 // longest * longest))
    elif train.pack_tokens:
        sizes = [max(train.pack_tokens, longest)]
    else:
        sizes = sorted(
            {max(longest, min(wanted, size)) for size in (32_768, 16_384, 8192, 4096, 2048, 1024, 512, 1)}
        )[::-1]
    fused = _fused_layout(shape, config, sizes, dtype=dtype, free=free) if kernels else None
    if fused and (fused[2] or train.kernels == "on"):
        return fused
    plain = Layout(sizes[-1], recompute=allowed[-1], compiled=compiled, packed=packed)
    # long rows without recomputation, then long rows with it, then whatever there is room for
    enough = [s for s in sizes if s >= min(4096, sizes[0])]
    for group in (enough, sizes):
        for recompute in allowed:
            for size in group:
                layout = replace(plain, tokens=size, recompute=recompute)
                found = need(shape, config, layout=layout, dtype=dtype, gpus=gpus)
                if found.total <= free:
                    return layout, found, True
    smallest = plain, need(shape, config, layout=plain, dtype=dtype, gpus=gpus), False
    return fused if fused and fused[1].total < smallest[1].total else smallest


def _fused_layout(
    shape: GlmShape, config: RunConfig, sizes: list[int], *, dtype: ComputeDtype, free: int
) -> tuple[Layout, MemoryNeed, bool]:
    """The same with fused layers: of all row lengths and numbers of layers kept, the cheapest that fits."""
    from finetune.kernels import fit

    between = {(a + b) // 2 // 64 * 64 for a, b in itertools.pairwise(sizes) if b >= 1024}
    every = sorted({*sizes, *between}, reverse=True)
    smallest: tuple[Layout, MemoryNeed] | None = None
    for layout in fit.layouts(shape, sizes=every, switch=config.train.gradient_checkpointing):
        found = need(shape, config, layout=layout, dtype=dtype)
        if found.total <= free:
            return layout, found, True
        if smallest is None or found.total < smallest[1].total:
            smallest = layout, found
    assert smallest is not None
    return *smallest, False


def smaller_layout(layout: Layout, *, longest: int, recompute: bool) -> tuple[Layout, str, str] | None:
    """What to try when memory ran out, in words (Chinese, English); None if nothing is left.

    `longest`: tokens of the longest document; `recompute`: whether activations may be computed again.
    """
    halved = replace(layout, tokens=max(longest, layout.tokens // 2))
    words = f"每行缩短为 {halved.tokens} 个 token", f"rows of {halved.tokens} tokens"
    if layout.tokens > max(longest, 2048):
        return halved, *words
    if layout.kernels and (layout.resident or (layout.kept and recompute)):
        kept = 0 if recompute else layout.kept
        less = replace(layout, resident=False, roomy=False, recompute=recompute, kept=kept)
        return less, "开启重算，权重随用随解", "recomputing, weights unpacked when they are needed"
    if not layout.recompute and recompute:
        again = replace(layout, recompute=True)
        return again, "开启重算（gradient checkpointing）", "gradient checkpointing on"
    return (halved, *words) if layout.tokens > longest else None
