"""The folder that `rag` loads: the trained weights, train.json that says what they are, and a card in words.

docs/adapter-folder.md is the contract.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import run
from finetune.bases import chat_of
from finetune.config import RunConfig
from finetune.methods import ADAPTERS, Trainee, save
from finetune.plan import Plan
from rag.chatglm3.base import base_hash
from rag.chatglm3.folder import new_folder

FORMAT = 1
"""Version of train.json."""


def prompt_version() -> str:
    """Version of the answering prompt in force; an adapter for answering from documents must be used with it."""
    from rag.prompt import PROMPT_VERSION

    return PROMPT_VERSION


def write(
    folder: Path,
    *,
    trainee: Trainee,
    config: RunConfig,
    plan: Plan,
    data: Mapping[str, Any],
    metrics: Mapping[str, float],
    weights: dict[str, Any] | None = None,
) -> Path:
    """Write `adapter/` (or `model/` for full and freeze) into a run folder, whole or not at all. Returns it.

    `weights`: those of a sharded model, gathered.
    """
    target = folder / (run.ADAPTER if trainee.method in ADAPTERS else run.MODEL)
    base = trainee.loaded.folder
    train = {
        "format": FORMAT,
        "base_model": trainee.loaded.shape.name or base.name,
        "base_folder": str(base),
        "base_hash": base_hash(base) if trainee.method in ADAPTERS else "",
        "method": trainee.method,
        "stage": config.data.stage,
        "template": "" if config.data.stage == "pt" else chat_of(config).template,
        "started_from": config.data.adapter,
        "prompt_version": prompt_version(),
        "close_turns": config.data.stage != "pt",
        "data": dict(data),
        "metrics": dict(metrics),
        "trainable": plan.trainable,
        "config": config.flat(),
        "environment": run.environment(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if trainee.method not in ADAPTERS:
        train["trained_from"] = base_hash(base)
    with new_folder(target, overwrite=True) as work:
        save(trainee, work, weights=weights)
        run.write_json(work / "train.json", train)
        (work / "README.md").write_text(_card(train, name=config.name), encoding="utf-8")
    return target


def _card(train: Mapping[str, Any], *, name: str) -> str:
    """The model card, Chinese first, English below."""
    metrics, config = train["metrics"], train["config"]
    data = train["data"].get("train", {})
    files = "\n".join(
        f"- `{file}` sha256 `{digest[:16]}…`" for file, digest in data.get("sha256", {}).items()
    )
    lines = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items())
    shape = f"r={config['lora_rank']}, {config['lora_target']}" if "lora" in train["method"] else ""
    kept = train["data"].get("held_out", 0)
    use_zh = "用 `zhiwen ask --adapter 此文件夹 问题`，或在设置里填 generator.adapters。"
    return f"""# {name}

由知问训练：在 {train["base_model"]} 上用 {train["method"]} {shape} 训练，阶段 {train["stage"]}，
数据 {data.get("sets", "")}（{data.get("examples", 0)} 条，另留 {kept} 条评估）。
基座散列 `{train["base_hash"][:16] or train.get("trained_from", "")[:16]}…`，换一个基座会拒绝加载。
{use_zh}

它学到的是训练数据里的说法；数据以外的问题，它并不比基座更可信。评估损失只说明与数据有多像，不说明回答是否属实。

Trained by zhiwen on {train["base_model"]} with {train["method"]} {shape}, stage {train["stage"]}, from {data.get("sets", "")}
({data.get("examples", 0)} examples, {kept} kept for evaluation). It learned how its data speaks; beyond them it is no more
reliable than its base, and a low evaluation loss does not make an answer true.

| 指标 metric | 值 value |
| --- | --- |
{lines}

数据 data:
{files}

`train.json` 里有全部选项、数据散列与各库版本 (all options, data hashes, library versions).
"""
