"""One page of a PDF, by pdfium: characters -> lines -> paragraphs, headings and table rows, each character traceable to
its box on the page."""

from __future__ import annotations

import ctypes
import re
import unicodedata
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kb.analyze import plain_character
from kb.types import Block

_HAN = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_END = "。！？；：.!?;:”」）)"
_ITEM = re.compile(
    r"^\s*(第[一二三四五六七八九十百千零〇\d]+[章节条款编篇]|[一二三四五六七八九十]+、|[（(][一二三四五六七八九十\d]+[)）]|\d+[.、)）]\s?|[•●■◆·▪-]\s?)"
)


@dataclass(slots=True)
class Line:
    """Characters that stand beside each other."""

    text: str
    indices: list[int]
    """For each character of `text` its number on the page; -1 for one that we added."""
    left: float
    right: float
    bottom: float
    top: float
    cells: list[str] = field(default_factory=list)
    """More than one: it is a row of a table."""

    @property
    def height(self) -> float:
        return self.top - self.bottom


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Text, blocks, and the way back to the page."""

    text: str
    blocks: tuple[Block, ...]
    indices: tuple[int, ...]
    """For each character of `text` its number on the page, or -1."""
    characters: int
    """Visible characters on the page."""
    unmapped: int
    """Of them those whose font has no map to Unicode, or that came out in the private area."""


def layout_page(textpage: Any, *, drop: frozenset[str] = frozenset()) -> PageLayout:
    """`drop`: keys of lines (see `line_key`) that repeat on every page and are left out."""
    lines, characters, unmapped = read_lines(textpage)
    lines = [line for line in lines if line_key(line.text) not in drop]
    rows = _rows(lines)
    return _assemble(rows, characters, unmapped)


def line_key(text: str) -> str:
    """The line with its digits taken out: page numbers differ, headers do not."""
    return re.sub(r"[\d\s]+", "", text)


def read_lines(textpage: Any) -> tuple[list[Line], int, int]:
    """(lines in the order of the file, visible characters, unmapped characters)."""
    import pypdfium2.raw as pdfium

    page = textpage.raw
    count = max(0, pdfium.FPDFText_CountChars(page))
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    lines: list[Line] = []
    current: Line | None = None
    characters = unmapped = 0
    high = 0
    for index in range(count):
        code = pdfium.FPDFText_GetUnicode(page, index)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000 and high:
            code, high = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00), 0
        if code in (10, 13):
            current = None
            continue
        if code in (0, 0xFFFE, 0xFFFF, 0xAD, 2):
            continue
        character = plain_character(chr(code))
        if character.isspace():
            if current is not None and not current.text.endswith(" "):
                current.text += " "
                current.indices.append(index)
            continue
        characters += 1
        if (
            unicodedata.category(chr(code)) in ("Co", "Cn", "Cs", "Cc")
            or pdfium.FPDFText_HasUnicodeMapError(page, index) == 1
        ):
            unmapped += 1
        pdfium.FPDFText_GetCharBox(page, index, left, right, bottom, top)
        if current is not None and _far(current, left.value, bottom.value, top.value):
            current = None
        if current is None:
            current = Line("", [], left.value, right.value, bottom.value, top.value)
            lines.append(current)
        elif character == current.text[-1:] and abs(
            left.value - current.right + (right.value - left.value)
        ) < 0.35 * max(0.1, right.value - left.value):
            continue  # the same character printed twice in one place, to look bold
        current.text += character
        current.indices += [index] * len(character)
        current.right = max(current.right, right.value)
        current.bottom, current.top = min(current.bottom, bottom.value), max(current.top, top.value)
    for line in lines:
        while line.text.endswith(" "):
            line.text = line.text[:-1]
            line.indices.pop()
    return [line for line in lines if line.text], characters, unmapped


def _far(line: Line, left: float, bottom: float, top: float) -> bool:
    """Does the character stand in another line, or beyond a gap as wide as between columns?"""
    middle = (bottom + top) / 2
    if line.height > 0 and not line.bottom - 0.6 * line.height <= middle <= line.top + 0.6 * line.height:
        return True
    return left - line.right > 1.3 * max(line.height, 6.0) or line.left - left > 4 * max(line.height, 6.0)


def _rows(lines: list[Line]) -> list[Line]:
    """Neighbouring lines on one height become one row with cells."""
    rows: list[Line] = []
    for line in lines:
        before = rows[-1] if rows else None
        if before is not None:
            overlap = min(before.top, line.top) - max(before.bottom, line.bottom)
            same = overlap > 0.5 * min(before.height, line.height) and line.left >= before.right - 1
            if same and line.left - before.right > 0.8 * max(before.height, line.height):
                before.cells = [*(before.cells or [before.text]), line.text]
                before.text += " | " + line.text
                before.indices += [-1, -1, -1, *line.indices]
                before.right = line.right
                before.bottom, before.top = min(before.bottom, line.bottom), max(before.top, line.top)
                continue
        rows.append(line)
    return rows


class _Writer:
    """Text, blocks and indices, growing together."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.indices: list[int] = []
        self.blocks: list[Block] = []

    def write(self, text: str, indices: list[int]) -> None:
        self.text.append(text)
        self.indices += indices

    def close(self, kind: str, start: int, *, level: int = 0, header: str = "") -> None:
        end = len(self.indices)
        if end > start:
            self.blocks.append(Block(kind, start, end, level, header))  # type: ignore[arg-type]

    def gap(self, text: str = "\n\n") -> None:
        if self.indices:
            self.write(text, [-1] * len(text))


def _assemble(rows: list[Line], characters: int, unmapped: int) -> PageLayout:
    writer = _Writer()
    heights = [row.height for row in rows if len(row.text) > 8] or [row.height for row in rows] or [10.0]
    body = median(heights)
    edge = max((row.right for row in rows), default=0.0)
    at = 0
    while at < len(rows):
        row = rows[at]
        writer.gap()
        start = len(writer.indices)
        if len(row.cells) > 1 and at + 1 < len(rows) and len(rows[at + 1].cells) > 1:
            at = _table(rows, at, writer, start)
            continue
        large = row.height > 1.18 * body and len(row.text) < 60
        chapter = re.match(r"^\s*第[一二三四五六七八九十百\d]+[章节编篇]", row.text) and len(row.text) < 40
        if (large or chapter) and not row.cells:
            writer.write(row.text, row.indices)
            writer.close("heading", start, level=1 if row.height > 1.5 * body else 2)
            at += 1
            continue
        at = _paragraph(rows, at, writer, edge, body)
        writer.close("text", start)
    return PageLayout("".join(writer.text), tuple(writer.blocks), tuple(writer.indices), characters, unmapped)


def _table(rows: list[Line], at: int, writer: _Writer, start: int) -> int:
    header = rows[at].text
    columns = len(rows[at].cells)
    first = True
    while at < len(rows) and (len(rows[at].cells) > 1 or (_wrapped(rows, at) and columns > 1)):
        if not first:
            writer.gap("\n")
        writer.write(rows[at].text, rows[at].indices)
        first = False
        at += 1
    writer.close("table", start, header=header)
    return at


def _wrapped(rows: list[Line], at: int) -> bool:
    """A cell's second line between two rows of a table."""
    return (
        at + 1 < len(rows)
        and len(rows[at + 1].cells) > 1
        and rows[at - 1].bottom - rows[at].top < 0.5 * rows[at].height
    )


def _paragraph(rows: list[Line], at: int, writer: _Writer, edge: float, body: float) -> int:
    """Lines that run on; Chinese is joined without a blank, Latin with one, a hyphen at the end is taken out."""
    writer.write(rows[at].text, rows[at].indices)
    at += 1
    while at < len(rows) and _runs_on(rows[at - 1], rows[at], edge, body):
        before, line = rows[at - 1], rows[at]
        if re.search(r"[a-z]-$", before.text) and re.match(r"[a-z]", line.text):
            writer.text[-1] = writer.text[-1][:-1]
            writer.indices.pop()
        elif not (_HAN.match(before.text[-1]) or _HAN.match(line.text[0])):
            writer.write(" ", [-1])
        writer.write(line.text, line.indices)
        at += 1
    return at


def _runs_on(before: Line, line: Line, edge: float, body: float) -> bool:
    if line.cells or before.cells or _ITEM.match(line.text):
        return False
    if abs(line.height - before.height) > 0.25 * max(line.height, before.height):
        return False
    gap = before.bottom - line.top
    if gap > 1.4 * body or gap < -3 * body:
        return gap < -3 * body and before.text[-1] not in _END  # the top of the next column
    full = before.right > edge - 2.5 * body or before.right > line.right - 1.5 * body
    return full and (line.left < before.left + 1.2 * body)
