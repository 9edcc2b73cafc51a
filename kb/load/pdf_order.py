"""The order in which a person reads the lines of a page: the file's own where it goes down the page, else found by
cutting the page along its widest gaps."""

from __future__ import annotations

import itertools
from statistics import median

from kb.load.pdf_lines import Line

_DEEPEST = 60


def reading_order(lines: list[Line], *, trusted: bool = True) -> list[Line]:
    """All lines, once each. Vertical writing stays as the file has it (columns from right to left).

    `trusted`: keep the given order if it goes down the page; else it means nothing (text found in a picture).
    """
    if len(lines) < 2 or 2 * sum(line.vertical for line in lines) > len(lines):
        return lines
    if trusted and not _goes_back(lines):
        return lines
    return _cut(lines, median(line.size for line in lines), 0)


def _goes_back(lines: list[Line]) -> bool:
    """Looks at each line and the two before it: two columns may be painted in turns."""
    near = (*itertools.pairwise(lines), *zip(lines, lines[2:], strict=False))
    return any(_jumps_up(a, b) for a, b in near)


def _jumps_up(a: Line, b: Line) -> bool:
    """Does the file go back to a line that stands above the last one, in the same column?"""
    across = min(a.right, b.right) - max(a.left, b.left)
    return b.bottom > a.top - 0.2 * a.height and across > 0.3 * min(a.width, b.width)


def _cut(lines: list[Line], size: float, depth: int) -> list[Line]:
    if len(lines) < 2 or depth > _DEEPEST:
        return _by_rows(lines)
    if (columns := _columns(lines, size)) is not None:
        return [*_cut(columns[0], size, depth + 1), *_cut(columns[1], size, depth + 1)]
    if (parts := _parts(lines, size)) is not None:
        return [*_cut(parts[0], size, depth + 1), *_cut(parts[1], size, depth + 1)]
    return _by_rows(lines)


def _columns(lines: list[Line], size: float) -> tuple[list[Line], list[Line]] | None:
    """Left and right of the widest gap from top to bottom, if both sides look like running text."""
    ordered = sorted(lines, key=lambda line: line.left)
    reach, best, at = ordered[0].right, 0.0, 0
    for number, line in enumerate(ordered[1:], start=1):
        if line.left - reach > best:
            best, at = line.left - reach, number
        reach = max(reach, line.right)
    if best < 0.8 * size:
        return None
    sides = ordered[:at], ordered[at:]
    if any(sum(line.width > 9 * size for line in side) < max(4, 0.3 * len(side)) for side in sides):
        return None
    kept = {id(line) for line in sides[0]}
    return [x for x in lines if id(x) in kept], [x for x in lines if id(x) not in kept]


def _parts(lines: list[Line], size: float) -> tuple[list[Line], list[Line]] | None:
    """Above and below the widest gap from left to right."""
    ordered = sorted(lines, key=lambda line: -line.top)
    reach, best, at = ordered[0].bottom, 0.1 * size, 0
    for number, line in enumerate(ordered[1:], start=1):
        if reach - line.top > best:
            best, at = reach - line.top, number
        reach = min(reach, line.bottom)
    if at == 0:
        return None
    kept = {id(line) for line in ordered[:at]}
    return [x for x in lines if id(x) in kept], [x for x in lines if id(x) not in kept]


def _by_rows(lines: list[Line]) -> list[Line]:
    """From top to bottom; lines on one height from left to right."""
    ordered = sorted(lines, key=lambda line: -(line.top + line.bottom))
    rows: list[list[Line]] = []
    for line in ordered:
        first = rows[-1][0] if rows else None
        if first and abs(first.top + first.bottom - line.top - line.bottom) < min(first.height, line.height):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda x: x.left)]
