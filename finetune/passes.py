"""The passes of one step and of an evaluation, of this process among all: losses are sums, and all are added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.parallel import World
from finetune.quiet import quiet, quiet_shares
from finetune.stages.reference import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.memory import Layout
    from finetune.methods import Trainee
    from finetune.pack import Batch, Unit
    from finetune.stages.objective import Objective


@dataclass(frozen=True, slots=True)
class Passes:
    """What all processes together found."""

    loss: float = 0.0
    """Sum."""
    weight: int = 0
    """What the sum is divided by: trained tokens, pairs or examples."""
    sums: list[float] = field(default_factory=list)
    """What the objective counts besides."""
    full: str = ""
    """Why there was not enough memory, in any of the processes; then the gradients are worth nothing."""


def learn(
    trainee: Trainee,
    units: Sequence[Unit],
    *,
    objective: Objective,
    number: int,
    layout: Layout,
    batches: Sequence[tuple[Batch, bool]],
    meanwhile: Callable[[], None],
    world: World,
    scale: float,
    noise: float,
) -> Passes:
    """Forward and backward; the gradients of this process' passes stand in the model afterwards.

    `batches`: see `deal.share`. `meanwhile` is called once all of them are on their way.

    If memory runs out in one process, all hear of it, so that all adapt. Not so where the others wait for it in the middle
    of something (a sharded layer, the objective's own passes): there torch.OutOfMemoryError ends the run.
    """
    import torch

    if world.sharded:  # it takes the mean over the processes where we want the sum
        scale *= world.size
    total = torch.zeros(1 + len(objective.names), device=trainee.device)
    mine, weight, full, begun = [0.0] * len(total), 0, "", False
    try:
        _begin(trainee, units, objective=objective, part="train", number=number, layout=layout, world=world)
        begun = True
        for batch, counts in batches:
            loss, seen = _loss(trainee, batch, objective=objective, noise=noise)
            scaled: Any = loss * (scale if counts else 0.0)
            scaled.backward()
            if counts:
                total += torch.cat([loss.detach()[None], seen])
                weight += objective.weight(batch)
        meanwhile()  # the GPU is still busy: nobody has asked it for a number yet
        mine = total.tolist()
    except torch.OutOfMemoryError as error:
        if world.sharded or (world.size > 1 and not begun):
            raise
        full = str(error).splitlines()[0]
    summed, weights, *sums, short = world.sums(mine[0], weight, *mine[1:], bool(full))
    return Passes(summed, int(weights), sums, full or ("in another process" if short else ""))


def measure(
    trainee: Trainee, units: Sequence[Unit], *, objective: Objective, layout: Layout, world: World
) -> Passes:
    """Forward only, over an evaluation set, shared among the processes."""
    found = [0.0] * (2 + len(objective.names))

    for number, piece in enumerate(pieces(units)):
        _begin(
            trainee, piece, objective=objective, part="evaluation", number=number, layout=layout, world=world
        )
        with quiet(trainee):
            for batch, counts in quiet_shares(piece, layout=layout, world=world):
                loss, seen = _loss(trainee, batch, objective=objective, noise=0.0)
                if counts:
                    values = [float(loss), float(objective.weight(batch)), *seen.tolist()]
                    found = [a + b for a, b in zip(found, values, strict=True)]
    whole, weight, *sums = world.sums(*found)
    return Passes(whole, int(weight), sums)


def _begin(
    trainee: Trainee,
    units: Sequence[Unit],
    *,
    objective: Objective,
    part: str,
    number: int,
    layout: Layout,
    world: World,
) -> None:
    trainee.within(
        lambda: objective.begin(trainee, units, part=part, number=number, layout=layout, world=world)
    )


def _loss(trainee: Trainee, batch: Batch, *, objective: Objective, noise: float) -> tuple[Tensor, Tensor]:
    moved = batch.to(trainee.device)
    return trainee.within(lambda: objective.loss(trainee, moved, noise=noise))
