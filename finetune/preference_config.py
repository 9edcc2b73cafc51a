"""Options of the stages that learn from preferences. Names are the community's where it has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from finetune.config import RunConfig

DpoLoss = Literal["sigmoid", "ipo", "hinge"]

PREFERENCE_STAGES = ("rm", "dpo", "kto")
"""Stages whose examples are judged: two answers to compare (rm, dpo), or one with a thumb up or down (kto)."""
SIDES = {"rm": 2, "dpo": 2}
"""Documents that must lie in one row together; 1 for every other stage."""


@dataclass(frozen=True, slots=True)
class PreferenceConfig:
    """How preferences become a loss."""

    pref_beta: float = 0.1
    """dpo, kto: how dear it is to leave the reference; smaller lets the model go farther."""
    dpo_loss: DpoLoss = "sigmoid"
    """sigmoid: the paper's; ipo: a squared margin, does not overfit to certain pairs; hinge: none beyond the margin."""
    dpo_label_smoothing: float = 0.0
    """dpo with sigmoid: share of pairs that are thought to be labelled the wrong way round (conservative DPO)."""
    kto_chosen_weight: float = 1.0
    """kto: weight of desirable answers."""
    kto_rejected_weight: float = 1.0
    """kto: weight of undesirable answers."""
    center_rewards_coefficient: float = 0.0
    """rm: pulls the scores of a pair towards a mean of zero; 0 is off, 0.01 is usual."""


def check_preference(config: RunConfig, *, fail: Callable[[str, object, str, str], Exception]) -> None:
    """Raise what `fail(option, value, wanted, wanted in Chinese)` makes of an option out of range."""
    stage, method, wanted = config.data.stage, config.method, config.preference
    if wanted.pref_beta <= 0:
        raise fail("pref_beta", wanted.pref_beta, "above 0", "大于 0")
    smoothing = wanted.dpo_label_smoothing
    if smoothing >= 0.5 or (smoothing and wanted.dpo_loss != "sigmoid"):
        raise fail(
            "dpo_label_smoothing", smoothing, "below 0.5, and 0 without sigmoid", "小于 0.5，且只用于 sigmoid"
        )
    if stage not in PREFERENCE_STAGES:
        return
    if method.finetuning_type == "ptuning":
        raise fail("finetuning_type", "ptuning", f"another one with {stage}", f"在 {stage} 时换一种")
    if method.neftune_noise_alpha:
        raise fail("neftune_noise_alpha", method.neftune_noise_alpha, f"0 with {stage}", f"在 {stage} 时为 0")
    if stage == "kto" and config.examples_per_step < 2:
        raise fail("per_device_train_batch_size", 1, "2 or more with kto", "在 kto 时不小于 2")
    if stage == "rm" and config.train.predict_with_generate:
        raise fail(
            "predict_with_generate", True, "off with rm, which says nothing", "在 rm 时关闭：它不会说话"
        )
