"""A text as the pieces that can be quoted: sentences, table rows with their header, list items with their lead-in.

Offsets are into the text that was given, so that what is quoted stands there word for word. Wrapped lines of prose are one
sentence; an abbreviation or a decimal point ends none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

UnitKind = Literal["sentence", "row", "item", "heading"]

_CLOSING = "”’\"'」』）)】》〉］\\]"
_ABBREVIATION = (
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bNo)(?<!\bvs)(?<!\bMrs)(?<!\bInc)(?<!\bLtd)(?<!\bCo)(?<!\be\.g)"
    r"(?<!\bi\.e)(?<!\bFig)(?<!\bSec)(?<!\b[A-Z])"
)
_END = re.compile(rf"[。！？!?…]+[{_CLOSING}]*|{_ABBREVIATION}\.[{_CLOSING}]*(?=\s|$)")
_CLAUSE = re.compile(r"[；;]")
_LONG = 160
"""Characters; a longer sentence is cut at its semicolons, as statutes and handbooks have them."""
_ITEM = re.compile(
    r"(?:[-*•·●■◆○]\s+|[（(]?[0-9０-９]{1,3}[)）]\s*|[0-9]{1,3}[.、．](?!\d)\s*|[①-⑳]\s*|[（(][一二三四五六七八九十]{1,3}[)）]"
    r"|[一二三四五六七八九十]{1,3}、|第[一二三四五六七八九十百千零〇两0-9]{1,7}[条款项]|[A-Za-z][.)、）]\s)"
)
_ARTICLE = re.compile(r"第[一二三四五六七八九十百千零〇两0-9]{1,7}条")
_HEADING = re.compile(
    r"#{1,6}\s|第\s?[一二三四五六七八九十百千零〇两0-9]{1,7}\s?[编篇章节卷部回卦课讲]|[0-9]{1,2}(?:\.[0-9]{1,2}){0,3}\s+\S"
)
_RULE = re.compile(r"[\s|:+=\-—–─═┼├┤]+")
_WRAPPED = 18
"""A line at least this long that does not end a sentence was wrapped."""
_LABEL = 10
"""Characters of an item's first sentence that is its label."""
_LONGEST_CELL = 60
"""Characters; longer ones are prose that happens to have a bar or a tab in it."""
_LEADS_IN = re.compile(r"(?:[:：]|如下[。.]?|见下表[。，,]?.{0,20}|下列[^。]{0,12}[。：])$")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a text that can be quoted alone: `text[start:end]`, without white space at its ends."""

    start: int
    end: int
    kind: UnitKind
    header: tuple[int, int] | None = None
    """Rows: the table's header."""
    lead: tuple[int, int] | None = None
    """Items and rows: the sentence that leads into the list or the table."""
    table: int = -1
    """Rows of one table have the same number; -1 elsewhere."""


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """(start, end) of each sentence of running text, white space at its ends left out."""
    stop = len(text) if end is None else end
    spans: list[tuple[int, int]] = []
    first = start
    for found in _END.finditer(text, start, stop):
        if found[0] == "." and text[first : found.start()].strip().isdigit():
            continue  # the number of an item
        if _inside_quote(text, first, found.start()) and text[found.end() - 1 : found.end()] not in "”」』":
            continue
        spans += _cut(text, first, found.end())
        first = found.end()
    return spans + _cut(text, first, stop)


def units(text: str, *, headings: Sequence[str] = ()) -> list[Unit]:
    """The pieces of a passage, in order. `headings` are lines known to be headings, without their marks."""
    known = {heading.strip() for heading in headings}
    found: list[Unit] = []
    table = 0
    for group in _groups(text, known):
        if group[0] == "table":
            found += _rows(text, group[1], table=table, lead=_lead(text, found, table=True))
            table += 1
        elif group[0] == "heading":
            found += [Unit(a, b, "heading") for a, b in group[1]]
        elif group[0] == "item":
            article = _ARTICLE.match(text[slice(*group[1][0])])
            bullet = text[group[1][0][0]] in "-*•·●■◆○"
            lead = None if article else _lead(text, found, bullet=bullet)
            item = _labelled(sentence_spans(text, group[1][0][0], group[1][-1][1]))
            found += [Unit(a, b, "item", lead=lead) for a, b in item]
        else:
            prose = sentence_spans(text, group[1][0][0], group[1][-1][1])
            found += [Unit(a, b, "sentence") for a, b in prose]
    return found


def cells(row: str) -> list[str]:
    """The cells of a table row as text, for " | ", "| a | b |" and tabs."""
    line = row.strip()
    parts = line.strip("|").split("|") if "|" in line else line.split("\t")
    return [part.strip() for part in parts]


def starts_item(line: str) -> bool:
    """Whether a line begins like an item of a list: "1.", "（二）", "-", "第三条"."""
    return bool(_ITEM.match(line.strip()))


def _cut(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The trimmed span, or the parts between semicolons and empty lines of a long one."""
    spans: list[tuple[int, int]] = []
    for first, last in _between(text, start, end, re.compile(r"\n[ \t\u3000]*\n")):
        if last - first <= _LONG:
            spans.append((first, last))
            continue
        joined = list(_between(text, first, last, _CLAUSE))
        for span in joined:
            if spans and spans[-1][0] >= first and span[1] - spans[-1][0] <= _LONG // 2:
                spans[-1] = (spans[-1][0], span[1])
            else:
                spans.append(span)
    return spans


def _between(text: str, start: int, end: int, mark: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Trimmed, not empty spans that end with `mark`."""
    first = start
    for cut in [found.end() for found in mark.finditer(text, start, end)] + [end]:
        a, b = trimmed(text, first, cut)
        if a < b:
            yield a, b
        first = cut


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _inside_quote(text: str, start: int, at: int) -> bool:
    """Whether `at` lies inside “…” or 「…」 that begin and end near by: the sentence goes on after them."""
    piece = text[start:at]
    for opening, closing in ("“”", "「」", "（）", "《》"):
        if piece.count(opening) > piece.count(closing):
            ahead = text.find(closing, at, at + 120)
            return ahead >= 0 and "\n\n" not in text[at:ahead]
    return False


def _is_row(line: str) -> bool:
    """Cells between bars or tabs. A bar somewhere in long running text makes no row."""
    bare = line.strip()
    if "\t" not in bare and bare.count("|") < 2 and " | " not in bare:
        return False
    return max(len(cell) for cell in cells(bare)) <= _LONGEST_CELL or bare.startswith("|")


def _is_heading(line: str, known: set[str]) -> bool:
    bare = line.strip().lstrip("#").strip()
    if bare in known:
        return True
    return len(bare) <= 40 and bool(_HEADING.match(line.strip())) and bare[-1:] not in "。；;！？!?：:，,."


def _ended(text: str, kind: str, lines: list[tuple[int, int]]) -> bool:
    """Whether nothing before this line goes on into it."""
    return not lines or (kind in ("prose", "item") and text[lines[-1][1] - 1] in "。！？.!?；;：:")


def _titles(text: str, spans: list[tuple[int, int]]) -> bool:
    """Whether the first of these lines, a short one without an end that stands alone, is the title of the next."""
    line = text[slice(*spans[0])]
    if not 1 < len(line) <= 30 or not line[-1].isalnum() or any(c in line for c in "：:，,。；;|\t"):
        return False
    if len(spans) < 3 or spans[1][0] < spans[1][1] or _ITEM.match(line):
        return False
    following = text[slice(*spans[2])]
    return bool(_ITEM.match(following)) or (len(following) > len(line) and following[-1] in "。！？.!?；;：:")


Group = tuple[str, list[tuple[int, int]]]


def _groups(text: str, known: set[str]) -> Iterator[Group]:
    """Lines of one kind: ("table" | "heading" | "item" | "prose", spans of the lines)."""
    kind, lines = "", list[tuple[int, int]]()
    spans = list(_lines(text))
    for at, (start, end) in enumerate(spans):
        line = text[start:end]
        if not line or (kind != "table" and _RULE.fullmatch(line)):
            new, joins = "", False
        elif _is_row(line) or (kind == "table" and _RULE.fullmatch(line)):
            new, joins = "table", kind == "table"
        elif _is_heading(line, known) or (_ended(text, kind, lines) and _titles(text, spans[at:])):
            new, joins = "heading", False
        elif _ITEM.match(line):
            new, joins = "item", False
        else:
            joins = kind in ("prose", "item") and _goes_on(text, lines, line)
            new = kind if joins else "prose"
        if joins:
            lines.append((start, end))
            continue
        if lines:
            yield kind, lines
        kind, lines = new, [(start, end)] if new else []
    if lines:
        yield kind, lines


def _goes_on(text: str, lines: list[tuple[int, int]], line: str) -> bool:
    """Whether a line goes on with the sentence of the lines before it."""
    start, end = lines[-1]
    last = text[end - 1 : end]
    if last in "。！？!?：:；;":
        return False
    return end - start >= _WRAPPED and (last.isalnum() or last in "，、,—-（(《“\"'’.%％")


def _lines(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for line in text.split("\n"):
        yield trimmed(text, at, at + len(line))
        at += len(line) + 1


def _rows(text: str, lines: list[tuple[int, int]], *, table: int, lead: tuple[int, int] | None) -> list[Unit]:
    """Rows under the first line, which is the header if the table has more than one line."""
    body = [span for span in lines if not _RULE.fullmatch(text[span[0] : span[1]])]
    if not body:
        return []
    widths = [len(cells(text[span[0] : span[1]])) for span in body]
    if min(widths) < 2 or (len(body) > 1 and widths.count(widths[0]) * 2 < len(widths)):
        spans = [piece for span in body for piece in sentence_spans(text, *span)]
        return [Unit(*span, "sentence") for span in spans]  # bars, but no columns
    if len(body) == 1:
        return [Unit(*body[0], "row", lead=lead, table=table)]
    return [Unit(*span, "row", header=body[0], lead=lead, table=table) for span in body[1:]]


def _labelled(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """An item's label goes with what follows it: 二、值班。每店每天……"""
    if len(spans) > 1 and spans[0][1] - spans[0][0] <= _LABEL:
        return [(spans[0][0], spans[1][1]), *spans[2:]]
    return spans


def _lead(
    text: str, before: list[Unit], *, table: bool = False, bullet: bool = False
) -> tuple[int, int] | None:
    """The sentence that ends in a colon or says "as follows" just before, before a table up to three back; a bulleted
    list's heading if nothing stands between."""
    if not before:
        return None
    last = before[-1]
    if last.kind == "heading" and bullet:
        return last.start, last.end
    if last.kind == "item" and last.lead is not None:
        return last.lead
    for unit in before[: -4 if table else -2 : -1]:
        if unit.kind not in ("sentence", "item"):
            return None
        if _LEADS_IN.search(text[unit.start : unit.end]):
            return unit.start, unit.end
    return None


def shifted(unit: Unit, by: int) -> Unit:
    """The same unit in a text that has `by` more characters before it."""

    def move(span: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if span is None else (span[0] + by, span[1] + by)

    return replace(
        unit, start=unit.start + by, end=unit.end + by, header=move(unit.header), lead=move(unit.lead)
    )
