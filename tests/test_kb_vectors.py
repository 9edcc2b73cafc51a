"""The dense index: exact, compressed, layered; published whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import kb.vectors as module
from kb.errors import KnowledgeBaseError
from kb.exact import ExactIndex, score
from kb.store import Store, text_digest
from kb.types import ChunkSpan, Document, Metric, Passage, Span, Vectors
from kb.vectors import Space, build_vectors, open_vectors, read_manifest, refresh_vectors

WIDE = 32
SPACE = Space("test", "cosine", WIDE)


def rows(count: int, *, seed: int = 0, wide: int = WIDE) -> Vectors:
    found = np.random.default_rng(seed).standard_normal((count, wide)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def put(store: Store, name: str, vectors: Vectors) -> None:
    texts = [f"{name} {i} {v[0]:.6f}" for i, v in enumerate(vectors)]
    passages = [Passage(t, (), (Span(1, 0, len(t), 0),), (ChunkSpan(0, len(t), t),)) for t in texts]
    kept = {text_digest(t): v.astype(np.float16) for t, v in zip(texts, vectors, strict=True)}
    document = Document(0, name, "txt", name, 1, 1, 0, 0, "ok")
    store.put_document(
        document, version="1", stat="", pages=(), passages=passages, embedder="test", vectors=kept
    )


def brute(store: Store, queries: Vectors, k: int) -> list[list[int]]:
    parts = list(store.vectors_since("test", 0, dimensions=WIDE))
    ids = np.concatenate([p[0] for p in parts])
    found = score(queries, np.concatenate([p[1] for p in parts]).astype(np.float32), "cosine")
    return [ids[np.lexsort((ids, -row))[:k]].tolist() for row in found]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "知识.sqlite", create=True)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_UP_TO", 1000)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_exact_search_orders_by_the_metric(metric: Metric) -> None:
    vectors = 3 * rows(500) * np.linspace(0.5, 2, 500, dtype=np.float32)[:, None]
    index = ExactIndex(np.arange(10, 510), vectors, metric=metric, generation=1)
    query = rows(1, seed=9)
    ids, scores = index.search(query, 5)
    plain = -((vectors - query) ** 2).sum(1) if metric == "l2" else vectors @ query[0]
    assert ids[0].tolist() == (10 + np.argsort(-plain)[:5]).tolist()
    np.testing.assert_allclose(scores[0], np.sort(plain)[::-1][:5], rtol=1e-4)


def test_fewer_vectors_than_asked_for(store: Store, tmp_path: Path) -> None:
    empty = open_vectors(tmp_path / "v", store, space=SPACE)
    assert len(empty) == 0
    assert empty.search(rows(2), 3)[0].tolist() == [[-1] * 3] * 2
    put(store, "a", rows(2))
    ids, scores = open_vectors(tmp_path / "v", store, space=SPACE).search(rows(1), 4)
    assert sorted(ids[0].tolist()) == [-1, -1, 1, 2]
    assert np.isneginf(scores[0, 2:]).all()


@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_adds_and_deletes_after_the_cache(
    store: Store, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_UP_TO", 1000 if kind == "compressed" else 20_000)
    for number in range(6):
        put(store, f"d{number}", rows(300, seed=number))
    folder = tmp_path / "中文 folder"
    manifest = refresh_vectors(folder, store, space=SPACE)
    assert manifest.kind == kind
    opened = open_vectors(folder, store, space=SPACE)
    queries = rows(10, seed=99)
    before = opened.search(queries, 10)[0].tolist()
    put(store, "d1", rows(300, seed=50))  # replaces
    store.delete_document("d2")
    put(store, "new", queries)
    put(store, "gone", rows(20, seed=77))
    store.delete_document("gone")  # never in the base
    for previous in (None, opened):
        layered = open_vectors(folder, store, space=SPACE, previous=previous)
        assert layered.generation == store.generation
        assert len(layered) == store.counts()["chunks"]
        found, truth = layered.search(queries, 10)[0].tolist(), brute(store, queries, 10)
        if kind == "exact":
            assert found == truth
        else:
            shared = sum(len(set(a) & set(b)) for a, b in zip(found, truth, strict=True))
            assert shared >= 97
        assert [row[0] for row in found] == [row[0] for row in truth]
    assert opened.search(queries, 10)[0].tolist() == before  # who holds the old one sees the old state


def test_compressed_when_nearly_all_neighbours_are_deleted(
    store: Store, tmp_path: Path, small_limit: None
) -> None:
    near = rows(1, seed=5)
    put(store, "near", near + 0.01 * rows(400, seed=6))
    put(store, "far", rows(1200, seed=7))
    refresh_vectors(tmp_path / "v", store, space=SPACE)
    store.delete_document("near")
    found = open_vectors(tmp_path / "v", store, space=SPACE).search(near, 10)[0].tolist()
    assert -1 not in found[0]
    assert len(set(found[0]) & set(brute(store, near, 10)[0])) >= 9


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_recall_of_the_compressed_index(tmp_path: Path, metric: Metric, small_limit: None) -> None:
    """On vectors without any clusters, and of a number of dimensions that is no multiple of four."""
    wide = 130
    vectors = rows(5000, wide=wide) * (1 if metric == "cosine" else 2)
    halves = vectors.astype(np.float16)
    space = Space("test", metric, wide)
    manifest = build_vectors(tmp_path, [(np.arange(1, 5001), halves)], generation=1, space=space)
    assert manifest.kind == "compressed"
    assert manifest.recall >= module.RECALL
    index = module._open_base(tmp_path, manifest, space)
    queries = rows(50, seed=3, wide=wide) * (
        1 if metric == "cosine" else 2
    )  # as long as the rows, as questions are
    truth = ExactIndex(index.ids, halves, metric=metric, generation=1).search(queries, 10)[0]
    found = index.search(queries, 10)[0]
    assert (
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        >= 0.97
    )


def test_a_damaged_cache_is_noticed(store: Store, tmp_path: Path, small_limit: None) -> None:
    put(store, "a", rows(1500))
    folder = tmp_path / "v"
    manifest = refresh_vectors(folder, store, space=SPACE)
    codes = folder / manifest.files["codes"]
    whole = codes.read_bytes()
    codes.write_bytes(whole[:-100])
    assert read_manifest(folder) is None  # cut short: as if there were none
    assert len(open_vectors(folder, store, space=SPACE)) == 1500
    codes.write_bytes(b"x" * len(whole))
    with pytest.raises(KnowledgeBaseError, match="kb repair"):
        open_vectors(folder, store, space=SPACE)


def test_old_files_go_and_other_embedders_do_not_match(store: Store, tmp_path: Path) -> None:
    put(store, "a", rows(5))
    first = refresh_vectors(tmp_path / "v", store, space=SPACE)
    put(store, "b", rows(5, seed=1))
    second = refresh_vectors(tmp_path / "v", store, space=SPACE)
    assert first.files != second.files
    assert {p.name for p in (tmp_path / "v").iterdir()} == {"manifest.json", *second.files.values()}
    assert refresh_vectors(tmp_path / "v", store, space=SPACE) == second
    assert len(open_vectors(tmp_path / "v", store, space=Space("other", "cosine", WIDE))) == 0


def test_readers_while_a_writer_replaces_the_cache(store: Store, tmp_path: Path) -> None:
    """Each index that a reader gets is of one generation: whole documents, never half of one."""
    folder, stop, wrong = tmp_path / "v", threading.Event(), []
    put(store, "d0", rows(10))
    refresh_vectors(folder, store, space=SPACE)

    def read() -> None:
        previous = None
        while not stop.is_set():
            previous = open_vectors(folder, store, space=SPACE, previous=previous)
            ids = previous.search(rows(1), 1000)[0][0]
            if len(previous) % 10 or (ids >= 0).sum() != len(previous):
                wrong.append((len(previous), int((ids >= 0).sum())))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 25):
        put(store, f"d{number}", rows(10, seed=number))
        if number % 3 == 0:
            store.delete_document(f"d{number - 1}")
        if number % 4 == 0:
            store.forget_tombstones(refresh_vectors(folder, store, space=SPACE).generation)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
