"""Exact search: every vector is compared. Right for small knowledge bases, and for what was written since a cache."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kb.types import Metric, Vectors

BLOCK = 16_384
"""Vectors that are compared at a time."""
SINGLE_UP_TO = 65_536
"""Vectors that are kept in single precision; more stay as they are stored."""

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]
Places = NDArray[np.int64]
"""Positions in an index, 0-based."""


class VectorIndex(Protocol):
    """Something that finds the nearest vectors."""

    generation: int

    def __len__(self) -> int: ...

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        """(chunk ids, scores), best first, higher is closer. *Shape of both:* (queries, k); missing: id -1, score -inf."""
        ...


def score(queries: Vectors, rows: Vectors, metric: Metric) -> Scores:
    """All scores. *Shape:* (queries, rows). l2: minus the squared distance."""
    products: Scores = queries @ rows.T
    if metric != "l2":
        return products
    distances: Scores = (queries**2).sum(1)[:, None] - 2 * products + (rows**2).sum(1)[None, :]
    return -distances


def best(ids: Ids, scores: Scores, k: int) -> tuple[Ids, Scores]:
    """The k best of each row, ties by id. *Shape:* ids (n,) or (queries, n), scores (queries, n)."""
    ids = np.broadcast_to(ids, scores.shape)
    if scores.shape[1] > 4 * k:
        part = np.argpartition(-scores, k, axis=1)[:, : 2 * k]
        ids, scores = np.take_along_axis(ids, part, 1), np.take_along_axis(scores, part, 1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    found, top = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    missing = k - found.shape[1]
    if missing > 0:
        found = np.pad(found, ((0, 0), (0, missing)), constant_values=-1)
        top = np.pad(top, ((0, 0), (0, missing)), constant_values=-np.inf)
    return np.where(np.isneginf(top), -1, found), top.astype(np.float32, copy=False)


class ExactIndex:
    """Every vector is compared. `ids` ascend; `rows` are float32 or float16."""

    def __init__(self, ids: Ids, rows: NDArray[np.floating], *, metric: Metric, generation: int) -> None:
        self.ids, self.metric, self.generation = ids, metric, generation
        self.rows = rows.astype(np.float32, copy=False) if len(ids) <= SINGLE_UP_TO else rows

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Vectors, k: int, *, without: Places | None = None) -> tuple[Ids, Scores]:
        """`without`: positions that are left out."""
        found = np.empty((len(queries), 0), dtype=np.int64)
        scores = np.empty((len(queries), 0), dtype=np.float32)
        for start in range(0, len(self.ids), BLOCK):
            rows = np.asarray(self.rows[start : start + BLOCK], dtype=np.float32)
            part = score(queries, rows, self.metric)
            if without is not None and len(without):
                inside = without[(without >= start) & (without < start + len(rows))]
                part[:, inside - start] = -np.inf
            more, top = best(self.ids[start : start + BLOCK], part, k)
            found, scores = np.concatenate([found, more], 1), np.concatenate([scores, top], 1)
        return best(found, scores, k)

    def grown(self, ids: Ids, rows: NDArray[np.float16], *, gone: Ids, generation: int) -> ExactIndex:
        """Another one: with more (their ids are higher), without those that are gone."""
        kept = ~np.isin(self.ids, gone)
        joined = np.concatenate([self.rows[kept], rows.astype(self.rows.dtype)])
        return ExactIndex(
            np.concatenate([self.ids[kept], ids]), joined, metric=self.metric, generation=generation
        )
