"""The lexical index: BM25 over the terms, kept in step with the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kb.lexical import open_lexical, refresh_lexical
from kb.store import Store
from kb.types import ChunkSpan, Document, Passage, Span


def put(store: Store, name: str, *texts: str) -> None:
    passages = [Passage(t, (), (Span(1, 0, len(t), 0),), (ChunkSpan(0, len(t), t),)) for t in texts]
    document = Document(0, name, "txt", name, 1, 1, 0, 0, "ok")
    store.put_document(document, version="1", stat="", pages=(), passages=passages, embedder="e", vectors={})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "kb.sqlite", create=True)
    put(store, "手册", "员工入职满一年享受带薪年休假六天。", "出差住宿费每晚不超过四百元。")
    put(store, "价目", "型号 X200-A 单价 12,800 元，质保三年。", "Model B7 (AND OR NOT) costs 5%")
    return store


def found(folder: Path, store: Store, question: str) -> list[str]:
    refresh_lexical(folder, store)
    index = open_lexical(folder, store)
    assert index is not None
    assert index.generation == store.generation
    hits = index.search(question, 5)
    assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
    chunks = store.chunks_by_id([number for number, _ in hits])
    return [chunks[number].text[:4] for number, _ in hits]


def test_best_first(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "字词"
    assert found(folder, store, "年休假有几天")[0] == "员工入职"
    assert found(folder, store, "年休假有幾天")[0] == "员工入职"
    assert found(folder, store, "X200-A多少钱")[0] == "型号 X"
    assert found(folder, store, "哪个卖12800")[0] == "型号 X"
    assert found(folder, store, "出差住酒店")[0] == "出差住宿"


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("", []),
        ("？！", []),
        ("zzz", []),
        ("*", []),
        ("\x00", []),
        ("a" * 100_000, []),
        ('body:"zzz" -(', []),
        ("NOT", ["Mode"]),
        ("年假" * 50_000, ["员工入职"]),
    ],
)
def test_any_question_is_only_words(store: Store, tmp_path: Path, question: str, best: list[str]) -> None:
    assert found(tmp_path / "l", store, question)[:1] == best


def test_catches_up_and_is_rebuilt(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "l"
    assert found(folder, store, "质保")
    held = open_lexical(folder, store)
    assert held is not None
    store.delete_document("价目")
    put(store, "手册", "质量保证期为两年。")
    put(store, "新", "培训计划每季度更新。")
    assert found(folder, store, "质保三年") == ["质量保证"]
    assert found(folder, store, "培训") == ["培训计划"]
    assert len(held.search("单价", 3)) == 1  # who holds the old one sees the old state
    fresh = open_lexical(folder, store)
    assert fresh is not None
    assert len(fresh) == store.counts()["chunks"] == 2
    shutil.rmtree(folder)
    assert open_lexical(folder, store) is None
    assert found(folder, store, "培训") == ["培训计划"]


@pytest.mark.parametrize("marked", [True, False])
def test_interrupted_between_commit_and_note(store: Store, tmp_path: Path, marked: bool) -> None:
    """The index is newer than what is noted beside it: nothing may come twice, with the mark of a kill or without."""
    folder = tmp_path / "l"
    refresh_lexical(folder, store)
    note = (folder / "zhiwen.json").read_bytes()
    put(store, "新", "培训计划每季度更新。")
    refresh_lexical(folder, store)
    (folder / "zhiwen.json").write_bytes(note)
    if marked:
        (folder / "catching-up").touch()
    assert found(folder, store, "培训") == ["培训计划"]
    index = open_lexical(folder, store)
    assert index is not None
    assert len(index) == 5
    assert not (folder / "catching-up").exists()


def test_damaged_index_cannot_be_opened(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "l"
    refresh_lexical(folder, store)
    (folder / "meta.json").write_text("{", encoding="utf-8")
    assert open_lexical(folder, store) is None
