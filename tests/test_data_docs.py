"""The sample documents: what the script makes is what lies in data/docs, and every question points at a real place."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "data" / "docs"
EVAL = ROOT / "data" / "eval"


def text_of(path: Path) -> dict[int, str]:
    """Page -> text without white space, by the library of each format itself."""
    if path.suffix == ".pdf":
        import pypdfium2

        with pypdfium2.PdfDocument(path) as pdf:
            pages = [pdf[i].get_textpage().get_text_range() for i in range(len(pdf))]
    elif path.suffix == ".docx":
        from docx import Document

        document = Document(str(path))
        cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
        pages = ["\n".join([p.text for p in document.paragraphs] + cells)]
    elif path.suffix == ".xlsx":
        from openpyxl import load_workbook

        book = load_workbook(path, read_only=True)
        pages = ["\n".join(str(v) for row in sheet.values for v in row if v is not None) for sheet in book]
    else:
        pages = [path.read_bytes().decode("gbk" if path.suffix == ".txt" else "utf-8")]
    return {number: "".join(page.split()) for number, page in enumerate(pages, 1)}


def questions(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (EVAL / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "data" / "make_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_small_and_complete() -> None:
    files = sorted(DOCS.iterdir())
    assert {p.suffix for p in files} == {".pdf", ".docx", ".xlsx", ".md", ".txt", ".html"}
    assert sum(p.stat().st_size for p in files) < 1_500_000
    assert len(text_of(DOCS / "员工手册.pdf")) == 6
    assert text_of(DOCS / "设备验收单_扫描.pdf") == {1: ""}, "a scan has no text layer"
    with pytest.raises(UnicodeDecodeError):
        (DOCS / "门店五一值班通知.txt").read_text(encoding="utf-8")


def test_hexagrams_are_all_there() -> None:
    text = (DOCS / "周易六十四卦笔记.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert len(headings) == 64
    assert [h[-1] for h in headings] == [chr(0x4DC0 + i) for i in range(64)]
    forms = [line for line in text.splitlines() if line.startswith("- 卦形：")]
    assert len(set(forms)) == 64, "no two hexagrams have the same trigrams"


@pytest.mark.parametrize("name", ["员工手册.pdf", "听泉T3净水机说明书.docx", "价目表2026春季.xlsx"])
def test_made_again_is_the_same(maker: ModuleType, tmp_path: Path, name: str) -> None:
    maker.MAKERS[name](tmp_path / name)
    assert text_of(tmp_path / name) == text_of(DOCS / name)
    first = (tmp_path / name).read_bytes()
    maker.MAKERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_scan_made_again_is_the_same(maker: ModuleType, tmp_path: Path) -> None:
    if not any(Path(font).exists() for font in maker.FONTS):
        pytest.skip("no Chinese font on this machine to draw the scan with")
    maker.make_scan(tmp_path / "a.pdf")
    maker.make_scan(tmp_path / "b.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_questions_point_at_real_places() -> None:
    rows = questions("docs.jsonl")
    answerable = [row for row in rows if not row.get("unanswerable")]
    assert len(answerable) >= 50 and len(rows) - len(answerable) == 15
    assert len({row["question"] for row in rows}) == len(rows)
    texts = {path.name: text_of(path) for path in DOCS.iterdir()}
    for row in answerable:
        wanted = "".join(str(row["passage"]).split())
        assert wanted in texts[str(row["file"])][int(str(row["page"]))], row


def test_questions_of_the_scan_are_in_its_source() -> None:
    typed = "".join((ROOT / "data" / "sources" / "设备验收单.txt").read_text(encoding="utf-8").split())
    for row in questions("scan.jsonl"):
        assert "".join(str(row["passage"]).split()) in typed
