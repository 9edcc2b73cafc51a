"""Sentence ends in Chinese and English, and cutting what has none. All spans are half-open and without gaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_CLOSING = "”’\"'」』）)】》〉］\\]"
_END = re.compile(
    rf"""(?: [。！？!?；;…]+ [{_CLOSING}]*            # Chinese ends, half-width ! ? ; with what closes after them
       | (?<![0-9０-９A-Za-z．.])．[{_CLOSING}]*        # full-width dot used as 。
       | (?<=[^\W\d_]) \. [{_CLOSING}]* (?=\s+[A-Z"'“(])  # English full stop before a capital
       | [ \t]*\n[ \t]*\n\s*                           # an empty line
    )""",
    re.VERBOSE,
)
_NEXT_ITEM = re.compile(
    r"\s*(?:第[一二三四五六七八九十百千零〇0-9]{1,7}[条章节款项]|[一二三四五六七八九十]{1,3}、|[（(][一二三四五六七八九十0-9]{1,3}[）)]"
    r"|[0-9]{1,3}[.、．)）]|[-*•·●■◆] |[①-⑳]|#{1,6} )"
)
_EMPTY_LINE = re.compile(r"\n[ \t\u3000]*(?:\n|$)")
_WRAPPED = 18
"""A line at least this long that ends in the middle of a sentence was wrapped, not ended."""

SEPARATORS = ("\n\n", "\n", "。", "！", "？", "；", "…", "，", "、", "：", ". ", "; ", ", ", "\t", " ", "")
"""For LangChain's RecursiveCharacterTextSplitter, best first."""


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """(start, end) of each sentence of `text[start:end]`, together all of it; white space belongs to the one before."""
    stop = len(text) if end is None else end
    cuts = {found.end() for found in _END.finditer(text, start, stop)}
    at = text.find("\n", start, stop)
    while at != -1:
        if _ends_line(text, at, start=start, stop=stop):
            cuts.add(at + 1)
        at = text.find("\n", at + 1, stop)
    spans, first = [], start
    for cut in sorted(cuts):
        while cut < stop and text[cut].isspace():
            cut += 1
        if cut > first and text[first:cut].strip():
            spans.append((first, cut))
            first = cut
    if first < stop:
        if text[first:stop].strip() or not spans:
            spans.append((first, stop))
        else:
            spans[-1] = (spans[-1][0], stop)
    return spans


def paragraph_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of each paragraph: a line, or several where a sentence was wrapped over them."""
    spans, first = [], start
    at = text.find("\n", start, end)
    while at != -1:
        if text[first:at].strip() and _ends_line(text, at, start=first, stop=end):
            spans.append((first, at + 1))
            first = at + 1
        at = text.find("\n", at + 1, end)
    if text[first:end].strip():
        spans.append((first, end))
    return spans


def _ends_line(text: str, newline: int, *, start: int, stop: int) -> bool:
    """Whether the line break ends a thought: not if a long line was wrapped in the middle of a sentence."""
    if _NEXT_ITEM.match(text, newline + 1, stop) or _EMPTY_LINE.match(text, newline, stop):
        return True
    line = text[max(start, text.rfind("\n", start, newline) + 1) : newline].strip()
    return len(line) < _WRAPPED or not (line[-1].isalnum() or line[-1] in "，、,—-")


def cut_long(text: str, *, limit: int, measure: Callable[[str], int] = len) -> list[tuple[int, int]]:
    """Spans of a text without sentence ends, each at most `limit` by `measure` where a separator allows.

    LangChain's RecursiveCharacterTextSplitter does it; it is imported only when such a text turns up.
    """
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        separators=list(SEPARATORS),
        keep_separator="end",
        is_separator_regex=False,
        chunk_size=limit,
        chunk_overlap=0,
        length_function=measure,
        strip_whitespace=False,
    )
    spans, at = [], 0
    for piece in splitter.split_text(text):
        spans.append((at, at + len(piece)))
        at += len(piece)
    if at != len(text) or any(text[a:b] == "" for a, b in spans):
        raise AssertionError(f"the splitter lost text: {at} of {len(text)} characters")
    return spans


def grouped(spans: Sequence[tuple[int, int]], sizes: Sequence[int], *, limit: int) -> list[tuple[int, int]]:
    """Neighbouring spans joined to pieces of at most `limit` (by `sizes`) and of about equal size."""
    total = sum(sizes)
    pieces = max(1, -(-total // limit))
    joined = _filled(spans, sizes, limit=limit, goal=total / pieces)
    if len(joined) > pieces:  # the ends did not fit that few: spread them over as many as it takes
        evener = _filled(spans, sizes, limit=limit, goal=total / len(joined))
        joined = evener if len(evener) <= len(joined) else joined
    return joined


def _filled(
    spans: Sequence[tuple[int, int]], sizes: Sequence[int], *, limit: int, goal: float
) -> list[tuple[int, int]]:
    """Spans joined from the left; a piece is closed where it is nearest to `goal`."""
    joined: list[tuple[int, int]] = []
    size = 0
    for (start, end), amount in zip(spans, sizes, strict=True):
        if joined and size + amount <= limit and size + amount / 2 <= goal:
            joined[-1] = (joined[-1][0], end)
            size += amount
        else:
            joined.append((start, end))
            size = amount
    return joined
