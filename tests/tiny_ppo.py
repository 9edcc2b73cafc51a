"""What the tests of PPO learn from: a tiny GLM that answers each question in one of three ways, as it was taught to.

The best answer is known, and so is how far away it is: whoever always gives one of three equally likely answers is ln 3
nats from where he started.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.types import Conversation, Turn
from finetune.ppo.prompts import Answer

QUESTIONS = (
    "今天去吗？",
    "明天来吗？",
    "要开会吗？",
    "还下雨吗？",
    "有空闲吗？",
    "能上班吗？",
    "可以走吗？",
    "吃过了吗？",
)
ANSWERS = ("好的。", "现在还不行。", "请等我想一想以后再说吧。")
BEST = ANSWERS[1]


def write_data(folder: Path) -> None:
    """taught.json (every question with every answer) and asked.json (the questions, four times over)."""
    taught = [{"instruction": q, "input": "", "output": a} for q in QUESTIONS for a in ANSWERS]
    asked = [{"instruction": q, "input": "", "output": ANSWERS[0]} for q in QUESTIONS] * 4
    for name, rows in (("taught", taught), ("asked", asked)):
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def taught_model(folder: Path) -> Path:
    """A model folder, all of its weights trained on taught.json. About six seconds."""
    from finetune import run
    from finetune.config import from_values
    from finetune.tiny import build, texts_of
    from finetune.train import train

    write_data(folder)
    talks = [Conversation((Turn("user", q), Turn("assistant", a))) for q in QUESTIONS for a in ANSWERS]
    build(folder / "untaught", texts=texts_of(talks))
    values = {
        "name": "taught", "output_dir": str(folder), "model_name_or_path": str(folder / "untaught"), "device": "cpu",
        "dataset": str(folder / "taught.json"), "dataset_dir": str(folder), "finetuning_type": "full", "max_steps": 30,
        "per_device_train_batch_size": 24, "gradient_accumulation_steps": 1, "learning_rate": 3e-3, "sample_tokens": 2,
        "logging_steps": 30,
    }  # fmt: skip
    made = train(run.create(from_values(values))).adapter
    assert made is not None
    shutil.copytree(made, folder / "model")
    return folder / "model"


def ppo_values(folder: Path, **more: Any) -> dict[str, Any]:
    """Options of a run on the taught model: 32 prompts a step."""
    return {
        "name": "ppo", "output_dir": str(folder / "runs"), "model_name_or_path": str(folder / "model"),
        "dataset": str(folder / "asked.json"), "dataset_dir": str(folder), "stage": "ppo", "finetuning_type": "lora",
        "lora_rank": 8, "device": "cpu", "max_steps": 12, "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "ppo_max_new_tokens": 16, "logging_steps": 1, **more,
    }  # fmt: skip


class Exactly:
    """1 for the best answer, word for word and with its end; 0 for anything else."""

    def __init__(self, model: Path) -> None:
        from rag.chatglm3.chat import open_tokenizer

        tokenizer = open_tokenizer(model)
        self.best = (*tokenizer.header, *tokenizer.encode(BEST), tokenizer.specials.eos)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return [float(a.written == self.best) for a in answers]


if __name__ == "__main__":  # a run of its own, to be killed: python -m tests.tiny_ppo MODEL RUN
    from finetune.ppo.train import train as train_ppo

    train_ppo(Path(sys.argv[2]), reward=Exactly(Path(sys.argv[1])))
