"""A document's pages as units: headings, paragraphs, table rows, lines of code; each with the headings above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kb.split.config import SplitConfig
from kb.split.sentences import paragraph_spans
from kb.types import Block, LoadedFile, Page

UnitKind = Literal["heading", "text", "row", "code"]

_LONGEST_HEADING = 100
"""Characters; a longer "heading" is a paragraph in bold."""

_NUMBER = "[一二三四五六七八九十百千零〇两0-9０-９]{1,9}"
_HEADINGS: tuple[tuple[int, re.Pattern[str]], ...] = (
    (1, re.compile(rf"第{_NUMBER}[编篇卷部]分?(?:\s|$|：|[^之的分中，])")),
    (2, re.compile(rf"第{_NUMBER}[章回](?:\s|$|：|[^之的分中，])|楔子(?:\s|$)|附\s*则$|总\s*则$|附录")),
    (3, re.compile(rf"第{_NUMBER}节(?:\s|$|：|[^之的中，])")),
    (4, re.compile(r"[一二三四五六七八九十]{1,3}、")),
    (5, re.compile(r"[（(][一二三四五六七八九十]{1,3}[）)]")),
)
"""What a heading line of plain text begins with."""
_MARKDOWN = re.compile(r"(#{1,6})\s+\S")
_SENTENCE = re.compile(r"[。；;！!？?，,：:…]$|[。；].")
_LONGEST_PLAIN = 40
"""Characters of a heading line in plain text."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of one page that is not cut if that can be avoided."""

    page: Page
    start: int
    end: int
    kind: UnitKind
    path: tuple[str, ...]
    """Document title and headings above it, its own included if it is a heading."""
    header: str = ""
    """Rows: the table's header row."""
    header_at: tuple[int, int] | None = None
    """Rows: where the header row stands on this page, if it does."""

    @property
    def length(self) -> int:
        return self.end - self.start


class _Path:
    """The headings that the reader is under."""

    def __init__(self, title: str) -> None:
        self._title = title.strip()
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, text))

    @property
    def names(self) -> tuple[str, ...]:
        names = tuple(text for _, text in self._open)
        return names if not self._title or names[:1] == (self._title,) else (self._title, *names)


def units_of(loaded: LoadedFile, *, config: SplitConfig) -> list[Unit]:
    """All units in order. Together they hold every character of the pages but white space (tested)."""
    marked = any(block.kind == "heading" for page in loaded.pages for block in page.blocks)
    path = _Path(loaded.title)
    units: list[Unit] = []
    for page in loaded.pages:
        for block in _whole(page):
            if block.kind == "table":
                units.extend(_rows(page, block, path=path, config=config))
            elif block.kind == "code":
                units.extend(_code(page, block, path=path, config=config))
            else:
                units.extend(_prose(page, block, path=path, marked=marked))
    return units


def _whole(page: Page) -> Iterator[Block]:
    """The page's blocks in order, with text blocks for whatever lies between them."""
    at = 0
    for block in sorted(page.blocks, key=lambda block: block.start):
        start, end = max(at, block.start), min(block.end, len(page.text))
        if page.text[at:start].strip():
            yield Block(kind="text", start=at, end=start)
        if start < end and page.text[start:end].strip():
            yield Block(block.kind, start, end, level=block.level, header=block.header)
        at = max(at, end)
    if page.text[at:].strip():
        yield Block(kind="text", start=at, end=len(page.text))


def _prose(page: Page, block: Block, *, path: _Path, marked: bool) -> Iterator[Unit]:
    """Headings and paragraphs of a heading or text block."""
    start, end = _trimmed(page.text, block.start, block.end)
    if block.kind == "heading" and end - start <= _LONGEST_HEADING:
        path.enter(max(1, block.level), _title(page.text[start:end]))
        yield Unit(page, start, end, "heading", path.names)
        return
    for first, last in paragraph_spans(page.text, start, end):
        a, b = _trimmed(page.text, first, last)
        level = 0 if marked else heading_level(page.text[a:b])
        if level:
            path.enter(level, _title(page.text[a:b]))
        yield Unit(page, a, b, "heading" if level else "text", path.names)


def heading_level(line: str) -> int:
    """1 to 6 if a line of plain text looks like a heading (第三章 总则, 一、范围, ## 安装), else 0."""
    if len(line) > _LONGEST_PLAIN or "\n" in line:
        return 0
    if found := _MARKDOWN.match(line):
        return len(found.group(1))
    if _SENTENCE.search(line):
        return 0
    return next((level for level, pattern in _HEADINGS if pattern.match(line)), 0)


def _title(text: str) -> str:
    return " ".join(text.lstrip("#").split())


def _rows(page: Page, block: Block, *, path: _Path, config: SplitConfig) -> Iterator[Unit]:
    """One unit a line of the table; the first lines that repeat its header point at nothing."""
    header = block.header.strip()
    found = page.text.find(header, block.start, block.end) if header else -1
    at = (found, found + len(header)) if found >= 0 and len(header) <= config.max_chars // 2 else None
    for start, end in _lines(page.text, block):
        covered = at is not None and start < at[1]
        yield Unit(page, start, end, "row", path.names, header=header, header_at=None if covered else at)


def _code(page: Page, block: Block, *, path: _Path, config: SplitConfig) -> Iterator[Unit]:
    """The whole block if it fits into a passage, else its lines."""
    start, end = _trimmed(page.text, block.start, block.end)
    if end - start <= config.max_chars:
        yield Unit(page, start, end, "code", path.names)
        return
    for first, last in _lines(page.text, block):
        yield Unit(page, first, last, "code", path.names)


def _lines(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """(start, end) of each line that is not empty; leading white space is kept in code."""
    at = block.start
    while at < block.end:
        newline = text.find("\n", at, block.end)
        stop = block.end if newline < 0 else newline
        start, end = _trimmed(text, at, stop)
        if start < end:
            yield (at if block.kind == "code" else start), end
        at = stop + 1


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
