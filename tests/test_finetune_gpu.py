"""What only a GPU can show: the varlen kernel, compiled layers that never recompile, 16-bit training, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import attention, events, run
from finetune.config import from_values
from finetune.train import train
from tests.tiny_training import tiny_model, write_facts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    return folder


def curve(place: Path, **values: Any) -> tuple[list[float], list[events.Event]]:
    base = {
        "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"), "max_steps": 20,
        "dataset": str(place / "facts.json"), "dataset_dir": str(place), "lora_rank": 16, "learning_rate": 2e-3,
        "per_device_train_batch_size": 6, "gradient_accumulation_steps": 1, "sample_tokens": 8, "val_size": 2,
    }  # fmt: skip
    result = train(run.create(from_values({**base, **values})))
    found = events.read(result.folder)
    return [e["loss"] for e in found if e["event"] == "step"], found


@pytest.mark.parametrize("groups", [2, 4])
def test_the_varlen_kernel_agrees_with_one_document_at_a_time(groups: int) -> None:
    assert attention.varlen_kernel() is not None
    torch.manual_seed(0)
    shape = (1, 4, 100, 64)
    query = torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key, value = (
        torch.randn(1, groups, 100, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(2)
    )
    begins = torch.tensor([0, 30, 31, 90, 100, 100, 100], device="cuda", dtype=torch.int32)
    kernel = attention.varlen_kernel()
    results = []
    for out in (
        attention._varlen(kernel, query, key, value, begins, 60, 0.125),
        attention._by_document(query, key, value, begins, 0.125, 0.0),
    ):
        gradients = torch.autograd.grad(out.float().square().sum(), (query, key, value))
        results.append((out, *gradients))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_compiled_and_plain_training_agree_and_nothing_recompiles(place: Path, method: str) -> None:
    plain, _ = curve(place, finetuning_type=method, compile="off", packing=False)
    ours, found = curve(place, finetuning_type=method, compile="on", pack_tokens=64)
    assert any(e["event"] == "compiled" for e in found), "a recompilation would have ended the run"
    assert ours[-1] == pytest.approx(plain[-1], rel=0.03)


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_fused_layers_learn_what_the_plain_ones_learn(place: Path, method: str) -> None:
    plain, _ = curve(place, finetuning_type=method, kernels="off", compile="off", packing=False)
    for checkpointing in ("off", "on"):
        ours, found = curve(place, finetuning_type=method, kernels="on", gradient_checkpointing=checkpointing)
        assert not [e for e in found if e["event"] == "say"]
        assert ours[-1] == pytest.approx(plain[-1], rel=0.03)


def test_float16_is_scaled(place: Path) -> None:
    losses, _ = curve(place, finetuning_type="lora", precision="fp16", compile="off")
    assert losses[-1] < losses[0]


def test_eight_bit_adam(place: Path) -> None:
    losses, _ = curve(place, optim="paged_adamw_8bit", compile="off")
    assert losses[-1] < losses[0]


def test_recomputing_with_compiled_layers(place: Path) -> None:
    losses, _ = curve(place, gradient_checkpointing="on", compile="on")
    assert losses[-1] < losses[0]
