"""The numbers of a training run: those that everybody looks at in sight, the rest behind a click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import streamlit as st

from ui.pages.form import Form
from ui.text import pick

Number = int | float


@dataclass(frozen=True, slots=True)
class Field:
    """One option on the page."""

    name: str
    zh: str
    en: str
    low: Number = 0
    high: Number = 0
    step: Number = 1
    form: str | None = None
    """How a number is written."""
    choices: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Methods that it is for; empty: all."""
    help_zh: str = ""
    help_en: str = ""


LORA = ("qlora", "lora")
BASIC = (
    Field("num_train_epochs", "轮数", "Epochs", 0.1, 1000.0, 1.0, "%.1f", help_zh="全部数据看几遍", help_en="how often all the data is seen"),
    Field("max_steps", "最多步数（0：按轮数）", "Steps at the most (0: by epochs)", 0, 1_000_000),
    Field("learning_rate", "学习率", "Learning rate", 1e-7, 1.0, 1e-5, "%.1e"),
    Field("val_size", "留作评估（比例或条数）", "Kept for evaluation (share or number)", 0.0, 100_000.0, 0.01, "%g"),
)  # fmt: skip
MORE = (
    Field("lora_rank", "LoRA 秩 r", "LoRA rank r", 1, 1024, only=LORA),
    Field("lora_alpha", "LoRA alpha（0：秩的两倍）", "LoRA alpha (0: twice the rank)", 0.0, 4096.0, 1.0, "%g", only=LORA),
    Field("lora_dropout", "LoRA dropout", "LoRA dropout", 0.0, 0.9, 0.05, "%.2f", only=LORA),
    Field("loraplus_lr_ratio", "LoRA+ 倍率（0：不用）", "LoRA+ ratio (0: off)", 0.0, 64.0, 1.0, "%g", only=LORA),
    Field("use_rslora", "rsLoRA", "rsLoRA", only=LORA),
    Field("use_dora", "DoRA", "DoRA", only=LORA),
    Field("freeze_trainable_layers", "训练最后几层", "Last layers to train", 1, 64, only=("freeze",)),
    Field("pre_seq_len", "前缀长度", "Length of the prefix", 1, 1024, only=("ptuning",)),
    Field("prefix_projection", "前缀经过小网络", "Prefix through a small network", only=("ptuning",)),
    Field("cutoff_len", "每条最长（token）", "Longest example (tokens)", 8, 32768, 64),
    Field("per_device_train_batch_size", "每批条数", "Examples in a batch", 1, 512),
    Field("gradient_accumulation_steps", "累积几批", "Batches in a step", 1, 512),
    Field("lr_scheduler_type", "学习率怎样变化", "Course of the learning rate", choices=(
        "cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt",
        "reduce_lr_on_plateau")),
    Field("warmup_ratio", "预热比例", "Warm-up share", 0.0, 0.9, 0.01, "%.2f"),
    Field("weight_decay", "权重衰减", "Weight decay", 0.0, 1.0, 0.01, "%g"),
    Field("neftune_noise_alpha", "NEFTune 噪声（0：不用）", "NEFTune noise (0: off)", 0.0, 50.0, 1.0, "%g"),
    Field("save_steps", "每几步存一次", "Steps between checkpoints", 1, 100_000),
    Field("sample_steps", "每几步试答（0：只在最后）", "Steps between samples (0: at the end)", 0, 100_000),
    Field("early_stopping_patience", "几次评估没有进步就停（0：不停）", "Stop after so many evaluations without progress (0: never)", 0, 1000),
    Field("max_samples", "每个数据集最多取几条（0：全部）", "Examples of each set (0: all)", 0, 10_000_000, 100),
    Field("precision", "精度", "Precision", choices=("auto", "bf16", "fp16", "fp32")),
    Field("device", "设备", "Device", choices=("auto", "cpu", "cuda")),
    Field("gradient_checkpointing", "省显存的重算", "Gradient checkpointing", choices=("auto", "on", "off")),
    Field("seed", "随机种子", "Seed", 0, 2_147_483_647),
)  # fmt: skip
DEFAULTS = {"val_size": 0.05, "num_train_epochs": 3.0}
"""Where the page's default is not the command's."""


def default_of(name: str) -> Any:
    """The page's default of an option."""
    from finetune.config import DataConfig, MethodConfig, TrainConfig

    if name in DEFAULTS:
        return DEFAULTS[name]
    return next(
        f.default for part in (DataConfig, MethodConfig, TrainConfig) for f in fields(part) if f.name == name
    )


def numbers(form: Form, base: Mapping[str, Any], *, method: str) -> dict[str, Any]:
    """What was chosen, by the option's name."""
    found: dict[str, Any] = {}
    for column, one in zip(st.columns(len(BASIC)), BASIC, strict=True):
        with column:
            found[one.name] = draw(form, one, base)
    with st.expander(pick("更多选项", "More options"), icon=":material/tune:"):
        usable = [one for one in MORE if not one.only or method in one.only]
        columns = st.columns(3)
        for number, one in enumerate(usable):
            with columns[number % 3]:
                found[one.name] = draw(form, one, base)
    return found


def draw(form: Form, one: Field, base: Mapping[str, Any]) -> Any:
    """One widget. Its value has the option's type."""
    default = base.get(one.name, default_of(one.name))
    label, hint = pick(one.zh, one.en), pick(one.help_zh, one.help_en) or None
    key = form.key(one.name, default)
    value: Any
    if one.choices:
        extra = () if default in one.choices else (str(default),)
        value = st.selectbox(label, [*one.choices, *extra], key=key, help=hint)
    elif isinstance(default, bool):
        value = st.toggle(label, key=key, help=hint)
    else:
        whole = isinstance(default, int)
        kind: type[int] | type[float] = int if whole else float
        value = st.number_input(
            label, min_value=kind(one.low), max_value=kind(one.high), step=kind(one.step), format=one.form, key=key,
            help=hint,
        )  # fmt: skip
    return form.keep(one.name, value)
