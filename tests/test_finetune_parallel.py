"""Two processes on a CPU (gloo) train the runs that one process trains: same curve, same files, one failure told once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import checkpoint, events, run
from finetune.config import from_values
from finetune.train import train
from tests.conftest import ROOT
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_model, write_facts

KINDS: dict[str, dict[str, Any]] = {
    "lora-ddp": {"finetuning_type": "lora", "predict_with_generate": True},
    "full-fsdp": {"finetuning_type": "full", "parallel": "fsdp", "per_device_train_batch_size": 4},
    "full-ddp": {"finetuning_type": "full", "weight_decay": 0.1},
    "freeze-fsdp": {
        "finetuning_type": "freeze",
        "freeze_trainable_layers": 1,
        "parallel": "fsdp",
        "gradient_checkpointing": True,
        "packing": False,
    },
    "qlora-fsdp": {"finetuning_type": "qlora", "parallel": "fsdp"},
    "kernels-ddp": {"finetuning_type": "qlora", "kernels": "on"},
    "early-fsdp": {
        "parallel": "fsdp",
        "early_stopping_patience": 1,
        "learning_rate": 2e-2,
        "lora_rank": 16,
        "max_steps": 60,
    },
    "rm-ddp": {"stage": "rm", "dataset": "pairs", "predict_with_generate": False},
    "dpo-ddp": {"stage": "dpo", "dataset": "pairs"},
    "kto-fsdp": {"stage": "kto", "dataset": "thumbs", "parallel": "fsdp"},
}


def values_of(place: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(place / "runs"),
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "facts.json"),
        "dataset_dir": str(place),
        "lora_rank": 8,
        "device": "cpu",
        "max_steps": 6,
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 1,
        "val_size": 3,
        "eval_steps": 2,
        "save_steps": 3,
        "learning_rate": 2e-3,
        "sample_tokens": 4,
        **more,
    }


def made(place: Path, name: str, **more: Any) -> Path:
    return run.create(from_values(values_of(place, name=name, **more)))


def curve(folder: Path) -> list[tuple[str, int, float]]:
    return [(e["event"], e["step"], e["loss"]) for e in events.read(folder) if e["event"] in ("step", "eval")]


def same_curve(one: Path, two: Path, *, rel: float = 1e-5) -> None:
    a, b = curve(one), curve(two)
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) > 3
    assert [x[2] for x in a] == pytest.approx([x[2] for x in b], rel=rel)


def halfway(folder: Path) -> None:
    """Train until step 3 in this process, and stop there."""
    result = train(folder, listen=lambda e: run.stop(folder) if e.get("step") == 3 else None)
    assert result.state == "stopped"


@dataclass(frozen=True)
class Done:
    """What the two processes did."""

    place: Path
    folders: dict[str, Path]
    text: str
    code: int
    seconds: float
    """From the kill to the end of the launcher."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """All of it in one pair of processes, for starting one takes seconds; in the end one of the two is killed."""
    place = tmp_path_factory.mktemp("parallel")
    tiny_model(place / "model")
    write_facts(place / "facts.json")
    write_preferences(place)
    names = [
        *KINDS,
        "resumed-lora-ddp",
        "resumed-full-fsdp",
        "refused",
        "stopped-lora-ddp",
        "stopped-full-fsdp",
    ]
    more = {"refused": {"finetuning_type": "ptuning", "parallel": "fsdp"}, "killed": {"max_steps": 100_000}}
    folders = {
        name: made(place, name, **(more.get(name) or KINDS.get(name.split("-", 1)[-1]) or KINDS[name]))
        for name in [*names, "killed"]
    }
    launcher = subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m",
         "tests.two_processes", *map(str, folders.values())],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(place)},
    )  # fmt: skip
    for kind in ("lora-ddp", "full-fsdp"):
        halfway(folders[f"resumed-{kind}"])
        run.stop(folders[f"stopped-{kind}"])  # heard after the first step
    (place / "runs" / "ready").touch()
    end = time.monotonic() + 200
    while not checkpoint.complete(folders["killed"] / "checkpoints") and launcher.poll() is None:
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    began = time.monotonic()
    if launcher.poll() is None:
        os.kill(second_process(launcher.pid, folders["killed"]), signal.SIGKILL)
    text, _ = launcher.communicate(timeout=60)
    yield Done(place, folders, text, launcher.returncode, time.monotonic() - began)


def second_process(launcher: int, folder: Path) -> int:
    import psutil

    first = run.info(folder).process
    workers = [p.pid for p in psutil.Process(launcher).children(recursive=True)]
    return next(pid for pid in workers if pid != first and psutil.Process(pid).ppid() == launcher)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_processes_give_the_curve_of_one(done: Done, kind: str) -> None:
    assert run.info(done.folders[kind]).state == "done", done.text[-3000:]
    alone = train(made(done.place, f"alone-{kind}", **{**KINDS[kind], "parallel": "ddp"})).folder
    same_curve(alone, done.folders[kind], rel=1e-3 if kind == "early-fsdp" else 1e-5)  # it learns in leaps
    found = events.read(done.folders[kind])
    assert [e["event"] for e in found].count("begin") == 1, "one of them writes"
    assert next(e for e in found if e["event"] == "begin")["processes"] == 2
    one, two = (weights(folder) for folder in (alone, done.folders[kind]))
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith(
            "k_proj.bias"
        ):  # softmax hardly sees it: its gradient is rounding, which Adam blows up
            continue
        torch.testing.assert_close(
            one[name], two[name], rtol=1e-3, atol=1e-3 if kind == "early-fsdp" else 2e-4, msg=name
        )
    if KINDS[kind].get("predict_with_generate"):
        assert len((done.folders[kind] / "predictions.jsonl").read_text().splitlines()) == 3
    for name in ("samples.md", "plots/loss.png", "metrics.json"):
        assert (done.folders[kind] / name).stat().st_size > 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    adapter = run.info(folder).adapter
    assert adapter is not None
    return {name: t for file in sorted(adapter.glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora-ddp", "full-fsdp"])
def test_one_process_goes_on_with_two_and_two_with_one(done: Done, kind: str) -> None:
    whole = done.folders[kind]
    resumed = done.folders[f"resumed-{kind}"]
    assert run.info(resumed).state == "done" and any(e["event"] == "resume" for e in events.read(resumed))
    same_curve(whole, resumed)
    stopped = done.folders[f"stopped-{kind}"]
    assert run.info(stopped).state == "stopped" and run.info(stopped).step == 1
    assert train(stopped).state == "done"
    same_curve(whole, stopped)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_a_clear_error(done: Done) -> None:
    assert done.code != 0 and done.seconds < 15
    found = run.info(done.folders["killed"])
    assert found.state == "failed" and "number 2" in found.error_en and "killed" in found.error_en
    assert "第 2" in found.error_zh and "--resume" in found.error_zh and found.can_resume
    ends = [e for e in events.read(done.folders["killed"]) if e["event"] == "end"]
    assert len(ends) == 1


@pytest.mark.slow
def test_what_does_not_go_with_shards_is_refused_by_both(done: Done) -> None:
    found = run.info(done.folders["refused"])
    assert found.state == "failed" and "ptuning" in found.error_en and "--parallel ddp" in found.error_zh
    assert [e["event"] for e in events.read(done.folders["refused"])].count("end") == 1


@pytest.mark.slow
def test_the_command_trains_on_several_and_ctrl_c_saves(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    write_facts(tmp_path / "facts.json")
    rows = values_of(tmp_path, name="c", max_steps=100_000, save_steps=5)
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in rows.items())
    (tmp_path / "c.toml").write_text(text)
    child = subprocess.Popen(
        [sys.executable, "-m", "ui.cli", "finetune", str(tmp_path / "c.toml"), "--gpus", "2"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ZHIWEN_HOME": str(tmp_path)},
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/c-*/checkpoints/step-*")):
        assert time.monotonic() < end and child.poll() is None, child.communicate()[0]
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    [found] = run.list_runs(tmp_path / "runs")
    assert child.returncode == 130 and found.state == "stopped" and found.step >= 5
    assert "--gpus 2" in said and "loss" in said and f"--resume {found.folder}" in said
