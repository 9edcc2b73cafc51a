"""Excel: xlsx by openpyxl, the old xls by xlrd. One page a sheet, its rows as a table."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kb.load.builder import PageBuilder
from kb.load.limits import LoadLimits, check_zip, damaged, too_slow
from kb.types import LoadedFile, Page

_PICTURE = re.compile(r"^=?(?:_xlfn\.)?DISPIMG\(")
"""WPS's pictures in cells: a formula that says nothing to a reader."""


class _Budget:
    """What is left of the bounds while the sheets are read."""

    def __init__(self, path: Path, limits: LoadLimits) -> None:
        self._path, self._limits = path, limits
        self._left = limits.max_characters
        self._deadline = time.monotonic() + limits.seconds

    def take(self, cells: list[str]) -> bool:
        """False when there are more characters than are read."""
        if time.monotonic() > self._deadline:
            raise too_slow(self._path, self._limits)
        self._left -= sum(map(len, cells))
        return self._left >= 0


def load_xlsx(path: Path, limits: LoadLimits) -> LoadedFile:
    """Formulas by their last saved value. Empty sheets are left out."""
    import openpyxl

    check_zip(path, limits)
    budget = _Budget(path, limits)
    pages: list[Page] = []
    unsaved = False
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for number, sheet in enumerate(book.worksheets, start=1):
                sheet.reset_dimensions()  # a file may claim a million columns
                page = _page(number, sheet.title, sheet.iter_rows(values_only=True), budget)
                pages += [page] if page else []
        finally:
            book.close()
        unsaved = not pages and _has_formulas(path)
    except Exception as error:
        if isinstance(error, MemoryError) or error.__class__.__module__.startswith("kb."):
            raise
        raise damaged(path, error) from error
    return _loaded(path, "xlsx", pages, "no-formulas-saved" if unsaved else "empty")


def _has_formulas(path: Path) -> bool:
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True)
    try:
        for sheet in book.worksheets:
            sheet.reset_dimensions()
            for row in sheet.iter_rows(values_only=True):
                if any(isinstance(value, str) and value.startswith("=") for value in row):
                    return True
        return False
    finally:
        book.close()


def load_xls(path: Path, limits: LoadLimits) -> LoadedFile:
    """Excel 97 to 2003."""
    import xlrd

    budget = _Budget(path, limits)
    pages: list[Page] = []
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped:
            return load_xlsx(path, limits)
        book = xlrd.open_workbook(str(path), on_demand=True, logfile=_Silent())
        for number in range(book.nsheets):
            sheet = book.sheet_by_index(number)
            page = _page(number + 1, sheet.name, _xls_rows(sheet, book.datemode), budget)
            pages += [page] if page else []
            book.unload_sheet(number)
    except Exception as error:
        if isinstance(error, MemoryError) or error.__class__.__module__.startswith("kb."):
            raise
        raise damaged(path, error) from error
    return _loaded(path, "xls", pages, "empty")


class _Silent:
    """xlrd writes warnings to a file of ours."""

    def write(self, text: str) -> None:
        """Nothing is kept."""


def _xls_rows(sheet: Any, datemode: int) -> Iterator[list[object]]:
    import xlrd

    for row in range(sheet.nrows):
        values: list[object] = []
        for cell in sheet.row(row):
            if cell.ctype == xlrd.XL_CELL_DATE:
                values.append(xlrd.xldate_as_datetime(cell.value, datemode))
            elif cell.ctype == xlrd.XL_CELL_BOOLEAN:
                values.append(bool(cell.value))
            else:
                values.append(None if cell.ctype == xlrd.XL_CELL_ERROR else cell.value)
        yield values


def _page(number: int, title: str, rows: Iterable[Iterable[object]], budget: _Budget) -> Page | None:
    """None for an empty sheet."""
    kept: list[list[str]] = []
    cut = False
    for row in rows:
        cells = [_cell(value) for value in row]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if not budget.take(cells):
            cut = True
            break
        kept.append(cells)
    if not kept:
        return None
    builder = PageBuilder()
    builder.add("heading", title, level=1)
    builder.table(_without_empty_columns(kept))
    return builder.page(
        number, label=title, verdict="suspect" if cut else "ok", reasons=("too-long",) if cut else ()
    )


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    used = {column for row in rows for column, cell in enumerate(row) if cell}
    order = sorted(used)
    return [[row[column] if column < len(row) else "" for column in order] for row in rows]


def _loaded(path: Path, kind: str, pages: list[Page], reason: str) -> LoadedFile:
    return LoadedFile(path, kind, tuple(pages) or (Page(1, "", (), "", "failed", (reason,)),), path.stem)


def _cell(value: object) -> str:
    """As a person would write it: 5, not 5.0; a date without midnight."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d" if value.time() == datetime.time() else "%Y-%m-%d %H:%M")
    text = str(value)
    return "" if _PICTURE.match(text) else text
