"""The dense leg: FAISS over the stored vectors. Exact while it is small, then IVF over 8-bit codes with exact scores.

A cache in a folder of its own: `manifest.json` names the files of one state and its generation. Chunks written since
then are searched exactly beside it, so it is built again only when it has grown or shrunk by a tenth.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kb.store import Store
from kb.types import Metric, Vectors

EXACT_UP_TO = 20_000
"""Chunks; above it an inverted file is trained."""
REBUILD_SHARE = 0.1
RECALL = 0.985
"""Recall@10 against exact search that a new inverted file must reach on its own sample before it is used."""
RESCORE = 160
"""Candidates of the inverted file that are scored again from the stored vectors."""
VERSION = 1

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]


class VectorIndex(Protocol):
    """Something that finds the nearest vectors."""

    generation: int

    def __len__(self) -> int: ...

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        """(chunk ids, scores), best first, higher is closer. *Shape of both:* (queries, k); missing: id -1, score -inf."""
        ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """What lies in the folder."""

    version: int
    embedder: str
    metric: Metric
    dimensions: int
    generation: int
    count: int
    kind: str
    """"exact" or "ivf"."""
    files: dict[str, str]
    probes: int = 0
    recall: float = 1.0
    """Recall@10 measured when it was built."""


def score(queries: Vectors, rows: Vectors, metric: Metric) -> Scores:
    """All scores. *Shape:* (queries, rows). l2: minus the squared distance."""
    products: Scores = queries @ rows.T
    if metric != "l2":
        return products
    distances: Scores = (queries**2).sum(1)[:, None] - 2 * products + (rows**2).sum(1)[None, :]
    return -distances


def _best(ids: Ids, scores: Scores, k: int) -> tuple[Ids, Scores]:
    """The k best of each row, ties by id. *Shape:* ids (n,) or (queries, n), scores (queries, n)."""
    ids = np.broadcast_to(ids, scores.shape)
    if scores.shape[1] > 4 * k:
        part = np.argpartition(-scores, k, axis=1)[:, : 2 * k]
        ids, scores = np.take_along_axis(ids, part, 1), np.take_along_axis(scores, part, 1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    found, best = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    missing = k - found.shape[1]
    if missing > 0:
        found = np.pad(found, ((0, 0), (0, missing)), constant_values=-1)
        best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
    found = np.where(np.isneginf(best), -1, found)
    return found, best


class ExactIndex:
    """Every vector is compared. Deleted ids are left out."""

    def __init__(self, ids: Ids, rows: Vectors, *, metric: Metric, generation: int) -> None:
        self.ids, self.rows, self.metric, self.generation = ids, rows, metric, generation

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        if not len(self.ids):
            shape = (len(queries), k)
            return np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
        return _best(self.ids, score(queries, self.rows, self.metric), k)


class InvertedIndex:
    """FAISS' inverted file finds candidates; their scores are computed from the float16 vectors on disk."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        import faiss

        self.manifest = manifest
        self.generation = manifest.generation
        with (folder / manifest.files["index"]).open("rb") as file:
            self._faiss: Any = faiss.read_index(faiss.PyCallbackIOReader(file.read))
        self._faiss.nprobe = manifest.probes
        self._faiss.parallel_mode = 1
        self.ids: Ids = np.load(folder / manifest.files["ids"])
        self._rows = (folder / manifest.files["rows"]).open("rb")
        self._bytes = 2 * manifest.dimensions

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        _, positions = self._faiss.search(queries, max(k, RESCORE))
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number, row in enumerate(positions):
            places = row[row >= 0]
            exact = score(queries[number : number + 1], self.rows_at(places), self.manifest.metric)
            found, best = _best(self.ids[places], exact, k)
            ids[number], scores[number] = found[0], best[0]
        return ids, scores

    def rows_at(self, places: Ids) -> Vectors:
        """Vectors by position, read from disk one by one: the file is larger than the memory may be."""
        handle, size = self._rows.fileno(), self._bytes
        joined = b"".join(os.pread(handle, size, int(place) * size) for place in places)
        return np.frombuffer(joined, dtype=np.float16).reshape(len(places), -1).astype(np.float32)


class LayeredIndex:
    """A base as it was built, the chunks written since, and without those deleted since."""

    def __init__(self, base: VectorIndex, delta: ExactIndex, deleted: set[int]) -> None:
        self.base, self.delta, self.generation = base, delta, delta.generation
        self._deleted = np.array(sorted(deleted), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.base) + len(self.delta) - len(self._deleted)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        extra = min(len(self._deleted), 4 * k + 64)
        ids, scores = self.base.search(queries, k + extra)
        if len(self._deleted):
            scores = np.where(np.isin(ids, self._deleted), -np.inf, scores).astype(np.float32)
        if len(self.delta):
            more_ids, more_scores = self.delta.search(queries, k)
            ids, scores = np.concatenate([ids, more_ids], 1), np.concatenate([scores, more_scores], 1)
        return _best(ids, scores, k)


def read_manifest(folder: Path) -> Manifest | None:
    """None if there is none, or one of another version, or one whose files are not whole."""
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = manifest.version == VERSION and all((folder / f).is_file() for f in manifest.files.values())
    if (
        not whole
        or (folder / manifest.files["rows"]).stat().st_size != manifest.count * manifest.dimensions * 2
    ):
        return None
    return manifest


def open_vectors(
    folder: Path, store: Store, *, embedder: str, metric: Metric, dimensions: int
) -> VectorIndex:
    """An index of the store's present generation: from the cache and what came after it, or all from the store."""
    manifest = read_manifest(folder)
    usable = (
        manifest is not None and manifest.embedder == embedder and manifest.generation <= store.generation
    )
    generation = store.generation
    if manifest is None or not usable:
        return _delta(store, 0, embedder, metric, dimensions, generation)
    base: VectorIndex
    if manifest.kind == "ivf":
        base = InvertedIndex(folder, manifest)
    else:
        ids = np.load(folder / manifest.files["ids"])
        rows = np.fromfile(folder / manifest.files["rows"], dtype=np.float16).reshape(-1, dimensions)
        base = ExactIndex(ids, rows.astype(np.float32), metric=metric, generation=manifest.generation)
    if manifest.generation == generation:
        return base
    delta = _delta(store, manifest.generation, embedder, metric, dimensions, generation)
    return LayeredIndex(base, delta, set(store.deleted_since(manifest.generation)))


def _delta(
    store: Store, since: int, embedder: str, metric: Metric, dimensions: int, generation: int
) -> ExactIndex:
    parts = list(store.vectors_since(embedder, since, dimensions=dimensions))
    ids = np.concatenate([p[0] for p in parts]) if parts else np.empty(0, dtype=np.int64)
    rows = np.concatenate([p[1] for p in parts]) if parts else np.empty((0, dimensions), dtype=np.float16)
    return ExactIndex(ids, rows.astype(np.float32), metric=metric, generation=generation)


def refresh_vectors(
    folder: Path,
    store: Store,
    *,
    embedder: str,
    metric: Metric,
    dimensions: int,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Build the cache again if it is missing, or if a tenth of it changed; only the writer may call it."""
    manifest = read_manifest(folder)
    generation, count = store.generation, store.counts()["chunks"]
    if manifest is not None and manifest.embedder == embedder and manifest.generation <= generation:
        changed = len(store.deleted_since(manifest.generation)) + abs(count - manifest.count)
        small = count <= EXACT_UP_TO and changed
        if not small and changed <= REBUILD_SHARE * max(1, manifest.count):
            return manifest
    return build_vectors(folder, store, embedder=embedder, metric=metric, dimensions=dimensions, say=say)


def build_vectors(
    folder: Path,
    store: Store,
    *,
    embedder: str,
    metric: Metric,
    dimensions: int,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write all vectors to a file in the order of their ids, train over it if it is large, then publish the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = secrets.token_hex(4)
    files = {"rows": f"rows-{tag}.f16", "ids": f"ids-{tag}.npy"}
    generation = store.generation
    numbers: list[Ids] = []
    with (folder / files["rows"]).open("wb") as out:
        for ids, rows in store.vectors_since(embedder, 0, dimensions=dimensions):
            numbers.append(ids)
            out.write(rows.tobytes())
        out.flush()
        os.fsync(out.fileno())
    all_ids = np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)
    np.save(folder / files["ids"], all_ids)
    kind, probes, recall = "exact", 0, 1.0
    if len(all_ids) > EXACT_UP_TO:
        from kb.inverted import build_inverted

        kind, files["index"] = "ivf", f"index-{tag}.faiss"
        probes, recall = build_inverted(
            folder / files["index"],
            folder / files["rows"],
            dimensions=dimensions,
            metric=metric,
            goal=RECALL,
            say=say,
        )
    manifest = Manifest(
        VERSION, embedder, metric, dimensions, generation, len(all_ids), kind, files, probes, recall
    )
    _publish(folder, manifest)
    return manifest


def _publish(folder: Path, manifest: Manifest) -> None:
    temporary = folder / "manifest.json.part"
    with temporary.open("w", encoding="utf-8") as out:
        out.write(json.dumps(asdict(manifest), indent=1))
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, folder / "manifest.json")
    kept = {"manifest.json", *manifest.files.values()}
    for leftover in folder.iterdir():
        if leftover.name not in kept:
            leftover.unlink(missing_ok=True)
