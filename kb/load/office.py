"""Word, PowerPoint and Excel (the zip-based formats of 2007 and later)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kb.errors import LoadError
from kb.load.builder import PageBuilder
from kb.load.limits import LoadLimits, check_zip, shown
from kb.types import LoadedFile, Page

_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"


def _damaged(path: Path, error: Exception) -> LoadError:
    return LoadError(
        f"{shown(path)} cannot be opened ({type(error).__name__}: {str(error)[:120]}). It is damaged or encrypted: open it "
        "in its program and save it again without a password.",
        zh=f"{shown(path)} 打不开（{type(error).__name__}：{str(error)[:120]}）。文件已损坏或加密：请用原软件打开，去掉密码后另存。",
    )


# ------------------------------------------------------------------ docx


def load_docx(path: Path, limits: LoadLimits) -> LoadedFile:
    """One page: Word stores no page breaks that can be trusted. Headings by style, tables with their header."""
    import docx

    check_zip(path, limits)
    try:
        document = docx.Document(str(path))
    except (KeyError, ValueError, OSError, docx.opc.exceptions.PackageNotFoundError) as error:
        raise _damaged(path, error) from error
    builder = PageBuilder()
    for item in document.iter_inner_content():
        if isinstance(item, docx.table.Table):
            builder.table(list(_docx_rows(item)))
            continue
        text = _docx_text(item)
        level = _heading_level(item)
        builder.add("heading" if level else "text", text, level=level)
    title = (document.core_properties.title or "").strip() or path.stem
    return LoadedFile(path, "docx", (builder.page(1),), title)


def _docx_text(paragraph: Any) -> str:
    """Text of a paragraph, that of its links and text boxes included; numbered items keep a mark."""
    from docx.oxml.ns import qn

    pieces: list[str] = []
    for node in paragraph._p.iter():
        if node.tag == qn("w:t") and not any(a.tag == _FALLBACK for a in node.iterancestors()):
            pieces.append(node.text or "")
        elif node.tag in (qn("w:br"), qn("w:cr")):
            pieces.append("\n")
        elif node.tag == qn("w:tab"):
            pieces.append(" ")
    return "".join(pieces)


def _heading_level(paragraph: Any) -> int:
    style = paragraph.style
    while style is not None:
        match = re.fullmatch(r"(?:heading|标题)\s*(\d)", (style.name or "").strip(), re.IGNORECASE)
        if match:
            return max(1, min(6, int(match.group(1))))
        if (style.name or "").strip().lower() in ("title", "标题"):
            return 1
        style = style.base_style
    return 0


def _docx_rows(table: Any) -> Iterator[list[str]]:
    """Cells as text; one that spans several columns is given once."""
    for row in table.rows:
        cells: list[str] = []
        before: Any = None
        for cell in row.cells:
            cells.append("" if cell._tc is before else cell.text)
            before = cell._tc
        yield cells


# ------------------------------------------------------------------ pptx


def load_pptx(path: Path, limits: LoadLimits) -> LoadedFile:
    """One page a slide: title, texts from top to bottom, tables, notes."""
    import pptx
    from pptx.exc import PackageNotFoundError

    check_zip(path, limits)
    try:
        deck = pptx.Presentation(str(path))
    except (KeyError, ValueError, OSError, PackageNotFoundError) as error:
        raise _damaged(path, error) from error
    pages: list[Page] = []
    for number, slide in enumerate(deck.slides, start=1):
        builder = PageBuilder()
        title = slide.shapes.title
        if title is not None and title.has_text_frame:
            builder.add("heading", title.text_frame.text, level=1)
        for shape in _shapes(slide.shapes):
            if title is not None and shape.shape_id == title.shape_id:
                continue
            if getattr(shape, "has_table", False) and shape.has_table:
                builder.table([[cell.text for cell in row.cells] for row in shape.table.rows])
            elif shape.has_text_frame:
                builder.add("text", shape.text_frame.text)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            builder.add("text", slide.notes_slide.notes_text_frame.text)
        pages.append(builder.page(number))
    name = (deck.core_properties.title or "").strip() or path.stem
    return LoadedFile(path, "pptx", tuple(pages), name)


def _shapes(shapes: Any) -> list[Any]:
    """From top to bottom, then left to right; groups taken apart."""
    flat: list[Any] = []
    for shape in shapes:
        if hasattr(shape, "shapes"):
            flat += _shapes(shape.shapes)
        else:
            flat.append(shape)
    return sorted(flat, key=lambda s: ((s.top or 0) // 200_000, s.left or 0))


# ------------------------------------------------------------------ xlsx


def load_xlsx(path: Path, limits: LoadLimits) -> LoadedFile:
    """One page a sheet, its rows as a table; formulas by their last value. Empty sheets are left out."""
    import openpyxl

    check_zip(path, limits)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise _damaged(path, error) from error
    pages: list[Page] = []
    characters = 0
    try:
        for number, sheet in enumerate(book.worksheets, start=1):
            builder = PageBuilder()
            rows = []
            for row in sheet.iter_rows(values_only=True):
                cells = [_cell(value) for value in row]
                while cells and not cells[-1]:
                    cells.pop()
                if cells:
                    rows.append(cells)
                    characters += sum(map(len, cells))
                if characters > limits.max_characters:
                    break
            builder.add("heading", sheet.title, level=1)
            builder.table(rows)
            if rows:
                pages.append(builder.page(number, label=sheet.title))
    finally:
        book.close()
    empty = Page(1, "", (), "", "failed", ("empty",))
    return LoadedFile(path, "xlsx", tuple(pages) or (empty,), path.stem)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d" if value.time() == datetime.time() else "%Y-%m-%d %H:%M")
    return str(value)
