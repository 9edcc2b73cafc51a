"""Passes that only measure: no gradients, no dropout, no compiling for shapes that will not come again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from finetune.deal import share
from finetune.memory import Layout
from finetune.methods import Trainee
from finetune.pack import Batch, RowShape, Unit, packed_batches, padded_batches
from finetune.parallel import World


@contextmanager
def quiet(trainee: Trainee) -> Iterator[None]:
    """Inside, the model only measures."""
    import torch

    training = trainee.model.training
    trainee.model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        trainee.model.train(training)


def quiet_shares(units: Sequence[Unit], *, layout: Layout, world: World) -> list[tuple[Batch, bool]]:
    """This process' rows of such a pass, and whether each counts (see finetune.deal)."""
    return share(
        units,
        make=lambda part: quiet_batches(part, layout=layout),
        rank=world.rank,
        ranks=world.size,
        even=world.sharded,
    )


def quiet_batches(units: Sequence[Unit], *, layout: Layout) -> list[Batch]:
    """Rows for such a pass, as long as those of training but of no fixed shape."""
    longest = max(map(len, units))
    if layout.packed:
        shape = RowShape(max(layout.tokens, longest), 0, longest, unit=64 if layout.kernels else 1)
        return packed_batches(units, shape=shape)
    return padded_batches(units, rows=max(1, layout.tokens // longest))
