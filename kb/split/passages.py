"""Units -> drafts of passages: whole paragraphs under one heading, about `target_chars` long, over page ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kb.split.config import SplitConfig
from kb.split.lines import Unit, UnitKind
from kb.split.sentences import cut_long, grouped, sentence_spans
from kb.types import Page, Span


@dataclass(frozen=True, slots=True)
class Part:
    """A unit inside a passage's text."""

    start: int
    end: int
    kind: UnitKind
    header: str
    path: tuple[str, ...]
    """Headings above it; the passage's own are what all its parts share."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage before its chunks."""

    text: str
    headings: tuple[str, ...]
    spans: tuple[Span, ...]
    parts: tuple[Part, ...]


def pack(units: Sequence[Unit], *, config: SplitConfig) -> list[Draft]:
    """Drafts in order; together they hold all units."""
    drafts: list[Draft] = []
    current: list[Unit] = []

    def close() -> None:
        """Hand in what is open; headings at its end go with what follows."""
        nonlocal current
        keep = len(current)
        while keep and current[keep - 1].kind == "heading":
            keep -= 1
        keep = keep or len(current)
        if keep:
            drafts.append(_draft(current[:keep]))
        current = current[keep:]

    lasts = _section_ends(units)
    for unit, last in zip(units, lasts, strict=True):
        if unit.kind == "heading":
            if _has_body(current) and not _takes_in(current, unit, config=config):
                close()
            if _size([*current, unit]) > config.max_chars // 2 and not _has_body(current):
                close()
            current.append(unit)
            continue
        full = _size(current) >= config.target_chars and _size([*current, last]) > config.max_chars
        if _has_body(current) and (full or _size([*current, unit]) > config.max_chars):
            close()
        room = config.max_chars - (_size([*current, replace(unit, end=unit.start)]) if current else 0)
        for piece in _pieces(unit, room=room, config=config):
            if _has_body(current) and _size([*current, piece]) > config.max_chars:
                close()
            current.append(piece)
    while current:
        close()
    return drafts


def _section_ends(units: Sequence[Unit]) -> list[Unit]:
    """For each unit the last one before the next heading: a short rest of a section is not left alone."""
    ends: list[Unit] = []
    for at in range(len(units) - 1, -1, -1):
        ends.append(units[at] if not ends or units[at + 1].kind == "heading" else ends[-1])
    return ends[::-1]


def _has_body(units: Sequence[Unit]) -> bool:
    return any(unit.kind != "heading" for unit in units)


def _takes_in(current: Sequence[Unit], heading: Unit, *, config: SplitConfig) -> bool:
    """Whether a short section goes on into the next one: its sibling or child, not a higher section."""
    shared = len(_common([unit.path for unit in current]))
    near = _common([current[-1].path, heading.path])
    return _size(current) < config.min_chars and len(near) >= max(1, min(shared, len(heading.path) - 1))


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The headings that all paths begin with."""
    shared = 0
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared += 1
    return paths[0][:shared] if paths else ()


def _size(units: Sequence[Unit]) -> int:
    """Characters of the passage that these units would make, a repeated table header included."""
    if not units:
        return 0
    first, last = units[0], units[-1]
    size = 0 if first.header_at is None else first.header_at[1] - first.header_at[0] + 1
    if first.page is last.page:
        return size + last.end - first.start
    return size + sum(1 + run[-1].end - run[0].start for run in _runs(units)) - 1


def _runs(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units of one page each."""
    run: list[Unit] = []
    for unit in units:
        if run and unit.page is not run[-1].page:
            yield run
            run = []
        run.append(unit)
    if run:
        yield run


def _pieces(unit: Unit, *, room: int, config: SplitConfig) -> list[Unit]:
    """The unit, or if it is longer than `room`, pieces of about equal length cut at sentence ends."""
    header = 0 if unit.header_at is None else unit.header_at[1] - unit.header_at[0] + 1
    limit = max(room - header, config.max_chars // 4, 1)
    if unit.length <= limit:
        return [unit]
    text = unit.page.text
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(text, unit.start, unit.end):
        if end - start <= limit:
            spans.append((start, end))
        else:
            spans.extend((start + a, start + b) for a, b in cut_long(text[start:end], limit=limit))
    joined = grouped(spans, [end - start for start, end in spans], limit=limit)
    return [replace(unit, start=start, end=end) for start, end in joined if text[start:end].strip()]


def _draft(units: Sequence[Unit]) -> Draft:
    """The passage text with its spans; a table that goes on from the passage before gets its header again."""
    text = ""
    spans: list[Span] = []
    parts: list[Part] = []
    header_at = units[0].header_at
    if header_at is not None:
        spans.append(Span(units[0].page.number, header_at[0], header_at[1], 0))
        text = units[0].page.text[header_at[0] : header_at[1]] + "\n"
    before: Page | None = None
    for run in _runs(units):
        page, start, end = run[0].page, run[0].start, run[-1].end
        if before is not None:
            text += _joint(text, page.text[start:end], run[0].kind)
        spans.append(Span(page.number, start, end, len(text)))
        shift = len(text) - start
        parts.extend(
            Part(unit.start + shift, unit.end + shift, unit.kind, unit.header, unit.path) for unit in run
        )
        text += page.text[start:end]
        before = page
    paths = [unit.path for unit in units if unit.kind != "heading"] or [unit.path for unit in units]
    return Draft(text, _common(paths), tuple(spans), tuple(parts))


def _joint(before: str, after: str, kind: UnitKind) -> str:
    """What stands between two pages: nothing inside a Chinese sentence, a space inside an English one."""
    last, first = before[-1:], after[:1]
    if kind != "text" or not (last.isalnum() or last in "，、,") or not first.isalnum():
        return "\n"
    return " " if last.isascii() and first.isascii() else ""
