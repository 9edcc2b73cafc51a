"""Options of the stages that learn from preferences. Names are the community's where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
