"""One knowledge base: making, opening, checking, repairing, removing; uploads; readers while somebody writes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kb.errors import EmbedderMismatch, KnowledgeBaseBusy, KnowledgeBaseError, KnowledgeBaseNotFound
from kb.knowledge import KnowledgeBase, names
from kb.lock import write_lock
from kb.sync import sync
from tests.made_folders import HashEmbedder, make_folder


@pytest.fixture
def built(tmp_path: Path) -> KnowledgeBase:
    make_folder(tmp_path / "文档", files=4)
    embedder = HashEmbedder()
    kb = KnowledgeBase.create(tmp_path, "制度", embedder=embedder, config={"model": "hash"})
    sync(kb, tmp_path / "文档", embedder=embedder)
    return kb


def test_making_opening_listing_removing(tmp_path: Path, built: KnowledgeBase) -> None:
    KnowledgeBase.create(tmp_path, "Other 2", embedder=HashEmbedder())
    assert names(tmp_path) == ["Other 2", "制度"]
    assert [k.name for k in KnowledgeBase.list_all(tmp_path)] == names(tmp_path)
    opened = KnowledgeBase.open(tmp_path, "制度")
    assert opened.embedder_record.name == "hash-64"
    assert opened.embedder_record.config == {"model": "hash"}
    assert opened.source == tmp_path / "文档"
    assert opened.writer == {}
    with pytest.raises(EmbedderMismatch):
        KnowledgeBase.create(tmp_path, "制度", embedder=HashEmbedder(limit=32))
    with write_lock(opened.folder / "lock"), pytest.raises(KnowledgeBaseBusy):
        opened.remove()
    opened.remove()
    assert names(tmp_path) == ["Other 2"]
    assert [p.name for p in (tmp_path / "kb").iterdir()] == ["Other 2"]
    with pytest.raises(KnowledgeBaseNotFound, match="known: Other 2"):
        KnowledgeBase.open(tmp_path, "制度")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", ".hidden", "a\n", "名.", "x" * 65, "~", "a:b"]
)
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(KnowledgeBaseError, match="cannot be the name"):
        KnowledgeBase.create(tmp_path, name, embedder=HashEmbedder())


def test_values(built: KnowledgeBase) -> None:
    assert built.value("calibration") is None
    built.set_value("calibration", {"threshold": 0.5, "名": ["x"]})
    assert built.value("calibration") == {"threshold": 0.5, "名": ["x"]}


def test_check_finds_and_repair_mends(built: KnowledgeBase, tmp_path: Path) -> None:
    assert built.check().ok
    digest = built.store.state_digest()
    rows = next((built.folder / "vectors").glob("rows-*"))
    rows.write_bytes(rows.read_bytes()[:-2])
    (built.folder / "lexical" / "meta.json").write_text("{")
    assert {p.split(":")[0] for p in built.check().problems} == {"lexical-damaged", "vectors-damaged"}
    assert built.repair().ok
    assert built.store.state_digest() == digest
    built.store.connection.execute("DELETE FROM vectors WHERE rowid = 1")
    assert built.check().problems[0].startswith("vectors-missing: ")
    assert built.repair().ok
    assert len(built.store.documents()) == 3
    sync(built, tmp_path / "文档", embedder=HashEmbedder())
    assert built.store.state_digest() == digest
    built.store.connection.execute("PRAGMA foreign_keys = OFF")
    built.store.connection.execute("DELETE FROM documents WHERE id = (SELECT min(id) FROM documents)")
    built.store.connection.execute("PRAGMA foreign_keys = ON")
    assert any(p.startswith("orphans: ") for p in built.check().problems)
    assert built.repair().ok
    sync(built, tmp_path / "文档", embedder=HashEmbedder())
    assert built.store.state_digest() == digest


def test_a_damaged_database_is_put_aside(built: KnowledgeBase, tmp_path: Path) -> None:
    digest = built.store.state_digest()
    built.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    built.close()
    path = built.folder / "kb.sqlite"
    content = bytearray(path.read_bytes())
    for page in range(4, len(content) // 16384):
        content[page * 16384 : page * 16384 + 200] = b"\xff" * 200
    path.write_bytes(content)
    damaged = KnowledgeBase.open(tmp_path, "制度")
    assert damaged.check().problems[0].startswith("sqlite: ")
    assert damaged.repair().ok
    assert damaged.store.counts()["documents"] == 0
    assert list(damaged.folder.glob("kb.sqlite.damaged-*"))
    sync(damaged, tmp_path / "文档", embedder=HashEmbedder())
    assert damaged.store.state_digest() == digest


def test_caches_that_are_gone_are_made_again(built: KnowledgeBase, tmp_path: Path) -> None:
    import shutil

    question = built.store.passages(1)[0].text[:20]
    expected = built.lexical().search(question, 3)
    for cache in ("lexical", "vectors"):
        shutil.rmtree(built.folder / cache)
    fresh = KnowledgeBase.open(tmp_path, "制度")
    assert fresh.lexical().search(question, 3) == expected
    assert len(fresh.vectors()) == fresh.store.counts()["chunks"]


def test_removing_one_document(built: KnowledgeBase, tmp_path: Path) -> None:
    name = built.store.documents()[0].name
    assert built.remove_document(name)
    assert not built.remove_document(name)
    assert built.check().ok
    assert name not in {d.name for d in built.store.documents()}
    assert (tmp_path / "文档" / name).exists()  # a mirrored file is not ours to delete
    sync(built, tmp_path / "文档", embedder=HashEmbedder())
    assert name in {d.name for d in built.store.documents()}


def test_uploads(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path, "上传", embedder=HashEmbedder())
    path = kb.upload_path("合同/甲方 (1).txt")
    path.parent.mkdir(parents=True)
    path.write_text("合同金额为三万元。")
    sync(kb, kb.uploads, embedder=HashEmbedder())
    assert kb.remove_document("合同/甲方 (1).txt")
    assert not path.exists()
    for bad in (
        "",
        "../x.txt",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "c:x",
        ".x",
        "x\n.txt",
        "x\u202e.txt",
        "x ",
        "长" * 100,
    ):
        with pytest.raises(KnowledgeBaseError, match="cannot be the name of an uploaded file"):
            kb.upload_path(bad)


def test_readers_never_notice_a_writer(built: KnowledgeBase, tmp_path: Path) -> None:
    """While another thread mirrors a growing folder, searches answer, and what they find is in the store."""
    make_folder(tmp_path / "更多", files=30, seed=5)
    embedder, stop, failures, answered = HashEmbedder(), threading.Event(), [], []

    def read() -> None:
        reader = KnowledgeBase.open(tmp_path, "制度")
        while not stop.is_set():
            try:
                ids, _ = reader.vectors().search(embedder.encode_queries(["年假申请"]), 5)
                hits = reader.lexical().search("年假申请", 5)
                reader.store.chunks_by_id([*ids[0].tolist(), *(n for n, _ in hits)])
                answered.append(len(hits))
            except KnowledgeBaseError as error:
                failures.append(error)
        reader.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for folder in ("更多", "文档", "更多"):
        sync(KnowledgeBase.open(tmp_path, "制度"), tmp_path / folder, embedder=HashEmbedder())
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(answered) > 5
    assert min(answered) >= 1
