"""kto: answers with a thumb up or down (Ethayarajh et al. 2024). TRL's KTOTrainer, packed.

The point from which gains and losses are felt is how far the model has moved from the reference on answers that do not
belong to their questions: each question of the step with the answer of the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from finetune.config import RunConfig
from finetune.encode_judged import Judged, halves, joined
from finetune.logprobs import answer_log_probs
from finetune.memory import Layout
from finetune.methods import Trainee
from finetune.pack import Batch, Unit
from finetune.parallel import ALONE, World
from finetune.quiet import quiet, quiet_shares
from finetune.stages.dpo import references
from finetune.stages.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


def kto_losses(
    ratios: Tensor, good: Tensor, *, kl: Tensor | float, beta: float, up: float = 1.0, down: float = 1.0
) -> Tensor:
    """The loss of each answer. *Shape:* ratios `(answers)`, good `(answers)` bool; the result `(answers)`."""
    import torch

    ahead = beta * (ratios - kl)
    return torch.where(good, up * (1 - torch.sigmoid(ahead)), down * (1 - torch.sigmoid(-ahead)))


def mismatched(units: Sequence[Unit], *, cutoff: int) -> list[Judged]:
    """Each question with the answer of the one before; the first with the last one's."""
    parts = [halves(cast(Judged, unit).documents[0]) for unit in units]
    return [
        Judged((joined(prompt, parts[n - 1][1], cutoff=cutoff, source=units[n].source),))
        for n, (prompt, _) in enumerate(parts)
    ]


def mean_log_prob(trainee: Trainee, units: Sequence[Unit], *, layout: Layout, world: World = ALONE) -> float:
    """Mean over the documents, of their summed log-probability. Processes share the work."""
    total = 0.0
    with quiet(trainee):
        for batch, counts in quiet_shares(units, layout=layout, world=world):
            found = float(answer_log_probs(trainee, batch.to(trainee.device)).sum())
            total += found if counts else 0.0
    return world.sums(total)[0] / len(units)


class Kto(Objective):
    """The objective of --stage kto."""

    names: tuple[str, ...] = ("up", "ups", "down", "downs", "right", "kl")

    def __init__(self, config: RunConfig) -> None:
        self.options, self.cutoff = config.preference, config.data.cutoff_len
        self.kl = 0.0
        self.apart: dict[tuple[str, int], float] = {}
        """What the reference gives the mismatched answers, by part and number; finetune.stages.reference fills it."""

    def weight(self, batch: Batch) -> int:
        return len(batch.units)

    def begin(
        self,
        trainee: Trainee,
        units: Sequence[Unit],
        *,
        part: str,
        number: int,
        layout: Layout,
        world: World = ALONE,
    ) -> None:
        """Measure how far the model has moved; never below zero."""
        wrong = mismatched(units, cutoff=self.cutoff)
        now = mean_log_prob(trainee, wrong, layout=layout, world=world)
        self.kl = max(0.0, now - self.apart[part, number])

    def loss(self, trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        import torch

        options = self.options
        ratios = answer_log_probs(trainee, batch) - references(batch, device=trainee.device)
        good = torch.tensor([cast(Judged, u).good for u in batch.units], device=ratios.device)
        losses = kto_losses(
            ratios, good, kl=self.kl, beta=options.pref_beta,
            up=options.kto_chosen_weight, down=options.kto_rejected_weight,
        )  # fmt: skip
        rewards = options.pref_beta * ratios.detach()
        right = ((ratios.detach() > self.kl) == good).sum()
        kl = torch.full_like(rewards[0], self.kl * len(batch.units))
        seen = [(rewards * good).sum(), good.sum(), (rewards * ~good).sum(), (~good).sum(), right, kl]
        return losses.sum(), torch.stack([value.float() for value in seen])

    def report(self, sums: Sequence[float]) -> dict[str, float]:
        up, ups, down, downs, right, kl = sums
        out = {"accuracy": right / max(1.0, ups + downs), "kl": kl / max(1.0, ups + downs)}
        if ups:
            out["reward_chosen"] = up / ups
        if downs:
            out["reward_rejected"] = down / downs
        return out | ({"margin": up / ups - down / downs} if ups and downs else {})
