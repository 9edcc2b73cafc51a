"""dpo: prefer the chosen answer more than the reference does (Rafailov et al. 2023). TRL's DPOTrainer, packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from finetune.config import RunConfig
from finetune.encode_judged import Judged
from finetune.logprobs import answer_log_probs
from finetune.methods import Trainee
from finetune.pack import Batch
from finetune.preference_config import DpoLoss
from finetune.stages.objective import Objective
from finetune.stages.rm import pair_report

if TYPE_CHECKING:
    from torch import Tensor


def dpo_losses(
    ratios: Tensor, lengths: Tensor, *, kind: DpoLoss, beta: float, smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair.

    *Shape:* ratios `(pairs, 2)`: log-probability of the answer less that of the reference, chosen first; lengths
    `(pairs, 2)`: words of the answers (ipo compares means, as its authors do); the result `(pairs)`.
    """
    import torch
    from torch.nn.functional import logsigmoid

    chosen, rejected = ratios.unbind(1)
    match kind:
        case "hinge":
            return torch.relu(1 - beta * (chosen - rejected))
        case "ipo":
            first, second = (ratios / lengths).unbind(1)
            return (first - second - 1 / (2 * beta)) ** 2
        case "sigmoid":
            ahead = beta * (chosen - rejected)
            if not smoothing:
                return -logsigmoid(ahead)
            return -(1 - smoothing) * logsigmoid(ahead) - smoothing * logsigmoid(-ahead)


def references(batch: Batch, *, device: str) -> Tensor:
    """What the reference gives the answers of a batch. *Shape:* (documents), float32."""
    import torch

    known = [value for unit in batch.units for value in cast(Judged, unit).reference]
    return torch.tensor(known, dtype=torch.float32, device=device)


class Dpo(Objective):
    """The objective of --stage dpo."""

    names: tuple[str, ...] = ("chosen", "rejected", "right", "pairs", "logp_chosen", "logp_rejected")

    def __init__(self, config: RunConfig) -> None:
        self.options = config.preference

    def weight(self, batch: Batch) -> int:
        return len(batch.units)

    def loss(self, trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        import torch

        options = self.options
        found = answer_log_probs(trainee, batch)
        ratios = (found - references(batch, device=trainee.device)).view(-1, 2)
        lengths = torch.bincount(batch.owner, minlength=len(found)).view(-1, 2).clamp(min=1)
        losses = dpo_losses(
            ratios,
            lengths,
            kind=options.dpo_loss,
            beta=options.pref_beta,
            smoothing=options.dpo_label_smoothing,
        )
        chosen, rejected = (options.pref_beta * ratios.detach()).unbind(1)
        right = (chosen > rejected).sum().float()
        logps = found.detach().view(-1, 2).sum(0)
        count = torch.full_like(right, len(batch.units))
        return losses.sum(), torch.stack([chosen.sum(), rejected.sum(), right, count, *logps])

    def report(self, sums: Sequence[float]) -> dict[str, float]:
        pairs = max(1.0, sums[3])
        return pair_report(sums) | {"logp_chosen": sums[4] / pairs, "logp_rejected": sums[5] / pairs}
