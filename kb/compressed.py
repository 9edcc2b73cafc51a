"""Large knowledge bases: all vectors as 4-bit product codes in memory (96 bytes for 768 dimensions), compared with FAISS'
fast scan; the best few hundred are scored again, exactly, from the float16 vectors on disk.

Nothing depends on clusters, which text embeddings may not have: every code is looked at (about 6 ms for 1,000,000). The
vectors are turned by a random rotation first, so that each group of dimensions carries its share. How many candidates are
needed is not guessed but measured when the index is built, against exact search.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kb.exact import Ids, Places, Scores, best, score
from kb.types import Metric, Vectors

SAMPLE_QUERIES = 200
TRAINED_ON = 16_384
BATCH = 32_768
CANDIDATES = (100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200, 6400)
"""How many are scored again: the first of these that reaches the recall that is asked for."""


class Rows:
    """The float16 vectors of a file, read as they are needed: mapping it would count as resident memory."""

    def __init__(self, path: Path, *, dimensions: int) -> None:
        self._dimensions, self._path = dimensions, path
        self._count = path.stat().st_size // (2 * dimensions)
        self._file = path.open("rb")
        self._seeking = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def slice(self, start: int) -> Vectors:
        """BATCH rows at most. *Shape:* (n, dimensions)."""
        wide = self._dimensions
        found = np.fromfile(self._path, dtype=np.float16, count=BATCH * wide, offset=2 * start * wide)
        return found.reshape(-1, wide).astype(np.float32)

    def at(self, places: Places) -> Vectors:
        """Rows by position, one read each. *Shape:* (len(places), dimensions)."""
        size = 2 * self._dimensions
        if hasattr(os, "pread"):
            handle = self._file.fileno()
            joined = b"".join(os.pread(handle, size, place * size) for place in places.tolist())
        else:
            with self._seeking:
                joined = b"".join(self._read(place * size, size) for place in places.tolist())
        found = np.frombuffer(joined, dtype=np.float16)
        return found.reshape(len(places), self._dimensions).astype(np.float32)

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)


class CompressedIndex:
    """Safe to search from several threads."""

    def __init__(
        self,
        codes: Any,
        rotation: Vectors,
        ids: Ids,
        rows: Rows,
        *,
        metric: Metric,
        candidates: int,
        generation: int,
    ) -> None:
        """`codes`: the FAISS index. `rotation`: orthonormal rows. *Shape:* (dimensions, coded dimensions)."""
        self._codes, self._rotation, self.ids, self.rows = codes, rotation, ids, rows
        self.metric, self.candidates, self.generation = metric, candidates, generation

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Vectors, k: int, *, without: Places | None = None) -> tuple[Ids, Scores]:
        """As `VectorIndex.search`. `without`: ascending positions that are left out."""
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number in range(len(queries)):
            query = queries[number : number + 1]
            places = self._nearest(query, max(self.candidates, 4 * k), without)
            if len(places):
                exact = _score_one(query, self.rows.at(places), self.metric)
                ids[number : number + 1], scores[number : number + 1] = best(self.ids[places], exact, k)
        return ids, scores

    def _nearest(self, query: Vectors, wanted: int, without: Places | None) -> Places:
        """About the `wanted` nearest that are not left out, in the order of the file."""
        turned = np.einsum(
            "ij,jk->ik", query, self._rotation
        )  # one row: threads of a BLAS would only wait for each other
        gone = without if without is not None else np.empty(0, dtype=np.int64)
        wanted = min(wanted, len(self.ids) - len(gone))
        ask = wanted + min(len(gone), wanted // 4)
        while wanted > 0:
            with _one_thread():
                _, found = self._codes.search(turned, min(ask, len(self.ids)))
            places = np.sort(found[0][found[0] >= 0])
            if len(gone):
                places = np.setdiff1d(places, gone, assume_unique=True)
            if len(places) >= wanted or ask >= len(self.ids):
                return places
            ask *= 4
        return np.empty(0, dtype=np.int64)


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenMP off (for this thread): one question, or one tiny training, is faster alone, and many times so on a busy machine."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _score_one(query: Vectors, rows: Vectors, metric: Metric) -> Scores:
    """As `score`, for one query and without a BLAS, whose threads cost more than they bring here. *Shape:* (1, rows)."""
    if metric == "l2":
        apart = rows - query
        distances: Scores = np.einsum("ij,ij->i", apart, apart)[None, :]
        return -distances
    products: Scores = np.einsum("ij,kj->ik", query, rows)
    return products


def open_compressed(
    codes: Path, rotation: Path, ids: Path, rows: Path, *, metric: Metric, candidates: int, generation: int
) -> CompressedIndex:
    """FAISS reads through Python's files: it cannot open Chinese paths on Windows (facebookresearch/faiss#3073)."""
    import faiss

    with codes.open("rb") as file:
        index = faiss.read_index(faiss.PyCallbackIOReader(file.read))
    turn = np.load(rotation)
    kept = Rows(rows, dimensions=len(turn))
    return CompressedIndex(
        index, turn, np.load(ids), kept, metric=metric, candidates=candidates, generation=generation
    )


def build_compressed(
    codes_path: Path,
    rotation_path: Path,
    rows_path: Path,
    *,
    dimensions: int,
    metric: Metric,
    goal: float,
    say: Callable[[str], None],
    seed: int = 0,
) -> tuple[int, float]:
    """Write codes and rotation; returns (candidates to score again, recall@10 measured with them).

    Memory: the codes, a training sample, and one batch.
    """
    import faiss

    rows = Rows(rows_path, dimensions=dimensions)
    count = len(rows)
    draw = np.random.default_rng(seed)
    per_code = 4 if dimensions >= 512 else 2
    coded = -(-dimensions // per_code) * per_code
    full, _ = np.linalg.qr(draw.standard_normal((coded, coded)))
    rotation = np.ascontiguousarray(full[:dimensions], dtype=np.float32)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexPQFastScan(coded, coded // per_code, 4, kind)
    index.pq.cp.seed = seed + 1
    sample = np.sort(draw.choice(count, min(count, TRAINED_ON), replace=False))
    say(f"training codes of {coded // per_code // 2} bytes on {len(sample):,} vectors")
    index.pq.cp.niter = 15
    with _one_thread():
        index.train(rows.at(sample) @ rotation)
    for start in range(0, count, BATCH):
        index.add(rows.slice(start) @ rotation)
        say(f"{min(start + BATCH, count):,} of {count:,} vectors coded")
    candidates, recall = _tune(index, rotation, rows, metric, goal, draw)
    say(f"{candidates} candidates give recall@10 {recall:.3f}")
    with codes_path.open("wb") as out:
        faiss.write_index(index, faiss.PyCallbackIOWriter(out.write))
        out.flush()
        os.fsync(out.fileno())
    with rotation_path.open("wb") as out:
        np.save(out, rotation)
        out.flush()
        os.fsync(out.fileno())
    return candidates, recall


def _tune(
    codes: Any, rotation: Vectors, rows: Rows, metric: Metric, goal: float, draw: np.random.Generator
) -> tuple[int, float]:
    """Questions: rows with noise of their own length added, so that none is its own nearest neighbour for free."""
    chosen = np.sort(draw.choice(len(rows), min(len(rows), SAMPLE_QUERIES), replace=False))
    queries = rows.at(chosen)
    noise = draw.standard_normal(queries.shape).astype(np.float32)
    noise *= np.linalg.norm(queries, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    queries += noise
    if metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = _exact(rows, queries, metric)
    ids = np.arange(len(rows), dtype=np.int64)
    candidates, recall = CANDIDATES[0], 0.0
    for candidates in CANDIDATES:
        index = CompressedIndex(
            codes, rotation, ids, rows, metric=metric, candidates=candidates, generation=0
        )
        found, _ = index.search(queries, 10)
        recall = (
            sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(found, truth, strict=True))
            / truth.size
        )
        if recall >= goal:
            break
    return candidates, recall


def _exact(rows: Rows, queries: Vectors, metric: Metric) -> NDArray[np.int64]:
    """The ten nearest rows of each query, all rows compared. *Shape:* (queries, 10)."""
    ids = np.empty((len(queries), 0), dtype=np.int64)
    top = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(rows), BATCH):
        block = rows.slice(start)
        more, scores = best(np.arange(start, start + len(block)), score(queries, block, metric), 10)
        ids, top = best(np.concatenate([ids, more], axis=1), np.concatenate([top, scores], axis=1), 10)
    return ids
