"""From nothing to an answer in a real browser: uploads, plan, progress over a reload, question, citation, page picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser_tools import Server, answers, ask, browser, new_page, running
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DOCS = ROOT / "data" / "docs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("upload") / "home"
    home.mkdir()
    with running(home) as started:
        yield started


@pytest.fixture(scope="module")
def opened(server: Server) -> Iterator[Any]:
    with browser() as found:
        yield found


def test_uploads_become_a_knowledge_base_that_answers(server: Server, opened: Any, tmp_path: Path) -> None:
    page = new_page(opened)
    foreign: list[str] = []
    page.on(
        "request",
        lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else foreign.append(r.url),
    )
    page.goto(server.url)
    page.get_by_text("向自己的文档提问").wait_for()
    page.get_by_role("button", name="放入我的文档").click()
    page.get_by_role("button", name="新建").click()
    page.get_by_label("名称").fill("制度")
    page.get_by_label("名称").press("Tab")
    gbk = tmp_path / "门店 通知.txt"
    gbk.write_bytes("门店五月一日照常营业，值班电话是六二零七。".encode("gbk"))
    files = [DOCS / "员工手册.pdf", DOCS / "听泉T3净水机说明书.docx", gbk]
    page.locator("[role=dialog] input[type=file]").set_input_files([str(f) for f in files])
    page.get_by_role("button", name="下一步").click()
    page.get_by_text("新增 3").wait_for()
    page.get_by_role("button", name="开始索引").click()
    page.get_by_role("button", name="停止").or_(page.get_by_text("索引完成")).first.wait_for()
    page.reload()  # in the middle of the job, or right after it
    page.get_by_text("索引完成").wait_for()
    page.get_by_text("文档", exact=True).first.click()
    page.get_by_text("3 个文档").wait_for()
    page.get_by_role("link", name="问答").click()
    ask(page, "病假须提供几级医院开具的诊断证明？")
    assert "二级以上医院" in answers(page, 1)[0]
    ask(page, "门店值班电话是多少？")
    assert "六二零七" in answers(page, 2)[1], "the GBK file was read as it was written"
    page.get_by_role("button", name="员工手册.pdf").first.click()
    picture = page.locator("[role=dialog] img").first
    picture.wait_for()
    assert (
        picture.evaluate(
            "i => new Promise(r => i.complete ? r(i.naturalWidth) : (i.onload = () => r(i.naturalWidth)))"
        )
        > 300
    )
    assert foreign == [], "nothing is asked of any other machine"
    kept = sorted(p.name for p in (server.home / "kb" / "制度" / "files").iterdir())
    assert kept == sorted(f.name for f in files)


def test_wrong_uploads_are_refused(server: Server, opened: Any, tmp_path: Path) -> None:
    page = new_page(opened)
    page.goto(server.url + "/knowledge")
    page.get_by_role("button", name="新建").click()
    page.get_by_label("名称").fill("../外面")
    page.get_by_label("名称").press("Tab")
    note = tmp_path / "a.md"
    note.write_text("# 甲\n\n内容。", encoding="utf-8")
    page.locator("[role=dialog] input[type=file]").set_input_files([str(note)])
    page.get_by_role("button", name="下一步").click()
    page.get_by_text("不能作知识库的名字").wait_for()
    page.locator("[role=dialog] input[type=file]").set_input_files(
        [{"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"x"}]
    )
    page.get_by_text("not allowed").wait_for()
    assert not (server.home / "外面").exists() and not (server.home / "kb" / "外面").exists()
