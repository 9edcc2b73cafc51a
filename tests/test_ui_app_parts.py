"""What stands behind the pages: history, jobs, votes, uploads, places in documents, and foreign text made harmless."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kb.errors import DataError, KnowledgeBaseError, LoadError, ZhiwenError
from kb.knowledge import KnowledgeBase
from kb.rename import rename, rename_upload
from rag.types import AnswerEvent, Piece
from tests.conftest import ROOT
from ui import feedback, jobs, wiring
from ui.answering import growing, live_answer, messages_before, start_answer
from ui.cli import main
from ui.history import History
from ui.pages.safe import light, marked, only_chosen, plain
from ui.place import marked_page, page_ranges, source_file
from ui.settings import load_settings
from ui.suggest import first_questions
from ui.uploads import rebuild, take

DOCS = ROOT / "data" / "docs"
ANSWER = {
    "text": "十五天。[1]", "sentences": [], "citations": [], "refused": False, "nearest": [], "generator": "m", "adapter": "",
    "trace": {}, "prompt": [{"role": "system", "content": "客服"}, {"role": "user", "content": "资料……年假几天？"}],
}  # fmt: skip


class Sent(io.BytesIO):
    """A file as the browser sends it."""

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(data)
        self.name, self.size = name, len(data)


def wait_for(job: jobs.Job, home: Path, *, seconds: float = 60) -> jobs.Job:
    """The job once it has ended."""
    until = time.time() + seconds
    while time.time() < until:
        found = jobs.find(home, job.id)
        assert found is not None
        if found.state != "running":
            return found
        time.sleep(0.1)
    raise AssertionError((job.folder / "output.txt").read_text())


# ------------------------------------------------------------------ history and answers


def test_history_keeps_every_piece_and_survives_a_torn_line(home: Path) -> None:
    history = History(home)
    talk = history.new_id()
    history.append(talk, "ask", turn=0, question="年假几天？", chosen={})
    history.append(talk, "piece", turn=0, text="十")
    history.append(talk, "piece", turn=0, text="一天")
    with history.path(talk).open("ab") as file:
        file.write(b'{"event": "piece", "turn": 0, "te')
    found = History(home).load(talk)
    assert found is not None and found.turns[0].written == "十一天" and found.turns[0].answer is None
    assert found.name == "年假几天？"
    history.append(talk, "x")  # the torn line ends here
    history.append(talk, "title", title="休假")
    assert [t.name for t in history.find("十一天")] == ["休假"] and history.find("光合") == []
    history.remove(talk)
    assert history.all() == []


@pytest.mark.parametrize("bad", ["../x", "", "20260101-000000-abcdeg", "20260101-000000-abcdef/../x"])
def test_an_id_is_never_a_path(home: Path, bad: str) -> None:
    with pytest.raises(DataError):
        History(home).path(bad)


def test_an_answer_is_on_disk_before_it_is_shown_and_errors_are_kept(home: Path) -> None:
    history, go = History(home), threading.Event()
    talk = history.new_id()

    def begin(cancel: threading.Event) -> Iterator[AnswerEvent]:
        yield Piece("前半句，")
        assert go.wait(10)
        raise ZhiwenError("the server is gone", zh="服务断开")

    live = start_answer(history, talk, "问", chosen={}, begin=begin)
    assert live is not None and start_answer(history, talk, "又问", chosen={}, begin=begin) is None
    shown = growing(live)
    text = next(t for t in shown if t)
    on_disk = History(home).load(talk)
    assert on_disk is not None and text == "前半句，" == on_disk.turns[0].written
    go.set()
    assert live.done.wait(10) and live_answer(talk) is None
    ended = history.load(talk)
    assert ended is not None and ended.turns[0].broken == ("服务断开", "the server is gone")
    assert [m.content for m in messages_before(ended)] == ["问", "前半句，"]


# ------------------------------------------------------------------ votes


@pytest.mark.parametrize(("shape", "count"), [("messages", 2), ("preference", 1), ("kto", 2)])
def test_votes_become_data_that_check_reads(
    home: Path, tmp_path: Path, shape: feedback.Shape, count: int
) -> None:
    history = History(home)
    for question, vote, correction in (("年假几天？", "down", "十一天。"), ("病假呢？", "up", "")):
        talk = history.new_id()
        history.append(talk, "ask", turn=0, question=question, chosen={})
        prompt = [{"role": "system", "content": "客服"}, {"role": "user", "content": f"资料……{question}"}]
        history.append(talk, "answer", turn=0, answer=ANSWER | {"prompt": prompt})
        history.append(talk, "vote", turn=0, vote=vote, correction=correction)
    data, written = feedback.export(history, shape)
    assert written == count and "[1]" not in data.decode(), "marks are set afterwards, they are not learnt"
    assert "十一天。" in data.decode() or shape == "kto"
    path = tmp_path / "feedback.jsonl"
    path.write_bytes(data)
    assert main(["data", "check", str(path)]) == 0


# ------------------------------------------------------------------ jobs


def test_indexing_runs_in_its_own_process_and_reports(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "甲.md").write_text("# 甲\n\n年休假有十一天。", encoding="utf-8")
    given = {"home": str(home), "kb": "甲", "folder": str(folder)}
    job = jobs.start(home, "index", title="索引", given=given)
    assert job.state == "running"
    ended = wait_for(job, home)
    assert ended.state == "done" and ended.result["came"]["report"]["counts"]["added"] == 1, ended.result
    failed = wait_for(
        jobs.start(home, "index", title="x", given=given | {"folder": str(tmp_path / "no")}), home
    )
    assert failed.state == "failed" and "对应的是" in failed.result["zh"]


def test_a_job_can_be_stopped_and_a_killed_one_is_seen(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.md").write_text(
            f"# {number}\n\n第{number}条。" + "内容很长。" * 200, encoding="utf-8"
        )
    given = {"home": str(home), "kb": "多", "folder": str(folder)}
    job = jobs.start(home, "index", title="索引", given=given)
    job.stop()
    stopped = wait_for(job, home)
    assert stopped.state == "stopped" and stopped.result["came"]["report"]["interrupted"]
    second = jobs.start(home, "index", title="索引", given=given)
    while not (second.folder / "lock").exists():
        time.sleep(0.05)
    os.kill(jobs._children[second.id].pid, signal.SIGKILL)
    assert wait_for(second, home).state == "failed"
    assert [j.id for j in jobs.jobs(home)] == [second.id, job.id]


# ------------------------------------------------------------------ uploads, names, places


@pytest.fixture
def uploaded(home: Path) -> KnowledgeBase:
    """A knowledge base of two uploads, indexed."""
    settings = load_settings(home)
    kb, choice = wiring.open_or_create(settings, "制度")
    taken, refused = take(
        kb, [Sent("手册.pdf", (DOCS / "员工手册.pdf").read_bytes()), Sent("甲.md", b"# A\n\ntext of A.")]
    )
    assert taken == ["手册.pdf", "甲.md"] and refused == []
    from kb.sync import SyncOptions

    wiring.index_folder(
        settings, kb.uploads, kb=kb, embedder=choice.embedder, options=SyncOptions(), progress=lambda s: None
    )
    return kb


def test_uploads_stay_in_their_folder(home: Path) -> None:
    kb, _ = wiring.open_or_create(load_settings(home), "制度")
    names = [
        "../x.txt",
        "a/b.txt",
        "..\\x.txt",
        ".hidden.txt",
        "x\u202etxt.md",
        "film.mp4",
        "good.txt",
        "空.md",
    ]
    taken, refused = take(kb, [Sent(name, b"" if name == "空.md" else b"text") for name in names])
    assert taken == ["good.txt"] and [r.name for r in refused] == [n for n in names if n != "good.txt"]
    assert all(r.zh and r.en for r in refused)
    assert [p.name for p in kb.uploads.iterdir()] == ["good.txt"] and not (kb.folder / "x.txt").exists()


def test_rename_knowledge_base_and_upload_and_rebuild(home: Path, uploaded: KnowledgeBase) -> None:
    rename_upload(uploaded, "甲.md", "乙.md")
    assert uploaded.store.document("乙.md") is not None and (uploaded.uploads / "乙.md").is_file()
    for bad in ("../乙.md", "手册.pdf", "乙.txt"):
        with pytest.raises(KnowledgeBaseError):
            rename_upload(uploaded, "乙.md", bad)
    renamed = rename(uploaded, "规章")
    assert renamed.source == renamed.uploads.resolve() and (renamed.uploads / "乙.md").is_file()
    assert renamed.check().ok
    with pytest.raises(KnowledgeBaseError):
        rename(renamed, "../x")
    folder = rebuild(load_settings(home), renamed)
    again = KnowledgeBase.open(home, "规章")
    assert again.store.files() == {} and sorted(p.name for p in folder.iterdir()) == ["乙.md", "手册.pdf"]


def test_a_citation_opens_its_page_until_the_file_changes(home: Path, uploaded: KnowledgeBase) -> None:
    settings = load_settings(home)
    hit = wiring.find(settings, "病假须提供二级以上医院开具的诊断证明", kbs=[uploaded]).hits[0]
    place = {
        "kb": "制度", "document": hit.document.name, "digest": hit.document.digest, "passage": hit.passage.text,
        "spans": [[s.page, s.start, s.end, s.offset] for s in hit.passage.spans],
    }  # fmt: skip
    start = hit.passage.text.index("二级以上医院")
    ranges = page_ranges(place, start, start + 6)
    (page,) = ranges
    picture = marked_page(home, place, page=page, start=start, end=start + 6)
    assert picture.startswith(b"\x89PNG") and picture != marked_page(home, place, page=page, start=0, end=0)
    with pytest.raises(LoadError):
        source_file(home, place | {"document": "../../../zhiwen.toml"})
    (uploaded.uploads / "手册.pdf").write_bytes(b"other")
    with pytest.raises(LoadError, match="changed"):
        source_file(home, place)


def test_first_questions_come_from_the_documents(uploaded: KnowledgeBase) -> None:
    questions = first_questions([uploaded])
    assert questions and all(q.endswith(("？", "?")) for q in questions)
    assert any(word in " ".join(questions) for word in ("考勤", "休假", "试用", "报销", "差旅"))


# ------------------------------------------------------------------ foreign text

HOSTILE = [
    "<script>alert(1)</script>", "![x](http://a.b/c.png)", "[x](javascript:alert(1))", "$x^2$", ":red[x]", ":smile:",
    "# 标题", "* 一", "1. 一", "`code`", "> 引", "~~删~~", "|a|b|\n|-|-|", "<|assistant|>", "&lt;b&gt;", ":material/home:",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_is_shown_as_it_is(text: str) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").enable("strikethrough").enable("table").render(plain(text))
    shown = html.replace("\u2060", "").replace("<br />\n", "\n")
    assert shown.startswith("<p>") and not any(
        tag in shown[3:-5] for tag in ("<script", "<img", "<a ", "<code", "<em", "<s>")
    )
    import html as entities

    assert entities.unescape(shown[3:-5]) == text


def test_bold_and_tables_of_models_are_kept_and_their_cells_are_harmless() -> None:
    assert light("**十一天**") == "**十一天**" and light("## 结论") == "**结论**"
    table = light("见下表\n| a | <b> |\n| --- | --- |\n| ![x](y) | 1 |\n完")
    assert "\n| --- | --- |\n" in table and "\\<b\\>" in table and "\\!\\[x\\]" in table
    assert marked("年假十一天。", [(2, 5)]) == "年假:orange-background[十一天]。"


def test_paths_that_nobody_chose_are_not_shown(home: Path) -> None:
    settings = load_settings(home)
    text = only_chosen(f"{home}/kb/a 在，/etc/ssl/private/key.pem 不在，见 https://a.b/c/d", settings)
    assert (
        f"{home}/kb/a" in text
        and "/etc/ssl" not in text
        and "…/key.pem" in text
        and "https://a.b/c/d" in text
    )


def test_a_conversation_is_exported_whole(home: Path) -> None:
    from ui.export import as_markdown

    history = History(home)
    talk = history.new_id()
    history.append(talk, "ask", turn=0, question="年假\n几天？", chosen={})
    history.append(talk, "piece", turn=0, text="十一")
    found = history.load(talk)
    assert found is not None and "## 年假 几天？\n\n十一\n\n（没有写完）" in as_markdown(found)
    assert json.loads(history.path(talk).read_text(encoding="utf-8").splitlines()[0])["event"] == "ask"
