"""What only a GPU can show of PPO: fused layers and the engine's kernels on one 4-bit base, with the adapter as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values
from finetune.methods import attach, open_base
from finetune.ppo.rollout import Sampler
from finetune.ppo.train import train
from tests.tiny_ppo import Exactly, ppo_values, taught_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo-gpu")
    taught_model(folder)
    return folder


@pytest.mark.parametrize("more", [{"finetuning_type": "qlora"}, {"kernels": "off"}], ids=["qlora", "plain"])
def test_the_best_answer_is_found(place: Path, more: dict[str, Any]) -> None:
    values = ppo_values(place, device="cuda", **more)
    result = train(run.create(from_values(values)), reward=Exactly(place / "model"))
    steps = [e for e in events.read(result.folder) if e["event"] == "step"]
    assert abs(steps[0]["kl"]) < 0.05, "policy and reference begin as one"
    assert sum(e["score"] for e in steps[-4:]) / 4 > 0.8 > steps[0]["score"]
    assert max(e["kl"] for e in steps) < 3 and steps[-1]["memory"] > 0


def test_captured_steps_see_the_changed_adapter(place: Path) -> None:
    """Graphs are captured once; after the weights change the same graphs say what a fresh engine says."""
    config = from_values(ppo_values(place, device="cuda", per_device_train_batch_size=4))
    trainee = attach(open_base(config, folder=place / "model", device="cuda:0"), config=config)
    prompts = [[3 + i, 300, 7, 9 + i] for i in range(4)]
    with Sampler(trainee, config=config, longest=4) as sampler:
        before = sampler.write(prompts, step=0, greedy=True)
        draws = torch.Generator("cuda").manual_seed(1)
        with torch.no_grad():
            for name, parameter in trainee.trainable().items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=draws, device="cuda") * 0.3)
        after = sampler.write(prompts, step=0, greedy=True)
        assert sampler.engine.path == "kernels"
    with Sampler(trainee, config=config, longest=4) as fresh:
        assert after != before and fresh.write(prompts, step=0, greedy=True) == after
