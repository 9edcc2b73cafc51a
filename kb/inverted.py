"""Train an inverted file over vectors on disk, and measure how many of its lists must be looked at."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kb.exact import score
from kb.types import Metric, Vectors

SAMPLE_QUERIES = 200
BATCH = 65536


class _Rows:
    """The vectors of a file, read as they are needed: mapping it would count as resident memory."""

    def __init__(self, path: Path, dimensions: int) -> None:
        self._path, self._dimensions = path, dimensions
        self._count = path.stat().st_size // (2 * dimensions)

    def __len__(self) -> int:
        return self._count

    def slice(self, start: int) -> Vectors:
        """BATCH rows at most. *Shape:* (n, dimensions)."""
        wide = self._dimensions
        found = np.fromfile(self._path, dtype=np.float16, count=BATCH * wide, offset=2 * start * wide)
        return found.reshape(-1, wide).astype(np.float32)

    def at(self, places: NDArray[np.int64]) -> Vectors:
        """Rows by position. *Shape:* (len(places), dimensions)."""
        size = 2 * self._dimensions
        with self._path.open("rb") as file:
            parts = []
            for place in places:
                file.seek(int(place) * size)
                parts.append(file.read(size))
        found = np.frombuffer(b"".join(parts), dtype=np.float16)
        return found.reshape(len(places), self._dimensions).astype(np.float32)


def build_inverted(
    index_path: Path,
    rows_path: Path,
    *,
    dimensions: int,
    metric: Metric,
    goal: float,
    say: Callable[[str], None],
    seed: int = 0,
) -> tuple[int, float]:
    """Write the index; returns (lists to look at, recall@10 measured with them).

    The queries of the measurement are rows with noise added, so that none is its own nearest neighbour for free.
    Memory: the codes (one byte a dimension), a training sample, and one batch.
    """
    import faiss

    rows = _Rows(rows_path, dimensions)
    count = len(rows)
    lists = max(64, min(2048, int(2 * math.sqrt(count))))
    draw = np.random.default_rng(seed)
    quantizer = faiss.IndexFlatL2(dimensions) if metric == "l2" else faiss.IndexFlatIP(dimensions)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexIVFScalarQuantizer(
        quantizer, dimensions, lists, faiss.ScalarQuantizer.QT_8bit, kind, False
    )
    index.cp.niter = 8
    index.cp.spherical = metric == "cosine"
    index.cp.seed = seed + 1
    sample = np.sort(draw.choice(count, min(count, lists * 48), replace=False))
    say(f"training {lists} lists on {len(sample):,} vectors")
    index.train(rows.at(sample))
    for start in range(0, count, BATCH):
        index.add(rows.slice(start))
        say(f"{min(start + BATCH, count):,} of {count:,} vectors indexed")
    probes, recall = _tune(index, rows, metric, goal, draw)
    say(f"{probes} of {lists} lists give recall@10 {recall:.3f}")
    with index_path.open("wb") as out:
        faiss.write_index(index, faiss.PyCallbackIOWriter(out.write))
        out.flush()
        os.fsync(out.fileno())
    return probes, recall


def _tune(
    index: Any, rows: _Rows, metric: Metric, goal: float, draw: np.random.Generator
) -> tuple[int, float]:
    from kb.vectors import RESCORE

    chosen = np.sort(draw.choice(len(rows), min(len(rows), SAMPLE_QUERIES), replace=False))
    queries = rows.at(chosen)
    spread = np.linalg.norm(queries, axis=1, keepdims=True) / math.sqrt(queries.shape[1])
    queries = queries + 0.5 * spread * draw.standard_normal(queries.shape).astype(np.float32)
    if metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = _exact(rows, queries, metric)
    probes, recall = 1, 0.0
    for share in (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.19, 0.25, 0.35, 0.5, 0.75, 1.0):
        probes = max(1, int(share * index.nlist))
        index.nprobe = probes
        _, places = index.search(queries, RESCORE)
        hits = 0
        for number, row in enumerate(places):
            row = row[row >= 0]
            exact = score(queries[number : number + 1], rows.at(row), metric)[0]
            best = row[np.argsort(-exact, kind="stable")[:10]]
            hits += len(set(best.tolist()) & truth[number])
        recall = hits / sum(len(t) for t in truth)
        if recall >= goal:
            break
    return probes, recall


def _exact(rows: _Rows, queries: NDArray[np.float32], metric: Metric) -> list[set[int]]:
    """The ten nearest rows of each query, all rows compared."""
    ids = np.empty((len(queries), 0), dtype=np.int64)
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(rows), BATCH):
        scores = score(queries, rows.slice(start), metric)
        top = np.argpartition(-scores, min(10, scores.shape[1] - 1), axis=1)[:, :10]
        ids = np.concatenate([ids, top + start], axis=1)
        best = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
    order = np.argsort(-best, axis=1)[:, :10]
    return [set(row.tolist()) for row in np.take_along_axis(ids, order, 1)]
