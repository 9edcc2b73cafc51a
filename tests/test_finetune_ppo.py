"""PPO on a tiny GLM: the best answer is found, at the known distance; a killed run ends as if it had not been."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import checkpoint, events, run
from finetune.config import from_values
from finetune.memory import Layout
from finetune.methods import attach, open_base
from finetune.plan import make_plan
from finetune.ppo.policy import Policy
from finetune.ppo.prompts import Answer
from finetune.ppo.reward import AdapterReward
from finetune.ppo.rollout import Sampler
from finetune.ppo.train import train
from finetune.reward import ScoreHead
from finetune.start import add_frozen, add_reference, with_start
from finetune.train import train as train_any
from kb.errors import DataError, SettingsError
from tests.tiny_ppo import BEST, Exactly, ppo_values, taught_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    taught_model(folder)
    return folder


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [e for e in events.read(folder) if e["event"] == "step"]


def without_clock(folder: Path) -> list[dict[str, Any]]:
    """Step events less what depends on the machine."""
    gone = ("time", "left", "tokens_per_second", "memory")
    return [
        {k: v for k, v in e.items() if k not in gone and not k.startswith("seconds")}
        for e in steps_of(folder)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_answer_is_found_and_no_farther_away_than_it_is(place: Path, seed: int) -> None:
    """From one in three to nine in ten at least, and the KL ends at ln 3, where the best answer lies."""
    result = train(run.create(from_values(ppo_values(place, seed=seed))), reward=Exactly(place / "model"))
    steps = steps_of(result.folder)
    assert steps[0]["score"] < 0.6 and steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    last = steps[-4:]
    assert sum(e["score"] for e in last) / 4 > 0.9, [round(e["score"], 2) for e in steps]
    assert max(e["kl"] for e in steps) < 2.5, "never far beyond ln 3"
    assert sum(e["kl"] for e in last) / 4 == pytest.approx(math.log(3), abs=0.35)
    assert (
        all(e["ended"] == 1 for e in last) and result.metrics["score"] > 0.9 > result.metrics["first_score"]
    )
    rows = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 12 * 32 and {r["text"] for r in rows if r["score"] == 1} == {BEST}
    for name in ("reward", "kl", "length", "entropy", "seconds", "clip_fraction", "value"):
        assert (result.folder / "plots" / f"{name}.png").stat().st_size > 2000
    about = json.loads((result.folder / "adapter" / "train.json").read_text())
    assert about["stage"] == "ppo" and about["close_turns"]


@pytest.mark.slow
def test_kill_nine_and_resume_give_the_same_numbers_weights_and_samples(place: Path) -> None:
    values = ppo_values(place, max_steps=8, save_steps=2, ppo_score_norm=True, ppo_entropy_coef=0.01)
    whole = train(run.create(from_values(values)), reward=Exactly(place / "model")).folder
    killed = run.create(from_values(values))
    root = Path(__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.tiny_ppo", str(place / "model"), str(killed)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    end = time.monotonic() + 300
    while not [c for c in checkpoint.complete(killed / "checkpoints") if c.step >= 4]:
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(steps_of(killed)) < 8
    with (killed / "samples.jsonl").open("a") as file:
        file.write('{"step": 7, "prom')
    assert train(killed, reward=Exactly(place / "model")).state == "done"
    assert any(e["event"] == "resume" for e in events.read(killed))
    assert without_clock(killed) == without_clock(whole), "bit for bit"
    assert (killed / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    from safetensors.torch import load_file

    one, two = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (whole, killed))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_a_stopped_run_goes_on(place: Path) -> None:
    values = ppo_values(place, max_steps=3, per_device_train_batch_size=8, val_size=4)
    folder = run.create(from_values(values))

    def listen(event: events.Event) -> None:
        if event["event"] == "step" and event["step"] == 1:
            run.stop(folder)

    reward = Exactly(place / "model")
    assert train(folder, reward=reward, listen=listen).state == "stopped"
    assert run.info(folder).can_resume and run.info(folder).step == 1
    result = train(folder, reward=reward)
    assert result.state == "done" and [e["step"] for e in steps_of(folder)] == [1, 2, 3]
    held = [e for e in events.read(folder) if e["event"] == "held_out"]
    assert held and set(held[-1]) >= {"score", "length", "ended"} and "eval_score" in result.metrics


def test_on_a_four_bit_base(place: Path) -> None:
    """All roles on nf4 weights; the adapter is a plain PEFT folder without the other roles."""
    more = {"finetuning_type": "qlora", "max_steps": 2, "per_device_train_batch_size": 8}
    result = train(run.create(from_values(ppo_values(place, **more))), reward=Exactly(place / "model"))
    assert result.adapter is not None
    inside = sorted(p.name for p in result.adapter.iterdir())
    assert inside == ["README.md", "adapter_config.json", "adapter_model.safetensors", "train.json"]
    assert steps_of(result.folder)[0]["kl"] == pytest.approx(0, abs=1e-3)


def test_the_engine_answers_with_the_adapter_as_it_is_now(place: Path) -> None:
    """A changed weight shows in the next answer, and what the engine says is what a fresh engine says."""
    config = from_values(ppo_values(place))
    trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
    prompts = [[*range(3, 9)], [5, 300, 7, 9]]
    with Sampler(trainee, config=config, longest=6) as sampler:
        first = sampler.write(prompts, step=0)
        assert sampler.write(prompts, step=0) == first, "seeded by step and place alone"
        assert sampler.write(prompts, step=1) != first
        draws = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in trainee.trainable().items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.2)
        changed = sampler.write(prompts, step=0, greedy=True)
        stack = sampler.engine._network.blocks[1].qkv.lora
    assert stack is not None and [a.prompt for a in changed] == [tuple(p) for p in prompts]
    with Sampler(trainee, config=config, longest=6) as fresh:
        other = fresh.engine._network.blocks[1].qkv.lora
        assert other is not None and torch.equal(other.down, stack.down) and torch.equal(other.up, stack.up)
        assert fresh.write(prompts, step=0, greedy=True) == changed
    for answer in changed:  # greedy by the training forward
        with trainee.plain_attention(), torch.no_grad():
            said = trainee.model(torch.tensor([[*answer.prompt, *answer.written]])).logits[0].argmax(-1)
        assert tuple(said[len(answer.prompt) - 1 : -1].tolist()) == answer.written


def test_every_event_has_words_for_the_terminal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ui import text
    from ui.train_show import line_of, state_of

    values = ppo_values(place, max_steps=2, per_device_train_batch_size=8, val_size=2, eval_steps=1)
    folder = train(run.create(from_values(values)), reward=Exactly(place / "model")).folder
    for language, word in (("zh", "得分"), ("en", "held-out")):
        monkeypatch.setattr(text, "_language", language)
        found = events.read(folder)
        lines = [line_of(e) for e in found]
        assert any(word in line for line in lines), lines
        steps = [state_of(e) for e in found if e["event"] == "step"]
        assert len(steps) == 2 and all("score" in s and "kl" in s and "tok/s" in s for s in steps)


@pytest.mark.parametrize("resident", [False, True])
def test_fused_layers_say_the_same_in_every_role(place: Path, tmp_path: Path, resident: bool) -> None:
    """Policy, reference and reward through finetune.kernels: numbers and gradients of transformers' own layers."""
    values = ppo_values(place, output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=8)
    started = train(run.create(from_values(values)), reward=Exactly(place / "model"))
    config = with_start(from_values(ppo_values(place, adapter=str(started.folder))))
    other = Path(config.data.adapter)
    if not resident:  # a reward adapter of another rank has matrices of its own
        more = ppo_values(
            place, output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=8, lora_rank=40
        )
        adapter = train(run.create(from_values(more)), reward=Exactly(place / "model")).adapter
        assert adapter is not None
        other = adapter
    found = []
    answers = [Answer((5, 6, 7), (8, 9, 300, 2), True), Answer((5, 300), (7,), False)]
    for kernels in (False, True):
        trainee = attach(open_base(config, folder=place / "model", device="cpu"), config=config)
        add_reference(trainee, Path(config.data.adapter))
        add_frozen(trainee, other, name="reward")
        with torch.no_grad():
            for name, parameter in trainee.model.named_parameters():
                if "lora_" in name and ".reference." not in name:
                    parameter.add_(0.02 if ".reward." in name else 0.01)
        layout = Layout(64, kernels=kernels, kept=1, resident=resident)
        policy = Policy(trainee, temperature=0.9, layout=layout)
        with torch.no_grad():
            policy.weight.fill_(0.1)
        documents = [a.document for a in answers]
        rewarded = AdapterReward.__new__(AdapterReward)
        rewarded.policy, rewarded.end_id = policy, 2
        rewarded.head = ScoreHead(torch.ones(1, trainee.loaded.shape.hidden))
        scores = torch.tensor(rewarded(answers))  # first, as in a step: it must not become the policy
        numbers = [*policy.before(documents), scores]
        said, _, worth = policy.look(policy.parts(documents)[0][1])
        (said.sum() + worth.sum()).backward()
        grads = {n: p.grad for n, p in policy.trainable().items() if p.grad is not None}
        found.append((numbers, grads))
    for plain, fused in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0][0][0], found[0][0][2]), "policy and reference differ"
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-4)


def test_a_run_with_fused_layers_begins_at_the_reference(place: Path) -> None:
    """Without an adapter to start from the reference is the base, through the same sums: the first KL is 0."""
    values = ppo_values(place, max_steps=3, per_device_train_batch_size=16)
    folders = []
    for kernels in ("off", "on"):
        config = from_values(values | {"kernels": kernels})
        folders.append(train(run.create(config), reward=Exactly(place / "model")).folder)
    one, two = (steps_of(folder) for folder in folders)
    assert two[0]["kl"] == 0.0
    for plain, fused in zip(one, two, strict=True):
        assert fused["score"] == plain["score"] and fused["loss"] == pytest.approx(plain["loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ({"finetuning_type": "full"}, "--finetuning-type"),
        ({"lora_dropout": 0.1}, "--lora-dropout"),
        ({"ppo_temperature": 0}, "--ppo-temperature"),
        ({"ppo_lambda": 1.5}, "--ppo-lambda"),
        ({"ppo_mini_batches": 99}, "--ppo-mini-batches"),
        ({"ppo_epochs": 0}, "--ppo-epochs"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(place: Path, more: dict[str, Any], flag: str) -> None:
    with pytest.raises(SettingsError, match=flag):
        from_values(ppo_values(place, **more))


def test_without_a_reward_or_prompts_it_says_so(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--reward-model"):
        train_any(run.create(from_values(ppo_values(place, output_dir=str(tmp_path)))))
    (tmp_path / "text.jsonl").write_text('{"text": "今天去吗"}\n', encoding="utf-8")
    folder = run.create(from_values(ppo_values(place, dataset=str(tmp_path / "text.jsonl"))))
    with pytest.raises(DataError, match="answers prompts"):
        train(folder, reward=Exactly(place / "model"))
    assert run.info(folder).state == "failed"


def test_the_plan_counts_cache_and_answers(place: Path) -> None:
    plan = make_plan(from_values(ppo_values(place, max_steps=5)), rate=1e9)
    longer = make_plan(from_values(ppo_values(place, max_steps=5, ppo_max_new_tokens=64)), rate=1e9)
    assert plan.fits and plan.steps == 5 and longer.longest == plan.longest + 48
    assert longer.need.weights > plan.need.weights and longer.seconds > 2 * plan.seconds
    tight = make_plan(from_values(ppo_values(place, ppo_max_new_tokens=256)), rate=1e9, free=9_000_000)
    assert not tight.fits and any("--ppo-" in change for change in tight.changes_en)
