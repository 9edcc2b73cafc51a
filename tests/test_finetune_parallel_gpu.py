"""Two GPUs: the curve of one, with the base in nf4, whole on each (ddp) and shared (fsdp), compiled and not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values
from finetune.train import train
from tests.conftest import ROOT
from tests.tiny_training import tiny_model, write_facts

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpus")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    return folder


def made(place: Path, **more: Any) -> Path:
    return run.create(
        from_values(
            {
                "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"), "max_steps": 12,
                "dataset": str(place / "facts.json"), "dataset_dir": str(place), "lora_rank": 16, "compile": "off",
                "per_device_train_batch_size": 6, "gradient_accumulation_steps": 1, "sample_tokens": 8,
                "val_size": 2, "save_steps": 6, "learning_rate": 2e-3, **more,
            }
        )
    )  # fmt: skip


def on_two(folder: Path) -> list[events.Event]:
    done = subprocess.run(
        run.command(folder, gpus=2),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert run.info(folder).state == "done"
    return events.read(folder)


def losses(found: list[events.Event]) -> list[float]:
    return [e["loss"] for e in found if e["event"] in ("step", "eval")]


@pytest.mark.parametrize(
    "kind",
    [
        {"finetuning_type": "qlora"},
        {"finetuning_type": "qlora", "compile": "on"},
        {"finetuning_type": "qlora", "parallel": "fsdp"},
        {"finetuning_type": "qlora", "parallel": "fsdp", "gradient_checkpointing": True},
        {"finetuning_type": "full", "parallel": "fsdp"},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_two_gpus_give_the_curve_of_one(place: Path, kind: dict[str, Any]) -> None:
    same = {"parallel": "ddp"} | (
        {"kernels": "off"} if "parallel" in kind else {}
    )  # fsdp runs transformers' layers
    alone = events.read(train(made(place, **{**kind, **same})).folder)
    folder = made(place, **kind)
    found = on_two(folder)
    assert next(e for e in found if e["event"] == "begin")["processes"] == 2
    assert losses(found) == pytest.approx(losses(alone), rel=0.03)
    assert losses(found)[0] == pytest.approx(losses(alone)[0], rel=2e-4), (
        "the base is the same to the last bit"
    )
    assert json.loads((folder / "metrics.json").read_text())["peak_gib"] > 0


def test_a_run_of_two_goes_on_with_one(place: Path) -> None:
    kind = {"finetuning_type": "qlora", "parallel": "fsdp"}
    whole = on_two(made(place, **kind))
    folder = made(place, **kind)
    run.stop(folder)  # heard after the first step
    subprocess.run(run.command(folder, gpus=2), cwd=ROOT, env=ENVIRONMENT, timeout=200)
    assert run.info(folder).state == "stopped" and train(folder).state == "done"
    assert losses(events.read(folder)) == pytest.approx(losses(whole), rel=0.03)
