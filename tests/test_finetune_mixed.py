"""Options that meet: what one stage was trained with and another goes on from, and options that would do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import events, run
from finetune.config import RunConfig, from_values
from finetune.data.check import check
from finetune.data.load import load_sets
from finetune.data.types import Conversation, Source, Turn
from finetune.memory import GIB, Layout, choose_layout
from finetune.methods import attach, open_base
from finetune.plan import make_plan
from finetune.ppo.policy import Policy
from finetune.ppo.prompts import Answer
from finetune.ppo.reward import AdapterReward
from finetune.train import train
from kb.errors import SettingsError
from rag.chatglm3.shape import GlmShape
from tests.tiny_training import FACTS, tiny_model, write_facts
from ui.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    tiny_model(folder / "model")
    write_facts(folder / "facts.json")
    answers = list(FACTS.values())
    pairs = [
        {"instruction": q, "input": "", "chosen": a, "rejected": answers[(n + 1) % len(answers)]}
        for n, (q, a) in enumerate(FACTS.items())
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    entries = {"facts": {"file_name": "facts.json"}, "pairs": {"file_name": "pairs.json", "ranking": True}}
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def config_of(place: Path, **values: Any) -> RunConfig:
    common = {
        "name": "t", "output_dir": str(place / "runs"), "model_name_or_path": str(place / "model"),
        "dataset": "facts", "dataset_dir": str(place), "finetuning_type": "lora", "lora_rank": 4, "device": "cpu",
        "max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "warmup_ratio": 0.0,
        "learning_rate": 1e-2, "sample_tokens": 1,
    }  # fmt: skip
    return from_values(common | values)


def trained(place: Path, **values: Any) -> Path:
    adapter = train(run.create(config_of(place, **values))).adapter
    assert adapter is not None
    return adapter


def scored(place: Path, reward: Path, *, kernels: bool, **values: Any) -> list[list[float]]:
    """What a reward adapter says beside a policy, twice, and the policy's own log-probabilities."""
    config = config_of(place, stage="ppo", reward_model=str(reward), **values)
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    policy = Policy(trainee, temperature=1.0, layout=Layout(64, kernels=kernels))
    judge = AdapterReward(policy, reward, end_id=2)
    answers = [Answer((5, 6, 7), (8, 9, 300, 2), True), Answer((5, 300), (7,), False)]
    said, _, referred = policy.before([a.document for a in answers])
    assert torch.equal(said, referred), "the policy begins at the reference"
    return [judge(answers), judge(answers), said.tolist()]


@pytest.mark.parametrize(
    ("rm", "policy"),
    [
        ({"lora_dropout": 0.5}, {}),
        ({"lora_target": "q_proj,v_proj"}, {}),
        ({}, {"lora_target": "q_proj,v_proj"}),
        ({"use_dora": True}, {}),
        ({"use_rslora": True, "lora_rank": 9}, {"lora_target": "gate_up_proj"}),
    ],
    ids=["dropout", "fewer-targets", "more-targets", "dora", "rslora"],
)
def test_a_reward_adapter_of_other_options_scores_as_on_its_own(
    place: Path, rm: dict[str, Any], policy: dict[str, Any]
) -> None:
    from finetune.reward import load_reward

    adapter = trained(place, stage="rm", dataset="pairs", **rm)
    alone = load_reward(adapter, device="cpu").score_ids([(5, 6, 7, 8, 9, 300, 2), (5, 300, 7)])
    for kernels in (False, True):
        once, again, _ = scored(place, adapter, kernels=kernels, **policy)
        assert once == again == pytest.approx(alone, abs=1e-5)


def test_half_precision_leaves_no_first_steps_out(place: Path) -> None:
    result = train(run.create(config_of(place, precision="fp16", max_steps=3, cutoff_len=64)))
    steps = [e for e in events.read(result.folder) if e["event"] == "step"]
    assert "skipped_steps" not in result.metrics, [e["norm"] for e in steps]
    assert steps[-1]["loss"] < steps[0]["loss"]


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"predict_with_generate": True}, "--predict-with-generate"),
        ({"predict_with_generate": True, "stage": "pt", "val_size": 2}, "--predict-with-generate"),
        ({"early_stopping_patience": 2}, "--early-stopping-patience"),
        ({"finetuning_type": "qlora", "quantization_bit": 8}, "--quantization-bit"),
        ({"compile": "on", "packing": False}, "--compile"),
        ({"compile": "on", "finetuning_type": "ptuning"}, "--compile"),
        ({"adam_beta2": 1.0}, "--adam-beta2"),
        ({"seed": 2**44}, "--seed"),
    ],
)
def test_what_would_do_nothing_or_fail_at_the_end_is_refused_at_once(
    place: Path, values: dict[str, Any], flag: str
) -> None:
    with pytest.raises(SettingsError, match=flag):
        config_of(place, **values)


def test_a_ranked_set_needs_no_columns_for_chosen_and_rejected(place: Path) -> None:
    assert len(load_sets("pairs", folder=place).examples) == len(FACTS)


def test_half_an_emoji_is_a_bad_line_of_its_own(tmp_path: Path) -> None:
    """It used to train to the end and fail where its question was to be written down."""
    rows = [
        '{"instruction": "好\\ud83d\\ude00", "output": "笑"}',
        '{"instruction": "好\\ud83d", "output": "笑"}',
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "array.json").write_text("[" + ",\n".join(rows) + "]", encoding="utf-8")
    for name in ("lines.jsonl", "array.json"):
        loaded = load_sets(str(tmp_path / name), folder=tmp_path)
        assert [e.question for e in loaded.examples if isinstance(e, Conversation)] == ["好😀"]
        assert [str(b.source) for b in loaded.bad] == [f"{name}:2"] and "ud83d" in loaded.bad[0].reason


def test_where_fused_layers_do_not_fit_the_others_are_taken() -> None:
    real = GlmShape(28, 4096, 32, 2, 128, 13_696, 65_024, 8192)

    def on(gib: float, **values: Any) -> tuple[Layout, int, bool]:
        layout, found, fits = choose_layout(
            real, from_values(values), dtype="bfloat16", free=int(gib * GIB), longest=256, wanted=8192,
            compiled=False, kernels=True,
        )  # fmt: skip
        return layout, found.total, fits

    _, fused, _ = on(0, kernels="on")
    layout, plain, fits = on(4.8)
    assert fits and not layout.kernels and plain < 4.8 * GIB < fused
    assert on(5.2)[0].kernels and on(5.2)[2], "fused layers where they fit"
    assert not on(4.8, kernels="on")[2], "who asks for them is told that they do not fit"
    assert on(0)[1] < fused, "what is said to be missing is the least that would do"


@pytest.mark.parametrize("values", [{"kernels": "on"}, {"kernels": "off"}, {"pack_tokens": 4096}])
def test_what_a_plan_proposes_fits(place: Path, values: dict[str, Any]) -> None:
    """Each proposal is planned as it would run, and the least that it names is enough."""
    config = config_of(place, cutoff_len=64, **values)
    least = choose_free(config)
    found = make_plan(config, free=least - 1)
    assert not found.fits and make_plan(config, free=least).fits
    if "pack_tokens" in values:
        assert any("--pack-tokens 0" in line for line in found.changes_en)
        assert make_plan(config_of(place, cutoff_len=64), free=least - 1).fits


def choose_free(config: RunConfig) -> int:
    """The least memory with which a plan fits."""
    low, high = 0, GIB
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if make_plan(config, free=middle, rate=1e12).fits else (middle, high)
    return high


def test_what_was_learned_survives_a_failure_at_the_very_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are written when the last step is done: memory may run out there, and the last checkpoint be old."""
    from finetune import samples

    whole = train(run.create(config_of(place, max_steps=3)))

    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("no memory for an answer")

    folder = run.create(config_of(place, max_steps=3))
    with monkeypatch.context() as patched:
        patched.setattr(samples, "sample", full)
        with pytest.raises(torch.OutOfMemoryError):
            train(folder)
    result = train(folder)
    steps = [e["step"] for e in events.read(folder) if e["event"] == "step"]
    assert result.state == "done" and steps == [1, 2, 3]
    assert result.metrics["train_loss"] == whole.metrics["train_loss"]


def test_data_that_changed_before_a_run_goes_on_is_told(place: Path, tmp_path: Path) -> None:
    data = write_facts(tmp_path / "own.json")
    folder = run.create(config_of(place, dataset=str(data), max_steps=3))
    stopped = train(folder, listen=lambda e: run.stop(folder) if e.get("step") == 1 else None)
    assert stopped.state == "stopped"
    data.write_text(data.read_text(encoding="utf-8").replace("五天", "六天"), encoding="utf-8")
    train(folder)
    said = [e["en"] for e in events.read(folder) if e["event"] == "say"]
    assert any("data files were changed" in text for text in said), said


@pytest.mark.parametrize(
    ("cards", "new"), [([(7, 5)], False), ([(8, 0), (9, 0)], True), ([(9, 0), (7, 0)], False)]
)
def test_the_packed_kernel_is_for_cards_that_have_it(
    monkeypatch: pytest.MonkeyPatch, cards: list[tuple[int, int]], new: bool
) -> None:
    from finetune import attention

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: cards[number])
    assert attention.new_cards() is new


def test_the_command_finds_what_is_too_long(
    place: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["data", "check", "facts,pairs", "--folder", str(place), "--model", str(place / "model"), "--json"]
    assert main(ask) == 0
    capsys.readouterr()
    assert main([*ask, "--cutoff-len", "13"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["counts"]["too-long"] < found["examples"] and set(found["counts"]) == {"too-long"}


def test_a_decimal_point_makes_another_question() -> None:
    def asked(question: str, answer: str, line: int) -> Conversation:
        return Conversation(
            (Turn("user", question), Turn("assistant", answer)), source=Source(Path("a"), line)
        )

    assert check([asked("1.5 乘 2 是多少", "3", 1), asked("15 乘 2 是多少？", "30", 2)]).clean
    assert check([asked("Is it 3.", "a", 1), asked("is it 3?", "b", 2)]).counts == {"contradiction": 1}
