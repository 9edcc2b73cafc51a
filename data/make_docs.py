"""Make the binary sample documents of data/docs from the plain texts in data/sources.

    python data/make_docs.py [--out data/docs]

The handbook (PDF), the manual (docx), the price list (xlsx) and the scanned page (picture-only PDF) come out the
same byte for byte on every run with the same versions of reportlab, python-docx, openpyxl and pillow. The scan
needs a Chinese font while it is made (Debian: fonts-wqy-microhei); no font file ends up in any document. The
texts (md, html, GBK txt) are written by hand and lie in data/docs as they are.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
FONTS = (
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)

PRICES: dict[str, list[list[str | int | float]]] = {
    "整机": [
        ["型号", "名称", "颜色", "零售价（元）", "经销价（元）", "起订量（台）", "供货状态"],
        ["LS-T3", "听泉 T3 台式净饮机", "云白", 1899, 1420, 10, "现货"],
        ["LS-T3B", "听泉 T3 台式净饮机", "墨黑", 1949, 1460, 10, "现货"],
        ["LS-T5", "听泉 T5 台式净饮机（制冷）", "云白", 2799, 2090, 5, "预订 15 天"],
        ["LS-U8", "澄川 U8 厨下净水器", "银灰", 2399, 1780, 5, "现货"],
        ["LS-U8P", "澄川 U8 Pro 厨下净水器", "银灰", 3199, 2350, 5, "现货"],
        ["LS-G2", "管线机 G2", "云白", 999, 730, 10, "停产清库"],
        ["LS-S1", "商用开水器 S1", "拉丝钢", 4680, 3700, 2, "预订 20 天"],
    ],
    "滤芯与配件": [
        ["料号", "名称", "适用机型", "单价（元）", "整箱数量（支）", "整箱价（元）"],
        ["CF-31", "复合滤芯", "T3、T5", 129, 24, 2640],
        ["RO-75", "反渗透膜 75 加仑", "T3、T5", 369, 12, 3960],
        ["RO-600", "反渗透膜 600 加仑", "U8、U8 Pro", 599, 6, 3240],
        ["PC-12", "后置炭棒", "T3、T5、U8", 89, 24, 1800],
        ["TK-42", "原水箱 4.2 L", "T3", 158, 6, 870],
        ["TK-20", "净水箱 2.0 L", "T3", 138, 6, 750],
        ["GS-05", "密封圈套装", "全系列", 18, 100, 1350],
        ["DC-20", "柠檬酸除垢剂 20 g×10", "全系列", 25, 40, 760],
    ],
    "服务收费": [
        ["项目", "说明", "市区（元）", "郊县（元）", "备注"],
        ["上门安装", "厨下机型，含打孔一处", 120, 180, "购机三十天内免费一次"],
        ["上门检测", "不含配件", 60, 90, "维修后抵扣人工费"],
        ["保外维修人工", "按次", 150, 200, "同一故障九十天内免费返修"],
        ["移机", "拆一次装一次", 200, 260, "不含新开孔"],
        ["开孔", "石英石台面，每孔", 80, 80, "大理石面板需客户签字确认"],
        ["延保一年", "听泉系列", 199, 199, "须在原保修期内购买"],
        ["延保两年", "听泉系列", 349, 349, "须在原保修期内购买"],
    ],
}
NOTES = {
    "整机": "价格含增值税，自 2026 年 3 月 1 日起执行。单笔订单满 50 台另返 2%。",
    "滤芯与配件": "滤芯拆封后不退不换；整箱采购满 5 箱包邮。",
    "服务收费": "偏远地区另收交通费，以派单时报价为准。",
}


def parts(text: str) -> Iterator[tuple[str, Any]]:
    """(kind, content) of each part of our small Markdown: "#", "##", "###", "text", "table", "page"."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not re.fullmatch(r"[|\s:-]+", line):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if rows:
            yield "table", rows
            rows = []
        if line == "---":
            yield "page", None
        elif heading := re.fullmatch(r"(#+) (.+)", line):
            yield heading[1], heading[2]
        elif line:
            yield "text", line


def make_handbook(path: Path) -> None:
    """A PDF with the built-in CID font (not embedded), an outline, tables, and a header and number on each page."""
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table, TableStyle

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    body = ParagraphStyle(
        "body", fontName="STSong-Light", fontSize=11, leading=20, spaceAfter=6, wordWrap="CJK"
    )
    styles = {
        "#": ParagraphStyle("title", parent=body, fontSize=19, leading=32, spaceAfter=14, alignment=1),
        "##": ParagraphStyle("chapter", parent=body, fontSize=15, leading=26, spaceBefore=8, spaceAfter=8),
        "text": body,
    }
    grid = TableStyle(
        [
            ("FONT", (0, 0), (-1, -1), "STSong-Light", 10),
            ("GRID", (0, 0), (-1, -1), 0.5, colors.grey),
            ("BACKGROUND", (0, 0), (-1, 0), colors.whitesmoke),
            ("ALIGN", (0, 0), (-1, -1), "CENTER"),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
        ]
    )
    story: list[Any] = []
    for kind, content in parts((SOURCES / "员工手册.md").read_text(encoding="utf-8")):
        if kind == "table":
            story.append(Table(content, style=grid, hAlign="CENTER", spaceBefore=4, spaceAfter=10))
        else:
            story.append(PageBreak() if kind == "page" else Paragraph(content, styles[kind]))

    def frame(canvas: Any, document: Any) -> None:
        canvas.setFont("STSong-Light", 9)
        canvas.drawString(72, 806, "澜石智能设备有限公司 · 员工手册 2026 年版")
        canvas.drawCentredString(297, 36, f"第 {document.page} 页")
        canvas.bookmarkPage(f"p{document.page}")
        chapters = re.findall(r"^## (.+)$", (SOURCES / "员工手册.md").read_text(encoding="utf-8"), re.M)
        canvas.addOutlineEntry(chapters[document.page - 1], f"p{document.page}", 0)

    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        title="员工手册 2026 年版",
        author="人力资源部",
        invariant=1,
        pageCompression=1,
    )
    document.build(story, onFirstPage=frame, onLaterPages=frame)


def freeze_zip(data: bytes, path: Path) -> None:
    """Write an Office file with fixed times, so that the same content gives the same bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?", b"2026-03-01T09:00:00Z", content)
            entry = zipfile.ZipInfo(name, date_time=(2026, 3, 1, 9, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, content)


def make_manual(path: Path) -> None:
    """A Word file with real heading styles and tables."""
    from docx import Document

    document = Document()
    document.core_properties.title = "听泉 T3 台式净饮机 使用说明书"
    document.core_properties.author = "产品部"
    for kind, content in parts((SOURCES / "听泉T3净水机说明书.md").read_text(encoding="utf-8")):
        if kind == "table":
            table = document.add_table(rows=0, cols=len(content[0]), style="Table Grid")
            for row in content:
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        elif kind == "text":
            document.add_paragraph(content)
        else:
            document.add_heading(content, level=len(kind) - 1)
    buffer = io.BytesIO()
    document.save(buffer)
    freeze_zip(buffer.getvalue(), path)


def make_prices(path: Path) -> None:
    """A workbook of three sheets; the note stands two rows below each table, as people write it."""
    from openpyxl import Workbook
    from openpyxl.styles import Font

    book = Workbook()
    book.remove(book.active)
    book.properties.title = "澜石产品价目表 2026 春季"
    book.properties.creator = "销售部"
    for name, rows in PRICES.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        sheet.cell(row=len(rows) + 2, column=1, value=NOTES[name])
        sheet.freeze_panes = "A2"
        for letter in "ABCDEFG":
            sheet.column_dimensions[letter].width = 22
    buffer = io.BytesIO()
    book.save(buffer)
    freeze_zip(buffer.getvalue(), path)


def make_scan(path: Path, *, seed: int = 7) -> None:
    """One page that is only a picture: typed text, turned by 0.6 degrees, with grain, as a cheap scanner gives it."""
    from PIL import Image, ImageDraw, ImageFont
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    font_file = next((name for name in FONTS if Path(name).exists()), None)
    if font_file is None:
        raise SystemExit(f"A Chinese font is needed to draw the scan; none of {', '.join(FONTS)} exists.")
    width, height = 1240, 1754  # A4 at 150 dots per inch
    page = Image.new("L", (width, height), 250)
    pen = ImageDraw.Draw(page)
    y = 150
    for number, line in enumerate((SOURCES / "设备验收单.txt").read_text(encoding="utf-8").splitlines()):
        font = ImageFont.truetype(font_file, 46 if number == 1 else 33)
        x = (width - pen.textlength(line, font=font)) / 2 if number < 2 else 140
        pen.text((x, y), line, fill=35, font=font)
        y += 84 if number < 2 else 70
    page = page.rotate(0.6, resample=Image.Resampling.BICUBIC, fillcolor=246)
    dice = random.Random(seed)
    pixels = page.load()
    for _ in range(26_000):
        spot = (dice.randrange(width), dice.randrange(height))
        pixels[spot] = max(0, min(255, pixels[spot] + dice.randint(-45, 20)))
    picture = io.BytesIO()
    page.save(picture, "JPEG", quality=52)
    canvas = Canvas(str(path), pagesize=(595, 842), invariant=1)
    canvas.setTitle("设备验收单（扫描）")
    canvas.drawImage(ImageReader(io.BytesIO(picture.getvalue())), 0, 0, width=595, height=842)
    canvas.save()


MAKERS = {
    "员工手册.pdf": make_handbook,
    "听泉T3净水机说明书.docx": make_manual,
    "价目表2026春季.xlsx": make_prices,
    "设备验收单_扫描.pdf": make_scan,
}


def main() -> int:
    """Make all four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "docs", help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, make in MAKERS.items():
        make(out / name)
        print(f"{out / name}  {(out / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
