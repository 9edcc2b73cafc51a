"""Killed and stopped runs that learn from preferences go on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import checkpoint, events, run
from finetune.config import from_values
from finetune.stages.reference import FILE
from finetune.train import train
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference-resume")
    tiny_model(folder / "model")
    write_preferences(folder)
    return folder


def values_of(place: Path, stage: str, **more: Any) -> dict[str, Any]:
    return {
        "name": stage, "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"), "stage": stage,
        "dataset": "pairs", "dataset_dir": str(place), "finetuning_type": "lora", "lora_rank": 4, "lora_dropout": 0.1,
        "device": "cpu", "max_steps": 12, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1,
        "val_size": 2, "eval_steps": 4, "learning_rate": 2e-3, "logging_steps": 3, "save_steps": 4, "sample_tokens": 2,
        **more,
    }  # fmt: skip


def curve(folder: Path) -> list[dict[str, Any]]:
    """Everything that a step or an evaluation says, but for the clock."""
    clock = ("time", "tokens_per_second", "left")
    return [
        {k: v for k, v in e.items() if k not in clock}
        for e in events.read(folder)
        if e["event"] in ("step", "eval")
    ]


def same_weights(one: Path, two: Path) -> bool:
    from safetensors.torch import load_file

    a, b = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("stage", ["rm", "dpo", "kto"])
def test_stopped_between_checkpoints_and_resumed(place: Path, stage: str) -> None:
    values = values_of(place, stage)
    whole = train(run.create(from_values(values))).folder
    folder = run.create(from_values(values))

    def listen(event: events.Event) -> None:
        if event["event"] == "step" and event["step"] == 6 and not (folder / "seen").exists():
            (folder / "seen").touch()
            run.stop(folder)

    assert train(folder, listen=listen).state == "stopped"
    measured = (folder / FILE).stat().st_mtime_ns if stage != "rm" else 0
    assert train(folder).state == "done"
    assert curve(folder) == curve(whole) and same_weights(folder, whole)
    assert not measured or (folder / FILE).stat().st_mtime_ns == measured, (
        "the reference is not measured again"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kto"])
def test_kill_nine_and_resume_are_bit_identical(place: Path, stage: str) -> None:
    values = values_of(place, stage, max_steps=36, save_steps=4)
    whole = train(run.create(from_values(values))).folder
    killed = run.start(from_values(values)).folder
    end = time.monotonic() + 120
    while not (done := checkpoint.complete(killed / "checkpoints")) or done[-1].step < 8:
        assert time.monotonic() < end and run.info(killed).state != "failed"
        time.sleep(0.02)
    os.kill(run.info(killed).process, signal.SIGKILL)
    while run.info(killed).state != "killed":
        time.sleep(0.02)
    assert 0 < len(curve(killed)) < len(curve(whole))
    assert train(killed).state == "done"
    assert curve(killed) == curve(whole) and same_weights(killed, whole)


def test_killed_while_the_reference_is_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half-measured reference is ever taken for a whole one."""
    import finetune.stages.reference as module

    values = values_of(place, "dpo", max_steps=3)
    whole = train(run.create(from_values(values))).folder
    folder = run.create(from_values(values))

    def broken(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_measure", broken)
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    assert run.info(folder).can_resume and not (folder / FILE).exists()
    assert train(folder).state == "done" and curve(folder) == curve(whole)
