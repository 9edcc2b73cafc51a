"""What training asks of a base model, whichever it is: its numbers, its encoder, its weights, and what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config import RunConfig
from finetune.encode import Encoded
from kb.errors import ModelError, SettingsError
from rag.chatglm3.names import NATIVE_TARGETS, TARGETS
from rag.chatglm3.shape import GlmShape, read_native
from rag.templates import is_chatglm, open_chat

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.methods import Trainee
    from rag.chatglm3.load import LoadConfig, LoadedModel
    from rag.models import LoadedOther
    from rag.types import Chat

CHATGLM_STAGES = ("rm", "ppo")
"""Stages whose parts are made for ChatGLM's own classes."""


def base_folder(config: RunConfig) -> Path:
    """The base model's folder. Raises SettingsError if none is named."""
    from finetune.prepare import model_folder

    return model_folder(config)


def shape_of(folder: Path) -> GlmShape:
    """The numbers of a base. Raises ModelError."""
    if is_chatglm(folder):
        return read_native(folder)
    from rag.models import read_other

    return read_other(folder)


def chat_of(config: RunConfig) -> Chat:
    """The encoder that a run learns with. Raises ModelError: no template, or another one than `--adapter` began with."""
    chat = open_chat(base_folder(config), template=config.data.template)
    if config.data.adapter:
        from rag.chatglm3.adapters import read_adapter
        from rag.templates.choice import check_templates

        check_templates(chat, [read_adapter(Path(config.data.adapter), native=False)])
    return chat


def load_base(folder: Path, how: LoadConfig) -> LoadedModel | LoadedOther:
    """The weights."""
    if is_chatglm(folder):
        from rag.chatglm3.load import load

        return load(folder, config=how)
    from rag.models import load_other

    return load_other(folder, config=how, template=None)


def settled(config: RunConfig) -> tuple[RunConfig, tuple[str, str] | None]:
    """The config as this base can do it, and what was changed, in Chinese and English. Raises SettingsError."""
    folder = base_folder(config)
    stage, method = config.data.stage, config.method.finetuning_type
    if is_chatglm(folder):
        if stage == "ppo" and config.data.template not in ("auto", shape_of(folder).family):
            raise SettingsError(
                f"--stage ppo speaks in the base's own template; --template {config.data.template} is for sft, dpo and kto.",
                zh=f"--stage ppo 使用基座自己的模板；--template {config.data.template} 可用于 sft、dpo、kto。",
            )
        return config, None
    if stage in CHATGLM_STAGES:
        raise SettingsError(
            f"--stage {stage} works on ChatGLM bases only; {folder.name} can be trained with pt, sft, dpo and kto.",
            zh=f"--stage {stage} 只支持 ChatGLM 基座；{folder.name} 可用 pt、sft、dpo、kto。",
        )
    if method == "ptuning":
        raise SettingsError(
            f"--finetuning-type ptuning works on ChatGLM bases only; use qlora, lora, freeze or full for {folder.name}.",
            zh=f"--finetuning-type ptuning 只支持 ChatGLM 基座；{folder.name} 请用 qlora、lora、freeze 或 full。",
        )
    if config.train.kernels == "on":
        raise SettingsError(
            f"--kernels on works on ChatGLM bases only; leave it at auto for {folder.name}.",
            zh=f"--kernels on 只支持 ChatGLM 基座；{folder.name} 请保持 auto。",
        )
    if config.train.packing and not getattr(shape_of(folder), "packs", True):
        return replace(config, train=replace(config.train, packing=False)), (
            f"{folder.name} 的注意力不是处处完整的因果注意力（例如滑动窗口），不能把样本拼成长行；改为补齐，结果相同，只是慢一些。",
            f"{folder.name} has layers without full causal attention (a sliding window, for instance), so examples cannot "
            "share a row: padded rows are used. What is learned stays the same, only slower.",
        )
    return config, None


def target_names(text: str, *, shape: GlmShape | None = None) -> list[str]:
    """`--lora-target` as names of the base's own modules (None: ChatGLM). Raises SettingsError for an unknown name."""
    linears: Any = getattr(shape, "linears", None)
    known = tuple(linears) if linears else NATIVE_TARGETS
    aliases = {} if linears else TARGETS
    out: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name in ("all", "all-linear"):
            found: tuple[str, ...] = known
        elif name in known:
            found = (name,)
        elif name in aliases:
            found = aliases[name]
        else:
            listed = ", ".join(("all", *known, *aliases))
            raise SettingsError(
                f"--lora-target {name!r} is unknown. Known: {listed}.",
                zh=f"--lora-target 里有未知的 {name!r}。可用的有：{listed}。",
            )
        out += [n for n in found if n not in out]
    return out


def verified(trainee: Trainee, *, config: RunConfig) -> tuple[str, str] | None:
    """Try a base that is not ChatGLM before it is trained: same logits as by its own way, packed and not.

    Returns what to say if examples cannot share a row after all, and makes it ready for padded ones. Raises ModelError if training could not see its logits.
    """
    if trainee.loaded.shape.__class__ is GlmShape:
        return None
    import torch

    from finetune.forward import hidden_states
    from finetune.pack import RowShape, packed_batches, padded_batches

    name, vocabulary = trainee.loaded.shape.name, trainee.loaded.shape.vocabulary
    ids = [[(31 * i + 7 * j + 5) % vocabulary for i in range(9 + 4 * j)] for j in range(3)]
    documents = [Encoded(np.asarray(row, np.int32), np.asarray(row, np.int32)) for row in ids]
    implementation = trainee.glm.config._attn_implementation
    with torch.no_grad(), trainee.plain_attention():
        own = [trainee.glm(torch.tensor([row], device=trainee.device)).logits[0].float() for row in ids]
        batches = [batch.to(trainee.device) for batch in padded_batches(documents, rows=1)]
        ours = [head_logits(trainee, hidden_states(trainee, batch))[0] for batch in batches]
        if not hasattr(trainee.glm, "lm_head") or not _alike(own, ours):
            raise ModelError(
                f"{name} makes its logits in another way than by one matrix at the end (scaling, capping or a bias), which "
                "training here does not do. It can answer, but not be trained.",
                zh=f"{name} 的输出不只是最后一个矩阵（有缩放、截断或偏置），这里的训练不支持。它可以回答，但不能训练。",
            )
        if not config.train.packing or config.method.finetuning_type == "ptuning":
            return None
        trainee.glm.config._attn_implementation = implementation
        [row] = packed_batches(documents, shape=RowShape(sum(map(len, ids)), 0, max(map(len, ids))))
        packed = head_logits(trainee, hidden_states(trainee, row.to(trainee.device)))[0]
        parts, at = {}, 0
        for j in sorted(range(3), key=lambda j: (-len(ids[j]), j)):
            parts[j] = packed[at : at + len(ids[j])]
            at += len(ids[j])
        if _near(own, [parts[j] for j in range(3)]):
            return None
    trainee.glm.config._attn_implementation = "sdpa"
    return (
        f"{name} 的注意力不能把样本拼成长行；改为补齐，结果相同，只是慢一些。",
        f"Examples cannot share a row in {name}: padded rows are used. What is learned stays the same, only slower.",
    )


def head_logits(trainee: Trainee, hidden: Tensor) -> Tensor:
    """Logits from hidden states by the matrix alone, float32."""
    weight: Tensor = trainee.glm.get_output_embeddings().weight
    return (hidden.to(weight.dtype) @ weight.T).float()


def _alike(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether logits of one kernel are equal: every one within 5 % of their spread."""
    worst = max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))
    spread = max(float(a.std()) for a in left)
    return worst <= 0.05 * spread


def _near(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether logits of two attention kernels are equal up to 16 bits: each document's mean square within 5 % of their spread.

    Rounding alone moves single ones further; a document that sees another moves by more than the spread.
    """
    worst = max(float((a - b).square().mean().sqrt()) for a, b in zip(left, right, strict=True))
    return worst <= 0.05 * max(float(a.std()) for a in left)
