"""Plain tables and lines for a terminal, where a Chinese character takes two columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def safe(text: str) -> str:
    """One line without control characters: what a file is called must not move the cursor of a terminal."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text.replace("\r\n", " "))


def width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """`text` filled with spaces to `columns`."""
    gap = " " * max(0, columns - width(text))
    return gap + text if right else text + gap


def clip(text: str, columns: int) -> str:
    """`text` on one line, cut to `columns` with an ellipsis."""
    line = " ".join(safe(text).split())
    if width(line) <= columns:
        return line
    kept = ""
    for c in line:
        if width(kept + c) > columns - 1:
            break
        kept += c
    return kept + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns side by side; the numbers in `right` name columns that are aligned to the right."""
    lines = [list(header), *[[safe(cell) for cell in row] for row in rows]]
    columns = [max(width(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "  ".join(pad(cell, columns[i], right=i in right) for i, cell in enumerate(line)).rstrip()
        for line in lines
    ]
    rule = "  ".join("─" * size for size in columns)
    return "\n".join([text[0], rule, *text[1:]])
