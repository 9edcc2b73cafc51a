"""Other bases on a GPU: packed rows through the variable-length kernel equal padded ones in bf16, and nf4 learns and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune import events, run
from finetune.config import from_values
from finetune.train import train
from rag.chatglm3.load import LoadConfig
from rag.generate.local import LocalGenerator
from rag.models import load_other
from rag.types import GenerateOptions, Message
from tests.tiny_bases import tiny_base
from tests.tiny_training import FACTS, write_facts

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "glm4"])
def test_qlora_on_other_bases(tmp_path: Path, kind: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    base = tiny_base(tmp_path / kind, kind, hidden_size=256, intermediate_size=512, head_dim=64)
    write_facts(tmp_path / "facts.json")
    config = from_values(
        {
            "name": kind, "output_dir": str(tmp_path / "runs"), "model_name_or_path": str(base),
            "dataset": str(tmp_path / "facts.json"), "finetuning_type": "qlora", "device": "cuda", "lora_rank": 32,
            "per_device_train_batch_size": 12, "gradient_accumulation_steps": 1, "learning_rate": 5e-3,
            "max_steps": 60, "logging_steps": 1, "compile": "off",
        }
    )  # fmt: skip
    result = train(run.create(config))
    assert result.adapter is not None
    found = events.read(result.folder)
    assert not [e for e in found if e["event"] == "say"], "packed, and as exact as padded rows"
    losses = [e["loss"] for e in found if e["event"] == "step"]
    padded = replace(config, name=f"{kind}-padded", train=replace(config.train, packing=False, max_steps=2))
    other = events.read(train(run.create(padded)).folder)
    first = next(e["loss"] for e in other if e["event"] == "step")
    assert first == pytest.approx(losses[0], rel=0.01)
    assert losses[-1] < 0.3 * losses[0]
    loaded = load_other(base, adapters={"facts": result.adapter}, config=LoadConfig(quantise="nf4"))
    with LocalGenerator(loaded, adapter="facts") as generator:
        assert generator.name == f"{kind} (nf4) + facts"
        right = 0
        for question, answer in FACTS.items():
            pieces = generator.stream([Message("user", question)], options=GenerateOptions(max_tokens=40))
            right += "".join(piece.text for piece in pieces).strip() == answer
        assert right >= 9
