"""Options of `--stage ppo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.config import RunConfig


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """How answers are drawn, scored and learned from. One step takes batch x accumulation prompts."""

    reward_model: str = ""
    """Run or adapter folder of `--stage rm`, trained on the same base: it scores the answers."""
    ppo_max_new_tokens: int = 128
    """Tokens of an answer at the most."""
    ppo_temperature: float = 1.0
    """Of sampling. What is learned is the distribution at this temperature, so nothing else narrows it."""
    ppo_epochs: int = 4
    """Passes over the answers of a step."""
    ppo_mini_batches: int = 2
    """Updates of one pass."""
    ppo_slots: int = 0
    """Answers written at the same time; 0: all of a step, 32 at the most."""
    ppo_kl_coef: float = 0.1
    """What one nat of distance from the reference costs, at the beginning."""
    ppo_kl_target: float = 6.0
    """Nats of an answer that the cost is steered to; 0 leaves the cost as it is."""
    ppo_kl_horizon: float = 200.0
    """Answers in which the cost changes by a fifth at the most; smaller steers faster."""
    ppo_gamma: float = 1.0
    """What a reward one token later is worth, 0 to 1."""
    ppo_lambda: float = 0.95
    """Of generalised advantage estimation, 0 (only the value head) to 1 (only what came)."""
    ppo_clip: float = 0.2
    """How far a probability ratio may leave 1."""
    ppo_clip_value: float = 0.2
    """How far a value may leave the one before the step; 0 lets it."""
    ppo_most_moved: float = 0.1
    """Nats a token that a step may move the policy: updates that begin beyond it are left out. 0 has no bound."""
    ppo_value_coef: float = 0.1
    """Weight of the value loss."""
    ppo_entropy_coef: float = 0.0
    """Weight of the entropy, which keeps answers varied."""
    ppo_whiten: bool = True
    """Advantages of a step to mean 0 and deviation 1, measured by no less than the deviation of the run so far."""
    ppo_score_norm: bool = False
    """Divide scores by their running deviation, after taking away their running mean."""
    ppo_score_clip: float = 10.0
    """Scores beyond it, either way, count as it; 0 is off."""
    ppo_eos_penalty: float = 1.0
    """Taken off the score of an answer that does not end by itself."""


def check_ppo(config: RunConfig, *, fail: Callable[[str, object, str, str], Exception]) -> None:
    """Raise what `fail(option, value, wanted, wanted in Chinese)` makes of an option out of range or out of place."""
    method, train, ppo = config.method, config.train, config.ppo
    for name in ("ppo_max_new_tokens", "ppo_epochs", "ppo_mini_batches"):
        if getattr(ppo, name) < 1:
            raise fail(name, getattr(ppo, name), "1 or more", "不小于 1")
    if config.data.stage != "ppo":
        return
    for name, value, wanted, zh in (
        ("finetuning_type", method.finetuning_type, ("qlora", "lora"), "为 qlora 或 lora"),
        ("use_dora", method.use_dora, (False,), "关闭"),
        ("lora_dropout", method.lora_dropout, (0,), "为 0（概率之比要准确）"),
        ("neftune_noise_alpha", method.neftune_noise_alpha, (0,), "为 0"),
        ("compile", train.compile, ("auto", "off"), "为 auto 或 off"),
        ("early_stopping_patience", train.early_stopping_patience, (0,), "为 0"),
        ("predict_with_generate", train.predict_with_generate, (False,), "关闭"),
    ):
        if value not in wanted:
            raise fail(name, value, " or ".join(map(str, wanted)) + " with --stage ppo", f"在 ppo 阶段{zh}")
    if train.lr_scheduler_type == "reduce_lr_on_plateau":
        raise fail("lr_scheduler_type", train.lr_scheduler_type, "another with ppo", "在 ppo 阶段换一种")
    if ppo.ppo_temperature <= 0 or ppo.ppo_clip <= 0 or ppo.ppo_kl_horizon <= 0:
        name = next(n for n in ("ppo_temperature", "ppo_clip", "ppo_kl_horizon") if getattr(ppo, n) <= 0)
        raise fail(name, getattr(ppo, name), "above 0", "大于 0")
    for name in ("ppo_gamma", "ppo_lambda"):
        if getattr(ppo, name) > 1:
            raise fail(name, getattr(ppo, name), "at most 1", "不大于 1")
    if ppo.ppo_mini_batches > config.examples_per_step:
        raise fail(
            "ppo_mini_batches",
            ppo.ppo_mini_batches,
            f"at most the {config.examples_per_step} prompts of a step",
            f"不超过一步的 {config.examples_per_step} 个提示",
        )
