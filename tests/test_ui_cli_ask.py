"""`zhiwen ask`, `chat`, `search`, `persona`: on the sample documents, with and without a language model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rag.types import GenerateOptions, Message, Piece
from tests.conftest import ROOT
from ui.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the sample documents; the scan is left out, so that no OCR runs."""
    home = tmp_path_factory.mktemp("home")
    assert main(["index", str(ROOT / "data" / "docs"), "--home", str(home), "--ocr", "off", "--json"]) == 0
    return home


@pytest.fixture(autouse=True)
def use(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIWEN_HOME", str(indexed))


def said(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_extractive_answer_names_file_page_and_quote(capsys: Capture) -> None:
    out = said(capsys, "ask", "入职满五年的员工年休假有几天？")
    assert "摘录式回答" in out and "[1] docs/员工手册.pdf 第 3 页，第 " in out and "11 天" in out


def test_json_has_what_programs_need(capsys: Capture) -> None:
    answer = json.loads(said(capsys, "ask", "--json", "试用期工资是多少？"))
    assert not answer["refused"] and answer["generator"] == "extractive"
    citation = answer["citations"][0]
    assert citation["file"] == "员工手册.pdf" and citation["page"] == 1
    assert citation["quote"] and citation["quote"] in answer["answer"].replace("[1]", "")
    first, last = citation["characters"]
    assert last - first + 1 == len(citation["quote"])


def test_quote_stands_where_the_answer_says(capsys: Capture) -> None:
    from kb.load import load_file

    citation = json.loads(said(capsys, "ask", "--json", "忘记打卡怎么办？"))["citations"][0]
    pages = load_file(ROOT / "data" / "docs" / citation["file"]).pages
    first, last = citation["characters"]
    assert pages[citation["page"] - 1].text[first - 1 : last] == citation["quote"]


def test_refusal_is_a_result_and_names_the_nearest(capsys: Capture) -> None:
    out = said(capsys, "ask", "光合作用的化学方程式是什么？")
    assert out.startswith("根据已知信息无法回答该问题") and "最接近的段落" in out and "摘录式" not in out


def test_search_shows_each_leg(capsys: Capture) -> None:
    out = said(capsys, "search", "CF-31", "滤芯单价", "--limit", "2")
    assert "语义" in out and "字词" in out and "价目表2026春季.xlsx" in out and "阈值" in out
    found = json.loads(said(capsys, "search", "--json", "--mode", "lexical", "CF-31"))
    assert {score["leg"] for hit in found["hits"] for score in hit["legs"]} == {"lexical"}


def test_follow_up_is_understood(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("试用期工资是多少？\n\n/clear\n/quit\nnever read\n"))
    lines = said(capsys, "chat", "--json").splitlines()
    assert len([line for line in lines if line.startswith("{")]) == 1


def test_flags_are_checked_like_settings(capsys: Capture) -> None:
    assert main(["ask", "--temperature", "-1", "年假"]) == 1
    assert "--temperature" in capsys.readouterr().err
    assert main(["ask", "--persona", "诸葛亮", "年假"]) == 1
    assert "zhiwen doctor" in capsys.readouterr().err
    assert main(["ask", "--kb", "nowhere", "年假"]) == 1
    assert "docs" in capsys.readouterr().err


def test_personas(capsys: Capture) -> None:
    assert "诸葛亮" in said(capsys, "persona", "list")
    said(capsys, "persona", "set", "店长", "--system", "你是店长。", "--title", "爽快")
    assert said(capsys, "persona", "show", "店长").strip() == "你是店长。"
    said(capsys, "persona", "rm", "店长")
    assert main(["persona", "show", "店长"]) == 1 and main(["persona", "set", "../x", "--system", "y"]) == 1


def test_cold_and_without_torch(indexed: Path) -> None:
    code = (
        "import sys; from ui.cli import main; main(['ask', '入职满五年的员工年休假有几天？']);"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    spent = []
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=dict(os.environ),
            check=True,
        )
        spent.append(time.monotonic() - began)
        assert done.stderr.strip() == "[]" and "11 天" in done.stdout
    assert min(spent) < 9, "wanted: under 3 s on a quiet machine"


# ------------------------------------------------------------------ with a language model behind a real server


class FirstSource:
    """A generator that answers with the sentence it was told to look for, or one that nobody wrote."""

    name = "first-source"
    context_tokens = 8192

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(text)

    def stream(
        self, messages: Sequence[Message], *, options: GenerateOptions, cancel: threading.Event | None = None
    ) -> Iterator[Piece]:
        self.prompts.append("\n".join(message.content for message in messages))
        for piece in ("试用期工资为转正工资的", "百分之九十。", "每人另发电脑 37 台。"):
            yield Piece(piece)
        yield Piece("", finish="stop", tokens=30)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FirstSource]:
    import uvicorn

    from rag.generate.openai_server import build_app

    generator = FirstSource()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = uvicorn.Server(
        uvicorn.Config(build_app({"m": generator}, key="k"), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    monkeypatch.setenv("ZHIWEN_GENERATOR_KIND", "openai")
    monkeypatch.setenv("ZHIWEN_GENERATOR_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("ZHIWEN_GENERATOR_MODEL", "m")
    monkeypatch.setenv("ZHIWEN_GENERATOR_KEY_ENV", "TEST_SERVER_KEY")
    monkeypatch.setenv("TEST_SERVER_KEY", "k")
    yield generator
    running.should_exit = True
    thread.join(10)


def test_model_answers_and_what_it_invented_is_marked(capsys: Capture, server: FirstSource) -> None:
    out = said(capsys, "ask", "试用期工资是多少？")
    assert "百分之九十" in out and "docs/员工手册.pdf 第 1 页" in out and "由 m @ 127.0.0.1" in out
    assert "请核对" in out and "37" in out.split("请核对")[1]
    assert "【已知信息】" in server.prompts[0]


def test_persona_reaches_the_model(capsys: Capture, server: FirstSource) -> None:
    said(capsys, "ask", "--persona", "诸葛亮", "试用期工资是多少？")
    assert "丞相" in server.prompts[0]


def test_refused_before_the_model_is_called(capsys: Capture, server: FirstSource) -> None:
    assert said(capsys, "ask", "光合作用的化学方程式是什么？").startswith("根据已知信息无法回答该问题")
    assert server.prompts == []


def test_extractive_leaves_the_model_alone(capsys: Capture, server: FirstSource) -> None:
    assert "摘录式回答" in said(capsys, "ask", "--extractive", "试用期工资是多少？")
    assert server.prompts == []


def test_missing_key_and_dead_server_are_explained(
    capsys: Capture, server: FirstSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SERVER_KEY", "")
    assert main(["ask", "试用期工资是多少？"]) == 1
    assert "TEST_SERVER_KEY" in capsys.readouterr().err
