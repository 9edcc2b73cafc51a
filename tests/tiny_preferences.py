"""What the tests of preferences learn from: the facts, each with a right and a useless answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune import events, run
from finetune.config import RunConfig, from_values
from finetune.data.types import Feedback, Preference, Turn
from finetune.methods import Trainee, attach, open_base
from finetune.train import RunResult, train
from tests.tiny_training import FACTS, tiny_model

USELESS = ("不知道。", "请立即充电。", "五个工作日到账。")


def preferences() -> list[Preference]:
    """Twelve pairs; every third rejected answer is another one."""
    return [
        Preference((Turn("user", q),), a, USELESS[n % 3] if a != USELESS[n % 3] else USELESS[0])
        for n, (q, a) in enumerate(FACTS.items())
    ]


def feedback() -> list[Feedback]:
    """The answers one by one."""
    return [
        Feedback(p.turns, answer, good)
        for p in preferences()
        for answer, good in ((p.chosen, True), (p.rejected, False))
    ]


def write_preferences(folder: Path) -> None:
    """pairs.json with its entry of dataset_info.json, and thumbs.jsonl."""
    pairs = [
        {"instruction": p.question, "input": "", "chosen": p.chosen, "rejected": p.rejected}
        for p in preferences()
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f.question},
                {"role": "assistant", "content": f.answer},
            ],
            "label": f.good,
        }
        for f in feedback()
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "thumbs.jsonl").write_text(text, encoding="utf-8")
    info: dict[str, Any] = {
        "pairs": {
            "file_name": "pairs.json",
            "ranking": True,
            "columns": {
                "prompt": "instruction",
                "query": "input",
                "chosen": "chosen",
                "rejected": "rejected",
            },
        },
        "thumbs": {"file_name": "thumbs.jsonl", "format": "kto"},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


def stirred(folder: Path, config: Any) -> Trainee:
    """A trainee whose LoRA is no longer zero, as after some steps."""
    import torch

    trainee = attach(open_base(config, folder=folder, device="cpu"), config=config)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in trainee.trainable().items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.1)
    return trainee


def seeded_lengths(count: int, *, seed: int = 0) -> list[int]:
    """Lengths of answers."""
    return [int(n) for n in np.random.default_rng(seed).integers(2, 12, count)]


def tiny_place(folder: Path) -> Path:
    """A tiny model with the pairs beside it."""
    tiny_model(folder / "model")
    write_preferences(folder)
    return folder


def config_of(place: Path, stage: str, **values: Any) -> RunConfig:
    """Four small steps of a stage on the CPU."""
    return from_values(
        {
            "name": stage, "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"),
            "dataset": "pairs", "dataset_dir": str(place), "stage": stage, "finetuning_type": "lora", "lora_rank": 8,
            "device": "cpu", "max_steps": 4, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3, "sample_tokens": 4, **values,
        }
    )  # fmt: skip


def go(place: Path, stage: str, **values: Any) -> tuple[RunResult, list[events.Event]]:
    """Run it: what came out, and its events."""
    result = train(run.create(config_of(place, stage, **values)))
    return result, events.read(result.folder)


def steps(found: list[events.Event]) -> list[events.Event]:
    """Those of its optimiser steps."""
    return [e for e in found if e["event"] == "step"]
