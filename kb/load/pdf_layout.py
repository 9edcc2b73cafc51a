"""One page of a PDF: lines -> paragraphs, headings and table rows, each character traceable to its box on the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median
from typing import Any

from kb.load.pdf_headings import ITEM, Sizes, heading_level, same_heading
from kb.load.pdf_lines import HAN, Line, PageLines, read_lines
from kb.load.pdf_order import reading_order
from kb.types import Block, BlockKind

_END = "。！？；：.!?;:”」）)"
_LEAD = re.compile(r"^(?:\W|[A-Za-z]|\d{1,2}(?:\.\d{1,2}){0,3}\.?|[IVX]{1,4}\.|[(（]\d{1,2}[)）])$")
"""A bullet or number that stands before its text and makes no table of it."""


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
    """Of them those without a meaning in Unicode."""
    cut: bool = False
    """The page holds more than is read."""


def layout_page(textpage: Any, *, drop: frozenset[str] = frozenset()) -> PageLayout:
    """`drop`: keys (see `line_key`) of lines in the margins that repeat on most pages and are left out."""
    found = read_lines(textpage)
    repeated = {id(x) for x in margin_lines(found.lines) if line_key(x.text) in drop} if drop else set()
    lines = [line for line in found.lines if id(line) not in repeated]
    usual = lines[0].turn if lines else 0
    along = [line for line in lines if line.turn == usual]
    aside = [line for line in lines if line.turn != usual]
    return _assemble([*_rows(reading_order(along)), *_rows(aside)], found)


def layout_found(lines: list[Line]) -> PageLayout:
    """The same for lines that were found in a picture, in any order."""
    characters = sum(len(line.text) for line in lines)
    return _assemble(_rows(reading_order(lines, trusted=False)), PageLines(lines, characters, 0))


def line_key(text: str) -> str:
    """The line with its digits taken out: page numbers differ, headers do not."""
    return re.sub(r"[\d\s]+", "#", text).strip("#")


def margin_lines(lines: list[Line]) -> list[Line]:
    """The three outermost lines above and below that stand in the upper or lower tenth of what is written, in type
    that is no larger than usual (a title that several pages share is no header)."""
    if not lines:
        return []
    usual = 1.35 * median(line.size for line in lines)
    lines = [line for line in lines if line.turn == lines[0].turn and line.size <= usual]
    if not lines:
        return []
    highest, lowest = max(line.top for line in lines), min(line.bottom for line in lines)
    tenth = 0.1 * (highest - lowest)
    high = sorted((x for x in lines if x.bottom > highest - tenth), key=lambda x: -x.top)[:3]
    low = sorted((x for x in lines if x.top < lowest + tenth), key=lambda x: x.bottom)[:3]
    return [*high, *low]


def _rows(lines: list[Line]) -> list[Line]:
    """Neighbouring lines on one height become one line, or a row with cells where the gap is wide."""
    rows: list[list[Line]] = []
    for line in lines:
        cells = rows[-1] if rows else []
        if not cells or line.vertical or not _beside(cells[-1], line):
            rows.append([line])
            continue
        last = cells[-1]
        gap, size = line.left - last.right, max(last.size, line.size)
        figures = last.text[-1].isdigit() and line.text[0].isdigit()
        if gap < (0.4 if figures else 0.9) * size:
            blank = gap > 0.2 * size and not (HAN.match(last.text[-1]) and HAN.match(line.text[0]))
            cells[-1] = _joined(last, line, " " if blank else "")
        else:
            cells.append(line)
    return [_row(cells) for cells in rows]


def _beside(before: Line, line: Line) -> bool:
    overlap = min(before.top, line.top) - max(before.bottom, line.bottom)
    level = overlap > 0.5 * min(before.height, line.height) and before.turn == line.turn
    return level and not before.vertical and line.left >= before.right - 0.5 * before.size


def _joined(a: Line, b: Line, between: str) -> Line:
    text = a.text + between + b.text
    indices = [*a.indices, *[-1] * len(between), *b.indices]
    size = a.size if len(a.text) >= len(b.text) else b.size
    return Line(
        text, indices, min(a.left, b.left), max(a.right, b.right), min(a.bottom, b.bottom), max(a.top, b.top), size,
        a.bold and b.bold, a.han, a.turn, a.vertical, b.hyphen, [],
    )  # fmt: skip


def _row(cells: list[Line]) -> Line:
    if len(cells) == 1:
        return cells[0]
    if len(cells) == 2 and _LEAD.match(cells[0].text):
        return _joined(cells[0], cells[1], " ")
    whole = cells[0]
    for cell in cells[1:]:
        whole = _joined(whole, cell, " | ")
    whole.cells = list(cells)
    return whole


class _Writer:
    """Text, blocks and indices, growing together."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.indices: list[int] = []
        self.blocks: list[Block] = []

    def write(self, text: str, indices: list[int]) -> None:
        self.text.append(text)
        self.indices += indices

    def close(self, kind: BlockKind, start: int, *, level: int = 0, header: str = "") -> None:
        end = len(self.indices)
        if end > start:
            self.blocks.append(Block(kind, start, end, level, header))

    def gap(self, text: str = "\n\n") -> None:
        if self.indices:
            self.write(text, [-1] * len(text))


def _assemble(rows: list[Line], found: PageLines) -> PageLayout:
    writer = _Writer()
    sizes = Sizes(rows)
    body = sizes.body
    edges = _edges(rows, body)
    at = 0
    while at < len(rows):
        row = rows[at]
        writer.gap()
        start = len(writer.indices)
        if row.cells and at + 1 < len(rows) and rows[at + 1].cells:
            at = _table(rows, at, writer, start)
            continue
        row = rows[at] = _flat(row)
        alone = at + 1 >= len(rows) or not _runs_on(row, rows[at + 1], edges[at], body)
        if level := heading_level(row, sizes, alone=alone):
            writer.write(row.text, row.indices)
            at += 1
            while at < len(rows) and same_heading(rows[at - 1], rows[at], sizes):
                writer.write(rows[at].text, rows[at].indices)
                at += 1
            writer.close("heading", start, level=level)
            continue
        at = _paragraph(rows, at, writer, edges, body)
        writer.close("text", start)
    return PageLayout(
        "".join(writer.text),
        tuple(writer.blocks),
        tuple(writer.indices),
        found.characters,
        found.unmapped,
        found.cut,
    )


def _edges(rows: list[Line], body: float) -> list[float]:
    """For each line the right (vertical: lower) edge of its column: where nearly all of its lines end at the latest."""
    page = sorted((row.right for row in rows), reverse=True)
    widest = page[len(page) // 12] if page else 0.0
    edges = []
    for number, row in enumerate(rows):
        near = rows[max(0, number - 40) : number + 40]
        if row.vertical:
            edges.append(min(x.bottom for x in near if x.vertical))
            continue
        rights = sorted(
            (x.right for x in near if abs(x.left - row.left) < 3 * body and not x.vertical), reverse=True
        )
        edges.append(rights[len(rights) // 8] if len(rights) > 2 else widest)
    return edges


def _flat(row: Line) -> Line:
    """A row of cells that stands alone is a line of text."""
    if not row.cells:
        return row
    whole = row.cells[0]
    for cell in row.cells[1:]:
        whole = _joined(whole, cell, "  ")
    return whole


def _table(rows: list[Line], at: int, writer: _Writer, start: int) -> int:
    header = rows[at].text
    first = at
    while at < len(rows) and (rows[at].cells or _wrapped(rows, at)):
        if at > first:
            writer.gap("\n")
        writer.write(rows[at].text, rows[at].indices)
        at += 1
    writer.close("table", start, header=header)
    return at


def _wrapped(rows: list[Line], at: int) -> bool:
    """A cell's second line between two rows of a table."""
    near = at + 1 < len(rows) and bool(rows[at + 1].cells)
    return (
        near
        and rows[at - 1].bottom - rows[at].top < 0.5 * rows[at].height
        and rows[at].left > rows[at - 1].left
    )


def _paragraph(rows: list[Line], at: int, writer: _Writer, edges: list[float], body: float) -> int:
    """Lines that run on; Chinese is joined without a blank, Latin with one, a hyphen at the end is taken out."""
    writer.write(rows[at].text, rows[at].indices)
    at += 1
    while at < len(rows) and _runs_on(rows[at - 1], rows[at], edges[at - 1], body):
        before, line = rows[at - 1], rows[at]
        if before.text.endswith("-") and re.match(r"[a-z]", line.text) and re.search(r"[a-z]-$", before.text):
            writer.text[-1] = writer.text[-1][:-1]
            writer.indices.pop()
        elif not (HAN.match(before.text[-1]) or HAN.match(line.text[0])):
            writer.write(" ", [-1])
        writer.write(line.text, line.indices)
        at += 1
    return at


def _runs_on(before: Line, line: Line, edge: float, body: float) -> bool:
    """Is `line` the next line of the paragraph that `before` belongs to?"""
    if line.cells or before.cells or ITEM.match(line.text) or line.vertical != before.vertical:
        return False
    if abs(line.size - before.size) > 0.22 * max(line.size, before.size):
        return False
    if line.vertical:
        return before.bottom < edge + 1.5 * body and 0 < before.left - line.left < 4 * body
    if before.hyphen:
        return True
    full = _is_full(before, line, edge, body)
    gap = before.bottom - line.top
    if gap > 1.2 * body:
        return False
    if gap < -2 * before.height:  # the top of the next column
        return full and before.text[-1] not in _END
    return full and line.left < before.left + 1.2 * body


def _is_full(before: Line, line: Line, edge: float, body: float) -> bool:
    """Would the next line's first word not have fitted behind it?"""
    if before.width < 8 * body:
        return False
    word = re.match(r"[^\W\u3000-\u9fff]+\S?", line.text)
    room = 1.6 * body + (0.5 * len(word.group()) * body if word else 0.0)
    if before.right > edge - room:
        return True
    long = before.width > 18 * body and before.text[-1] not in "。！？；：!?;:"
    return long and before.right > line.right - 1.2 * body
