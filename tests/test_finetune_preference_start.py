"""Preferences after another stage, and with other base models: what the reference is, and that it all works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values
from finetune.reward import load_reward
from finetune.stages.reference import FILE
from finetune.train import RunResult, train
from kb.errors import SettingsError
from tests.tiny_bases import tiny_base
from tests.tiny_preferences import preferences, write_preferences
from tests.tiny_training import tiny_model, write_facts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    tiny_model(folder / "model")
    write_preferences(folder)
    write_facts(folder / "facts.json")
    return folder


def go(place: Path, stage: str, **values: Any) -> tuple[RunResult, list[events.Event]]:
    base = {
        "name": stage, "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"),
        "dataset": "pairs", "dataset_dir": str(place), "stage": stage, "finetuning_type": "lora", "lora_rank": 8,
        "device": "cpu", "max_steps": 4, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 1,
        "learning_rate": 3e-3, "sample_tokens": 2,
    }  # fmt: skip
    result = train(run.create(from_values({**base, **values})))
    return result, [e for e in events.read(result.folder) if e["event"] == "step"]


@pytest.fixture(scope="module")
def taught(place: Path) -> Path:
    """An adapter that sft has taught the answers."""
    result, _ = go(place, "sft", dataset=str(place / "facts.json"), max_steps=20)
    assert result.adapter is not None
    return result.adapter


def reference(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(folder / FILE)["train"]


def test_after_sft_the_reference_is_what_sft_made(place: Path, taught: Path) -> None:
    bare, _ = go(place, "dpo", max_steps=2)
    after, found = go(place, "dpo", max_steps=6, adapter=str(taught))
    assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-4), "it starts where its reference is"
    assert found[0]["margin"] == pytest.approx(0, abs=1e-4) and found[-1]["margin"] > 0.1
    gained = reference(after.folder)[:, 0].mean() - reference(bare.folder)[:, 0].mean()
    assert gained > 5, "the chosen answers are those that sft has taught"


def test_a_reward_model_goes_on_from_sft(place: Path, taught: Path) -> None:
    result, found = go(place, "rm", max_steps=10, adapter=str(taught))
    assert found[-1]["accuracy"] >= 0.8 and result.adapter is not None
    first = preferences()[0]
    good, bad = load_reward(result.adapter, device="cpu").score_answers(
        first.question, [first.chosen, first.rejected]
    )
    assert good > bad


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_another_base_learns_from_preferences(place: Path, stage: str) -> None:
    base = tiny_base(place / "qwen3", "qwen3")
    _, found = go(place, stage, model_name_or_path=str(base), max_steps=8, learning_rate=1e-2)
    assert found[0]["loss"] == pytest.approx({"dpo": 0.6931, "kto": 0.5}[stage], abs=2e-3)
    assert found[-1]["loss"] < found[0]["loss"] - 0.02 and found[-1]["margin"] > 0.05


def test_a_reward_model_of_another_base_is_refused_with_the_reason(place: Path) -> None:
    base = tiny_base(place / "qwen3", "qwen3")
    with pytest.raises(SettingsError, match="ChatGLM bases only"):
        go(place, "rm", model_name_or_path=str(base))
