"""pypdf's view of a PDF: outline, page labels, title, and its own reading of a page that pdfium reads badly."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from kb.load.encoding import clean

MOST_ENTRIES = 5000
"""Of an outline."""
_EMPTY_TITLE = re.compile(
    r"(?i)^(?:untitled.*|无标题.*|powerpoint (?:演示文稿|presentation)|microsoft (?:word|powerpoint|excel) - .*|"
    r"word 文档|文档\s*\d*|document\s*\d*|幻灯片\s*\d+|slide \d+|\S+\.(?:docx?|pptx?|xlsx?|wps|indd|tex|dvi|qxd|txt))$"
)
_GLYPH = re.compile(r"/C(\d{1,3})")


def useful_title(title: str) -> str:
    """The title that a file carries, or nothing if a program made it up."""
    title = " ".join(clean(title).split())
    return "" if _EMPTY_TITLE.match(title) or "\ufffd" in title else title[:300]


class SecondOpinion:
    """What pypdf cannot read is simply not there."""

    def __init__(self, path: Path, password: str) -> None:
        import pypdf

        logging.getLogger("pypdf").setLevel(logging.CRITICAL)
        self._reader: Any = None
        self._labels: list[str] = []
        self._headings: dict[int, list[tuple[str, int]]] = {}
        self._entries = 0
        self.title = ""
        try:
            reader = pypdf.PdfReader(path, strict=False)
            if reader.is_encrypted:
                reader.decrypt(password)
            self._reader = reader
            self.title = useful_title(str(reader.metadata.title or "") if reader.metadata else "")
            self._labels = list(reader.page_labels)
            self._walk(reader.outline, 1)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            logging.getLogger("kb.load").info("pypdf: %s", error)

    def _walk(self, outline: Any, level: int) -> None:
        for item in outline:
            if self._entries >= MOST_ENTRIES:
                return
            if isinstance(item, list):
                if level < 20:
                    self._walk(item, level + 1)
                continue
            self._entries += 1
            number = self._reader.get_destination_page_number(item)
            if number is not None and item.title:
                self._headings.setdefault(int(number) + 1, []).append((clean(str(item.title)), level))

    def label(self, number: int) -> str:
        """What is printed on the page, if it differs from its number."""
        label = clean(self._labels[number - 1]) if number <= len(self._labels) else ""
        return "" if label == str(number) else label

    def headings(self, number: int) -> list[tuple[str, int]]:
        """(title, level from 1) of the outline's entries that lead to the page."""
        return self._headings.get(number, [])

    def text(self, number: int) -> str:
        """The page as pypdf reads it; empty if it cannot."""
        if self._reader is None:
            return ""
        try:
            text = str(self._reader.pages[number - 1].extract_text())
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            return ""
        return _named_by_code(text)


def _named_by_code(text: str) -> str:
    """Fonts whose glyphs are called /C67 for "C" are readable after all; other glyph names leave nothing to read."""
    names = _GLYPH.findall(text)
    if sum(map(len, names)) + 2 * len(names) < 0.5 * len(text):
        return text
    return _GLYPH.sub(lambda m: chr(int(m[1])) if 32 <= int(m[1]) < 127 else "\ufffd", text)
