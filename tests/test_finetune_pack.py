"""Packing: the same steps and gradients as one document at a time, no document sees another, nothing recompiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.config import MethodConfig, RunConfig, TrainConfig
from finetune.encode import IGNORE, Encoded
from finetune.forward import hidden_states, loss_sum
from finetune.loss import linear_cross_entropy, plain_cross_entropy, rows_per_chunk
from finetune.methods import Trainee, attach, checkpoint_layers, compile_layers, open_base
from finetune.pack import (
    choose_tokens,
    pack,
    packed_batches,
    padded_batches,
    row_shape,
    step_examples,
    steps_per_epoch,
)
from tests.tiny_training import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def trainee_of(folder: Path, **method: object) -> Trainee:
    config = RunConfig(method=MethodConfig(**{"finetuning_type": "lora", "lora_rank": 4, **method}))
    trainee = attach(open_base(config, folder=folder, device="cpu"), config=config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in trainee.trainable().items():
        if "lora_B" in name:  # zero at first: the gradients of A would be zero too
            parameter.data.normal_(generator=generator, std=0.05)
    return trainee


def documents(count: int = 7, *, vocabulary: int = 300, seed: int = 0) -> list[Encoded]:
    random = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        ids = random.integers(3, vocabulary, random.integers(4, 40)).astype(np.int32)
        labels = ids.copy()
        labels[: len(ids) // 3] = IGNORE
        out.append(Encoded(ids, labels))
    return out


def gradients(trainee: Trainee, batches: list) -> dict[str, torch.Tensor]:  # type: ignore[type-arg]
    trainee.model.zero_grad()
    for batch in batches:
        loss_sum(trainee, batch).backward()
    return {n: p.grad.clone() for n, p in trainee.trainable().items() if p.grad is not None}


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference, against the largest gradient."""
    assert a.keys() == b.keys() and len(a) > 3
    scale = max(float(g.abs().max()) for g in a.values())
    assert scale > 0
    return max(float((a[n] - b[n]).abs().max()) for n in a) / scale


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_packed_and_unpacked_gradients_are_equal(folder: Path, kind: str) -> None:
    trainee, docs = trainee_of(folder, finetuning_type=kind), documents()
    shape = row_shape([len(d) for d in docs], per_step=7, tokens=96, steps=1, seed=0, fixed=False)
    packed = packed_batches(docs, shape=shape)
    assert len(packed) < len(docs)
    together = gradients(trainee, packed)
    trainee.glm.config._attn_implementation = "sdpa"
    alone = gradients(trainee, [b for d in docs for b in padded_batches([d], rows=1)])
    padded = gradients(trainee, padded_batches(docs, rows=3))
    assert worst(alone, together) < 1e-5
    assert worst(alone, padded) < 1e-5


def test_fixed_rows_and_checkpointing_change_nothing(folder: Path) -> None:
    trainee, docs = trainee_of(folder), documents()
    lengths = [len(d) for d in docs]
    free = row_shape(lengths, per_step=7, tokens=128, steps=1, seed=0, fixed=False)
    fixed = row_shape(lengths, per_step=7, tokens=128, steps=1, seed=0, fixed=True)
    reference = gradients(trainee, packed_batches(docs, shape=free))
    rows = packed_batches(docs, shape=fixed)
    assert {tuple(b.ids.shape) for b in rows} == {(1, fixed.tokens)}
    assert len({b.cu_seqlens.shape for b in rows if b.cu_seqlens is not None}) == 1
    assert worst(reference, gradients(trainee, rows)) < 1e-5
    checkpoint_layers(trainee)
    assert worst(reference, gradients(trainee, rows)) < 1e-5


def test_a_document_never_sees_its_neighbours(folder: Path) -> None:
    trainee, docs = trainee_of(folder), documents(4)
    shape = row_shape([len(d) for d in docs], per_step=4, tokens=500, steps=1, seed=0, fixed=False)
    [before] = packed_batches(docs, shape=shape)
    ids = before.ids.clone()
    begin, end = int(before.cu_seqlens[1]), int(before.cu_seqlens[2])  # type: ignore[index]
    ids[0, begin:end] = 5
    with torch.no_grad():
        one, two = hidden_states(trainee, before), hidden_states(trainee, replace(before, ids=ids))
    changed = (one - two).abs().amax(-1)[0] > 0
    assert changed[begin:end].all() and not changed[:begin].any() and not changed[end:].any()


@pytest.mark.slow
def test_compiled_layers_meet_one_shape_only(folder: Path) -> None:
    trainee, docs = trainee_of(folder), documents(60)
    lengths = [len(d) for d in docs]
    shape = row_shape(lengths, per_step=12, tokens=160, steps=5, seed=0, fixed=True)
    torch._dynamo.reset()
    compile_layers(trainee, backend="eager")
    steps = [packed_batches(docs[i : i + 12], shape=shape) for i in range(0, 60, 12)]
    gradients(trainee, steps[0])
    assert {b.cu_seqlens.unique().numel() for s in steps for b in s if b.cu_seqlens is not None} != {1}
    try:
        torch.compiler.set_stance("fail_on_recompile")
        for batches in steps[1:]:
            gradients(trainee, batches)
    finally:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


def test_rows_hold_what_fits() -> None:
    lengths = [5, 90, 40, 60, 10, 100, 3]
    rows = pack(lengths, tokens=100)
    assert sorted(i for row in rows for i in row) == list(range(7))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows) and len(rows) == 4
    assert pack([250], tokens=100) == [[0]]
    assert max(map(len, pack([1] * 10, tokens=100, documents=4))) == 4


def test_every_epoch_sees_every_example_once_in_its_own_order() -> None:
    steps = steps_per_epoch(10, per_step=4)
    epochs = [
        [i for s in range(steps) for i in step_examples(10, step=e * steps + s, per_step=4, seed=3)]
        for e in (0, 1)
    ]
    assert steps == 3 and all(sorted(e) == list(range(10)) for e in epochs) and epochs[0] != epochs[1]


def test_the_chosen_row_is_cheap() -> None:
    random = np.random.default_rng(0)
    lengths = [int(n) for n in np.clip(random.lognormal(np.log(220), 0.8, 400), 32, 1024)]
    size = choose_tokens(lengths, per_step=16, most=8192, fixed=True)
    used = rows = 0
    for step in range(25):
        inside = [lengths[i] for i in step_examples(400, step=step, per_step=16, seed=0)]
        used, rows = used + sum(inside), rows + len(pack(inside, tokens=size))
    assert max(lengths) <= size <= 8192 and used / (rows * size) > 0.75, "little padding"


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 24), torch.randn(333, 24)
    targets = torch.randint(0, 333, (50,))
    results = []
    for function in (plain_cross_entropy, lambda h, w, t: linear_cross_entropy(h, w, t, chunk=chunk)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = function(h, w, targets)
        (loss * 0.5).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(plain, ours, rtol=1e-5, atol=1e-5)


def test_no_chunk_is_larger_than_asked() -> None:
    assert rows_per_chunk(65_024) * 65_024 * 4 <= 256 * 2**20 and rows_per_chunk(10**12) == 1


def test_one_training_step_never_depends_on_the_micro_batch() -> None:
    assert RunConfig(train=TrainConfig(per_device_train_batch_size=2)).examples_per_step == 8
