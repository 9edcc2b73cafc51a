"""Our losses against TRL's own trainers on a tiny real GLM: loss, measures and every gradient, to 1e-5.

TRL pads, we pack; TRL runs the reference beside the policy, we measure it once before. The numbers must not differ.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config import RunConfig, from_values
from finetune.encode import Limits
from finetune.encode_judged import Judged, encode_judged, halves
from finetune.logprobs import answer_log_probs
from finetune.memory import Layout
from finetune.methods import Trainee
from finetune.quiet import quiet_batches
from finetune.stages.kto import mean_log_prob, mismatched
from finetune.stages.objective import Objective, objective_of
from finetune.stages.reference import reference_of
from rag.chatglm3.chat import open_tokenizer
from tests.tiny_preferences import feedback, preferences, stirred
from tests.tiny_training import tiny_model

LAYOUT = Layout(64)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("parity") / "model")


def config_of(model: Path, stage: str, **values: Any) -> RunConfig:
    return from_values(
        {
            "model_name_or_path": str(model), "dataset": "-", "stage": stage, "finetuning_type": "lora",
            "lora_rank": 4, "device": "cpu", **values,
        }
    )  # fmt: skip


def units_of(model: Path, stage: str, count: int = 6) -> list[Judged]:
    examples = feedback()[:count] if stage == "kto" else preferences()[:count]
    return encode_judged(examples, stage=stage, tokenizer=open_tokenizer(model), limits=Limits())[0]


def our_step(
    trainee: Trainee, objective: Objective, units: list[Judged]
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """Loss, measures and gradients of one step, packed, in several rows."""
    batches = quiet_batches(units, layout=LAYOUT)
    assert len(batches) > 1 and max(len(b.units) for b in batches) > 1, "rows hold several judgements"
    objective.begin(trainee, units, part="train", number=0, layout=LAYOUT)
    weight = sum(objective.weight(b) for b in batches)
    total, sums = 0.0, [0.0] * len(objective.names)
    trainee.model.zero_grad()
    for batch in batches:
        loss, seen = objective.loss(trainee, batch)
        (loss / weight).backward()
        total += float(loss.detach())
        sums = [a + b for a, b in zip(sums, seen.tolist(), strict=True)]
    gradients = {n: p.grad.clone() for n, p in trainee.trainable().items() if p.grad is not None}
    return total / weight, objective.report(sums), gradients


def referenced(
    config: RunConfig, trainee: Trainee, units: list[Judged], objective: Objective
) -> list[Judged]:
    """What with_reference does before the first step, here for a trainee that has moved: its adapter is switched off."""
    from dataclasses import replace

    with trainee.model.disable_adapter():
        values = reference_of(trainee, units, layout=LAYOUT)
        if config.data.stage == "kto":
            wrong = mismatched(units, cutoff=1024)
            objective.apart = {("train", 0): mean_log_prob(trainee, wrong, layout=LAYOUT)}  # type: ignore[attr-defined]
    return [replace(u, reference=tuple(v)) for u, v in zip(units, values.tolist(), strict=True)]


def talk(trainee: Trainee, units: list[Judged]) -> None:
    """Make all these answers likelier, so that the model has moved from its reference in their direction."""
    mover = torch.optim.AdamW(trainee.trainable().values(), lr=1e-2)
    for _ in range(6):
        for batch in quiet_batches(units, layout=LAYOUT):
            (-answer_log_probs(trainee, batch).mean()).backward()
        mover.step()
        mover.zero_grad()


def trl_tokenizer(model: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"), pad_token="<unk>", eos_token="</s>"
    )


def trl_step(
    trainer: Any, rows: list[dict[str, Any]]
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """The same of a TRL trainer on rows of token ids."""
    batch = trainer.data_collator(rows)
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    measures = {k: v[-1] for k, v in trainer._metrics["train"].items()}
    gradients = {
        n: p.grad.clone()
        for n, p in trainer.model.named_parameters()
        if p.requires_grad and p.grad is not None
    }
    return float(loss.detach()), measures, gradients


def common(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no",
        "gradient_checkpointing": False, "per_device_train_batch_size": 6, **more,
    }  # fmt: skip


def trl_model(model: Path, config: RunConfig, trainee: Trainee) -> Any:
    """A model of TRL's own loading, with our adapter's numbers in it."""
    from peft import LoraConfig
    from transformers import GlmForCausalLM, GlmForSequenceClassification

    scores = config.data.stage == "rm"
    kind: Any = GlmForSequenceClassification if scores else GlmForCausalLM
    glm = kind.from_pretrained(model, dtype=torch.float32, **({"num_labels": 1} if scores else {}))
    lora = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
    )  # fmt: skip
    return glm, lora


def take_over(theirs: Any, trainee: Trainee) -> None:
    own = trainee.trainable()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(own[name])


def compare(ours: tuple[Any, ...], theirs: tuple[Any, ...], names: dict[str, str]) -> None:
    assert ours[0] == pytest.approx(theirs[0], abs=TOLERANCE, rel=TOLERANCE)
    for mine, other in names.items():
        assert ours[1][mine] == pytest.approx(theirs[1][other], abs=TOLERANCE, rel=TOLERANCE), mine
    assert ours[2].keys() == theirs[2].keys() and len(ours[2]) >= 24
    for name, gradient in ours[2].items():
        other = theirs[2][name]
        assert torch.allclose(gradient, other, atol=TOLERANCE * max(1.0, float(other.abs().max()))), name
    assert max(float(g.abs().max()) for g in ours[2].values()) > 1e-3, "the comparison is of something"


PAIR = {"accuracy": "rewards/accuracies", "margin": "rewards/margins", "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected", "logp_chosen": "logps/chosen", "logp_rejected": "logps/rejected"}  # fmt: skip


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_dpo_is_that_of_trl(model: Path, tmp_path: Path, kind: str) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = config_of(model, "dpo", dpo_loss=kind, pref_beta=0.3)
    trainee, objective = stirred(model, config), objective_of(config)
    units = referenced(config, trainee, units_of(model, "dpo"), objective)
    glm, lora = trl_model(model, config, trainee)
    words = [{"prompt": "年假", "chosen": "五天", "rejected": "不知道"}]
    trainer = DPOTrainer(
        model=glm, args=DPOConfig(**common(tmp_path, beta=0.3, loss_type=[kind])), peft_config=lora,
        train_dataset=Dataset.from_list(words), processing_class=trl_tokenizer(model),
    )  # fmt: skip
    take_over(trainer.model, trainee)
    rows = []
    for unit in units:
        (prompt, chosen), (_, rejected) = map(halves, unit.documents)
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    compare(our_step(trainee, objective, units), trl_step(trainer, rows), PAIR)


def test_rm_is_that_of_trl(model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    config = config_of(model, "rm", center_rewards_coefficient=0.02)
    trainee, objective = stirred(model, config), objective_of(config)
    units = units_of(model, "rm")
    glm, lora = trl_model(model, config, trainee)
    words = [{"chosen": "五天", "rejected": "不知道"}]
    trainer = RewardTrainer(
        model=glm, args=RewardConfig(**common(tmp_path, center_rewards_coefficient=0.02)), peft_config=lora,
        train_dataset=Dataset.from_list(words), processing_class=trl_tokenizer(model),
    )  # fmt: skip
    take_over(trainer.model, trainee)
    rows = [
        {"chosen_ids": u.documents[0].ids.tolist(), "rejected_ids": u.documents[1].ids.tolist()}
        for u in units
    ]
    names = {"accuracy": "accuracy", "margin": "margin"}
    ours, theirs = our_step(trainee, objective, units), trl_step(trainer, rows)
    compare(ours, theirs, names)
    assert (ours[1]["reward_chosen"] + ours[1]["reward_rejected"]) / 2 == pytest.approx(
        theirs[1]["mean_reward"], abs=TOLERANCE
    )
    assert any("score" in name for name in ours[2]), "the head is trained"


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 1.7)])
def test_kto_is_that_of_trl(model: Path, tmp_path: Path, weights: tuple[float, float]) -> None:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    config = config_of(
        model, "kto", pref_beta=0.2, kto_chosen_weight=weights[0], kto_rejected_weight=weights[1]
    )
    trainee, objective = stirred(model, config), objective_of(config)
    talk(trainee, units_of(model, "kto"))
    units = referenced(config, trainee, units_of(model, "kto"), objective)
    glm, lora = trl_model(model, config, trainee)
    words = [{"prompt": "年假", "completion": "五天", "label": n % 2 == 0} for n in range(6)]
    options = common(tmp_path, beta=0.2, desirable_weight=weights[0], undesirable_weight=weights[1])
    trainer = KTOTrainer(
        model=glm, args=KTOConfig(**options), peft_config=lora,
        train_dataset=Dataset.from_list(words), processing_class=trl_tokenizer(model),
    )  # fmt: skip
    take_over(trainer.model, trainee)
    parts = [halves(u.documents[0]) for u in units]
    rows = [
        {"prompt_ids": p, "completion_ids": a, "KL_completion_ids": parts[n - 1][1], "label": units[n].good}
        for n, (p, a) in enumerate(parts)
    ]
    names = {"kl": "kl", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected",
             "margin": "rewards/margins"}  # fmt: skip
    ours, theirs = our_step(trainee, objective, units), trl_step(trainer, rows)
    compare(ours, theirs, names)
    assert ours[1]["kl"] > 0.1, "the point of reference has moved"


def test_smoothing_is_the_conservative_loss() -> None:
    """cDPO (Mitchell 2023): the loss expected if a share of the labels is the wrong way round."""
    from finetune.stages.dpo import dpo_losses

    ratios, lengths = torch.tensor([[0.7, -1.1], [-2.0, 0.4]]), torch.ones(2, 2)
    mixed = dpo_losses(ratios, lengths, kind="sigmoid", beta=0.5, smoothing=0.2)
    right = dpo_losses(ratios, lengths, kind="sigmoid", beta=0.5)
    wrong = dpo_losses(ratios.flip(1), lengths, kind="sigmoid", beta=0.5)
    assert torch.allclose(mixed, 0.8 * right + 0.2 * wrong)
    assert math.isclose(float(right[0]), -math.log(1 / (1 + math.exp(-0.5 * 1.8))), rel_tol=1e-6)


@pytest.mark.parametrize("stage", ["dpo", "rm"])
def test_whole_runs_follow_those_of_trl(tmp_path: Path, stage: str) -> None:
    """The benchmark, tiny: text through TRL's own tokenising, sampling, optimiser and schedule against our loop in 4 bits."""
    from tests.bench._random_model import TINY, write_model
    from tests.bench.preference import one

    folder = write_model(tmp_path / "random", TINY)
    theirs, ours = (
        one(f"{who}-{stage}", folder, tiny=True, steps=4, compiled="off") for who in ("trl", "ours")
    )
    assert not theirs.error and not ours.error, theirs.error + ours.error
    assert len(ours.losses) == 4 and ours.losses == pytest.approx(theirs.losses, abs=2e-4)
    assert ours.margins == pytest.approx(theirs.margins, abs=2e-4) and max(map(abs, ours.margins)) > 1e-4
    assert ours.pairs_per_second > 0 and theirs.tokens_per_second > 0
