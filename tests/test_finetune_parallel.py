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

import numpy as np
import pytest
import torch

from finetune import checkpoint, events, run, shards
from finetune.config import RunConfig, from_values
from finetune.deal import blank, deal, share
from finetune.encode import Encoded
from finetune.events import EventLog
from finetune.memory import GIB, Layout, need
from finetune.pack import choose_tokens, packed_batches, row_shape
from finetune.parallel import World, own_device
from finetune.plan import make_plan
from finetune.together import CLAIM, Peers, fail
from finetune.train import train
from kb.errors import ModelError, SettingsError
from rag.chatglm3.shape import read_native
from tests.conftest import ROOT
from tests.test_finetune_plan import REAL
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
    "ptuning-ddp": {"finetuning_type": "ptuning", "pre_seq_len": 4, "learning_rate": 1e-2},
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


def same_curve(one: Path, two: Path) -> None:
    a, b = curve(one), curve(two)
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) > 3
    assert [x[2] for x in a] == pytest.approx([x[2] for x in b], rel=1e-5)


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
    same_curve(alone, done.folders[kind])
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
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-4, msg=name)
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


# ------------------------------------------------------------ what needs no second process


def documents(count: int, *, seed: int = 0) -> list[Encoded]:
    random = np.random.default_rng(seed)
    sizes = random.integers(4, 60, count)
    return [Encoded(ids := random.integers(3, 90, n).astype(np.int32), ids.copy()) for n in sizes]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_dealing_gives_everybody_about_the_same(ranks: int) -> None:
    lengths = [len(d) for d in documents(40)]
    parts = deal(lengths, ranks=ranks)
    assert sorted(i for p in parts for i in p) == list(range(40)) and len(parts) == ranks
    loads = [sum(lengths[i] for i in p) for p in parts]
    assert max(loads) - min(loads) <= max(lengths)
    assert deal([5], ranks=3) == [[0], [], []]


def test_sharded_processes_make_the_same_number_of_passes() -> None:
    docs = documents(7)
    shape = row_shape([len(d) for d in docs], per_step=7, tokens=64, steps=1, seed=0, fixed=True, ranks=3)

    def batches(rank: int, *, even: bool) -> list[Any]:
        return share(docs, make=lambda d: packed_batches(d, shape=shape), rank=rank, ranks=3, even=even)

    all_of_them = [batches(r, even=True) for r in range(3)]
    assert len({len(b) for b in all_of_them}) == 1
    plain = [b for r in range(3) for b in batches(r, even=False)]
    assert sum(b.tokens for b in plain) == sum(b.tokens for part in all_of_them for b in part)
    assert sum(b.tokens for b in plain) == sum(map(len, docs))
    idle = blank(plain[0])
    assert idle.tokens == 0 and len(idle.targets) == 0 and torch.equal(idle.ids, plain[0].ids)
    for batch in plain:
        assert batch.cu_seqlens is not None and len(batch.cu_seqlens) == shape.documents + 1
    few = share(docs[:1], make=lambda d: packed_batches(d, shape=shape), rank=2, ranks=3, even=True)
    assert [b.tokens for b in few] == [0], "an idle process takes part"


def test_rows_are_chosen_for_the_slowest_process() -> None:
    lengths = [len(d) for d in documents(400)]
    alone, two = (choose_tokens(lengths, per_step=64, most=4096, fixed=True, ranks=r) for r in (1, 2))
    for size, ranks in ((alone, 1), (two, 2)):
        shape = row_shape(lengths, per_step=64, tokens=size, steps=6, seed=0, fixed=True, ranks=ranks)
        assert shape.tokens == size and shape.documents > 1
    assert two < alone


def test_the_first_reason_stays(tmp_path: Path) -> None:
    config = from_values({"model_name_or_path": "m", "dataset": "d", "output_dir": str(tmp_path)})
    folder = run.create(config)
    for rank, word in ((1, "first"), (0, "second")):
        world = World(rank, 2)
        fail(folder, EventLog(folder, silent=rank > 0), word, word, world=world)
    found = run.info(folder)
    assert found.error_en == "process 2 of 2: first" and (folder / CLAIM).exists()
    assert [e["event"] for e in events.read(folder)] == ["end"]


WAITS = """
import sys, time
from pathlib import Path
from finetune.events import EventLog
from finetune.parallel import World
from finetune.together import Peers
folder, other = Path(sys.argv[1]), int(sys.argv[2])
peers = Peers(World(), folder, EventLog(folder))
peers.world, peers.processes = World(0, 2), {1: other}
peers.start()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_that_waits_in_a_library_is_ended_too(tmp_path: Path) -> None:
    config = from_values({"model_name_or_path": "m", "dataset": "d", "output_dir": str(tmp_path)})
    folder = run.create(config)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(folder), str(other.pid)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert waiting.stdout is not None and waiting.stdout.readline() == "ready\n"
    other.kill()
    other.wait()
    began = time.monotonic()
    assert waiting.wait(20) == 1 and time.monotonic() - began < 8
    assert "number 2" in run.info(folder).error_en


def test_nobody_is_missed_who_is_there(tmp_path: Path) -> None:
    peers = Peers(World(), tmp_path, EventLog(tmp_path))
    assert peers.explain(RuntimeError("x")) is None and peers.gone() == []


def test_devices_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cpu") == "cpu"
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES"):
        own_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match="1 GPUs"):
        own_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("auto") == "cuda:1"


@pytest.mark.parametrize(
    "values",
    [
        {"finetuning_type": "ptuning"},
        {"finetuning_type": "lora", "quantization_bit": 8},
        {"optim": "paged_adamw_8bit"},
        {"precision": "fp16"},
        {"compile": "on"},
    ],
)
def test_options_that_do_not_go_with_shards(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--parallel fsdp"):
        shards.check(from_values({**values, "parallel": "fsdp"}))


def test_more_gpus_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ui.cli import main

    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine has that many")
    (tmp_path / "c.toml").write_text('dataset = "x"\nmodel_name_or_path = "y"\n')
    assert main(["finetune", str(tmp_path / "c.toml"), "--gpus", "64"]) != 0
    assert "--device cpu" in capsys.readouterr().err


def test_the_plan_knows_the_number_of_gpus(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    write_facts(tmp_path / "facts.json")

    def config(**more: Any) -> RunConfig:
        return from_values(values_of(tmp_path, **more))

    one, two = (make_plan(config(), rate=1e12, free=10**10, gpus=n) for n in (1, 2))
    assert two.gpus == 2 and two.steps == one.steps and 0.5 < two.seconds / one.seconds < 0.6
    assert two.layout.tokens <= one.layout.tokens
    flags = {"finetuning_type": "full", "gradient_checkpointing": True}
    whole, shared = (config(**flags, parallel=kind) for kind in ("ddp", "fsdp"))
    layout = Layout(8192, recompute=True)
    ddp, fsdp = (need(REAL, c, layout=layout, dtype="bfloat16", gpus=4) for c in (whole, shared))
    assert ddp == need(REAL, whole, layout=layout, dtype="bfloat16"), "each has all of it"
    assert fsdp.trained < ddp.trained / 3.5 and fsdp.kept == ddp.kept and 23 < fsdp.trained / GIB < 26
    qlora = config(parallel="fsdp")
    alone, each = (need(REAL, qlora, layout=layout, dtype="bfloat16", gpus=n).weights / GIB for n in (1, 2))
    assert 3.9 > alone > each > alone / 2
    between = (need(read_native(tmp_path / "model"), whole, layout=one.layout, dtype="float32").total) * 0.9
    small = make_plan(whole, rate=1e12, free=int(between), gpus=4)
    assert not small.fits and small.changes_en
