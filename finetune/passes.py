"""The passes of one step and of an evaluation, of this process among all: losses are sums, and all are added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.deal import share
from finetune.forward import loss_sum
from finetune.parallel import World

if TYPE_CHECKING:
    from finetune.encode import Encoded
    from finetune.methods import Trainee
    from finetune.pack import Batch


@dataclass(frozen=True, slots=True)
class Learned:
    """What all processes together did in the passes of a step."""

    loss: float = 0.0
    """Sum over the trained tokens."""
    trained: int = 0
    full: str = ""
    """Why there was not enough memory, in any of the processes; then the gradients are worth nothing."""


def share_of(
    documents: list[Encoded], *, make: Callable[[list[Encoded]], list[Batch]], world: World
) -> list[Batch]:
    """This process' batches."""
    return share(documents, make=make, rank=world.rank, ranks=world.size, even=world.sharded)


def learn(trainee: Trainee, batches: Sequence[Batch], *, world: World, scale: float, noise: float) -> Learned:
    """Forward and backward; the gradients of this process' passes stand in the model afterwards.

    If memory runs out in one process, all hear of it, so that all adapt. Not so with sharded weights: there the others
    wait in the middle of a layer, and torch.OutOfMemoryError ends the run.
    """
    import torch

    if world.sharded:  # it takes the mean over the processes where we want the sum
        scale *= world.size
    total, full = torch.zeros((), device=trainee.device), ""
    try:
        for batch in batches:
            loss = _loss(trainee, batch, noise=noise)
            scaled: Any = loss * scale
            scaled.backward()
            total += loss.detach()
        mine = float(total)
    except torch.OutOfMemoryError as error:
        if world.sharded:
            raise
        mine, full = 0.0, str(error).splitlines()[0]
    loss_of_all, trained, short = world.sums(mine, sum(len(b.targets) for b in batches), bool(full))
    return Learned(loss_of_all, int(trained), full or ("in another process" if short else ""))


def mean_loss(
    trainee: Trainee,
    documents: list[Encoded],
    *,
    make: Callable[[list[Encoded]], list[Batch]],
    world: World,
    at_once: int = 64,
) -> float:
    """Mean over the trained tokens of the documents, shared among the processes. Gradients are the caller's to switch off."""
    total, trained = 0.0, 0
    for at in range(0, len(documents), at_once):
        for batch in share_of(documents[at : at + at_once], make=make, world=world):
            total += float(_loss(trainee, batch, noise=0.0))
            trained += len(batch.targets)
    of_all, trained_by_all = world.sums(total, trained)
    return of_all / trained_by_all


def _loss(trainee: Trainee, batch: Batch, *, noise: float) -> Any:
    moved = batch.to(trainee.device)
    return trainee.within(lambda: loss_sum(trainee, moved, noise=noise))
