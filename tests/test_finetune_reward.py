"""Reward models: standard adapters, alone and beside others on one base, on the command line, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune.encode import Limits
from finetune.encode_judged import encode_judged
from finetune.memory import trainable_count
from finetune.methods import attach, open_base
from finetune.reward import add_reward, load_reward, score_weight
from finetune.train import RunResult
from kb.errors import ModelError
from rag.chatglm3.chat import open_tokenizer
from rag.chatglm3.shape import read_native
from rag.types import Message
from tests.tiny_preferences import config_of, go, preferences, stirred, tiny_place
from tests.tiny_training import tiny_model
from ui.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_place(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def rewarded(place: Path) -> RunResult:
    return go(place, "rm", max_steps=12, learning_rate=3e-3, lora_rank=8)[0]


def plain_scores(place: Path, adapter: Path, ids: list[list[int]]) -> list[float]:
    """By transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import GlmForSequenceClassification

    glm = GlmForSequenceClassification.from_pretrained(place / "model", num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(glm, adapter).eval()
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([i])).logits) for i in ids]


def test_a_reward_adapter_is_a_standard_one(place: Path, rewarded: RunResult) -> None:
    assert rewarded.adapter is not None
    model = load_reward(rewarded.adapter, device="cpu")
    pairs, _ = encode_judged(preferences(), stage="rm", tokenizer=model.tokenizer, limits=Limits())
    ids = [d.ids.tolist() for p in pairs for d in p.documents]
    ours = model.score_ids(ids)
    assert ours == pytest.approx(plain_scores(place, rewarded.adapter, ids), abs=1e-4)
    first = preferences()[0]
    by_words = model.score_answers(first.question, [first.chosen, first.rejected])
    assert by_words == pytest.approx(ours[:2], abs=1e-5) and by_words[0] > by_words[1]


def test_a_reward_adapter_lies_beside_others_on_one_base(place: Path, rewarded: RunResult) -> None:
    """What PPO does: one base, the policy's adapter and the reward's, switched by name."""
    assert rewarded.adapter is not None
    config = config_of(place, "dpo")
    trainee = stirred(place / "model", config)
    model, glm = trainee.model, trainee.glm
    ids = torch.tensor([open_tokenizer(place / "model").prompt([Message("user", "年假有几天？")]).ids])
    with trainee.plain_attention(), torch.no_grad():
        before = glm(input_ids=ids).logits
        head = add_reward(model, rewarded.adapter)
        assert model.active_adapter == "default" and torch.equal(before, glm(input_ids=ids).logits)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and not any("reward" in n for n in trained)
        model.set_adapter("reward")
        score = head(glm.model(input_ids=ids).last_hidden_state[:, -1])
        model.set_adapter("default")
        assert torch.equal(before, glm(input_ids=ids).logits)
    assert float(score) == pytest.approx(plain_scores(place, rewarded.adapter, ids.tolist())[0], abs=1e-4)


def test_what_is_no_reward_model_is_refused(place: Path, rewarded: RunResult) -> None:
    speaker = go(place, "dpo", max_steps=1)[0].adapter
    assert speaker is not None and rewarded.adapter is not None
    with pytest.raises(ModelError, match="--stage rm"):
        load_reward(speaker, device="cpu")
    from finetune.adapters import get, promote

    record = get([place / "runs"], rewarded.folder.name, state=place)
    with pytest.raises(ModelError, match="cannot write"):
        promote(place, record, comparison=None)
    config = config_of(place, "dpo")
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    with pytest.raises(ModelError, match="--stage rm"):
        add_reward(trainee.model, speaker)
    with pytest.raises(ModelError, match="another base"):
        load_reward(rewarded.adapter, base=tiny_model(place / "other", layers=1), device="cpu")


def test_scores_on_the_command_line(
    place: Path, rewarded: RunResult, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = preferences()[0]
    asked = ["score", str(rewarded.folder), first.question, first.rejected, first.chosen, "--device", "cpu"]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert first.chosen in lines[0] and first.rejected in lines[1]
    flags = ["--dataset", "pairs", "--dataset-dir", str(place), "--device", "cpu", "--json"]
    assert main(["score", str(rewarded.folder), *flags]) == 0
    measures = json.loads(capsys.readouterr().out)
    assert measures["pairs"] == 12 and measures["accuracy"] >= 0.9 and measures["margin"] > 0
    assert main(["score", str(rewarded.folder)]) == 1 and "--dataset" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_the_plan_counts_the_head(place: Path, method: str) -> None:
    config = config_of(place, "rm", finetuning_type=method)
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    counted = sum(p.numel() for p in trainee.trainable().values())
    assert trainable_count(read_native(place / "model"), config) == counted
    assert score_weight(trainee.glm).shape == (1, 128) and score_weight(trainee.glm).requires_grad
