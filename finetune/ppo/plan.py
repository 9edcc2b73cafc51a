"""What a ppo run will take, before any weight is loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from finetune import plan as plans
from finetune import speed as speeds
from finetune.config import RunConfig
from finetune.kernels import fit
from finetune.memory import Layout, MemoryNeed, choose_layout, trainable_count
from finetune.pack import steps_per_epoch
from finetune.ppo.rollout import slots_of
from finetune.prepare import Prepared, model_folder, prepare
from rag.chatglm3.memory import ComputeDtype, free_bytes
from rag.chatglm3.shape import GlmShape, read_native

if TYPE_CHECKING:
    from finetune.plan import Plan

DECODING = 0.03
"""Share of the matrix-product speed that decoding reaches: it waits for memory. A guess until it is measured."""
LOOKS = 3
"""Passes without gradients of a step: policy, reference, reward."""


def ppo_plan(
    config: RunConfig, *, device: str = "", prepared: Prepared | None = None, free: int = 0, rate: float = 0.0
) -> Plan:
    """The plan. Every answer is counted at its longest."""
    from rag.chatglm3.chat import open_tokenizer
    from rag.chatglm3.load import choose_device, choose_dtype

    folder = model_folder(config)
    shape, precision = read_native(folder), config.train.precision
    device = device or choose_device(plans.device_name(config))
    dtype = choose_dtype("" if precision == "auto" else precision, device=device)
    data = prepared or prepare(config, tokenizer=open_tokenizer(folder))
    lengths = [n + config.ppo.ppo_max_new_tokens for n in data.lengths]
    memory = free or int(free_bytes(device) * plans.RESERVE)
    kernels = fit.why_not(config, device=device, dtype=dtype) is None
    layout, need, fits = _layout(shape, config, lengths, dtype, memory, kernels)
    changes = [] if fits else _changes(shape, config, lengths, dtype, memory, kernels)
    steps, per_step = plans.total_steps(config, len(lengths)), config.examples_per_step
    speed = rate or speeds.matrix_rate(device, dtype)
    return plans.Plan(
        model=folder.name,
        parameters=shape.parameters,
        trainable=trainable_count(shape, config) + shape.hidden + 1,
        method=config.method.finetuning_type,
        device=device,
        dtype=dtype,
        examples=len(lengths),
        documents=len(lengths),
        tokens=sum(lengths),
        trained_tokens=config.ppo.ppo_max_new_tokens * len(lengths),
        longest=max(lengths),
        steps=steps,
        epochs=steps / steps_per_epoch(len(lengths), per_step=per_step),
        per_step=per_step,
        layout=layout,
        rows=math.ceil(sum(lengths) / layout.tokens),
        need=need,
        free=memory,
        fits=fits,
        seconds=steps * _seconds(shape, config, sum(lengths) / len(lengths), layout, speed),
        changes_zh=tuple(zh for zh, _ in changes),
        changes_en=tuple(en for _, en in changes),
    )


def beside_bytes(shape: GlmShape, config: RunConfig, *, longest: int, dtype: ComputeDtype) -> int:
    """What lies beside training: the engine's cache and its copy of the adapter, reference and reward adapters."""
    width = 4 if dtype == "float32" else 2
    position = 2 * shape.layers * shape.groups * shape.head_dim * width
    adapters = 2 + bool(config.ppo.reward_model)
    return slots_of(config) * (longest + 1) * position + adapters * trainable_count(shape, config) * width


def _layout(
    shape: GlmShape, config: RunConfig, lengths: list[int], dtype: ComputeDtype, free: int, kernels: bool
) -> tuple[Layout, MemoryNeed, bool]:
    longest = max(lengths)
    beside = beside_bytes(shape, config, longest=longest, dtype=dtype)
    mini = math.ceil(config.examples_per_step / config.ppo.ppo_mini_batches)
    wanted = max(longest, min(32_768, math.ceil(mini * sum(lengths) / len(lengths))))
    layout, need, fits = choose_layout(
        shape,
        config,
        dtype=dtype,
        free=free - beside,
        longest=longest,
        wanted=wanted,
        compiled=False,
        kernels=kernels,
    )
    return layout, replace(need, weights=need.weights + beside), fits


def _seconds(shape: GlmShape, config: RunConfig, length: float, layout: Layout, speed: float) -> float:
    """Of one step."""
    ppo, weights = config.ppo, shape.parameters - shape.hidden * shape.vocabulary
    tokens = config.examples_per_step * length
    learning = tokens * ppo.ppo_epochs * speeds.flops_per_token(shape, config, layout)
    looking = tokens * LOOKS * 2.0 * weights
    decoding = config.examples_per_step * ppo.ppo_max_new_tokens * 2.0 * shape.parameters
    return (learning + looking) / (
        speed * (speeds.FUSED if layout.kernels else speeds.EFFICIENCY[False])
    ) + decoding / (speed * DECODING)


def _changes(
    shape: GlmShape, config: RunConfig, lengths: list[int], dtype: ComputeDtype, free: int, kernels: bool
) -> list[tuple[str, str]]:
    """Single changes that would make it fit."""
    tries: list[tuple[str, RunConfig]] = []
    if config.method.finetuning_type != "qlora":
        method = replace(config.method, finetuning_type="qlora", quantization_bit=0)
        tries.append(("--finetuning-type qlora", replace(config, method=method)))
    for slots in (16, 8, 4, 2, 1):
        if slots < slots_of(config):
            changed = replace(config, ppo=replace(config.ppo, ppo_slots=slots))
            tries.append((f"--ppo-slots {slots}", changed))
    most = config.ppo.ppo_max_new_tokens // 2
    while most >= 16:
        changed = replace(config, ppo=replace(config.ppo, ppo_max_new_tokens=most))
        tries.append((f"--ppo-max-new-tokens {most}", changed))
        most //= 2
    out: list[tuple[str, str]] = []
    for flag, changed in tries:
        if any(o[0].split()[0] == flag.split()[0] for o in out):
            continue
        shorter = [n - config.ppo.ppo_max_new_tokens + changed.ppo.ppo_max_new_tokens for n in lengths]
        _, need, fits = _layout(shape, changed, shorter, dtype, free, kernels)
        if fits:
            gib = f"{need.total / 2**30:.1f} GiB"
            out.append((f"{flag}（约需 {gib}）", f"{flag} (needs about {gib})"))
    if not out:
        _, need, _ = _layout(shape, config, lengths, dtype, 0, kernels)
        gib = f"{need.total / 2**30:.1f} GiB"
        out.append((f"换用显存不少于 {gib} 的设备", f"use a device with at least {gib}"))
    return out
