"""Word (docx): paragraphs with their automatic numbers, headings by style or outline level, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kb.load.builder import PageBuilder
from kb.load.limits import LoadLimits, check_zip, damaged
from kb.load.numbering import Numbering
from kb.load.pdf_second import useful_title
from kb.types import LoadedFile

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_UNSEEN = {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    f"{_W}rt",  # how a character is pronounced, above it
    f"{_W}moveFrom",
    f"{_W}del",
    f"{_W}pPr",
}
_DEEPEST = 30


def load_docx(path: Path, limits: LoadLimits) -> LoadedFile:
    """One page: Word stores no page breaks that can be trusted. Raises LoadError."""
    import docx
    import docx.opc.exceptions
    from lxml.etree import LxmlError

    check_zip(path, limits)
    try:
        document = docx.Document(str(path))
        builder = PageBuilder()
        _Reader(document, builder).walk(document.element.body, 0)
        title = useful_title(document.core_properties.title or "")
    except (
        KeyError, ValueError, OSError, AttributeError, LxmlError, docx.opc.exceptions.PackageNotFoundError,
    ) as error:  # fmt: skip
        raise damaged(path, error) from error
    page = builder.page(1, reasons=("embedded-files",) if _has_files(document) else ())
    return LoadedFile(path, "docx", (page,), title or path.stem)


def _has_files(document: Any) -> bool:
    return any("/embeddings/" in str(part.partname) for part in document.part.package.iter_parts())


class _Reader:
    def __init__(self, document: Any, builder: PageBuilder) -> None:
        self._document = document
        self._builder = builder
        self._numbering = Numbering(document)

    def walk(self, parent: Any, depth: int) -> None:
        """Paragraphs and tables in order, those within content controls included."""
        from docx.table import Table
        from docx.text.paragraph import Paragraph

        for child in parent:
            if child.tag == f"{_W}p":
                self._paragraph(Paragraph(child, self._document))
            elif child.tag == f"{_W}tbl":
                self._builder.table(list(_rows(Table(child, self._document))))
            elif (
                child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml")
                and depth < _DEEPEST
            ):
                self.walk(child, depth + 1)

    def _paragraph(self, paragraph: Any) -> None:
        text = _text(paragraph._p)
        styles = list(_styles(paragraph))
        if any((s.name or "").lower().startswith("toc ") for s in styles):
            return
        number = self._numbering.next(paragraph, styles) if text.strip() else ""
        level = _heading_level(paragraph, styles)
        if level and len(text) <= 100:
            self._builder.add("heading", number + text, level=level)
        else:
            self._builder.add("text", number + text)


def _text(element: Any) -> str:
    """Text of a paragraph, that of its links and text boxes included, deleted text and pronunciation left out."""
    pieces: list[str] = []

    def walk(node: Any, depth: int) -> None:
        for child in node:
            if child.tag in _UNSEEN or depth > 100:
                continue
            if child.tag == f"{_W}t":
                pieces.append(child.text or "")
            elif child.tag in (f"{_W}br", f"{_W}cr"):
                pieces.append("\n")
            elif child.tag == f"{_W}tab":
                pieces.append(" ")
            elif child.tag == f"{_W}noBreakHyphen":
                pieces.append("-")
            else:
                if child.tag == f"{_W}p" and pieces:
                    pieces.append("\n")
                walk(child, depth + 1)

    walk(element, 0)
    return "".join(pieces)


def _styles(paragraph: Any) -> Iterator[Any]:
    """The paragraph's style and those that it is based on."""
    style = paragraph.style
    for _ in range(_DEEPEST):
        if style is None:
            return
        yield style
        style = style.base_style


def _heading_level(paragraph: Any, styles: list[Any]) -> int:
    for style in styles:
        name = (style.name or "").strip()
        if found := re.fullmatch(r"(?:heading|标题)\s*(\d)", name, re.IGNORECASE):
            return max(1, min(6, int(found.group(1))))
        if name.lower() in ("title", "标题"):
            return 1
    for element in (paragraph._p, *(style.element for style in styles)):
        outline = element.find(f"{_W}pPr/{_W}outlineLvl")
        value = outline.get(f"{_W}val", "") if outline is not None else ""
        if value.isdigit():
            return int(value) + 1 if int(value) < 6 else 0
    return 0


def _rows(table: Any) -> Iterator[list[str]]:
    """Cells as text. One that spans columns is given once; one that spans rows in each, so that every row is whole."""
    for row in table.rows:
        cells: list[str] = []
        before: Any = None
        for cell in row.cells:
            text = "" if cell._tc is before else " ".join(_text(p) for p in cell._tc.iter(f"{_W}p"))
            cells.append(text)
            before = cell._tc
        yield cells
