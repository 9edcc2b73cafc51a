"""Word, PowerPoint and Excel: headings, numbers that Word writes by itself, tables with headers, bounds."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kb.errors import LimitError, LoadError
from kb.load import LoadLimits, load_file
from kb.load.numbering import written


def blocks(path: Path, page: int = 0) -> list[tuple[str, int, str]]:
    found = load_file(path).pages[page]
    return [(b.kind, b.level, found.text[b.start : b.end]) for b in found.blocks]


def test_word_headings_paragraphs_and_tables(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title = "产品手册"
    document.add_heading("第一章 安装", level=1)
    document.add_paragraph("先接通电源，再按住开关三秒。")
    document.add_heading("注意事项", level=2)
    table = document.add_table(rows=3, cols=3)
    for row, cells in enumerate((("型号", "功率", "备注"), ("A1", "10W", ""), ("A2", "20W", ""))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    table.cell(1, 2).merge(table.cell(2, 2)).text = "室内"
    document.save(str(tmp_path / "a.docx"))
    loaded = load_file(tmp_path / "a.docx")
    assert (loaded.title, loaded.verdict) == ("产品手册", "ok")
    assert blocks(tmp_path / "a.docx") == [
        ("heading", 1, "第一章 安装"),
        ("text", 0, "先接通电源，再按住开关三秒。"),
        ("heading", 2, "注意事项"),
        ("table", 0, "型号 | 功率 | 备注\nA1 | 10W | 室内\nA2 | 20W | 室内"),
    ]
    assert loaded.pages[0].blocks[3].header == "型号 | 功率 | 备注"


def numbered(document: Any, pattern: str, kind: str) -> str:
    """A numbered list of its own; returns its id."""
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    root = document.part.numbering_part.element
    abstract = parse_xml(
        f'<w:abstractNum {nsdecls("w")} w:abstractNumId="77"><w:lvl w:ilvl="0"><w:start w:val="1"/>'
        f'<w:numFmt w:val="{kind}"/><w:lvlText w:val="{pattern}"/></w:lvl></w:abstractNum>'
    )
    root.insert(0, abstract)
    root.append(parse_xml(f'<w:num {nsdecls("w")} w:numId="77"><w:abstractNumId w:val="77"/></w:num>'))
    return "77"


def test_word_numbers_of_articles_are_in_the_text(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = docx.Document()
    key = numbered(document, "第%1条", "chineseCountingThousand")
    for text in ("本制度适用于全体员工。", "请假须提前一天申请。"):
        paragraph = document.add_paragraph(text)
        paragraph._p.get_or_add_pPr().append(
            parse_xml(f'<w:numPr {nsdecls("w")}><w:ilvl w:val="0"/><w:numId w:val="{key}"/></w:numPr>')
        )
    document.save(str(tmp_path / "a.docx"))
    assert [text for _, _, text in blocks(tmp_path / "a.docx")] == [
        "第一条 本制度适用于全体员工。",
        "第二条 请假须提前一天申请。",
    ]


@pytest.mark.parametrize(
    ("number", "form", "text"),
    [
        (12, "chineseCounting", "十二"),
        (105, "ideographDigital", "一百零五"),
        (20, "japaneseCounting", "二十"),
        (1001, "chineseCounting", "一千零一"),
        (28, "lowerLetter", "bb"),
        (14, "upperRoman", "XIV"),
        (3, "decimal", "3"),
        (3, "decimalZero", "03"),
    ],
)
def test_numbers_as_word_writes_them(number: int, form: str, text: str) -> None:
    assert written(number, form) == text


def test_word_leaves_out_deleted_text_and_pronunciation_and_reads_content_controls(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = docx.Document()
    body = document.element.body
    body.insert(0, parse_xml(
        f'<w:sdt {nsdecls("w")}><w:sdtContent><w:p><w:r><w:t>合同金额一万元</w:t></w:r>'
        "<w:del><w:r><w:delText>两万元</w:delText></w:r></w:del>"
        "<w:r><w:ruby><w:rt><w:r><w:t>zhèng</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>整</w:t></w:r></w:rubyBase>"
        "</w:ruby></w:r></w:p></w:sdtContent></w:sdt>"
    ))  # fmt: skip
    document.save(str(tmp_path / "a.docx"))
    assert [text for _, _, text in blocks(tmp_path / "a.docx")] == ["合同金额一万元整"]


def test_slides_are_pages_with_charts_tables_and_notes(tmp_path: Path) -> None:
    import pptx
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "季度销售"
    slide.shapes.add_textbox(Inches(1), Inches(2), Inches(4), Inches(1)).text_frame.text = "华东区增长最快"
    data = CategoryChartData()
    data.categories = ["一季度", "二季度"]
    data.add_series("销售额", (120, 150.5))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(4), Inches(4), Inches(3), data)
    slide.notes_slide.notes_text_frame.text = "讲两分钟"
    deck.slides.add_slide(deck.slide_layouts[6])
    deck.save(str(tmp_path / "a.pptx"))
    loaded = load_file(tmp_path / "a.pptx")
    assert blocks(tmp_path / "a.pptx") == [
        ("heading", 1, "季度销售"),
        ("text", 0, "华东区增长最快"),
        ("table", 0, " | 销售额\n一季度 | 120\n二季度 | 150.5"),
        ("text", 0, "讲两分钟"),
    ]
    assert (loaded.pages[1].verdict, loaded.pages[1].reasons, loaded.verdict) == ("ok", ("blank",), "ok")


def test_sheets_are_pages_with_values_as_people_write_them(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "价目表"
    sheet.append(["名称", "单价", "生效日", None, "有货"])
    sheet.append(["手冲壶", 129.0, datetime.datetime(2025, 3, 1), None, True])
    sheet.append(["滤纸", 0.1 + 0.2, datetime.datetime(2025, 3, 1, 8, 30), None, False])
    book.create_sheet("空表")
    book.save(tmp_path / "a.xlsx")
    loaded = load_file(tmp_path / "a.xlsx")
    assert [page.label for page in loaded.pages] == ["价目表"]
    assert blocks(tmp_path / "a.xlsx")[1][2].split("\n") == [
        "名称 | 单价 | 生效日 | 有货",
        "手冲壶 | 129 | 2025-03-01 | TRUE",
        "滤纸 | 0.3 | 2025-03-01 08:30 | FALSE",
    ]


def test_formulas_without_results_are_said(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["=1+1"])
    book.save(tmp_path / "a.xlsx")
    page = load_file(tmp_path / "a.xlsx").pages[0]
    assert (page.verdict, page.reasons) == ("failed", ("no-formulas-saved",))


def test_a_sheet_that_claims_a_million_columns_is_read_at_once(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["甲", "乙"])
    book.save(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            data = old.read(name).replace(b'ref="A1:B1"', b'ref="A1:XFD1048576"')
            new.writestr(name, data)
    assert load_file(tmp_path / "b.xlsx").pages[0].text.endswith("甲 | 乙")


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx", ".epub"])
def test_zip_bombs_are_not_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * 40_000_000)
    with pytest.raises(LimitError, match="zip bomb"):
        load_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x" * 3000)
    with pytest.raises(LimitError, match="would unpack to 3,000 bytes"):
        load_file(path, limits=LoadLimits(max_unpacked=2000))


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx"])
def test_entities_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
        )
    with pytest.raises(LimitError, match="XML entities"):
        load_file(path)


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx", ".epub", ".xls"])
@pytest.mark.parametrize(
    "data", [b"not a zip at all", b"PK\x03\x04 broken", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600]
)
def test_broken_files_say_so_in_one_line(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"坏\r文件{suffix}"
    path.write_bytes(data)
    with pytest.raises(LoadError) as caught:
        load_file(path)
    assert str(caught.value).isprintable() and caught.value.zh.isprintable()


def test_a_zip_without_a_document_says_so(tmp_path: Path) -> None:
    for suffix in (".docx", ".pptx", ".xlsx", ".epub"):
        path = tmp_path / f"a{suffix}"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "nothing")
        with pytest.raises(LoadError):
            load_file(path)


@pytest.mark.parametrize(
    ("suffix", "better"), [(".doc", ".docx"), (".rtf", ".docx"), (".ppt", ".pptx"), (".et", ".xlsx")]
)
def test_old_formats_say_what_to_save_as(tmp_path: Path, suffix: str, better: str) -> None:
    path = tmp_path / f"旧{suffix}"
    path.write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(LoadError, match=f"Save it as {better}") as caught:
        load_file(path)
    assert "旧格式" in caught.value.zh
