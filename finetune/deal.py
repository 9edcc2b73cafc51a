"""What each process takes of a step's examples. Dealing changes the speed, never what is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.encode import Encoded
    from finetune.pack import Batch


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
    documents: list[Encoded],
    *,
    make: Callable[[list[Encoded]], list[Batch]],
    rank: int,
    ranks: int,
    even: bool,
) -> list[Batch]:
    """This process' forward passes. `even`: every process gets the same number of them, empty ones where need be.

    With sharded weights every pass is a conversation of all processes, so nobody may leave one out.
    """
    if ranks == 1:
        return make(documents)
    parts = [[documents[i] for i in p] for p in deal([len(d) for d in documents], ranks=ranks)]
    own = make(parts[rank]) if parts[rank] else []
    if not even:
        return own
    made = [own if r == rank else (make(part) if part else []) for r, part in enumerate(parts)]
    idle = blank(made[0][0])
    return own + [idle] * (max(map(len, made)) - len(own))


def blank(batch: Batch) -> Batch:
    """The same rows with nothing to learn: its loss and its gradients are zero."""
    return replace(batch, where=batch.where[:0], targets=batch.targets[:0], tokens=0)
