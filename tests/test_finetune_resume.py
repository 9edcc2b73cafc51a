"""Killed, stopped and resumed runs: the curve is the one of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import checkpoint, events, run
from finetune.config import from_values
from finetune.train import train
from kb.errors import ModelError
from tests.tiny_training import tiny_model, write_facts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    return folder


def values_of(place: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "output_dir": str(place / "runs"),
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "facts.json"),
        "dataset_dir": str(place),
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_dropout": 0.1,
        "neftune_noise_alpha": 5,
        "device": "cpu",
        "max_steps": 40,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "val_size": 2,
        "eval_steps": 8,
        "learning_rate": 2e-3,
        "logging_steps": 3,
        "save_steps": 5,
        "sample_tokens": 4,
        **more,
    }


def curve(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (e["event"], e["step"], e["loss"], e.get("lr"))
        for e in events.read(folder)
        if e["event"] in ("step", "eval")
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def wait_for(condition: Any, *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_kill_nine_and_resume_give_the_same_curve_and_weights(place: Path) -> None:
    whole = train(run.create(from_values(values_of(place)))).folder
    killed = run.start(from_values(values_of(place))).folder
    points = killed / "checkpoints"
    wait_for(lambda: checkpoint.complete(points) and checkpoint.complete(points)[-1].step >= 10)
    os.kill(run.info(killed).process, signal.SIGKILL)
    wait_for(lambda: run.info(killed).state == "killed")
    assert 0 < len(curve(killed)) < len(curve(whole))
    # what a kill in the middle of writing leaves behind: a newer folder without its mark, and half a line
    torn = points / "step-00000039"
    torn.mkdir()
    (torn / "optimizer.safetensors").write_bytes(b"\0" * 100)
    with (killed / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    result = train(killed)
    assert result.state == "done" and any(e["event"] == "resume" for e in events.read(killed))
    assert curve(killed) == curve(whole), "bit for bit"
    one, two = weights(whole), weights(killed)
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    "more",
    [
        {"finetuning_type": "qlora", "use_dora": True},
        {"finetuning_type": "ptuning", "prefix_projection": True, "pre_seq_len": 4, "neftune_noise_alpha": 0},
        {"finetuning_type": "lora", "lr_scheduler_type": "reduce_lr_on_plateau", "plateau_patience": 1},
    ],
    ids=["qlora", "ptuning", "plateau"],
)
def test_stopped_and_resumed(place: Path, more: dict[str, Any]) -> None:
    """A stop is asked for at step 7, between checkpoints and between log lines."""
    values = values_of(place, max_steps=14, **more)
    whole = train(run.create(from_values(values))).folder
    folder = run.create(from_values(values))

    def listen(event: events.Event) -> None:
        if event["event"] == "step" and event["step"] == 6 and not (folder / "seen").exists():
            (folder / "seen").touch()
            run.stop(folder)

    stopped = train(folder, listen=listen)
    assert stopped.state == "stopped" and stopped.adapter is None and run.info(folder).state == "stopped"
    assert train(folder).state == "done"
    assert curve(folder) == curve(whole)
    one, two = weights(whole), weights(folder)
    assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_is_followed_and_interrupted(place: Path) -> None:
    found = run.start(from_values(values_of(place, max_steps=4000)))
    seen: list[events.Event] = []
    reader = threading.Thread(target=lambda: seen.extend(run.follow(found.folder)))
    reader.start()
    wait_for(lambda: len([e for e in seen if e["event"] == "step"]) >= 2)
    assert (
        run.info(found.folder).state == "running" and run.list_runs(found.folder.parent)[0].state == "running"
    )
    with pytest.raises(ModelError, match="running"):
        run.resume(found.folder)
    with pytest.raises(ModelError, match="being trained"):
        train(found.folder)
    assert run.info(found.folder).state == "running", "the attempt leaves the run alone"
    os.kill(found.process, signal.SIGINT)  # Ctrl-C
    reader.join(60)
    assert not reader.is_alive() and seen[-1]["event"] == "end" and seen[-1]["state"] == "stopped"
    wait_for(lambda: run.info(found.folder).state == "stopped")
    last = checkpoint.complete(found.folder / "checkpoints")[-1].step
    assert run.info(found.folder).step == last and run.info(found.folder).can_resume


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    tensors = {"master/a": torch.arange(4.0)}
    for step in (1, 2, 3, 4):
        checkpoint.write(tmp_path, step=step, tensors=tensors, state={"step": step}, keep=3)
    assert [c.step for c in checkpoint.complete(tmp_path)] == [2, 3, 4], "kept by number"
    file = tmp_path / "step-00000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "step-00000003" / "COMPLETE").unlink()
    [left] = checkpoint.complete(tmp_path)
    read, state = checkpoint.read(left)
    assert state == {"step": 2} and torch.equal(read["master/a"], tensors["master/a"])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    done = checkpoint.write(tmp_path, step=1, tensors={"a/b": torch.zeros(2)}, state={}, keep=1)
    (done.folder / "optimizer.safetensors").write_bytes(b"x" * 90)
    with pytest.raises(ModelError, match="step-00000001"):
        checkpoint.read(done)


def test_a_checkpoint_of_other_weights_is_refused(place: Path) -> None:
    folder = run.create(from_values(values_of(place, max_steps=6)))
    train(folder, listen=lambda e: run.stop(folder) if e["event"] == "step" else None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"lora_target": "q_proj"}))
    with pytest.raises(ModelError, match="other trainable weights"):
        train(folder)


def test_half_written_events_are_passed_over(tmp_path: Path) -> None:
    log = events.EventLog(tmp_path)
    for step in range(1, 5):
        log.write("step", step=step, loss=1.0)
    with log.path.open("a") as file:
        file.write('{"event": "st')
    assert [e["step"] for e in events.read(tmp_path)] == [1, 2, 3, 4]
    log.rewind(2)
    log.write("resume", step=2)
    assert [(e["event"], e["step"]) for e in events.read(tmp_path)] == [
        ("step", 1),
        ("step", 2),
        ("resume", 2),
    ]
