"""Which lines of a PDF page are headings: by the size of the type, or by a number in bold."""

from __future__ import annotations

import re

from kb.load.pdf_lines import Line

_CHAPTER = re.compile(r"^\s*第[一二三四五六七八九十百\d]{1,5}[章节编篇][^的之]")
_NUMBERED = re.compile(r"^(?:[一二三四五六七八九十]{1,3}、|[A-Z\d]{1,2}(?:\.\d{1,2}){0,3}\.?[ \u3000]+\S)")
ITEM = re.compile(
    r"^\s*(第[一二三四五六七八九十百千零〇\d]+[章节条款编篇]|[一二三四五六七八九十]+、|"
    r"[（(][一二三四五六七八九十\d]+[)）]|\d+[.、)）]\s?|[•●○■◆▪‣·][ \S]|[-–][ ])"
)
"""How a line begins that starts an item or an article of its own."""
_OPENS = re.compile(r"^[^\W_a-z]|^[\[【《“\"(（<][^\W_]|^[a-z][A-Z]")
"""How a heading may begin: no bullet, no small letter."""


class Sizes:
    """The type size that most characters have, in Chinese lines, in others, and overall."""

    def __init__(self, rows: list[Line]) -> None:
        self.body = _usual(rows)
        total = sum(len(row.text) for row in rows)
        self._of: dict[bool, float] = {}
        for han in (True, False):
            group = [row for row in rows if row.han == han]
            enough = 4 * sum(len(row.text) for row in group) > total
            self._of[han] = _usual(group) if enough else self.body

    def ratio(self, row: Line) -> float:
        """How large the line's type is; 1 is the usual size."""
        return row.size / self._of[row.han]


def _usual(rows: list[Line]) -> float:
    """The median over characters, in points."""
    weights: dict[float, int] = {}
    for row in rows:
        weights[round(row.size, 1)] = weights.get(round(row.size, 1), 0) + len(row.text)
    total = sum(weights.values())
    passed = 0
    for size in sorted(weights):
        passed += weights[size]
        if 2 * passed >= total:
            return max(size, 1.0)
    return 10.0


def heading_level(row: Line, sizes: Sizes, *, alone: bool) -> int:
    """1 to 4; 0 for what is no heading. By the size of the type, or by a number where the line stands alone."""
    text = row.text
    if row.vertical or row.turn or not 2 <= len(text) <= 60 or sum(c.isalpha() for c in text) < 2:
        return 0
    if text[-1] in "。，；,;、" or not _OPENS.match(text):
        return 0
    ratio = sizes.ratio(row)
    if ratio > 1.18:
        return 1 if ratio > 1.5 else 2
    if not alone or len(text) > 40:
        return 0
    if _CHAPTER.match(text + " ") and not re.search(r"[.…·]{4}|\d$", text):
        return 2
    return 3 if _NUMBERED.match(text) and (row.bold or ratio > 1.04) else 0


def same_heading(before: Line, line: Line, sizes: Sizes) -> bool:
    """Is it the second line of a heading that did not fit into one?"""
    close = before.bottom - line.top < 0.6 * line.size and before.top > line.top
    same = (
        abs(before.size - line.size) < 0.05 * line.size
        and before.han == line.han
        and before.turn == line.turn
    )
    long = before.width > 12 * before.size and not ITEM.match(line.text) and not line.cells
    return close and same and long and sizes.ratio(line) > 1.18 and before.width > 0.8 * line.width
