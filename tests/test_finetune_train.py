"""Runs on a tiny real model: what they learn, write, and say when something goes wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import RunConfig, Scheduler, TrainConfig, from_values
from finetune.loop import Loop
from finetune.schedule import Plateau, factor
from finetune.train import RunResult, train
from kb.errors import ModelError, SettingsError
from tests.tiny_training import FACTS, tiny_model, write_facts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    (folder / "notes.jsonl").write_text(
        "".join(json.dumps({"text": q + a}, ensure_ascii=False) + "\n" for q, a in FACTS.items())
    )
    return folder


def config_of(place: Path, **values: Any) -> RunConfig:
    return from_values(
        {
            "name": "t",
            "output_dir": str(place / "runs"),
            "model_name_or_path": str(place / "model"),
            "dataset": str(place / "facts.json"),
            "dataset_dir": str(place),
            "finetuning_type": "lora",
            "lora_rank": 8,
            "device": "cpu",
            "max_steps": 4,
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "sample_tokens": 8,
            **values,
        }
    )


def go(place: Path, **values: Any) -> tuple[RunResult, list[events.Event]]:
    result = train(run.create(config_of(place, **values)))
    return result, events.read(result.folder)


def losses(found: list[events.Event]) -> list[float]:
    return [e["loss"] for e in found if e["event"] == "step"]


def test_qlora_learns_its_answers_and_rag_loads_them(place: Path) -> None:
    from rag.chatglm3.adapters import read_adapter
    from rag.chatglm3.load import LoadConfig, load
    from rag.types import Message

    result, found = go(
        place, finetuning_type="qlora", lora_rank=64, learning_rate=5e-3, max_steps=50, logging_steps=5,
        sample_tokens=30,
    )  # fmt: skip
    assert result.state == "done" and result.adapter is not None
    info = read_adapter(result.adapter)
    assert info.close_turns and len(info.base_hash) == 64 and info.prompt_version
    how = LoadConfig(quantise="nf4", device="cpu", dtype="fp32")
    loaded = load(place / "model", adapters={"facts": result.adapter}, config=how)
    assert loaded.tokenizer is not None
    right = 0
    for question, reference in list(FACTS.items())[:6]:
        ids = loaded.tokenizer.prompt([Message("user", question)]).ids
        prompt = torch.tensor([ids])
        out = loaded.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False,
            eos_token_id=list(loaded.tokenizer.stop_ids), pad_token_id=0,
        )  # fmt: skip
        right += loaded.tokenizer.decode(out[0, len(ids) :].tolist()).strip() == reference
    assert right >= 5, f"{right} of 6 answers learned"
    assert losses(found)[-1] < losses(found)[0] / 10


def test_what_a_run_folder_holds(place: Path) -> None:
    result, found = go(place, val_size=3, predict_with_generate=True, tensorboard=True, sample_steps=2)
    folder = result.folder
    assert result.adapter == folder / "adapter"
    train_json = json.loads((folder / "adapter" / "train.json").read_text())
    assert train_json["data"]["train"]["sha256"]["facts.json"] and train_json["method"] == "lora"
    assert train_json["environment"]["libraries"]["peft"] and train_json["metrics"]["eval_loss"] > 0
    for name in (
        "data.json",
        "plan.json",
        "environment.json",
        "metrics.json",
        "samples.md",
        "predictions.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    for picture in ("loss.png", "learning_rate.png"):
        assert (folder / "plots" / picture).read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 3
    kinds = [e["event"] for e in found]
    assert (
        kinds[0] == "begin" and kinds[-1] == "end" and kinds.count("sample") == 6 and kinds.count("eval") == 2
    )
    assert {"exact", "bleu4", "rouge_l"} <= set(result.metrics)
    card = (folder / "adapter" / "README.md").read_text()
    assert "适配器" in card or "知问" in card
    found_run = run.info(folder)
    assert found_run.state == "done" and found_run.step == 4 and run.list_runs(place / "runs")[0].adapter


METHODS: list[dict[str, Any]] = [
    {"finetuning_type": "qlora", "use_rslora": True, "loraplus_lr_ratio": 16.0, "neftune_noise_alpha": 5.0},
    {
        "finetuning_type": "lora",
        "use_dora": True,
        "lora_dropout": 0.1,
        "lora_target": "query_key_value,dense",
    },
    {"finetuning_type": "lora", "quantization_bit": 8},
    {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    {"finetuning_type": "full", "weight_decay": 0.1},
    {"finetuning_type": "ptuning", "pre_seq_len": 6, "learning_rate": 1e-2},
    {"finetuning_type": "ptuning", "pre_seq_len": 6, "prefix_projection": True, "learning_rate": 1e-2},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_every_method_lowers_the_loss_and_is_loaded_again(place: Path, method: dict[str, Any]) -> None:
    from rag.chatglm3.load import LoadConfig, load

    values = {"max_steps": 8, "learning_rate": 3e-3, **method}
    result, found = go(place, **values)
    curve = losses(found)
    assert curve[-1] < curve[0] - 0.1 and result.adapter is not None
    how = LoadConfig(device="cpu")
    if result.adapter.name == "adapter":
        loaded = load(place / "model", adapters={"a": result.adapter}, config=how)
        assert loaded.adapters["a"].base_hash
    else:
        loaded = load(result.adapter, config=how)
        fresh = load(place / "model", config=how).model.state_dict()
        changed = {n for n, t in loaded.model.state_dict().items() if not torch.equal(t, fresh[n])}
        assert changed and (
            method["finetuning_type"] == "full" or all(n.startswith("model.layers.1.") for n in changed)
        )
    assert loaded.tokenizer is not None


def test_pretraining_on_plain_text(place: Path) -> None:
    result, found = go(place, stage="pt", dataset=str(place / "notes.jsonl"), max_steps=8, learning_rate=5e-3)
    assert losses(found)[-1] < losses(found)[0]
    assert json.loads((result.folder / "adapter/train.json").read_text())["close_turns"] is False


def test_packing_gives_the_same_curve(place: Path) -> None:
    curves = [losses(go(place, packing=packing)[1]) for packing in (True, False)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4) and len(curves[0]) == 4


def test_accumulation_gives_the_same_curve(place: Path) -> None:
    one = losses(go(place, packing=False, per_device_train_batch_size=6, gradient_accumulation_steps=1)[1])
    many = losses(go(place, packing=False, per_device_train_batch_size=1, gradient_accumulation_steps=6)[1])
    assert one == pytest.approx(many, rel=1e-4)


def test_early_stopping_keeps_the_best_weights(place: Path) -> None:
    result, found = go(
        place,
        val_size=4,
        eval_steps=2,
        early_stopping_patience=2,
        max_steps=200,
        learning_rate=2e-2,
        lora_rank=32,
    )
    evals = {e["step"]: e["loss"] for e in found if e["event"] == "eval"}
    best = min(evals, key=lambda s: evals[s])
    assert max(evals) < 200 and max(evals) - best == 4
    assert any(e["event"] == "say" and str(best) in e["zh"] for e in found)
    assert result.metrics["eval_loss"] == evals[best]


def test_a_loss_that_is_no_number_stops_with_reasons(place: Path) -> None:
    with pytest.raises(ModelError, match="learning rate is too high") as error:
        go(place, learning_rate=1e30, max_steps=20, lr_scheduler_type="constant", max_grad_norm=0.0)
    assert "facts.json" in str(error.value) and "学习率" in error.value.zh
    failed = run.list_runs(place / "runs")[0]
    assert failed.state == "failed" and "学习率" in failed.error_zh and failed.can_resume


def test_out_of_memory_before_the_first_step_adapts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tried = Loop._step, []

    def step(self: Loop) -> None:
        tried.append((self.layout.tokens, self.layout.recompute))
        if self.progress.step == 0 and not self.layout.recompute:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        plain(self)

    reference = losses(go(place)[1])
    monkeypatch.setattr(Loop, "_step", step)
    _, found = go(place)
    said = [e for e in found if e["event"] == "say"]
    assert said and "gradient checkpointing" in said[-1]["en"] and "内存不够" in said[-1]["zh"]
    assert tried[0][1] is False and tried[-1][1] is True
    assert losses(found) == pytest.approx(reference, rel=1e-4), "what is learned stays the same"


def test_out_of_memory_for_good_says_what_to_change(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Loop) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Loop, "_step", step)
    with pytest.raises(ModelError, match="--cutoff-len"):
        go(place)


@pytest.mark.slow
def test_compiled_runs_evaluate_and_sample_without_recompiling(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recompilation after the first step would end the run. The backend is the one without code generation."""
    import finetune.loop

    compiled = finetune.loop.compile_layers
    monkeypatch.setattr(finetune.loop, "compile_layers", lambda t: compiled(t, backend="eager"))
    values = {"val_size": 3, "eval_steps": 2, "sample_steps": 3, "max_steps": 8}
    torch._dynamo.reset()
    try:
        _, found = go(place, compile="on", **values)
    finally:
        torch._dynamo.reset()
    assert [e["event"] for e in found].count("compiled") == 1
    assert losses(found) == pytest.approx(losses(go(place, **values)[1]), rel=1e-3)


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]
)  # fmt: skip
def test_schedules_are_those_of_transformers(name: Scheduler) -> None:
    from transformers.optimization import get_scheduler

    config = TrainConfig(
        lr_scheduler_type=name, warmup_steps=0 if name == "constant" else 7, learning_rate=0.5
    )
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=50)
    for step in range(50):
        ours = 0.5 * factor(config, step=step, total=50)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        theirs.step()


def test_the_plateau_is_that_of_torch() -> None:
    config = TrainConfig(lr_scheduler_type="reduce_lr_on_plateau", plateau_patience=2, plateau_factor=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs, ours = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, factor=0.1), Plateau()
    for loss in [3.0, 2.0, 2.0, 2.1, 2.2, 2.3, 1.9, 1.9, 1.9, 1.9, 1.9]:
        theirs.step(loss)
        ours.see(loss, config=config)
        assert math.isclose(optimizer.param_groups[0]["lr"], ours.scale)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora_rnk": 8}, "lora_rank"),
        ({"lora_rank": 0}, "--lora-rank"),
        ({"learning_rate": "fast"}, "--learning-rate"),
        ({"lr_scheduler_type": "cosin"}, "cosine"),
        ({"finetuning_type": "full", "quantization_bit": 4}, "--quantization-bit"),
        ({"finetuning_type": "ptuning", "gradient_checkpointing": True}, "--gradient-checkpointing"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio"),
        ({"name": "../x"}, "--name"),
    ],
)
def test_bad_options_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        from_values(values)
    assert error.value.zh != str(error.value)


def test_unknown_targets_and_too_many_layers_are_named(place: Path) -> None:
    with pytest.raises(SettingsError, match="query_key_value"):
        go(place, lora_target="q_prj")
    with pytest.raises(SettingsError, match="2 layers"):
        go(place, finetuning_type="freeze", freeze_trainable_layers=9)


def test_a_config_survives_its_file(place: Path) -> None:
    config = config_of(place, sample_prompts=["a", "b"])
    assert run.read_config(run.create(config)) == config
    assert replace(config, name="x") != config
