"""What a run will take, said before any weight is loaded: tokens, steps, memory, hours, and what to change if it does not fit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.bases import chat_of, settled, shape_of
from finetune.config import RunConfig
from finetune.kernels import fit
from finetune.memory import GIB, Layout, MemoryNeed, choose_layout, trainable_count
from finetune.pack import choose_tokens, pack, row_shape, step_examples, steps_per_epoch
from finetune.preference_config import SIDES
from finetune.prepare import Prepared, model_folder, prepare
from finetune.speed import EFFICIENCY, FUSED, TOGETHER, flops_per_token, matrix_rate
from finetune.start import with_start
from kb.errors import ModelError
from rag.chatglm3.memory import ComputeDtype, free_bytes
from rag.chatglm3.shape import GlmShape

if TYPE_CHECKING:
    from finetune.pack import RowShape

COMPILE_FROM = 2_000_000
"""Tokens from which the warm-up of the compiler is won back."""
RESERVE = 0.94
"""Share of the free memory that a plan may use: the rest is for the allocator's gaps."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known before a run begins."""

    model: str
    parameters: int
    trainable: int
    method: str
    device: str
    dtype: ComputeDtype
    examples: int
    documents: int
    tokens: int
    """Of one epoch."""
    trained_tokens: int
    longest: int
    steps: int
    epochs: float
    per_step: int
    """Examples of one step."""
    layout: Layout
    rows: int
    """Forward passes of one epoch."""
    need: MemoryNeed
    free: int
    fits: bool
    seconds: float
    """Estimate for the whole run; 0 if the speed of the device is not known."""
    gpus: int = 1
    """Processes that share a step; memory is that of one of them."""
    parallel: str = "ddp"
    changes_zh: tuple[str, ...] = ()
    changes_en: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "need_total": self.need.total, "hours": self.seconds / 3600}


def total_steps(config: RunConfig, documents: int) -> int:
    """Optimiser steps of the run."""
    per_epoch = steps_per_epoch(documents, per_step=config.examples_per_step)
    by_epochs = math.ceil(config.train.num_train_epochs * per_epoch)
    return config.train.max_steps or max(1, by_epochs)


def is_sharded(config: RunConfig, *, gpus: int) -> bool:
    """Whether each GPU holds a part of the model."""
    return gpus > 1 and config.train.parallel == "fsdp"


def compiles(config: RunConfig, *, device: str, tokens: int, gpus: int = 1) -> bool:
    """Whether layers are compiled: on a GPU, packed, not sharded, and long enough to be worth it."""
    train = config.train
    if is_sharded(config, gpus=gpus):
        return False
    if train.compile == "off" or not train.packing or config.method.finetuning_type == "ptuning":
        return False
    return train.compile == "on" or (device.startswith("cuda") and tokens >= COMPILE_FROM)


def make_plan(
    config: RunConfig,
    *,
    device: str = "",
    prepared: Prepared | None = None,
    free: int = 0,
    rate: float = 0.0,
    gpus: int = 1,
) -> Plan:
    """The plan. `free`: bytes to plan with instead of what the device has; `rate`: its matrix products, FLOP/s.

    With several `gpus` the first one speaks for all: memory is that of each, and they share the time.
    """
    config, _ = settled(with_start(config))
    if config.data.stage == "ppo":
        from finetune.ppo.plan import ppo_plan

        return ppo_plan(config, device=device, prepared=prepared, free=free, rate=rate)
    folder = model_folder(config)
    shape = shape_of(folder)
    data = prepared or prepare(config, tokenizer=chat_of(config))
    lengths = data.lengths
    steps = total_steps(config, len(lengths))
    epochs = steps / steps_per_epoch(len(lengths), per_step=config.examples_per_step)
    room = _room(shape, config, lengths, device=device, free=free, gpus=gpus, tokens=sum(lengths) * epochs)
    layout, found, fits = _layout(room)
    changes = () if fits else _changes(room)
    rows = _rows(config, lengths, layout)
    return Plan(
        model=folder.name,
        parameters=shape.parameters,
        trainable=trainable_count(shape, config),
        method=config.method.finetuning_type,
        device=room.device,
        dtype=room.dtype,
        examples=data.report.examples,
        documents=len(lengths),
        tokens=sum(lengths),
        trained_tokens=data.report.trained,
        longest=max(lengths),
        steps=steps,
        epochs=epochs,
        per_step=config.examples_per_step,
        layout=layout,
        rows=rows,
        need=found,
        free=room.free,
        fits=fits,
        seconds=epochs * _seconds(room, layout, rows=rows, rate=rate),
        gpus=gpus,
        parallel=config.train.parallel,
        changes_zh=tuple(zh for zh, _ in changes),
        changes_en=tuple(en for _, en in changes),
    )


def device_name(config: RunConfig) -> str:
    """`--device` as torch says it: "" for auto, cuda:1 for 1."""
    device = config.train.device
    if device.isdigit():
        return f"cuda:{device}"
    return "" if device == "auto" else device


@dataclass(frozen=True, slots=True)
class _Room:
    """What a layout is chosen for."""

    shape: GlmShape
    config: RunConfig
    lengths: list[int]
    device: str
    dtype: ComputeDtype
    free: int
    """Bytes."""
    gpus: int
    kernels: bool
    """Fused layers are possible."""
    compiled: bool


def _room(
    shape: GlmShape,
    config: RunConfig,
    lengths: list[int],
    *,
    device: str,
    free: int,
    gpus: int,
    tokens: float,
) -> _Room:
    """`device`: "" for the config's; `free`: 0 for what it has; `tokens`: of the whole run."""
    from rag.chatglm3.load import choose_device, choose_dtype

    device = device or choose_device(device_name(config))
    precision = config.train.precision
    dtype = choose_dtype("" if precision == "auto" else precision, device=device)
    own = type(shape) is GlmShape and not is_sharded(config, gpus=gpus)
    kernels = own and fit.why_not(config, device=device, dtype=dtype) is None
    compiled = not kernels and compiles(config, device=device, tokens=int(tokens), gpus=gpus)
    memory = free or int(free_bytes(device) * RESERVE)
    return _Room(shape, config, lengths, device, dtype, memory, gpus, kernels, compiled)


def _seconds(room: _Room, layout: Layout, *, rows: int, rate: float) -> float:
    """Of one pass over the data. `rate`: FLOP/s of matrix products, 0 for the device's."""
    config, tokens = room.config, sum(room.lengths)
    padded = max(1.0, rows / max(1, math.ceil(tokens / layout.tokens))) if room.compiled else 1.0
    share = FUSED if layout.kernels else EFFICIENCY[room.compiled]
    together = 1 if room.gpus == 1 else room.gpus * TOGETHER
    speed = (rate or matrix_rate(room.device, room.dtype)) * share * together
    return tokens * padded * flops_per_token(room.shape, config, layout) / speed


def _layout(room: _Room) -> tuple[Layout, MemoryNeed, bool]:
    shape, config, lengths = room.shape, room.config, room.lengths
    longest = max(lengths)
    mean = sum(lengths) / len(lengths) * config.examples_per_step / room.gpus
    wanted = max(longest, min(32_768, 512 * math.ceil(1.5 * mean / 512)))
    layout, found, fits = choose_layout(
        shape,
        config,
        dtype=room.dtype,
        free=room.free,
        longest=longest,
        wanted=wanted,
        compiled=room.compiled,
        kernels=room.kernels,
        gpus=room.gpus,
    )
    if layout.packed and fits and not config.train.pack_tokens:
        tokens = choose_tokens(
            lengths,
            per_step=config.examples_per_step,
            most=layout.tokens,
            fixed=room.compiled,
            seed=config.train.seed,
            ranks=room.gpus,
        )
        layout = replace(layout, tokens=tokens)
        from finetune.memory import need

        found = need(shape, config, layout=layout, dtype=room.dtype, gpus=room.gpus)
    return layout, found, fits


def _rows(config: RunConfig, lengths: list[int], layout: Layout) -> int:
    per_step, total = config.examples_per_step, 0
    for step in range(steps_per_epoch(len(lengths), per_step=per_step)):
        inside = step_examples(len(lengths), step=step, per_step=per_step, seed=config.train.seed)
        if layout.packed:
            total += len(pack([lengths[i] for i in inside], tokens=layout.tokens))
        else:
            total += math.ceil(len(inside) / config.train.per_device_train_batch_size)
    return total


def rows_of(config: RunConfig, *, lengths: list[int], layout: Layout, steps: int, ranks: int = 1) -> RowShape:
    """The shape of the run's packed rows."""
    found = row_shape(
        lengths,
        per_step=config.examples_per_step,
        tokens=layout.tokens,
        steps=steps,
        seed=config.train.seed,
        fixed=layout.compiled,
        ranks=ranks,
        sides=SIDES.get(config.data.stage, 1),
    )
    return replace(found, unit=64) if layout.kernels else found


def _changes(room: _Room) -> list[tuple[str, str]]:
    """Single changes that would make it fit, in the order in which they cost least."""
    config, lengths, gpus = room.config, room.lengths, room.gpus
    train, data, method = config.train, config.data, config.method
    tries: list[tuple[str, RunConfig, list[int]]] = []
    if train.gradient_checkpointing == "off" and method.finetuning_type != "ptuning":
        light = replace(train, gradient_checkpointing="on")
        tries.append(("--gradient-checkpointing on", replace(config, train=light), lengths))
    if train.packing and train.pack_tokens:
        free_rows = replace(train, pack_tokens=0)
        tries.append(("--pack-tokens 0", replace(config, train=free_rows), lengths))
    if not train.packing and train.per_device_train_batch_size > 1:
        small = replace(
            train,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=config.examples_per_step,
        )
        tries.append(("--per-device-train-batch-size 1", replace(config, train=small), lengths))
    if method.finetuning_type != "qlora":
        small_method = replace(method, finetuning_type="qlora", quantization_bit=0)
        tries.append(("--finetuning-type qlora", replace(config, method=small_method), lengths))
    if gpus > 1 and train.parallel == "ddp" and method.finetuning_type != "ptuning":
        tries.append(("--parallel fsdp", replace(config, train=replace(train, parallel="fsdp")), lengths))
    sides = SIDES.get(data.stage, 1)
    cutoff = max(lengths) // 2 // sides
    while cutoff >= 128:
        cut = [min(n, sides * cutoff) for n in lengths]
        tries.append((f"--cutoff-len {cutoff}", replace(config, data=replace(data, cutoff_len=cutoff)), cut))
        cutoff //= 2
    out: list[tuple[str, str]] = []
    for flag, changed, cut in tries:
        if flag.startswith("--cutoff") and any(o[0].startswith("--cutoff") for o in out):
            continue
        own = room.kernels and not is_sharded(changed, gpus=gpus)
        _, found, fits = _layout(replace(room, config=changed, lengths=cut, kernels=own, compiled=False))
        if fits:
            gib = f"{found.total / GIB:.1f} GiB"
            out.append((f"{flag}（约需 {gib}）", f"{flag} (needs about {gib})"))
    if not out:
        _, smallest, _ = _layout(replace(room, free=0, compiled=False))
        wanted = f"{smallest.total / GIB:.1f} GiB"
        out.append((f"换用显存不少于 {wanted} 的设备", f"use a device with at least {wanted}"))
    return out


def does_not_fit(plan: Plan) -> ModelError:
    """The error for a run that will not fit, with what to change."""
    need, free = plan.need.total / 2**30, plan.free / 2**30
    return ModelError(
        f"this needs about {need:.1f} GiB on {plan.device}, {free:.1f} GiB are free. You can: "
        + "; ".join(plan.changes_en)
        + ".",
        zh=f"在 {plan.device} 上约需 {need:.1f} GiB，可用 {free:.1f} GiB。可以："
        + "；".join(plan.changes_zh)
        + "。",
    )


def folder_name(plan: Plan) -> str:
    """The model as a person calls it."""
    return Path(plan.model).name
