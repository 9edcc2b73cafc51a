"""Sharing a run among processes, as far as it needs no second one: dealing, devices, refusals, the plan, who tells what."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune import events, run, shards
from finetune.config import RunConfig, from_values
from finetune.deal import deal, share
from finetune.encode import Encoded
from finetune.events import EventLog
from finetune.memory import GIB, Layout, need
from finetune.pack import choose_tokens, packed_batches, row_shape
from finetune.parallel import World, own_device
from finetune.plan import make_plan
from finetune.together import CLAIM, Peers, fail
from kb.errors import ModelError, SettingsError
from tests.conftest import ROOT
from tests.test_finetune_plan import REAL, config_of
from tests.tiny_training import tiny_model, write_facts


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
    plain = [b for r in range(3) for b, counts in batches(r, even=False) if counts]
    counted = [b for part in all_of_them for b, counts in part if counts]
    assert [b.tokens for b in plain] == [b.tokens for b in counted]
    assert sum(b.tokens for b in plain) == sum(map(len, docs))
    for batch in plain:
        assert batch.cu_seqlens is not None and len(batch.cu_seqlens) == shape.documents + 1
    few = share(docs[:1], make=lambda d: packed_batches(d, shape=shape), rank=2, ranks=3, even=True)
    assert [counts for _, counts in few] == [False], "an idle process takes part, and counts nothing"


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
        {"kernels": "on"},
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


def test_the_plan_knows_the_number_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(tmp_path / "model")
    write_facts(tmp_path / "facts.json")

    def config(**more: Any) -> RunConfig:
        return config_of(tmp_path, lora_rank=8, per_device_train_batch_size=5, **more)

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
    monkeypatch.setattr("finetune.plan.shape_of", lambda folder: REAL)
    small = make_plan(whole, rate=1e12, free=80 * GIB, gpus=4)
    assert not small.fits and any("--parallel fsdp" in change for change in small.changes_en)
    assert make_plan(shared, rate=1e12, free=80 * GIB, gpus=4).fits, "what was proposed fits"
