"""rm: a score for every answer, higher for the chosen one (Bradley-Terry). TRL's RewardTrainer, packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.config import RunConfig
from finetune.methods import Trainee
from finetune.pack import Batch
from finetune.reward import last_scores
from finetune.stages.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


def rm_losses(scores: Tensor, *, center: float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected) of each pair, plus `center` times the square of their sum.

    *Shape:* scores `(pairs, 2)`, chosen first; the result `(pairs)`.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = scores.unbind(1)
    losses = -logsigmoid(chosen - rejected)
    return losses + center * (chosen + rejected) ** 2 if center else losses


class Rm(Objective):
    """The objective of --stage rm."""

    names: tuple[str, ...] = ("chosen", "rejected", "right", "pairs")

    def __init__(self, config: RunConfig) -> None:
        self.center = config.preference.center_rewards_coefficient

    def weight(self, batch: Batch) -> int:
        return len(batch.units)

    def loss(self, trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        import torch

        scores = last_scores(trainee, batch).view(-1, 2)
        chosen, rejected = scores.detach().unbind(1)
        right = (chosen > rejected).sum().float()
        count = torch.full_like(right, len(batch.units))
        seen = torch.stack([chosen.sum(), rejected.sum(), right, count])
        return rm_losses(scores, center=self.center).sum(), seen

    def report(self, sums: Sequence[float]) -> dict[str, float]:
        return pair_report(sums)


def pair_report(sums: Sequence[float]) -> dict[str, float]:
    """Measures of pairs from the sums of chosen, rejected, right, pairs."""
    chosen, rejected, right, pairs = sums[:4]
    pairs = max(1.0, pairs)
    return {
        "accuracy": right / pairs,
        "margin": (chosen - rejected) / pairs,
        "reward_chosen": chosen / pairs,
        "reward_rejected": rejected / pairs,
    }
