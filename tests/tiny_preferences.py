"""What the tests of preferences learn from: the facts, each with a right and a useless answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.types import Feedback, Preference, Turn
from finetune.methods import Trainee, attach, open_base
from tests.tiny_training import FACTS

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
