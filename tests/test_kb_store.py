"""The truth in SQLite: whole transactions, ids that never come back, one vector for one text; and the write lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kb.errors import KnowledgeBaseBusy, KnowledgeBaseError
from kb.lock import holder, is_locked, write_lock
from kb.store import Store, text_digest
from kb.types import ChunkSpan, Document, Page, Passage, Span

ROOT = Path(__file__).resolve().parent.parent


def put(store: Store, name: str, *texts: str, digest: str = "d", vectors: bool = True) -> None:
    passages = [Passage(t, ("甲", "乙"), (Span(1, 0, len(t), 0),), (ChunkSpan(0, len(t), t),)) for t in texts]
    known = {text_digest(t): np.full(4, len(t), dtype=np.float16) for t in texts} if vectors else {}
    document = Document(0, name, "txt", digest, 1, 1, 0, 0, "suspect", "题", "gb18030", ("note",))
    pages = [Page(1, "", label="iv", verdict="suspect", reasons=("mojibake",), ocr=True)]
    store.put_document(
        document, version="v", stat="s", pages=pages, passages=passages, embedder="e", vectors=known
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "kb.sqlite", create=True)
    made.set_meta("embedder", "e")
    return made


def test_what_is_written_is_read(store: Store) -> None:
    put(store, "甲/文.txt", "一二三", "四五")
    (document,) = store.documents()
    assert (document.name, document.pages, document.passages, document.chunks) == ("甲/文.txt", 1, 2, 2)
    assert (document.verdict, document.title, document.encoding, document.notes) == (
        "suspect",
        "题",
        "gb18030",
        ("note",),
    )
    assert store.document("甲/文.txt") == document == store.documents_by_id([document.id])[document.id]
    passages = store.passages(document.id)
    assert [p.text for p in passages] == ["一二三", "四五"]
    assert passages[0].headings == ("甲", "乙")
    assert passages[0].spans == (Span(1, 0, 3, 0),)
    assert store.passages_by_id([passages[1].id]) == {passages[1].id: passages[1]}
    (page,) = store.pages(document.id)
    assert (page.label, page.verdict, page.reasons, page.ocr) == ("iv", "suspect", ("mojibake",), True)
    found = store.vectors_of("e", [1, 2, 99], dimensions=4)
    assert {k: v.tolist() for k, v in found.items()} == {1: [3.0] * 4, 2: [2.0] * 4}
    assert store.files() == {"甲/文.txt": ("d", "v", "s")}


def test_ids_are_never_used_twice_and_deletions_are_remembered(store: Store) -> None:
    put(store, "a", "一", "二")
    put(store, "a", "三")
    assert list(store.chunks_by_id(range(10))) == [3]
    assert store.deleted_since(0) == [1, 2]
    assert store.deleted_since(2) == []
    assert store.delete_document("a")
    assert not store.delete_document("a")
    put(store, "b", "四")
    assert list(store.chunks_by_id(range(10))) == [4]


def test_a_failed_document_leaves_nothing(store: Store) -> None:
    put(store, "a", "一")
    before, generation = store.state_digest(), store.generation
    bad = Passage("x", (), (Span(1, 0, 1, 0),), (ChunkSpan(0, 1, None),))  # type: ignore[arg-type]
    with pytest.raises((AttributeError, TypeError)):
        store.put_document(
            Document(0, "a", "txt", "d2", 1, 1, 0, 0, "ok"),
            version="v", stat="", pages=(), passages=[bad], embedder="e", vectors={},
        )  # fmt: skip
    assert (store.state_digest(), store.generation) == (before, generation)
    assert [d.digest for d in store.documents()] == ["d"]


def test_vectors_are_shared_kept_and_forgotten(store: Store) -> None:
    put(store, "a", "同", "异")
    put(store, "b", "同", vectors=False)
    assert store.without_vector("e") == {}
    assert store.without_vector("other") == {"a": 2, "b": 1}
    assert store.known_vectors("e", [text_digest("同"), text_digest("没有")]) == {text_digest("同")}
    assert store.forget_unused_vectors() == 0
    store.delete_document("a")
    store.put_vectors("e", {text_digest("早"): np.ones(4, dtype=np.float16)})
    assert store.forget_unused_vectors() == 2
    assert store.counts() == {"documents": 1, "passages": 1, "chunks": 1, "vectors": 1}
    put(store, "c", "无", vectors=False)
    assert store.without_vector("e") == {"c": 1}


def test_state_digest_is_about_content_only(tmp_path: Path) -> None:
    stores = [Store(tmp_path / f"{n}.sqlite", create=True) for n in range(3)]
    put(stores[0], "a", "一")
    put(stores[0], "b", "二")
    put(stores[1], "b", "旧")
    put(stores[1], "b", "二")
    put(stores[1], "x", "一")
    stores[1].rename_document("x", "a", stat="s")
    put(stores[2], "a", "一")
    put(stores[2], "b", "三")
    first, second, third = (s.state_digest() for s in stores)
    assert first == second
    assert first != third
    stores[1].expire(["a", "nobody"])
    assert stores[1].state_digest() != first


def test_a_snapshot_does_not_see_a_writer(store: Store) -> None:
    put(store, "a", "一")
    with store.snapshot() as generation:
        writer = threading.Thread(target=put, args=(store, "b", "二"))
        writer.start()
        writer.join()
        assert store.generation == generation
        assert [d.name for d in store.documents()] == ["a"]
    assert store.generation == generation + 1
    assert [d.name for d in store.documents()] == ["a", "b"]


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "名" / "kb.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(KnowledgeBaseError, match=r"Delete the folder .*名 and index again"):
        Store(path)
    with pytest.raises(KnowledgeBaseError, match="does not exist"):
        Store(tmp_path / "none.sqlite")


HOLD = """
import sys, time
from pathlib import Path
from kb.lock import write_lock
with write_lock(Path(sys.argv[1]), purpose=sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def hold(path: Path, *, purpose: str = "index", seconds: float = 60) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLD, str(path), purpose, str(seconds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert child.stdout and child.stdout.readline() == b"held\n"
    return child


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "库" / "lock"
    child = hold(path)
    try:
        assert is_locked(path)
        with (
            pytest.raises(
                KnowledgeBaseBusy, match=rf"'库' is being written by process {child.pid} "
            ) as caught,
            write_lock(path),
        ):
            pass
        assert str(child.pid) in caught.value.zh
        assert holder(path)["purpose"] == "index"
    finally:
        child.kill()
        child.wait()
    assert not is_locked(path)  # a crashed holder frees it
    with write_lock(path, purpose="next"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(("purpose", "wait"), [("index", 30.0), ("refresh", 0.0)])
def test_waiting_for_the_lock(tmp_path: Path, purpose: str, wait: float) -> None:
    """A reader's refresh is waited for even if nobody asked to wait."""
    child = hold(tmp_path / "lock", purpose=purpose, seconds=0.5)
    began = time.monotonic()
    with write_lock(tmp_path / "lock", wait=wait):
        assert time.monotonic() - began < 20
    child.wait()
