"""Collect the blocks of a page in order, with their places in its text."""

from __future__ import annotations

from collections.abc import Sequence

from kb.load.encoding import clean
from kb.types import Block, BlockKind, Page, Verdict


class PageBuilder:
    """Append headings, paragraphs and tables; `page` gives the finished page."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []

    @property
    def length(self) -> int:
        """Characters so far."""
        return self._length

    def add(self, kind: BlockKind, text: str, *, level: int = 0, header: str = "") -> None:
        """One block; nothing if the text is blank. Blocks stand a blank line apart."""
        text = clean(text).strip("\n").rstrip()
        if not text.strip():
            return
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        self._blocks.append(Block(kind, self._length, self._length + len(text), level, header))
        self._parts.append(text)
        self._length += len(text)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows of cells; the first one that has text in most columns is the header.

        Last rows with text in the first cell only are notes below the table, and become paragraphs.
        """
        tidy = [[" ".join(clean(cell).split()) for cell in row] for row in rows]
        tidy = [row for row in tidy if any(row)]
        if not tidy:
            return
        width = max(len(row) for row in tidy)
        notes = 0
        while (
            width > 2
            and len(tidy) - notes > 2
            and sum(map(bool, tidy[-1 - notes])) == 1
            and tidy[-1 - notes][0]
        ):
            notes += 1
        if notes:
            self.table(tidy[:-notes])
            for row in tidy[-notes:]:
                self.add("text", row[0])
            return
        lines = [row[0] if not any(row[1:]) else " | ".join(row + [""] * (width - len(row))) for row in tidy]
        header = next(
            (line for row, line in zip(tidy, lines, strict=True) if 2 * sum(map(bool, row)) > width), ""
        )
        if width == 1 or len(lines) == 1:
            self.add("table" if width > 1 else "text", "\n".join(lines))
        else:
            self.add("table", "\n".join(lines), header=header if header else lines[0])

    def page(
        self,
        number: int,
        *,
        label: str = "",
        verdict: Verdict = "ok",
        reasons: Sequence[str] = (),
        ocr: bool = False,
    ) -> Page:
        """A page without text is "failed", for `reasons` or else "empty"; an ok page needs no reasons."""
        text = "".join(self._parts)
        if not text:
            verdict, reasons = "failed", tuple(reasons) or ("empty",)
        elif verdict == "ok":
            reasons = ()
        return Page(number, text, tuple(self._blocks), clean(label), verdict, tuple(reasons), ocr)
