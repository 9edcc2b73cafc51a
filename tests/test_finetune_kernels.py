"""Fused layers: the same loss and gradients as transformers' layers, in runs and in plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values
from finetune.forward import loss_sum
from finetune.kernels import fit
from finetune.memory import GIB, Layout, choose_layout, smaller_layout
from finetune.methods import Trainee, fuse_layers
from finetune.pack import packed_batches, row_shape
from finetune.train import train
from kb.errors import SettingsError
from rag.chatglm3.shape import GlmShape
from tests.test_finetune_pack import documents, gradients, trainee_of, worst
from tests.tiny_training import tiny_model, write_facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("fused") / "model", layers=3)


def both_ways(trainee: Trainee, *, kept: int, resident: bool, roomy: bool = False) -> float:
    """Largest difference of gradients, against the largest gradient; asserts the losses equal."""
    docs = documents()
    shape = row_shape([len(d) for d in docs], per_step=7, tokens=96, steps=1, seed=0, fixed=False)
    batches = packed_batches(docs, shape=shape)
    expected = gradients(trainee, batches)
    fused = fuse_layers(trainee, kept=kept, resident=resident, roomy=roomy)
    with torch.no_grad():
        for batch in batches:
            one, two = (float(loss_sum(t, batch)) for t in (trainee, fused))
            assert one == pytest.approx(two, rel=1e-6)
    return worst(expected, gradients(fused, batches))


@pytest.mark.parametrize(
    ("kept", "resident", "roomy"),
    [(0, False, False), (2, False, False), (3, True, False), (3, True, True), (1, False, True)],
)
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_loss_and_gradients_are_those_of_the_plain_layers(
    folder: Path, kind: str, kept: int, resident: bool, roomy: bool
) -> None:
    trainee = trainee_of(folder, finetuning_type=kind)
    assert both_ways(trainee, kept=kept, resident=resident, roomy=roomy) < 1e-5


@pytest.mark.parametrize(
    ("targets", "rank"), [("q_proj,v_proj", 5), ("gate_up_proj", 16), ("o_proj,down_proj", 3), ("k_proj", 1)]
)
def test_any_targets_and_rank(folder: Path, targets: str, rank: int) -> None:
    trainee = trainee_of(folder, lora_target=targets, lora_rank=rank)
    assert both_ways(trainee, kept=1, resident=False) < 1e-5


def test_gradients_add_up_and_follow_new_weights(folder: Path) -> None:
    """Two passes before a step, LoRA changed in between: nothing of the first is reused in the second."""
    trainee = trainee_of(folder)
    fused = fuse_layers(trainee, kept=3, resident=True)
    light = fuse_layers(trainee, kept=0, resident=False)
    batch = packed_batches(documents(), shape=row_shape([40], per_step=1, tokens=999, steps=1, seed=0, fixed=False))[0]  # fmt: skip
    for _ in range(2):
        expected = gradients(trainee, [batch, batch])
        assert worst(expected, gradients(fused, [batch, batch])) < 1e-5
        assert worst(expected, gradients(light, [batch, batch])) < 1e-5
        with torch.no_grad():
            for parameter in trainee.trainable().values():
                parameter.mul_(0.5)


@pytest.mark.parametrize(("kept", "roomy"), [(0, False), (3, True)])
def test_the_gradient_of_the_input_for_who_wants_it(folder: Path, kept: int, roomy: bool) -> None:
    trainee = trainee_of(folder)
    fused = fuse_layers(trainee, kept=kept, resident=roomy, roomy=roomy)
    table = trainee.glm.get_input_embeddings().weight
    table.requires_grad_(True)
    batches = packed_batches(
        documents(), shape=row_shape([40], per_step=1, tokens=99, steps=1, seed=0, fixed=False)
    )
    found = []
    for one in (trainee, fused):
        table.grad = None
        gradients(one, batches)
        found.append({"embedding": table.grad.clone(), **dict.fromkeys("abc", table.grad.clone())})
    table.requires_grad_(False)
    assert worst(*found) < 1e-5


def test_a_second_backward_pass_is_refused(folder: Path) -> None:
    fused = fuse_layers(trainee_of(folder), kept=0, resident=False)
    batch = packed_batches(documents(2), shape=row_shape([40], per_step=1, tokens=99, steps=1, seed=0, fixed=False))[0]  # fmt: skip
    loss = loss_sum(fused, batch)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_a_run_with_fused_layers_says_when_it_cannot(folder: Path, tmp_path: Path) -> None:
    write_facts(tmp_path / "facts.json")
    base = {
        "output_dir": str(tmp_path / "runs"), "model_name_or_path": str(folder), "dataset": "facts.json", "device": "cpu",
        "dataset_dir": str(tmp_path), "max_steps": 2, "sample_tokens": 2, "val_size": 2, "kernels": "on",
    }  # fmt: skip
    losses = []
    for kernels in ("on", "off"):
        result = train(run.create(from_values({**base, "kernels": kernels})))
        found = events.read(result.folder)
        losses.append([e["loss"] for e in found if e["event"] in ("step", "eval")])
        assert json.loads((result.folder / "plan.json").read_text())["layout"]["kernels"] is (kernels == "on")
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(SettingsError, match="dropout"):
        train(run.create(from_values({**base, "lora_dropout": 0.1})))


@pytest.mark.parametrize(
    ("values", "device", "dtype", "word"),
    [
        ({}, "cpu", "float32", "GPU"),
        ({"kernels": "on"}, "cpu", "float32", ""),
        ({"kernels": "on", "lora_dropout": 0.1}, "cpu", "float32", "dropout"),
        ({"kernels": "on", "use_dora": True}, "cpu", "float32", "DoRA"),
        ({"kernels": "on", "packing": False}, "cpu", "float32", "packing"),
        ({"kernels": "on", "finetuning_type": "full"}, "cpu", "float32", "LoRA"),
        ({"kernels": "on", "finetuning_type": "lora", "quantization_bit": 8}, "cpu", "float32", "int8"),
        ({}, "cuda:0", "float16", "bf16"),
        ({"compile": "on"}, "cuda:0", "bfloat16", "compile"),
    ],
)
def test_when_layers_can_be_fused(values: dict[str, Any], device: str, dtype: Any, word: str) -> None:
    why = fit.why_not(from_values(values), device=device, dtype=dtype)
    assert (why is None) if not word else (why is not None and word in why[1])


def test_the_layout_uses_the_memory_that_there_is() -> None:
    config, real = from_values({"kernels": "on"}), GlmShape(28, 4096, 32, 2, 128, 13_696, 65_024, 8192)

    def on(gib: float) -> tuple[Any, bool]:
        layout, found, fits = choose_layout(
            real, config, dtype="bfloat16", free=int(gib * GIB), longest=1024, wanted=32_768, compiled=False,
            kernels=True,
        )  # fmt: skip
        assert not fits or found.total <= gib * GIB
        return layout, fits

    wide, fits = on(135)
    assert fits and wide.kept == 28 and wide.resident and wide.tokens >= 16_384
    small, fits = on(7.5)
    assert fits and not small.resident and small.tokens >= 1024
    assert not on(3)[1]
    assert fit.cost(real, wide) < fit.cost(real, small)


def test_out_of_memory_leaves_something_to_try_until_nothing_is_left() -> None:
    layout, seen = Layout(8192, kernels=True, kept=28, resident=True, roomy=True), []
    while (found := smaller_layout(layout, longest=1024, recompute=True)) is not None:
        layout = found[0]
        seen.append((layout.tokens, layout.kept, layout.resident, layout.roomy, layout.recompute))
    assert seen == [
        (4096, 28, True, True, False), (2048, 28, True, True, False), (2048, 0, False, False, True),
        (1024, 0, False, False, True),
    ]  # fmt: skip
