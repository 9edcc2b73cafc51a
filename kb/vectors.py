"""The dense leg: exact search while it is small, then FAISS over compressed vectors with exact scores.

A cache in a folder of its own: `manifest.json` names the files of one state and its generation. What was written since
then is searched exactly beside it and what was deleted is left out, so it is built again only when much has changed.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kb.compressed import CompressedIndex, build_compressed, open_compressed
from kb.errors import KnowledgeBaseError
from kb.exact import ExactIndex, Ids, Places, Scores, VectorIndex, best
from kb.store import Store
from kb.types import Metric, Vectors

__all__ = [
    "LayeredIndex",
    "Manifest",
    "VectorIndex",
    "build_vectors",
    "open_vectors",
    "read_manifest",
    "refresh_vectors",
]

EXACT_UP_TO = 20_000
"""Chunks; above it the vectors are compressed. Also the most that is searched exactly beside such an index."""
REBUILD_SHARE = 0.1
"""Deleted share of a compressed index above which it is built again."""
RECALL = 0.985
"""Recall@10 against exact search that a compressed index must reach on a sample: it scores as many candidates as that takes."""
VERSION = 3
"""Of the files: those of another version are built again."""

Batches = Iterable[tuple[Ids, NDArray[np.float16]]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Space:
    """What vectors are compared, and how."""

    embedder: str
    """Fingerprint."""
    metric: Metric
    dimensions: int


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
    """"exact" or "compressed"."""
    files: dict[str, str]
    """Role -> name."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Role -> bytes."""
    candidates: int = 0
    """Scored exactly, if compressed."""
    recall: float = 1.0
    """Recall@10 measured when it was built."""


class LayeredIndex:
    """A base as it was built, what was written since, and without what was deleted since."""

    def __init__(
        self, base: ExactIndex | CompressedIndex, delta: ExactIndex, gone: Places, *, tag: str
    ) -> None:
        """`gone`: positions in the base. `tag`: which build the base is."""
        self.base, self.delta, self.gone, self.tag = base, delta, gone, tag
        self.generation = delta.generation

    def __len__(self) -> int:
        return len(self.base) - len(self.gone) + len(self.delta)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Scores]:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        ids, scores = self.base.search(queries, k, without=self.gone)
        if len(self.delta):
            more_ids, more_scores = self.delta.search(queries, k)
            ids, scores = np.concatenate([ids, more_ids], 1), np.concatenate([scores, more_scores], 1)
        return best(ids, scores, k)

    def caught_up(self, store: Store, space: Space) -> LayeredIndex:
        """The index of the store's present generation: only what came since this one is read."""
        since, generation = self.generation, store.generation
        if generation == since:
            return self
        dead = np.array(store.deleted_since(since), dtype=np.int64)
        ids, rows = _joined(store.vectors_since(space.embedder, since, dimensions=space.dimensions), space)
        delta = self.delta.grown(ids, rows, gone=dead, generation=generation)
        return LayeredIndex(
            self.base, delta, np.union1d(self.gone, _places(self.base.ids, dead)), tag=self.tag
        )


def _places(ids: Ids, wanted: Ids) -> Places:
    """Where those of `wanted` stand in the ascending `ids` that are there at all."""
    places = np.searchsorted(ids, wanted)
    inside = places < len(ids)
    places, wanted = places[inside], wanted[inside]
    found: Places = places[ids[places] == wanted].astype(np.int64)
    return found


def _joined(batches: Batches, space: Space) -> tuple[Ids, NDArray[np.float16]]:
    parts = list(batches)
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty((0, space.dimensions), dtype=np.float16)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def read_manifest(folder: Path) -> Manifest | None:
    """None if there is none, or one of another version, or one whose files are not whole."""
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        sizes = {role: (folder / name).stat().st_size for role, name in manifest.files.items()}
    except (OSError, ValueError, TypeError):
        return None
    return manifest if manifest.version == VERSION and sizes == manifest.sizes else None


def open_vectors(
    folder: Path, store: Store, *, space: Space, previous: LayeredIndex | None = None
) -> LayeredIndex:
    """An index of the store's present generation, from the cache and what came after it, or all from the store.

    `previous` is built on if its base is still the one on disk. Raises KnowledgeBaseError if the cache is damaged.
    """
    for _ in range(5):
        manifest = read_manifest(folder)
        with store.snapshot() as generation:
            if manifest and (manifest.embedder != space.embedder or manifest.generation > generation):
                manifest = None
            tag = manifest.files["rows"] if manifest else ""
            if previous is not None and previous.tag == tag and previous.generation <= generation:
                return previous.caught_up(store, space)
            try:
                base = _open_base(folder, manifest, space)
            except FileNotFoundError:
                continue  # a writer published another build between the two looks
            except (OSError, ValueError, RuntimeError) as error:
                raise KnowledgeBaseError(
                    f"the vector index in {folder} is damaged ({error}). Run: zhiwen kb repair {folder.parent.name}",
                    zh=f"{folder} 的向量索引已损坏（{error}）。请运行：zhiwen kb repair {folder.parent.name}",
                ) from error
            empty, rows = _joined([], space)
            delta = ExactIndex(empty, rows, metric=space.metric, generation=base.generation)
            return LayeredIndex(base, delta, empty, tag=tag).caught_up(store, space)
    raise KnowledgeBaseError(
        f"the vector index in {folder} is replaced faster than it can be opened. Try again.",
        zh=f"{folder} 的向量索引正在被反复替换，无法打开。请稍后再试。",
    )


def _open_base(folder: Path, manifest: Manifest | None, space: Space) -> ExactIndex | CompressedIndex:
    if manifest is None:
        ids, rows = _joined([], space)
        return ExactIndex(ids, rows, metric=space.metric, generation=0)
    if manifest.kind == "compressed":
        return open_compressed(
            *(folder / manifest.files[role] for role in ("codes", "rotation", "ids", "rows")),
            metric=space.metric,
            candidates=manifest.candidates,
            generation=manifest.generation,
        )
    rows = np.fromfile(folder / manifest.files["rows"], dtype=np.float16).reshape(-1, space.dimensions)
    ids = np.load(folder / manifest.files["ids"])
    return ExactIndex(ids, rows, metric=space.metric, generation=manifest.generation)


def refresh_vectors(folder: Path, store: Store, *, space: Space, say: Say = lambda line: None) -> Manifest:
    """Build the cache again if it is missing or too much has changed; only the holder of the write lock may call it."""
    manifest = read_manifest(folder)
    generation = store.generation
    if manifest and manifest.embedder == space.embedder and manifest.generation <= generation:
        deleted = len(store.deleted_since(manifest.generation))
        added = store.count_since(manifest.generation)
        limit = 0 if manifest.kind == "exact" else EXACT_UP_TO
        if added <= limit and deleted <= REBUILD_SHARE * (manifest.count if limit else 0):
            return manifest
    with store.snapshot() as generation:
        batches = store.vectors_since(space.embedder, 0, dimensions=space.dimensions)
        return build_vectors(folder, batches, generation=generation, space=space, say=say)


def build_vectors(
    folder: Path, batches: Batches, *, generation: int, space: Space, say: Say = lambda line: None
) -> Manifest:
    """Write all vectors to a file in the order of their ids, train over it if it is large, then publish the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = secrets.token_hex(4)
    files = {"rows": f"rows-{tag}.f16", "ids": f"ids-{tag}.npy"}
    numbers: list[Ids] = [np.empty(0, dtype=np.int64)]
    with (folder / files["rows"]).open("wb") as out:
        for ids, rows in batches:
            numbers.append(ids)
            out.write(rows.tobytes())
        _to_disk(out)
    all_ids = np.concatenate(numbers)
    with (folder / files["ids"]).open("wb") as out:
        np.save(out, all_ids)
        _to_disk(out)
    kind, candidates, recall = "exact", 0, 1.0
    if len(all_ids) > EXACT_UP_TO:
        kind = "compressed"
        files |= {"codes": f"codes-{tag}.faiss", "rotation": f"rotation-{tag}.npy"}
        candidates, recall = build_compressed(
            *(folder / files[role] for role in ("codes", "rotation", "rows")),
            dimensions=space.dimensions,
            metric=space.metric,
            goal=RECALL,
            say=say,
        )
    sizes = {role: (folder / name).stat().st_size for role, name in files.items()}
    about = (VERSION, space.embedder, space.metric, space.dimensions, generation, len(all_ids), kind)
    manifest = Manifest(*about, files=files, sizes=sizes, candidates=candidates, recall=recall)
    _publish(folder, manifest)
    return manifest


def _to_disk(out: Any) -> None:
    out.flush()
    os.fsync(out.fileno())


def _publish(folder: Path, manifest: Manifest) -> None:
    temporary = folder / "manifest.json.part"
    with temporary.open("w", encoding="utf-8") as out:
        out.write(json.dumps(asdict(manifest), indent=1))
        _to_disk(out)
    os.replace(temporary, folder / "manifest.json")
    kept = {"manifest.json", *manifest.files.values()}
    for leftover in folder.iterdir():
        if leftover.name not in kept:
            try:
                leftover.unlink(missing_ok=True)
            except PermissionError:  # Windows: a reader has it open; the next build removes it
                continue
