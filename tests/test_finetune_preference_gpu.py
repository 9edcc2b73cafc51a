"""Preferences on a GPU: the varlen kernel, 16-bit training with 4-bit bases, the reference, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values
from finetune.logprobs import linear_log_probs
from finetune.reward import load_reward
from finetune.train import RunResult, train
from tests.tiny_preferences import preferences, write_preferences
from tests.tiny_training import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference-gpu")
    tiny_model(folder / "model")
    write_preferences(folder)
    return folder


def go(place: Path, stage: str, **values: Any) -> tuple[RunResult, list[dict[str, Any]]]:
    base = {
        "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"), "dataset": "pairs",
        "dataset_dir": str(place), "stage": stage, "max_steps": 12, "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 1, "learning_rate": 3e-3, "sample_tokens": 4,
    }  # fmt: skip
    result = train(run.create(from_values({**base, **values})))
    return result, [e for e in events.read(result.folder) if e["event"] == "step"]


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize("stage", ["rm", "dpo", "kto"])
def test_every_stage_learns(place: Path, stage: str, method: str) -> None:
    result, found = go(place, stage, finetuning_type=method)
    assert found[-1]["loss"] < found[0]["loss"] - 0.05 and found[-1]["margin"] > found[0]["margin"]
    if stage == "rm" and result.adapter is not None:
        model = load_reward(result.adapter)
        first = preferences()[0]
        good, bad = model.score_answers(first.question, [first.chosen, first.rejected])
        assert good > bad


def test_a_new_adapter_is_its_own_reference_to_rounding(place: Path) -> None:
    """bf16 rounds otherwise in other rows; what is left of it must not look like a preference."""
    _, found = go(place, "dpo", max_steps=1)
    assert abs(found[0]["margin"]) < 0.02 and found[0]["loss"] == pytest.approx(0.6931, abs=0.01)


def test_gpu_and_cpu_give_the_same_curve(place: Path) -> None:
    for stage in ("rm", "dpo", "kto"):
        one = [e["loss"] for e in go(place, stage, finetuning_type="lora", precision="fp32", max_steps=4)[1]]
        two = [e["loss"] for e in go(place, stage, finetuning_type="lora", device="cpu", max_steps=4)[1]]
        assert one == pytest.approx(two, rel=2e-2, abs=2e-3), stage


def test_logits_of_the_whole_batch_never_exist() -> None:
    """8,000 rows by 65,024 words are 2 GB in float32; the pass stays far below."""
    rows, width, words = 8000, 1024, 65_024
    hidden = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(words, width, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, words, (rows,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_log_probs(hidden, weight, targets).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 1.3 * 2**30
