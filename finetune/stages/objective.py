"""What a stage minimises: one interface between the loop and the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from finetune.config import RunConfig
from finetune.forward import loss_sum
from finetune.memory import Layout
from finetune.methods import Trainee
from finetune.pack import Batch, Unit
from finetune.parallel import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """A loss that is a sum over the batches of a step, divided by their weights together."""

    names: tuple[str, ...]
    """What `loss` counts besides the loss, in this order."""

    def weight(self, batch: Batch) -> int:
        """What the sum is divided by: trained tokens, pairs or examples."""

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
        """Before the batches of `units`: optimiser step `number` of part "train", or the n-th piece of "evaluation".

        All processes of `world` are told all units. Most objectives need nothing."""
        return

    def loss(self, trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """The sum of the loss, and (detached) the sums that `names` names."""

    def report(self, sums: Sequence[float]) -> dict[str, float]:
        """The counted sums of many batches as measures for people."""


class NextWord(Objective):
    """sft and pt: cross entropy of the trained tokens."""

    names: tuple[str, ...] = ()

    def weight(self, batch: Batch) -> int:
        return len(batch.targets)

    def loss(self, trainee: Trainee, batch: Batch, *, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        import torch

        found = loss_sum(trainee, batch, noise=noise)
        return found, torch.zeros(0, device=found.device)

    def report(self, sums: Sequence[float]) -> dict[str, float]:
        return {}


def objective_of(config: RunConfig) -> Objective:
    """The objective of a stage."""
    from finetune.stages.dpo import Dpo
    from finetune.stages.kto import Kto
    from finetune.stages.rm import Rm

    match config.data.stage:
        case "rm":
            return Rm(config)
        case "dpo":
            return Dpo(config)
        case "kto":
            return Kto(config)
        case _:
            return NextWord()
