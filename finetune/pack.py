"""The examples of a step -> few long rows. Packing changes the speed, never what is learned.

A step takes the same examples with and without packing, in the order that seed and epoch decide; its loss is the mean
over all their trained tokens. In a packed row every document sees only itself: positions begin anew, and attention is
told where documents begin (`cu_seqlens`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.deal import deal
from finetune.encode import IGNORE, Encoded
from finetune.encode_judged import Judged

if TYPE_CHECKING:
    from torch import Tensor

Unit = Encoded | Judged
"""What must lie in one row: a document, or the documents of a judgement."""

PAD = 0


@dataclass(frozen=True, slots=True)
class RowShape:
    """A packed row. With `fixed`, all rows have exactly this shape, so that compiled code never meets a new one."""

    tokens: int
    documents: int
    """Most documents of a row, its padding included."""
    longest: int
    """Most tokens of a document."""
    fixed: bool = False
    unit: int = 1
    """A row that is not fixed is filled up to a multiple of this."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one forward pass sees.

    *Shape:* ids, positions and lengths `(rows, tokens)`; cu_seqlens `(documents + 1)`; mask `(rows, tokens)`.
    """

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    """Length of the document that a token belongs to (for NEFTune)."""
    where: Tensor
    """Places in the flattened rows whose next token is trained."""
    targets: Tensor
    """That next token."""
    cu_seqlens: Tensor | None
    """int32 begins of documents and the end; only in a packed row."""
    longest: int
    mask: Tensor | None
    """1 where a token is real; only in padded rows."""
    tokens: int
    """Real tokens."""
    owner: Tensor
    """Which document of the batch each entry of `where` belongs to."""
    ends: Tensor
    """Place of each document's last token in the flattened rows."""
    units: tuple[Unit, ...] = ()
    """Where the documents come from, in their order."""

    def to(self, device: str) -> Batch:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value.to(device, non_blocking=True)
            for name in _MOVED
        }
        return Batch(**moved, longest=self.longest, tokens=self.tokens, units=self.units)


_MOVED = ("ids", "positions", "lengths", "where", "targets", "cu_seqlens", "mask", "owner", "ends")


def documents_of(units: Sequence[Unit]) -> list[Encoded]:
    """All documents, in order."""
    return [d for u in units for d in (u.documents if isinstance(u, Judged) else (u,))]


def epoch_order(count: int, *, epoch: int, seed: int) -> NDArray[np.int64]:
    """Which example comes when."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def steps_per_epoch(count: int, *, per_step: int) -> int:
    """Optimiser steps of one pass over the data; the last may be smaller."""
    return math.ceil(count / per_step)


def step_examples(count: int, *, step: int, per_step: int, seed: int) -> list[int]:
    """Indices of the examples of optimiser step `step` (0-based, counted through all epochs)."""
    epoch, inner = divmod(step, steps_per_epoch(count, per_step=per_step))
    return [int(i) for i in epoch_order(count, epoch=epoch, seed=seed)[inner * per_step :][:per_step]]


def pack(lengths: Sequence[int], *, tokens: int, documents: int = 0) -> list[list[int]]:
    """Put documents into rows of at most `tokens` tokens and `documents` documents: best fit, longest first.

    A document longer than a row gets one of its own. The same input gives the same rows.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [
            r
            for r, left in enumerate(room)
            if lengths[index] <= left and (not documents or len(rows[r]) < documents)
        ]
        if fits:
            best = min(fits, key=lambda r: (room[r], r))
        else:
            best = len(rows)
            rows.append([])
            room.append(tokens)
        rows[best].append(index)
        room[best] -= lengths[index]
    return rows


def choose_tokens(
    lengths: Sequence[int],
    *,
    per_step: int,
    most: int,
    fixed: bool,
    seed: int = 0,
    overhead: int = 256,
    ranks: int = 1,
) -> int:
    """Tokens of a row, at most `most`, that make the first epoch cheapest.

    A fixed row costs its whole length, a free one what is in it; each costs `overhead` tokens more for being one. Of
    several processes (`ranks`) the slowest counts.
    """
    longest = max(lengths)
    unit = 64 if most <= 4096 else 512
    sizes = sorted({max(longest, min(most, unit * math.ceil(s / unit))) for s in _candidates(longest, most)})
    steps = min(64, steps_per_epoch(len(lengths), per_step=per_step))
    chosen = [step_examples(len(lengths), step=s, per_step=per_step, seed=seed) for s in range(steps)]

    def cost(size: int) -> int:
        total = 0
        for indices in chosen:
            costs = []
            for part in parts_of([lengths[i] for i in indices], ranks=ranks):
                rows = len(pack(part, tokens=size))
                costs.append(rows * overhead + (rows * size if fixed else sum(part)))
            total += max(costs)
        return total

    return min(sizes, key=lambda size: (cost(size), size))


def parts_of(lengths: Sequence[int], *, ranks: int) -> list[list[int]]:
    """Lengths of what each process takes."""
    return [[lengths[i] for i in part] for part in deal(lengths, ranks=ranks)]


def _candidates(longest: int, most: int) -> list[int]:
    size, out = max(longest, 64), []
    while size < most:
        out.append(size)
        size = math.ceil(size * 1.25)
    return [*out, max(most, longest)]


def row_shape(
    lengths: Sequence[int],
    *,
    per_step: int,
    tokens: int,
    steps: int,
    seed: int,
    fixed: bool,
    sides: int = 1,
    ranks: int = 1,
) -> RowShape:
    """The shape that every row of the run fits into. `sides`: documents of one unit."""
    longest = max(lengths)
    size = max(tokens, longest)
    if not fixed:
        return RowShape(size, 0, longest)
    most = 1
    for step in range(steps):
        inside = [lengths[i] for i in step_examples(len(lengths), step=step, per_step=per_step, seed=seed)]
        for part in parts_of(inside, ranks=ranks):
            for row in pack(part, tokens=size):
                rest = size - sum(part[i] for i in row)
                most = max(most, sides * len(row) + math.ceil(rest / longest))
    return RowShape(size, most, longest, fixed=True)


def packed_batches(examples: Sequence[Unit], *, shape: RowShape) -> list[Batch]:
    """The examples of a step as packed rows."""
    return [
        _packed([examples[i] for i in row], shape)
        for row in pack([len(e) for e in examples], tokens=shape.tokens)
    ]


def _packed(units: Sequence[Unit], shape: RowShape) -> Batch:
    import torch

    documents = documents_of(units)
    sizes = [len(d) for d in documents]
    used = sum(sizes)
    rest = shape.tokens - used if shape.fixed else -used % shape.unit
    spans = sizes + [min(shape.longest, rest - at) for at in range(0, rest, max(1, shape.longest))]
    ids = np.full(used + rest, PAD, np.int64)
    ids[:used] = np.concatenate([d.ids for d in documents])
    shifted = np.full(used + rest, IGNORE, np.int64)
    shifted[:used] = np.concatenate([np.append(d.labels[1:], IGNORE) for d in documents])
    begins = np.concatenate([[0], np.cumsum(spans)]).astype(np.int32)
    if shape.fixed:
        begins = np.append(begins, np.full(shape.documents + 1 - len(begins), begins[-1], np.int32))
    where = np.flatnonzero(shifted != IGNORE)
    owner = np.repeat(np.arange(len(sizes)), [d.trained for d in documents])
    return Batch(
        ids=torch.from_numpy(ids)[None],
        positions=torch.from_numpy(np.concatenate([np.arange(n) for n in spans]))[None],
        lengths=torch.from_numpy(np.repeat(spans, spans))[None],
        where=torch.from_numpy(where),
        targets=torch.from_numpy(shifted[where]),
        cu_seqlens=torch.from_numpy(begins),
        longest=shape.longest if shape.fixed else max(spans),
        mask=None,
        tokens=used,
        owner=torch.from_numpy(owner),
        ends=torch.from_numpy(np.cumsum(sizes) - 1),
        units=tuple(units),
    )


def padded_batches(examples: Sequence[Unit], *, rows: int) -> list[Batch]:
    """The examples of a step as rows of one document each, `rows` units at a time, padded on the right."""
    return [_padded(examples[at : at + rows]) for at in range(0, len(examples), rows)]


def _padded(units: Sequence[Unit]) -> Batch:
    import torch

    documents = documents_of(units)
    width = max(len(d) for d in documents)
    ids = np.full((len(documents), width), PAD, np.int64)
    shifted = np.full((len(documents), width), IGNORE, np.int64)
    mask = np.zeros((len(documents), width), np.int64)
    for row, document in enumerate(documents):
        size = len(document)
        ids[row, :size], mask[row, :size] = document.ids, 1
        shifted[row, : size - 1] = document.labels[1:]
    where = np.flatnonzero(shifted != IGNORE)
    positions = np.broadcast_to(np.arange(width), mask.shape).copy()
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(np.broadcast_to(mask.sum(1, keepdims=True), mask.shape).copy()),
        where=torch.from_numpy(where),
        targets=torch.from_numpy(shifted.reshape(-1)[where]),
        cu_seqlens=None,
        longest=width,
        mask=torch.from_numpy(mask),
        tokens=int(mask.sum()),
        owner=torch.from_numpy(np.repeat(np.arange(len(documents)), [d.trained for d in documents])),
        ends=torch.from_numpy(np.arange(len(documents)) * width + mask.sum(1) - 1),
        units=tuple(units),
    )
