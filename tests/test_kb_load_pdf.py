"""PDF pages as a reader sees them: paragraphs, columns, headings, headers left out, boxes, encryption, bad fonts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kb.errors import LoadError
from kb.load import ADVICE, LoadLimits, load_file
from kb.load.ocr import ocr_available
from kb.load.pdf_lines import _character
from kb.load.pdf_second import _named_by_code, useful_title
from kb.load.picture import page_picture, passage_boxes

SENTENCE = "员工每年享有五天带薪年休假，工龄满十年的增加到十天，满二十年的增加到十五天，当年没有休完的可以顺延到次年三月底之前使用。"


def draw(path: Path, paint: Callable[[Any], None], *, rotate: int = 0, **options: Any) -> Path:
    """A PDF whose pages `paint` draws; the font is Chinese and not embedded, as in many office files."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    canvas = Canvas(str(path), pagesize=(595, 842), **options)
    if rotate:
        canvas.setPageRotation(rotate)
    paint(canvas)
    canvas.save()
    return path


def lines(
    canvas: Any, texts: list[str], *, x: float = 60, y: float = 780, size: float = 11, step: float = 17
) -> float:
    for text in texts:
        canvas.setFont("STSong-Light", size)
        canvas.drawString(x, y, text)
        y -= step
    return y


def wrapped(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)]


def kinds(path: Path, page: int = 0) -> list[tuple[str, str]]:
    found = load_file(path, ocr="off").pages[page]
    return [(b.kind, found.text[b.start : b.end]) for b in found.blocks]


def test_chinese_lines_join_without_blanks_and_headings_stand_out(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        y = lines(canvas, ["第三章 休假制度"], size=18)
        lines(canvas, wrapped(SENTENCE * 2, 40), y=y - 20)

    found = kinds(draw(tmp_path / "a.pdf", paint))
    assert found == [("heading", "第三章 休假制度"), ("text", SENTENCE * 2)]


def test_latin_lines_join_with_blanks_and_lose_their_hyphens(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        canvas.setFont("Times-Roman", 11)
        for number, text in enumerate(("The embedder reads at most a few hundred charac-", "ters of each passage, the rest is left unseen and", "cannot be found.")):  # fmt: skip
            canvas.drawString(60, 780 - 14 * number, text)

    (block,) = kinds(draw(tmp_path / "a.pdf", paint))
    assert block[1] == (
        "The embedder reads at most a few hundred characters of each passage, the rest is left unseen and cannot be found."
    )


@pytest.mark.parametrize("columns_first", [True, False])
def test_two_columns_are_read_one_after_the_other(tmp_path: Path, columns_first: bool) -> None:
    left, right = (
        wrapped("左栏讲的是采购流程和供应商的评分办法" * 12, 20),
        wrapped("右栏讲的是报销标准以及出差补贴的细则" * 12, 20),
    )

    def paint(canvas: Any) -> None:
        lines(canvas, ["采购与报销"], x=240, size=18)
        if columns_first:
            lines(canvas, left, y=740)
            lines(canvas, right, x=320, y=740)
        else:  # a program that paints from the bottom to the top, line by line
            for number in range(len(left) - 1, -1, -1):
                canvas.setFont("STSong-Light", 11)
                canvas.drawString(320, 740 - 17 * number, right[number])
                canvas.drawString(60, 740 - 17 * number, left[number])

    text = load_file(draw(tmp_path / "a.pdf", paint), ocr="off").pages[0].text
    assert text.index("采购与报销") < text.index("左栏") < text.rindex("左栏") < text.index("右栏")
    assert "".join(left) in text


def test_vertical_writing_is_read_downwards(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        canvas.setFont("STSong-Light", 14)
        for column, text in enumerate(("天地玄黄宇宙洪荒", "日月盈昃辰宿列张")):
            for number, character in enumerate(text):
                canvas.drawString(500 - 30 * column, 780 - 16 * number, character)

    text = load_file(draw(tmp_path / "a.pdf", paint), ocr="off").pages[0].text
    assert text.index("天地玄黄宇宙洪荒") < text.index("日月盈昃辰宿列张")


def test_headers_and_footers_are_dropped_and_tables_keep_numbers(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        for number in range(1, 6):
            lines(canvas, ["云帆科技员工手册 内部资料"], y=815, size=9)
            lines(canvas, [f"这是第{number}页的正文，讲的是第{number}件事。"], y=500)
            lines(canvas, [f"{number}"], x=290, y=30, size=9)
            canvas.showPage()

    loaded = load_file(draw(tmp_path / "a.pdf", paint), ocr="off")
    assert loaded.notes == ("repeated-lines-dropped",)
    assert [page.text for page in loaded.pages] == [
        f"这是第{n}页的正文，讲的是第{n}件事。" for n in range(1, 6)
    ]


def test_rows_of_cells_become_a_table_with_its_header(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        canvas.setFont("STSong-Light", 11)
        for number, row in enumerate(
            (("城市", "住宿标准", "餐补"), ("北京", "500", "100"), ("成都", "350", "80"))
        ):
            for column, cell in enumerate(row):
                canvas.drawString(60 + 150 * column, 780 - 20 * number, cell)

    page = load_file(draw(tmp_path / "a.pdf", paint), ocr="off").pages[0]
    assert page.blocks[0].kind == "table"
    assert page.blocks[0].header == "城市 | 住宿标准 | 餐补"
    assert page.text.split("\n")[1:] == ["北京 | 500 | 100", "成都 | 350 | 80"]


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_boxes_of_a_passage_lie_on_its_ink(tmp_path: Path, rotate: int) -> None:
    import numpy as np
    from PIL import Image

    def paint(canvas: Any) -> None:
        lines(canvas, wrapped(SENTENCE, 40))
        canvas.setFillColorRGB(1, 0, 0)
        lines(canvas, ["红色的这一句要被标出来。"], y=400)

    path = draw(tmp_path / "a.pdf", paint, rotate=rotate)
    text = load_file(path, ocr="off").pages[0].text
    start = text.index("红色")
    boxes = passage_boxes(path, 1, start, start + 12)
    assert len(boxes) == 1
    pixels = np.asarray(Image.open(io.BytesIO(page_picture(path, 1, scale=2))).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    rows, columns = np.nonzero(pixels[:, :, 0] - pixels[:, :, 1] > 100)
    assert len(rows) > 50
    box = boxes[0]
    assert box.left * width - 2 <= columns.min() and columns.max() <= box.right * width + 2
    assert box.top * height - 2 <= rows.min() and rows.max() <= box.bottom * height + 2
    assert (box.right - box.left) * (box.bottom - box.top) < 0.03


def test_a_passage_over_two_lines_has_two_boxes_and_no_page_is_an_error(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.pdf", lambda canvas: lines(canvas, wrapped(SENTENCE, 40)) and None)
    first, second = passage_boxes(path, 1, 35, 45)
    assert second.top > first.top and second.left < first.left
    assert passage_boxes(path, 1, 10_000, 10_010) == []
    with pytest.raises(LoadError, match="has no page 9"):
        passage_boxes(path, 9, 0, 1)
    with pytest.raises(LoadError, match="has no page 0"):
        page_picture(path, 0)


def test_outline_labels_and_title(tmp_path: Path) -> None:
    import pypdf

    def paint(canvas: Any) -> None:
        canvas.setTitle("差旅管理办法")
        for number in range(2):
            canvas.bookmarkPage(f"p{number}")
            canvas.addOutlineEntry(f"说明{number}", f"p{number}", level=0)
            lines(canvas, [f"说明{number}", "", SENTENCE[:30]])
            canvas.showPage()

    path = draw(tmp_path / "a.pdf", paint)
    writer = pypdf.PdfWriter(clone_from=path)
    writer.set_page_label(0, 1, style="/r")
    writer.write(path)
    loaded = load_file(path, ocr="off")
    assert loaded.title == "差旅管理办法"
    assert [page.label for page in loaded.pages] == ["i", "ii"]
    block = loaded.pages[1].blocks[0]
    assert (block.kind, block.level, loaded.pages[1].text[: block.end]) == ("heading", 1, "说明1")


def test_encrypted_needs_its_password(tmp_path: Path) -> None:
    import pypdf

    path = draw(tmp_path / "密.pdf", lambda canvas: lines(canvas, [SENTENCE[:30]]) and None)
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("芝麻", algorithm="AES-256")
    writer.write(path)
    with pytest.raises(LoadError, match="needs a password") as caught:
        load_file(path)
    assert "需要密码" in caught.value.zh
    with pytest.raises(LoadError, match="password is wrong"):
        load_file(path, password="西瓜")
    assert load_file(path, password="芝麻").pages[0].text == SENTENCE[:30]


def test_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "坏\n了.pdf"
    path.write_bytes(b"%PDF-1.7\nnothing of use")
    with pytest.raises(LoadError) as caught:
        load_file(path)
    assert "\n" not in str(caught.value) and "\\n" in str(caught.value)


def scan(path: Path, text: str) -> Path:
    """A page that is only a picture of text."""
    from PIL import Image
    from reportlab.lib.utils import ImageReader

    source = draw(path.with_suffix(".source.pdf"), lambda canvas: lines(canvas, [text], size=24) and None)
    picture = Image.open(io.BytesIO(page_picture(source, 1, scale=2)))
    return draw(path, lambda canvas: canvas.drawImage(ImageReader(picture), 0, 0, 595, 842) and None)


def test_a_scan_without_ocr_is_failed_with_advice(tmp_path: Path) -> None:
    page = load_file(scan(tmp_path / "scan.pdf", "Invoice 20251103"), ocr="off").pages[0]
    assert (page.text, page.verdict, page.reasons) == ("", "failed", ("no-text-layer",))
    assert "pip install 'zhiwen[ocr]'" in ADVICE["no-text-layer"][0]


@pytest.mark.slow
def test_a_scan_is_read_by_ocr(tmp_path: Path) -> None:
    if not ocr_available():
        pytest.skip("the ocr extra is not installed")
    page = load_file(scan(tmp_path / "scan.pdf", "Invoice 20251103")).pages[0]
    assert page.ocr and page.verdict == "suspect" and page.reasons == ("ocr",)
    assert "20251103" in page.text


def test_fonts_without_meaning_are_said(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.pdf", lambda canvas: lines(canvas, ["佛佛佛佛佛 纸纸纸", "釉釉釉釉"]) and None)
    page = load_file(path, ocr="off").pages[0]
    assert (page.verdict, page.reasons) == ("suspect", ("unmapped-font",))
    assert _named_by_code("/C67/C117/C108/C116") == "Cult"
    assert _named_by_code("ordinary text") == "ordinary text"


def test_radicals_become_characters_and_private_ones_are_said() -> None:
    assert "".join(_character(ord(c))[0] for c in "⽆⻓⻢") == "无长马"
    assert _character(0xE123) == ("\ufffd", True)
    assert _character(ord("\u200b")) == ("", False)


def test_text_and_indices_agree_and_reading_is_deterministic(tmp_path: Path) -> None:
    from kb.load.pdf import open_pdf
    from kb.load.pdf_layout import layout_page

    def paint(canvas: Any) -> None:
        lines(canvas, [*wrapped(SENTENCE * 3, 38), "cafe\u0301 naïve", "表  格   一"])

    path = draw(tmp_path / "a.pdf", paint)
    page = load_file(path, ocr="off").pages[0]
    layout = layout_page(open_pdf(path)[0].get_textpage())
    assert layout.text == page.text and len(layout.indices) == len(layout.text)
    assert page == load_file(path, ocr="off").pages[0]
    ends = [(b.start, b.end) for b in page.blocks]
    assert all(a < b <= c for (a, b), (c, _) in zip(ends, [*ends[1:], (len(page.text), 0)], strict=True))


def test_limits_of_pages_and_characters(tmp_path: Path) -> None:
    def paint(canvas: Any) -> None:
        for _ in range(4):
            lines(canvas, [SENTENCE[:30]])
            canvas.showPage()

    path = draw(tmp_path / "a.pdf", paint)
    with pytest.raises(LoadError, match="more than 3"):
        load_file(path, limits=LoadLimits(max_pages=3))
    assert "too-long" in load_file(path, limits=LoadLimits(max_characters=20)).notes
    with pytest.raises(LoadError, match="took more than"):
        load_file(path, limits=LoadLimits(seconds=-1.0))


def test_titles_that_a_program_made_up_are_no_titles() -> None:
    assert useful_title("PowerPoint 演示文稿") == useful_title("Microsoft Word - 报告.doc") == ""
    assert useful_title("  员工 手册\n") == "员工 手册"
