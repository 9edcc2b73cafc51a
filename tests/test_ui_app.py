"""The pages' logic without a browser: Streamlit's AppTest runs them, over real knowledge bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from finetune.tiny import build as build_tiny
from tests.conftest import ROOT
from ui.cli import main
from ui.history import History

APP = str(ROOT / "ui" / "app.py")


def show(page: str) -> AppTest:
    """A page on its own, as app.py runs it."""
    script = (
        f"import streamlit as st\nfrom ui.pages import frame, {page} as shown\nfound, _ = frame.current_settings()\n"
        f"frame.begin_language(found)\nst.session_state['page_of'] = {{n: st.Page(lambda: None, title=n, url_path=n) for n in "
        f"('ask', 'knowledge', 'settings')}}\nfrom unittest.mock import patch\n"
        f"with patch('streamlit.page_link'):\n    shown.page()\n"
    )
    return AppTest.from_string(script, default_timeout=60)


def texts(at: AppTest) -> str:
    """Everything that is read on the page."""
    kinds = (at.title, at.markdown, at.caption, at.info, at.error, at.success, at.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


def button(at: AppTest, label: str) -> Any:
    """The button with that in its label."""
    return next(b for b in at.button if label in b.label.replace("\\", ""))


@pytest.fixture
def indexed(home: Path, tmp_path: Path) -> Path:
    """A home with one knowledge base, "制度"."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "休假.md").write_text(
        "# 休假制度\n\n## 年休假\n\n入职满一年的员工每年有六天年休假，可以分三段使用，须提前五个工作日申请。\n\n"
        "## 病假\n\n病假须提供二级以上医院开具的诊断证明，三日内补交。\n",
        encoding="utf-8",
    )
    (folder / "坏的.pdf").write_bytes(b"not a pdf")
    assert main(["index", str(folder), "--kb", "制度"]) == 0
    return home


def test_the_first_page_has_three_steps_and_a_button(home: Path) -> None:
    at = AppTest.from_file(APP, default_timeout=60).run()
    assert not at.exception
    said = texts(at)
    assert "1. 放入文档" in said and "2. 等它读完" in said and "3. 提问，核对" in said
    assert button(at, "先用示例文档试试")
    at = show("ask")
    at.session_state["language"] = "en"
    at.run()
    assert "1. Add documents" in texts(at) and button(at, "Try it with the sample documents")
    assert not list(home.glob("jobs/*")), "looking changes nothing"


def test_ask_cite_vote_and_find_again(indexed: Path) -> None:
    at = show("ask").run()
    assert not at.exception
    suggestions = [b.label for b in at.button if b.key and b.key.startswith("suggestion")]
    assert any("年休假" in s or "病假" in s for s in suggestions)
    at.chat_input(key="question").set_value("病假须提供几级医院的诊断证明？").run()
    assert not at.exception
    assert "二级以上医院" in texts(at) and ":green-badge[1]" in texts(at)
    talk = History(indexed).all()[0]
    kept = talk.turns[0].answer
    assert kept is not None and kept["citations"][0]["document"] == "休假.md"
    assert kept["prompt"][-1]["role"] == "user" and "二级以上医院" in kept["prompt"][-1]["content"]
    button(at, "休假.md").click().run()
    assert ":orange-background[" in texts(at), "the cited words are marked in the passage"
    button(at, "回答过程").click().run()
    assert "检索到" in texts(at) and not at.exception
    at.text_input(key="talk-search").set_value("诊断证明").run()
    assert [b.key for b in at.button if b.key and b.key.startswith("talk-")] == [f"talk-{talk.id}"]
    at.text_input(key="talk-search").set_value("光合作用").run()
    assert "没有找到" in texts(at)


def test_a_refusal_shows_the_nearest(indexed: Path) -> None:
    at = show("ask").run()
    at.chat_input(key="question").set_value("光合作用的化学方程式是什么？").run()
    assert "根据已知信息无法回答该问题" in texts(at) and "最接近的内容" in texts(at)
    assert button(at, "休假.md")


def test_documents_with_verdicts_in_words_and_no_strange_paths(indexed: Path) -> None:
    at = show("knowledge").run()
    assert not at.exception
    assert "2 个文档" in texts(at) and "没能读出来 1" in texts(at)
    at.selectbox(key="document-制度").select("坏的.pdf").run()
    assert "✗ 没能读出来" in texts(at)
    at.selectbox(key="document-制度").select("休假.md").run()
    assert "入职满一年的员工每年有六天年休假" in texts(at) and str(ROOT) not in texts(at)


def test_search_box_shows_scores(indexed: Path) -> None:
    at = show("knowledge").run()
    at.session_state["kb-part"] = "search"
    at.run()
    at.text_input(key="search-制度").set_value("病假诊断证明").run()
    assert not at.exception
    assert "拒答阈值" in texts(at) and "可信度" in texts(at) and "字词 #1" in texts(at)


def test_plan_says_what_would_happen(indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "docs" / "新的.txt").write_text("门店五月一日照常营业。", encoding="utf-8")
    at = show("knowledge").run()
    at.session_state["kb-part"] = "fill"
    at.run()
    assert not at.exception
    assert "新增 1，未变 2" in texts(at) and not button(at, "开始索引").disabled


def test_rename_and_delete_a_knowledge_base(indexed: Path) -> None:
    at = show("knowledge").run()
    at.session_state["kb-part"] = "care"
    at.run()
    assert not at.exception and "zhiwen-embed-zh" in texts(at)
    at.text_input(key="rename-kb").set_value("../外面")
    button(at, "改名").click().run()
    assert "不能作知识库的名字" in texts(at)
    at.text_input(key="rename-kb").set_value("规章")
    button(at, "改名").click().run()
    assert at.selectbox(key="kb").value == "规章" and (indexed / "kb" / "规章" / "kb.sqlite").is_file()
    at.button(key="delete-kb").click().run()
    assert not (indexed / "kb" / "规章").exists() and "还没有知识库" in texts(at)


def test_settings_are_kept_whole_or_not_at_all(home: Path) -> None:
    at = show("settings").run()
    assert not at.exception and "没有配置语言模型" in texts(at)
    at.session_state["settings-part"] = "设置"
    at.run()
    at.number_input(key="set-search.limit").set_value(5)
    button(at, "保存").click().run()
    assert "limit = 5" in (home / "zhiwen.toml").read_text(encoding="utf-8")
    at.selectbox(key="set-generator.kind").select("openai")
    button(at, "保存").click().run()
    assert "还需要 generator.base_url" in texts(at)
    assert "openai" not in (home / "zhiwen.toml").read_text(encoding="utf-8"), "nothing half is kept"


def test_broken_settings_are_explained(home: Path) -> None:
    (home / "zhiwen.toml").write_text("language = ", encoding="utf-8")
    at = show("settings").run()
    assert not at.exception and "zhiwen.toml" in texts(at) and "个问题需要处理" in texts(at)
    at = show("ask").run()
    assert not at.exception and "zhiwen.toml" in texts(at)


def test_a_model_that_a_run_left_and_an_adapter_by_its_name_can_answer(indexed: Path) -> None:
    """From "try it in the chat" after full training, and from generator.adapter = NAME, the page fell back in silence."""
    folder = build_tiny(indexed / "runs" / "all-20260101-120000" / "model", texts=["年假有几天？", "五天。"])
    kept = indexed / "adapters" / "手册"
    kept.mkdir(parents=True)
    (kept / "adapter_config.json").write_text("{}")
    at = show("ask")
    at.session_state["chosen-model"] = str(folder)
    at.run()
    assert not at.exception
    assert at.selectbox(key="pick-model").value == str(folder)
    at = show("ask")
    assert main(["settings", "set", "generator.model", str(folder)]) == 0
    assert main(["settings", "set", "generator.kind", "chatglm3"]) == 0
    assert main(["settings", "set", "generator.adapter", "手册"]) == 0
    at.run()
    assert at.selectbox(key="pick-adapter").value == str(kept.resolve())
