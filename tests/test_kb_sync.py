"""Mirroring a folder: the plan, what is embedded and what is not, and all that a folder can hold."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

import kb.plan
from kb.errors import EmbedderMismatch, KnowledgeBaseBusy, KnowledgeBaseError
from kb.knowledge import KnowledgeBase
from kb.load import LoadLimits
from kb.lock import write_lock
from kb.sync import SyncOptions, plan, sync
from kb.types import PlannedChange, SyncProgress, SyncReport
from tests.made_folders import HashEmbedder, age, make_folder


class Mirror:
    """A folder, its knowledge base, and the embedder that saw every text."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.home = tmp_path / "文档", tmp_path / "家"
        self.folder.mkdir()
        self.embedder = HashEmbedder()
        self.kb = KnowledgeBase.create(self.home, "测试", embedder=self.embedder)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def sync(self, **options: object) -> SyncReport:
        return sync(self.kb, self.folder, embedder=self.embedder, options=SyncOptions(**options))  # type: ignore[arg-type]

    def plan(self, **options: object) -> list[PlannedChange]:
        return list(plan(self.kb, self.folder, options=SyncOptions(**options)).changes)  # type: ignore[arg-type]

    def names(self) -> list[str]:
        return [d.name for d in self.kb.store.documents()]

    def clean_digest(self, tmp_path: Path) -> str:
        clean = KnowledgeBase.create(tmp_path / "净家", "净", embedder=self.embedder)
        sync(clean, self.folder, embedder=HashEmbedder())
        return clean.store.state_digest()


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


def changed(report: SyncReport) -> dict[str, int]:
    return {k: v for k, v in report.counts.items() if v}


def test_every_kind_of_change(mirror: Mirror, tmp_path: Path) -> None:
    make_folder(mirror.folder, files=10)
    first = mirror.sync()
    assert changed(first) == {"added": 10}
    assert first.embedded == len(set(mirror.embedder.texts)) > 10
    assert first.truncated_tokens == 0
    assert first.problems == ()
    assert first.chunks == len(mirror.kb.vectors()) == len(mirror.kb.lexical())
    assert changed(mirror.sync()) == {"unchanged": 10}
    paths = sorted(p for p in mirror.folder.rglob("*") if p.is_file())
    paths[0].write_text(paths[0].read_text() + "\n\n# 附则\n\n本办法自发布之日起施行。\n")
    paths[1].rename(mirror.folder / "搬走了.md")
    paths[2].unlink()
    mirror.write("新.txt", "新来的文件只有这一句话。")
    planned = Counter(c.change for c in mirror.plan())
    assert planned == {"changed": 1, "renamed": 1, "deleted": 1, "added": 1, "unchanged": 7}
    assert len(mirror.names()) == 10  # a plan changes nothing
    mirror.embedder.texts.clear()
    second = mirror.sync()
    assert changed(second) == dict(planned)
    assert second.embedded == len(mirror.embedder.texts) <= 4
    assert any("施行" in t for t in mirror.embedder.texts)
    assert mirror.kb.check().problems == ()
    assert mirror.kb.store.state_digest() == mirror.clean_digest(tmp_path)


def test_a_rename_embeds_and_reads_nothing(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mirror.write("甲.md", "# 假期\n\n年假六天。")
    mirror.write("乙.txt", "没有标题的文件，名字不算内容。")
    mirror.sync()
    ids = mirror.kb.vectors().search(mirror.embedder.encode_queries(["年假"]), 3)[0].tolist()
    (mirror.folder / "深" / "处").mkdir(parents=True)
    path.rename(mirror.folder / "深" / "处" / "丙.md")
    (mirror.folder / "乙.txt").rename(mirror.folder / "丁.txt")
    monkeypatch.setattr("kb.sync.read_files", None)
    mirror.embedder.texts.clear()
    assert changed(mirror.sync()) == {"renamed": 2}
    assert mirror.embedder.texts == []
    assert mirror.names() == ["丁.txt", "深/处/丙.md"]
    assert mirror.kb.vectors().search(mirror.embedder.encode_queries(["年假"]), 3)[0].tolist() == ids
    monkeypatch.undo()
    assert mirror.kb.store.state_digest() == mirror.clean_digest(tmp_path)


def test_another_suffix_is_read_again_and_swapped_names_are_noticed(mirror: Mirror) -> None:
    path = mirror.write("甲.md", "# 假期\n\n年假六天。")
    mirror.write("乙.md", "# 工资\n\n每月十日发放。")
    mirror.sync()
    path.rename(mirror.folder / "临时.md")
    (mirror.folder / "乙.md").rename(mirror.folder / "甲.md")
    (mirror.folder / "临时.md").rename(mirror.folder / "乙.md")
    report = mirror.sync()
    assert changed(report) == {"changed": 2}
    assert report.embedded == 0
    (mirror.folder / "甲.md").rename(mirror.folder / "甲.txt")
    assert changed(mirror.sync()) == {"added": 1, "deleted": 1, "unchanged": 1}
    assert [d.kind for d in mirror.kb.store.documents()] == ["md", "txt"]


def test_an_edit_that_the_times_do_not_show(mirror: Mirror) -> None:
    """Same size, same modification time, in the second in which it was indexed."""
    path = mirror.write("甲.txt", "金额是一百元。")
    times = path.stat()
    mirror.sync()
    path.write_text("金额是二百元。")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed(mirror.sync()) == {"changed": 1}
    assert "二百" in mirror.kb.store.passages(mirror.kb.store.documents()[0].id)[0].text


def test_unchanged_files_are_not_opened(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(mirror.folder, files=5)
    monkeypatch.setattr(kb.plan, "RACY_SECONDS", 0.0)
    mirror.sync()
    monkeypatch.setattr(kb.plan, "_digest", None)
    assert changed(mirror.sync()) == {"unchanged": 5}


def test_another_splitter_reads_everything_again_and_embeds_nothing_twice(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(mirror.folder, files=4)
    mirror.sync()
    monkeypatch.setattr(kb.plan, "SPLITTER_VERSION", "next")
    report = mirror.sync()
    assert changed(report) == {"changed": 4}
    assert report.embedded == 0
    assert report.reused == report.chunks
    mirror.kb.reindex([mirror.names()[0], "没有这个"])
    assert changed(mirror.sync()) == {"changed": 1, "unchanged": 3}


def test_what_is_skipped_and_why(mirror: Mirror, tmp_path: Path) -> None:
    outside = tmp_path / "外.txt"
    outside.write_text("不属于这里。")
    mirror.write("好.txt", "属于这里。")
    mirror.write(".藏.txt", "x")
    mirror.write(".git/甲.txt", "x")
    mirror.write("程序.exe", "x")
    mirror.write("大.txt", "x" * 2000)
    mirror.write("两\n行.txt", "x")
    (mirror.folder / "链.txt").symlink_to(outside)
    (mirror.folder / "里.txt").symlink_to(mirror.folder / "好.txt")
    (mirror.folder / "断.txt").symlink_to(mirror.folder / "没有.txt")
    (mirror.folder / "夹").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(mirror.folder / "管.txt")
    planned = mirror.plan(limits=LoadLimits(max_bytes=1000))
    assert {c.name: c.reason or c.change for c in planned} == {
        "好.txt": "added",
        "里.txt": "added",
        ".藏.txt": "hidden",
        "程序.exe": "unsupported-type",
        "大.txt": "too-large",
        "两\n行.txt": "control-characters-in-name",
        "链.txt": "symlink-outside",
        "断.txt": "unreadable",
        "夹": "linked-folder",
        "管.txt": "not-a-file",
    }
    assert changed(mirror.sync(limits=LoadLimits(max_bytes=1000))) == {"added": 2, "skipped": 8}


def test_names_in_decomposed_form_are_found_on_disk(mirror: Mirror) -> None:
    mirror.write("Cafe\u0301.txt", "咖啡的价格是二十元。")
    assert changed(mirror.sync()) == {"added": 1}
    assert mirror.names() == ["Caf\u00e9.txt"]
    assert mirror.kb.store.documents()[0].verdict == "ok"


def test_an_empty_or_missing_folder_deletes_nothing(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mirror.write("甲.txt", "内容在此。")
    mirror.sync()
    path.unlink()
    with pytest.raises(KnowledgeBaseError, match="--allow-empty") as caught:
        mirror.sync()
    assert "没有删除任何内容" in caught.value.zh
    mirror.folder.rmdir()
    with pytest.raises(KnowledgeBaseError, match="is not a folder"):
        mirror.sync(allow_empty=True)
    mirror.folder.mkdir()
    monkeypatch.setattr("kb.listing.os.scandir", _refuse)
    with pytest.raises(KnowledgeBaseError, match="could not be listed"):
        mirror.sync(allow_empty=True)
    monkeypatch.undo()
    assert mirror.names() == ["甲.txt"]
    assert changed(mirror.sync(allow_empty=True)) == {"deleted": 1}
    assert mirror.kb.store.counts() == {"documents": 0, "passages": 0, "chunks": 0, "vectors": 0}


def _refuse(path: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_folder_that_cannot_be_listed_keeps_its_documents(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.write("甲.txt", "内容在此。")
    mirror.write("密/乙.txt", "别的内容。")
    mirror.write("密/深/丙.txt", "更多内容。")
    mirror.sync()
    real = os.scandir
    monkeypatch.setattr("kb.listing.os.scandir", lambda p: _refuse(p) if Path(p).name == "密" else real(p))
    report = mirror.sync()
    assert changed(report) == {"unchanged": 1}
    assert mirror.names() == ["密/乙.txt", "密/深/丙.txt", "甲.txt"]
    assert [(p.name, p.reason) for p in report.problems] == [("密/", "unlisted-folder")]


def test_one_bad_file_never_stops_the_others(mirror: Mirror) -> None:
    mirror.write("甲.txt", "好的内容。")
    mirror.write("坏.docx", b"PK\x03\x04 not really")
    mirror.write("空.txt", "")
    mirror.write("坏.pdf", b"%PDF-1.7\nnothing")
    mirror.write("乙.txt", "也是好的内容。")
    report = mirror.sync()
    assert changed(report) == {"added": 5}
    assert {p.name for p in report.problems if p.verdict == "failed"} == {"坏.docx", "空.txt", "坏.pdf"}
    assert all("\n" not in p.reason for p in report.problems)
    assert mirror.kb.check().ok
    assert {p.name for p in mirror.sync().problems} == {
        p.name for p in report.problems
    }  # said again, not read again
    assert changed(mirror.sync(retry=True)) == {"changed": 3, "unchanged": 2}
    mirror.write("空.txt", "不再是空的。")
    assert {p.name for p in mirror.sync().problems} == {"坏.docx", "坏.pdf"}


def test_a_file_that_changes_while_it_is_read_is_read_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kb.sync as module

    path = mirror.write("甲.txt", "先有的内容。")
    real = module.read_files

    def late(paths, **options):  # type: ignore[no-untyped-def]
        path.write_text("后来的内容。")
        return real(paths, **options)

    monkeypatch.setattr(module, "read_files", late)
    mirror.sync()
    monkeypatch.undo()
    path.write_text("先有的内容。")  # the bytes that were hashed, though others were read
    assert changed(mirror.sync()) == {"changed": 1}
    assert mirror.kb.store.passages(mirror.kb.store.documents()[0].id)[0].text == "先有的内容。"


def test_stopping_between_documents(mirror: Mirror, tmp_path: Path) -> None:
    make_folder(mirror.folder, files=6)
    stop = threading.Event()

    def watch(step: SyncProgress) -> None:
        if step.step == "read" and step.done == 3:
            stop.set()

    report = sync(mirror.kb, mirror.folder, embedder=mirror.embedder, progress=watch, cancel=stop)
    assert report.interrupted
    assert report.counts["added"] == len(mirror.names()) < 6
    assert mirror.kb.check().ok
    assert not mirror.sync().interrupted
    assert mirror.kb.store.state_digest() == mirror.clean_digest(tmp_path)


def test_two_writers_and_another_embedder(mirror: Mirror) -> None:
    mirror.write("甲.txt", "内容在此。")
    with write_lock(mirror.kb.folder / "lock"), pytest.raises(KnowledgeBaseBusy, match="is being written by"):
        mirror.sync()
    with pytest.raises(EmbedderMismatch, match="was built with hash-64"):
        sync(mirror.kb, mirror.folder, embedder=HashEmbedder("other"))


def test_progress_says_where_it_is(mirror: Mirror) -> None:
    make_folder(mirror.folder, files=3)
    steps: list[SyncProgress] = []
    sync(mirror.kb, mirror.folder, embedder=mirror.embedder, progress=steps.append)
    assert list(dict.fromkeys(s.step for s in steps)) == ["list", "hash", "read", "index", "done"]
    assert [(s.done, s.total) for s in steps if s.step == "read"] == [(1, 3), (2, 3), (3, 3)]


def test_a_long_file_is_one_document_and_never_longer_than_the_limit(mirror: Mirror) -> None:
    mirror.write("长.txt", "没有句号的长文" * 3000)
    report = mirror.sync()
    assert report.truncated_tokens == 0
    assert report.chunks > 100
    assert max(len(t) for t in mirror.embedder.texts) <= mirror.embedder.max_tokens


def test_age_keeps_the_content(mirror: Mirror) -> None:
    """Times that moved are hashed once, then trusted."""
    mirror.write("甲.txt", "内容在此。")
    mirror.sync()
    age(mirror.folder)
    assert changed(mirror.sync()) == {"unchanged": 1}
