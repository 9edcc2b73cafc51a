"""Characters of a PDF page -> lines, by pdfium. Each character of a line knows its number on the page."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import pi
from statistics import median
from typing import Any

from kb.analyze import plain_character

MOST_CHARACTERS = 2_000_000
"""On one page; what comes after is not read."""
HAN = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_ZERO_WIDTH = frozenset("\u200b\u200c\u200d\u2060\ufeff\u00ad")
_HYPHENS = (2, 0xFFFE)
"""What pdfium gives in place of a hyphen at a line's end."""


@dataclass(slots=True)
class _Mark:
    """One visible character, in the frame in which its line runs from left to right."""

    text: str
    index: int
    left: float
    right: float
    bottom: float
    top: float
    turn: int = 0
    """Quarter turns of its line."""


@dataclass(slots=True)
class Line:
    """Characters that stand beside each other (or below each other, in vertical writing)."""

    text: str
    indices: list[int]
    """For each character of `text` its number on the page; -1 for one that we added."""
    left: float
    right: float
    bottom: float
    top: float
    size: float
    """Of the type: the width of a Chinese character, in points."""
    bold: bool = False
    han: bool = False
    """`size` was measured on Chinese characters; else it is an estimate from the height of the type."""
    turn: int = 0
    """Quarter turns against the page; the box is in the turned frame."""
    vertical: bool = False
    hyphen: bool = False
    """Its last character is a hyphen that may only be there because the line ends."""
    cells: list[Line] = field(default_factory=list)
    """More than one: it is a row of a table."""

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def width(self) -> float:
        return self.right - self.left


@dataclass(frozen=True, slots=True)
class PageLines:
    """What pdfium sees on a page."""

    lines: list[Line]
    """In the order of the file."""
    characters: int
    """Visible characters."""
    unmapped: int
    """Of them those without a meaning in Unicode (an estimate: every eighth is asked about its font)."""
    cut: bool = False
    """There were more than MOST_CHARACTERS."""


@functools.cache
def _character(code: int) -> tuple[str, bool]:
    """(what we write for it, is it without meaning?); an empty text: nothing."""
    if code in (0, 0xFFFF) or 0xD800 <= code < 0xE000:
        return "", code != 0
    character = chr(code)
    if character.isspace():
        return " ", False
    category = unicodedata.category(character)
    if character in _ZERO_WIDTH or category == "Cf":
        return "", False
    if category in ("Co", "Cn", "Cc") or code == 0xFFFD:
        return ("\ufffd" if category != "Cc" else ""), True
    return unicodedata.normalize("NFC", plain_character(character)), False


def read_lines(textpage: Any) -> PageLines:
    """The page's lines, those that run another way than most of them last. What is printed twice is read once."""
    import pypdfium2.raw as pdfium

    raw = textpage.raw
    count = max(0, pdfium.FPDFText_CountChars(raw))
    gathered = _Gathered(raw)
    totals = [0, 0]
    for mark in _marks(raw, min(count, MOST_CHARACTERS), totals):
        gathered.add(mark)
    gathered.close()
    lines = _printed_once(gathered.lines)
    turns = Counter[int]()
    for line in lines:
        turns[line.turn] += len(line.text)
    usual = turns.most_common(1)[0][0] if turns else 0
    lines = [*(x for x in lines if x.turn == usual), *(x for x in lines if x.turn != usual)]
    return PageLines(lines, totals[0], min(totals), count > MOST_CHARACTERS)


def _marks(raw: Any, count: int, totals: list[int]) -> Iterator[_Mark]:
    """Characters in the order of the file; "\n" ends a line, "\x02" is a hyphen at its end."""
    import pypdfium2.raw as pdfium

    box = pdfium.FS_RECTF()
    unicode_of, box_of = pdfium.FPDFText_GetUnicode, pdfium.FPDFText_GetLooseCharBox
    unmapped_at, angle_of = pdfium.FPDFText_HasUnicodeMapError, pdfium.FPDFText_GetCharAngle
    high = 0
    for index in range(count):
        code = unicode_of(raw, index)
        if code in (10, 13):
            yield _Mark("\n", index, 0, 0, 0, 0)
            continue
        if code in _HYPHENS:
            yield _Mark("\x02", index, 0, 0, 0, 0)
            continue
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000 and high:
            code, high = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00), 0
        text, meaningless = _character(code)
        if text != " ":
            totals[0] += bool(text) or meaningless
            totals[1] += 1 if meaningless else 8 * (index % 8 == 0 and unmapped_at(raw, index) == 1)
        if text:
            box_of(raw, index, box)
            turn = round(angle_of(raw, index) / (pi / 2)) % 4
            yield _turned(text, index, (box.left, box.right, box.bottom, box.top), turn)


def _turned(text: str, index: int, box: tuple[float, float, float, float], turn: int) -> _Mark:
    left, right, bottom, top = box
    if turn == 0:
        return _Mark(text, index, left, right, bottom, top)
    if turn == 2:
        return _Mark(text, index, -right, -left, -top, -bottom, turn)
    if turn == 3:  # upwards
        return _Mark(text, index, bottom, top, -right, -left, turn)
    return _Mark(text, index, -top, -bottom, left, right, turn)


class _Gathered:
    """Characters as they come, closed into lines."""

    def __init__(self, raw: Any) -> None:
        self.lines: list[Line] = []
        self._raw = raw
        self._marks: list[_Mark] = []
        self._last: _Mark | None = None
        self._down: bool | None = None
        """Vertical writing; unknown with fewer than two characters."""

    def add(self, mark: _Mark) -> None:
        last = self._last
        if mark.text == "\n":
            self.close()
        elif mark.text == "\x02":
            if last is not None:
                self._marks.append(
                    _Mark("-", mark.index, last.right, last.right, last.bottom, last.top, last.turn)
                )
                self.close(hyphen=True)
        elif mark.text == " ":
            if last is not None:
                self._marks.append(mark)
        else:
            if last is not None:
                down = _below(last, mark)
                if (self._down is not None and down != self._down) or (not down and _elsewhere(last, mark)):
                    self.close()
                else:
                    self._down = down
            self._marks.append(mark)
            self._last = mark

    def close(self, *, hyphen: bool = False) -> None:
        if self._last is not None:
            self.lines.append(_line(self._marks, self._raw, hyphen=hyphen, vertical=bool(self._down)))
        self._marks, self._last, self._down = [], None, None


_FIGURE = frozenset("0123456789.,%()-")


def _elsewhere(before: _Mark, mark: _Mark) -> bool:
    """Does the character stand in another line, or beyond a gap as wide as between columns?"""
    size = max(before.top - before.bottom, mark.top - mark.bottom, 1.0)
    if abs(before.bottom + before.top - mark.bottom - mark.top) > size or before.turn != mark.turn:
        return True
    figures = before.text in _FIGURE and mark.text in _FIGURE
    return mark.left - before.right > (0.45 if figures else 0.9) * size or before.left - mark.left > 2 * size


def _below(before: _Mark, mark: _Mark) -> bool:
    """Vertical writing: the next character stands right below."""
    drop = before.bottom + before.top - mark.bottom - mark.top
    if drop <= 0 or before.turn or mark.turn or not HAN.match(mark.text):
        return False
    wide = max(before.right - before.left, mark.right - mark.left, 1.0)
    same = abs((before.left + before.right) - (mark.left + mark.right)) < 0.5 * wide
    return same and wide < drop < 4.4 * max(wide, before.top - before.bottom)


def _line(marks: list[_Mark], raw: Any, *, hyphen: bool, vertical: bool) -> Line:
    while marks[-1].text == " ":
        marks.pop()
    marks = _without_doubles(marks)
    seen = [m for m in marks if m.text != " "]
    text, indices = "", []
    for mark in _tightened(marks, seen):
        if text and unicodedata.combining(mark.text[0]):
            whole = unicodedata.normalize("NFC", text[-1] + mark.text)
            if len(whole) == 1:
                text = text[:-1] + whole
                continue
        text += mark.text
        indices += [mark.index] * len(mark.text)
    wide = [m.right - m.left for m in seen if "\u4e00" <= m.text <= "\u9fff"]
    han = 2 * len(wide) >= len(seen) and not vertical
    return Line(
        text,
        indices,
        min(m.left for m in seen),
        max(m.right for m in seen),
        min(m.bottom for m in seen),
        max(m.top for m in seen),
        max(0.1, median(wide) if han else median(m.top - m.bottom for m in seen) * 0.85),
        _bold(raw, seen[len(seen) // 2].index),
        han,
        seen[0].turn,
        vertical,
        hyphen,
    )


def _bold(raw: Any, index: int) -> bool:
    import ctypes

    import pypdfium2.raw as pdfium

    if pdfium.FPDFText_GetFontWeight(raw, index) >= 600:
        return True
    name = ctypes.create_string_buffer(96)
    flags = ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(raw, index, name, len(name), flags)
    return any(word in name.value.lower() for word in (b"bold", b"heavy", b"simhei", b"black"))


def _without_doubles(marks: list[_Mark]) -> list[_Mark]:
    """A line whose characters are printed twice each, to look bold, loses the second ones."""
    doubles = {
        i
        for i in range(1, len(marks))
        if marks[i].text == marks[i - 1].text != " "
        and abs(marks[i].left - marks[i - 1].left) < 0.3 * (marks[i].right - marks[i].left)
        and abs(marks[i].bottom - marks[i - 1].bottom) < 0.2 * (marks[i].top - marks[i].bottom)
    }
    visible = sum(m.text != " " for m in marks)
    return marks if len(doubles) < 0.3 * visible else [m for i, m in enumerate(marks) if i not in doubles]


def _tightened(marks: list[_Mark], seen: list[_Mark]) -> list[_Mark]:
    """Spaced-out type (B e a u t i f u l) without the blanks that only the spacing made."""
    blanks = [i for i in range(1, len(marks) - 1) if marks[i].text == " "]
    if len(seen) < 5 or len(blanks) < 0.6 * (len(seen) - 1):
        return marks
    gaps = {i: marks[i + 1].left - marks[i - 1].right for i in blanks}
    usual = max(median(gaps.values()), 0.1)
    return [m for i, m in enumerate(marks) if i not in gaps or gaps[i] > 1.6 * usual]


def _printed_once(lines: list[Line]) -> list[Line]:
    """Without the lines that stand a second time in the same place."""
    seen: dict[str, list[Line]] = {}
    kept = []
    for line in lines:
        twins = seen.setdefault(line.text, [])
        if len(line.text) > 1 and any(
            abs(t.left - line.left) < 1.5 and abs(t.bottom - line.bottom) < 1.5 for t in twins
        ):
            continue
        twins.append(line)
        kept.append(line)
    return kept
