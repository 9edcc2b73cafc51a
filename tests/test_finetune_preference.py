"""Stages that learn from preferences: encoding, fused log-probabilities, runs with every method, what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import from_values, option_types
from finetune.data.types import Conversation, Preference, Turn
from finetune.encode import Limits
from finetune.encode_judged import encode_judged, halves
from finetune.logprobs import linear_log_probs
from finetune.memory import Layout
from finetune.methods import attach, open_base
from finetune.reward import is_reward
from finetune.stages.objective import objective_of
from finetune.stages.reference import FILE, reference_of, with_reference
from finetune.train import train
from kb.errors import DataError, ModelError, SettingsError
from rag.chatglm3.chat import open_tokenizer
from rag.chatglm3.load import LoadConfig, load
from tests.tiny_preferences import (
    config_of,
    feedback,
    go,
    preferences,
    steps,
    stirred,
    tiny_place,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_place(tmp_path_factory.mktemp("preference"))


# ------------------------------------------------------------ encoding


def test_both_sides_share_their_prompt_and_only_the_answer_is_trained(place: Path) -> None:
    tokenizer = open_tokenizer(place / "model")
    history = (
        Turn("user", "质保期有多长？"),
        Turn("assistant", "整机质保三年。"),
        Turn("user", "年假有几天？"),
    )
    example = Preference(history, "入职满一年有五天，满十年有十天。", "不知道。", system="请回答")
    [pair], report = encode_judged([example], stage="dpo", tokenizer=tokenizer, limits=Limits())
    (prompt, chosen), (other, rejected) = map(halves, pair.documents)
    assert prompt == other and chosen[-1] == rejected[-1] == tokenizer.specials.eos
    assert tokenizer.decode(chosen).strip() == example.chosen and "整机质保三年" in tokenizer.decode(prompt)
    assert report.trained == pair.trained == len(chosen) + len(rejected) and report.tokens == len(pair)
    whole = Conversation((*history, Turn("assistant", example.chosen)), system="请回答")
    from finetune.encode import messages_of

    assert pair.documents[0].ids.tolist() == tokenizer.example(messages_of(whole)).ids, "as sft reads it"


@pytest.mark.parametrize("cutoff", [16, 24, 40])
def test_what_is_too_long_is_cut_on_both_sides_alike(place: Path, cutoff: int) -> None:
    tokenizer = open_tokenizer(place / "model")
    example = Preference(
        (Turn("user", "年假有几天？" * 12),), "入职满一年有五天，满十年有十天。" * 3, "不知道。"
    )
    [pair], report = encode_judged([example], stage="rm", tokenizer=tokenizer, limits=Limits(cutoff))
    (prompt, chosen), (other, rejected) = map(halves, pair.documents)
    assert prompt == other and len(prompt) + len(chosen) <= cutoff and report.shortened == 1
    assert len(rejected) >= 2 and rejected != chosen


def test_pairs_that_say_the_same_are_left_out_and_named(place: Path) -> None:
    tokenizer = open_tokenizer(place / "model")
    same = Preference((Turn("user", "年假有几天？"),), "五天。", "五天。")
    good = preferences()[0]
    found, report = encode_judged([same, good], stage="dpo", tokenizer=tokenizer, limits=Limits())
    assert len(found) == 1 and len(report.unusable) == 1 and report.examples == 2
    with pytest.raises(DataError, match="two different answers"):
        encode_judged([same], stage="rm", tokenizer=tokenizer, limits=Limits())


def test_kto_takes_thumbs_and_pairs_alike(place: Path) -> None:
    tokenizer = open_tokenizer(place / "model")
    one, _ = encode_judged(preferences(), stage="kto", tokenizer=tokenizer, limits=Limits())
    two, _ = encode_judged(feedback(), stage="kto", tokenizer=tokenizer, limits=Limits())
    assert [(u.good, u.documents[0].ids.tolist()) for u in one] == [
        (u.good, u.documents[0].ids.tolist()) for u in two
    ]
    assert sum(u.good for u in one) == 12 and len(one) == 24


@pytest.mark.parametrize(("stage", "said"), [("dpo", "--stage sft"), ("kto", "--stage sft")])
def test_data_of_another_kind_is_refused_with_what_fits(place: Path, stage: str, said: str) -> None:
    from tests.tiny_training import conversations

    tokenizer = open_tokenizer(place / "model")
    with pytest.raises(DataError, match=said) as error:
        encode_judged(conversations(), stage=stage, tokenizer=tokenizer, limits=Limits())
    assert "ranking" in error.value.zh and "sft" in error.value.zh
    with pytest.raises(DataError, match="--stage kto"):
        encode_judged(feedback(), stage="rm", tokenizer=tokenizer, limits=Limits())


# ------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_fused_log_probs_are_the_plain_ones(chunk: int) -> None:
    draws = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 16, generator=draws, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(50, 16, generator=draws, requires_grad=True)
    targets = torch.randint(0, 50, (7,), generator=draws)
    above = torch.randn(7, generator=draws)
    plain = (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    wanted = torch.autograd.grad((plain * above).sum(), (hidden, weight))
    fused = linear_log_probs(hidden, weight, targets, chunk=chunk)
    assert torch.allclose(fused, plain, atol=1e-5)
    for mine, other in zip(torch.autograd.grad((fused * above).sum(), (hidden, weight)), wanted, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    frozen = linear_log_probs(hidden, weight.detach(), targets, chunk=chunk)
    assert torch.allclose(torch.autograd.grad((frozen * above).sum(), hidden)[0], wanted[0], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(linear_log_probs(hidden, weight, targets, chunk=chunk), fused)


# ------------------------------------------------------------ the reference


def test_the_reference_is_the_base_with_the_adapter_off(place: Path) -> None:
    config = config_of(place, "dpo")
    fresh = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    moved = stirred(place / "model", config)
    units, _ = encode_judged(
        preferences(), stage="dpo", tokenizer=open_tokenizer(place / "model"), limits=Limits()
    )
    layout = Layout(128)
    at_start = reference_of(fresh, units, layout=layout)
    with moved.model.disable_adapter():
        assert torch.equal(at_start, reference_of(moved, units, layout=layout))
    assert not torch.allclose(at_start, reference_of(moved, units, layout=layout), atol=1e-2)
    assert fresh.model.training, "measuring leaves the model as it was"


def test_the_reference_is_measured_once_and_only_where_needed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetune.stages.reference as module

    result, found = go(place, "dpo", max_steps=1, val_size=2)
    assert (result.folder / FILE).is_file()
    assert "log-probabilities of 8 examples" in next(e["en"] for e in found if e["event"] == "say")
    told = [e for e in found if e["event"] == "reference"]
    assert told[-1]["done"] == told[-1]["total"] == 8
    config = run.read_config(result.folder)
    from finetune.plan import make_plan
    from finetune.prepare import prepare

    prepared = prepare(config, tokenizer=open_tokenizer(place / "model"))
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    monkeypatch.setattr(module, "_measure", lambda *a: pytest.fail("measured again"))
    again = with_reference(
        prepared, objective=objective_of(config), trainee=trainee, layout=make_plan(config, prepared=prepared).layout,
        steps=1, config=config, folder=result.folder, log=events.EventLog(place),
    )  # fmt: skip
    known = [u for u in again.train if u.reference]  # type: ignore[union-attr]
    (result.folder / FILE).write_bytes(b"damaged")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        with_reference(
            prepared, objective=objective_of(config), trainee=trainee, layout=Layout(64), steps=1, config=config,
            folder=result.folder, log=events.EventLog(place),
        )  # fmt: skip
    assert len(known) == 6 and len(again.train) == 10, "only what the single step sees"


# ------------------------------------------------------------ runs


CASES = [(s, m) for s in ("rm", "dpo", "kto") for m in ("qlora", "lora", "full", "freeze")]


@pytest.mark.parametrize(("stage", "method"), CASES, ids=lambda v: str(v))
def test_every_stage_learns_with_every_method_and_is_loaded_again(
    place: Path, stage: str, method: str
) -> None:
    result, found = go(
        place, stage, finetuning_type=method, max_steps=10, val_size=2, eval_steps=5, learning_rate=3e-3,
        dataset="thumbs" if stage == "kto" else "pairs",
    )  # fmt: skip
    curve = steps(found)
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.05 and curve[-1]["margin"] > curve[0]["margin"] + 0.1
    assert curve[-1]["accuracy"] >= 0.8 and result.metrics["train_accuracy"] >= 0.8
    evals = [e for e in found if e["event"] == "eval"]
    assert len(evals) == 2 and 0 <= evals[-1]["accuracy"] <= 1 and "eval_accuracy" in result.metrics
    if stage != "rm":
        start = {"dpo": 0.6931, "kto": 0.5}[stage]
        assert curve[0]["loss"] == pytest.approx(start, abs=2e-3), "a new adapter is its own reference"
    assert result.adapter is not None and is_reward(result.adapter) == (stage == "rm")
    about = json.loads((result.adapter / "train.json").read_text())
    assert about["stage"] == stage and about["close_turns"] and about["config"]["pref_beta"] == 0.1
    plots = {p.name for p in (result.folder / "plots").iterdir()}
    assert plots == {"loss.png", "learning_rate.png", "accuracy.png", "rewards.png"}
    if stage == "rm":
        with pytest.raises(ModelError, match="reward model"):
            load_as_speaker(place, result.adapter)
        return
    assert load_as_speaker(place, result.adapter).tokenizer is not None
    assert len([e for e in found if e["event"] == "sample"]) == 2


def load_as_speaker(place: Path, folder: Path) -> Any:
    how = LoadConfig(device="cpu")
    if folder.name == "model":
        return load(folder, config=how)
    return load(place / "model", adapters={"a": folder}, config=how)


SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("dpo", {"packing": False}),
    ("dpo", {"pack_tokens": 90, "gradient_checkpointing": True}),
    ("rm", {"packing": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}),
    ("kto", {"packing": False}),
]
if "kernels" in option_types():  # fused layers
    SHAPES += [(stage, {"kernels": "on"}) for stage in ("rm", "dpo", "kto")]


@pytest.fixture(scope="module")
def plain_curves(place: Path) -> dict[str, list[tuple[float, float]]]:
    return {stage: curve_of(place, stage) for stage in ("rm", "dpo", "kto")}


def curve_of(place: Path, stage: str, **values: Any) -> list[tuple[float, float]]:
    return [(e["loss"], e["reward_chosen"]) for e in steps(go(place, stage, max_steps=2, **values)[1])]


@pytest.mark.parametrize(("stage", "shape"), SHAPES, ids=lambda v: str(v))
def test_packing_and_batches_change_nothing(
    place: Path, stage: str, shape: dict[str, Any], plain_curves: dict[str, list[tuple[float, float]]]
) -> None:
    for a, b in zip(curve_of(place, stage, **shape), plain_curves[stage], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_other_losses_of_dpo_learn_too(place: Path, loss: str) -> None:
    _, found = go(place, "dpo", dpo_loss=loss, max_steps=6, learning_rate=3e-3)
    curve = steps(found)
    assert curve[0]["loss"] == pytest.approx({"ipo": 25.0, "hinge": 1.0}[loss], rel=1e-2)
    assert curve[-1]["loss"] < curve[0]["loss"] and curve[-1]["margin"] > 0.05


def test_samples_of_a_reward_model_are_scored_pairs(place: Path) -> None:
    _, found = go(place, "rm", max_steps=2)
    answers = {p.question: (p.chosen, p.rejected) for p in preferences()}
    said = [e for e in found if e["event"] == "sample"]
    assert len(said) == 3 and all(all(a in e["text"] for a in answers[e["prompt"]]) for e in said)


def test_a_stop_while_the_reference_is_measured_is_heard(place: Path) -> None:
    folder = run.create(config_of(place, "kto", max_steps=3))
    with pytest.raises(KeyboardInterrupt):
        train(folder, listen=lambda e: run.stop(folder) if e["event"] == "reference" else None)
    assert run.info(folder).state == "stopped" and not (folder / FILE).exists()
    run.may_resume(folder)
    assert train(folder).state == "done"


def test_early_stopping_and_tensorboard(place: Path) -> None:
    result, found = go(
        place, "rm", val_size=3, eval_steps=1, early_stopping_patience=2, max_steps=60, learning_rate=2e-2,
        tensorboard=True,
    )  # fmt: skip
    evals = {e["step"]: e["loss"] for e in found if e["event"] == "eval"}
    best = min(evals, key=lambda s: evals[s])
    assert result.metrics["eval_loss"] == evals[best] and list((result.folder / "tensorboard").iterdir())
    assert max(evals) < 60 and max(evals) == best + 2


def test_predictions_are_compared_with_the_chosen_answers(place: Path) -> None:
    result, _ = go(place, "dpo", val_size=2, predict_with_generate=True, max_steps=1)
    lines = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and {line["reference"] for line in lines} <= {p.chosen for p in preferences()}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stage": "dpo", "finetuning_type": "ptuning"}, "--finetuning-type"),
        ({"stage": "kto", "neftune_noise_alpha": 5.0}, "--neftune-noise-alpha"),
        ({"stage": "rm", "predict_with_generate": True}, "--predict-with-generate"),
        ({"stage": "dpo", "pref_beta": 0.0}, "--pref-beta"),
        ({"stage": "dpo", "dpo_label_smoothing": 0.5}, "--dpo-label-smoothing"),
        ({"stage": "dpo", "dpo_label_smoothing": 0.1, "dpo_loss": "ipo"}, "--dpo-label-smoothing"),
        (
            {"stage": "kto", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
            "--per-device-train-batch-size",
        ),
    ],
)
def test_what_does_not_go_together_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        from_values(values)
    assert error.value.zh != str(error.value)
