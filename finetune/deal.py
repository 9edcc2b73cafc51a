"""What each process takes of a step's examples. Dealing changes the speed, never what is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.pack import Batch, Unit


def deal(lengths: Sequence[int], *, ranks: int) -> list[list[int]]:
    """Indices for each process, with about as many tokens for each: the longest first, to whoever has least.

    Each part keeps the order of the examples; the same input gives the same parts, and the first part is never empty
    unless there is nothing.
    """
    if ranks == 1:
        return [list(range(len(lengths)))]
    parts: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = min(range(ranks), key=lambda r: (loads[r], r))
        parts[least].append(index)
        loads[least] += lengths[index]
    return [sorted(part) for part in parts]


def share(
    units: Sequence[Unit], *, make: Callable[[list[Unit]], list[Batch]], rank: int, ranks: int, even: bool
) -> list[tuple[Batch, bool]]:
    """This process' forward passes, and whether each counts.

    `even`: every process gets the same number of them, some that do not count where need be. With sharded weights every
    pass is a conversation of all processes, so nobody may leave one out.
    """
    if ranks == 1:
        return [(batch, True) for batch in make(list(units))]
    parts = [[units[i] for i in p] for p in deal([len(u) for u in units], ranks=ranks)]
    own = [(batch, True) for batch in make(parts[rank])] if parts[rank] else []
    if not even:
        return own
    first = make(parts[0])
    most = max(len(make(part)) if part else 0 for part in parts)
    return own + [(first[0], False)] * (most - len(own))
