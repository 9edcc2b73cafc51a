"""`zhiwen index` and `zhiwen kb` on a real folder: plan, report, refusals, exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kb.types import SyncReport
from tests.conftest import ROOT
from ui.cli import main
from ui.settings import load_settings
from ui.show import report_text
from ui.text import set_language

NOTES = {
    "休假.md": "# 休假\n\n入职满一年的员工每年有六天年休假，可以分三段使用。\n\n病假需要医院证明。\n",
    "报销.txt": "出差回来十五日内提交报销单，财务每周二审核。住宿标准为每晚四百二十元。\n",
    "prices.csv": "item,price\nfilter,129\nmembrane,369\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "制度"
    made.mkdir()
    for name, text in NOTES.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


class Zhiwen:
    """Runs commands in this process; `out` and `err` are what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path) -> int:
        self.capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        self.out, self.err = self.capsys.readouterr()
        return code

    def json(self, *arguments: str | Path) -> Any:
        assert self(*arguments, "--json") == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def english() -> Iterator[None]:
    set_language("en")
    yield
    set_language("zh")


@pytest.fixture
def zhiwen(home: Path, capsys: pytest.CaptureFixture[str]) -> Zhiwen:
    return Zhiwen(capsys)


def test_dry_run_shows_the_plan_and_makes_nothing(zhiwen: Zhiwen, home: Path, folder: Path) -> None:
    (folder / "film.mp4").write_bytes(b"x")
    plan = zhiwen.json("index", folder, "--dry-run")
    assert plan["counts"]["added"] == 3 and plan["counts"]["skipped"] == 1
    assert zhiwen("index", folder, "--dry-run") == 0
    assert "新增 3" in zhiwen.out and "film.mp4（不支持的文件类型）" in zhiwen.out
    assert not (home / "kb").exists()


def test_index_reports_and_second_run_has_nothing_to_do(zhiwen: Zhiwen, home: Path, folder: Path) -> None:
    assert zhiwen("index", folder) == 0
    assert "truncated tokens: 0" in zhiwen.out and "新增 3" in zhiwen.out
    assert "zhiwen models pull text2vec-base-chinese" in zhiwen.err, "the choice of embedder is said aloud"
    again = zhiwen.json("index", folder)
    assert again["kb"] == "制度" and again["counts"]["unchanged"] == 3 and again["embedded"] == 0
    (folder / "报销.txt").rename(folder / "报销与差旅.txt")
    assert zhiwen("index", folder) == 0 and "报销与差旅.txt ← 报销.txt" in zhiwen.out


def test_a_broken_file_is_one_line_with_what_to_do(zhiwen: Zhiwen, folder: Path) -> None:
    (folder / "坏.docx").write_bytes(b"not a zip")
    assert zhiwen("index", folder) == 0
    lines = [line for line in zhiwen.out.splitlines() if line.strip().startswith("✗ 坏.docx")]
    assert len(lines) == 1 and "请" in lines[0]
    assert zhiwen.json("kb", "show", "制度")[0]["documents"] == 4


def test_another_folder_does_not_empty_it(zhiwen: Zhiwen, folder: Path, tmp_path: Path) -> None:
    assert zhiwen("index", folder, "--kb", "k") == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.md").write_text("另一个文件夹的内容。")
    assert zhiwen("index", other, "--kb", "k") == 1 and "--move" in zhiwen.err
    assert zhiwen.json("kb", "list")[0]["documents"] == 3
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert zhiwen.json("index", moved, "--kb", "k", "--move")["counts"]["unchanged"] == 3


def test_empty_or_missing_folder_deletes_nothing(zhiwen: Zhiwen, home: Path, folder: Path) -> None:
    assert zhiwen("index", folder, "--kb", "k") == 0
    for path in folder.iterdir():
        path.unlink()
    assert zhiwen("index", folder, "--kb", "k") == 1 and "--allow-empty" in zhiwen.err
    assert zhiwen.json("kb", "list")[0]["documents"] == 3
    assert zhiwen.json("index", folder, "--kb", "k", "--allow-empty")["counts"]["deleted"] == 3
    assert zhiwen("index", folder / "nowhere") == 1 and "不是文件夹" in zhiwen.err
    assert [p.name for p in (home / "kb").iterdir()] == ["k"]


def test_another_embedder_is_refused(zhiwen: Zhiwen, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zhiwen("index", folder, "--kb", "k") == 0
    monkeypatch.setenv("ZHIWEN_EMBEDDER_MODEL", "zhiwen-embed-zh")
    assert zhiwen("index", folder, "--kb", "k") == 0
    monkeypatch.setenv("ZHIWEN_EMBEDDER_METRIC", "l2")
    assert zhiwen("index", folder, "--kb", "k") == 1 and "另建一个知识库" in zhiwen.err


def test_kb_check_repair_rm(zhiwen: Zhiwen, home: Path, folder: Path) -> None:
    assert zhiwen("kb", "list") == 0 and "zhiwen index" in zhiwen.out
    assert zhiwen("index", folder, "--kb", "k") == 0
    assert zhiwen("kb", "check") == 0 and "✓ k" in zhiwen.out
    for path in (home / "kb" / "k" / "lexical").glob("*.term"):
        path.unlink()
    assert (
        zhiwen("kb", "check", "k") == 1
        and "字词索引损坏" in zhiwen.out
        and "zhiwen kb repair k" in zhiwen.out
    )
    assert zhiwen("kb", "repair", "k") == 0
    assert zhiwen("kb", "show") == 1 and "k" in zhiwen.err
    assert zhiwen("kb", "rm", "k") == 1 and "--yes" in zhiwen.err
    assert zhiwen("kb", "rm", "k", "--yes") == 0 and not (home / "kb" / "k").exists()
    assert folder.is_dir() and len(list(folder.iterdir())) == 3, "the documents stay"
    assert zhiwen("kb", "check", "k") == 1 and "zhiwen index" in zhiwen.err


def test_names_that_cannot_be(zhiwen: Zhiwen, home: Path, folder: Path) -> None:
    for name in ("../out", "a/b", ".hidden", "x" * 65):
        assert zhiwen("index", folder, "--kb", name) == 1
    assert not (home / "kb").exists() and load_settings().home == home


def test_sample_documents_are_all_read(zhiwen: Zhiwen) -> None:
    report = zhiwen.json("index", ROOT / "data" / "docs", "--ocr", "off")
    assert report["counts"]["added"] == 7 and report["truncated_tokens"] == 0
    assert [problem["name"] for problem in report["problems"]] == ["设备验收单_扫描.pdf"]
    assert "no-text-layer" in report["problems"][0]["reason"]


def test_a_file_that_cannot_be_read_is_explained_in_both_languages(
    zhiwen: Zhiwen, folder: Path, english: None
) -> None:
    """The pages read the report of another process: both sentences are in it. `kb show` says why, later too."""
    (folder / "坏.pdf").write_bytes(b"%PDF-1.4 garbage")
    report = zhiwen.json("index", folder, "--kb", "制度")
    (problem,) = report["problems"]
    assert "is damaged" in problem["reason"] and "已损坏" in problem["reason_zh"]
    assert zhiwen("kb", "show", "制度") == 0
    assert "坏.pdf: '坏.pdf' is damaged" in zhiwen.out
    set_language("zh")
    assert zhiwen("kb", "show", "制度") == 0
    assert "坏.pdf：'坏.pdf' 已损坏" in zhiwen.out and "is damaged" not in zhiwen.out


def test_an_interruption_before_the_first_file_is_no_empty_folder() -> None:
    report = SyncReport("制度", {}, (), 0, 0, 0, 0, 0, 0.5, interrupted=True)
    assert "空文件夹" not in report_text(report) and "还没有做完任何文件" in report_text(report)
    assert "空文件夹" in report_text(replace(report, interrupted=False))
