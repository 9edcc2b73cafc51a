"""PowerPoint (pptx): one page a slide: title, texts from top to bottom, tables, charts, notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kb.load.builder import PageBuilder
from kb.load.limits import LoadLimits, check_zip, damaged
from kb.load.pdf_second import useful_title
from kb.types import LoadedFile, Page

_DEEPEST = 20
_ROW = 200_000
"""Shapes whose tops differ by less (in EMU; about half a centimetre) stand beside each other."""


def load_pptx(path: Path, limits: LoadLimits) -> LoadedFile:
    """Slides without any text are pages with the reason "empty" and no failure. Raises LoadError."""
    import pptx
    from lxml.etree import LxmlError
    from pptx.exc import PackageNotFoundError

    check_zip(path, limits)
    try:
        deck = pptx.Presentation(str(path))
        pages = [_slide(slide, number) for number, slide in enumerate(deck.slides, start=1)]
        name = useful_title(deck.core_properties.title or "")
    except (KeyError, ValueError, OSError, AttributeError, LxmlError, PackageNotFoundError) as error:
        raise damaged(path, error) from error
    if not any(page.text for page in pages):
        pages = [Page(1, "", (), "", "failed", ("empty",))]
    return LoadedFile(path, "pptx", tuple(pages), name or path.stem)


def _slide(slide: Any, number: int) -> Page:
    builder = PageBuilder()
    title = slide.shapes.title
    if title is not None and title.has_text_frame:
        text = title.text_frame.text
        builder.add("heading" if len(text) <= 100 else "text", text, level=1 if len(text) <= 100 else 0)
    pictures = False
    for shape in _shapes(slide.shapes, 0):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if getattr(shape, "has_table", False) and shape.has_table:
            builder.table([[cell.text for cell in row.cells] for row in shape.table.rows])
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            builder.table(_chart(shape.chart))
        elif shape.has_text_frame:
            builder.add("text", shape.text_frame.text)
        else:
            pictures = pictures or hasattr(shape, "image")
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        builder.add("text", slide.notes_slide.notes_text_frame.text)
    if not builder.length:
        return Page(
            number,
            "",
            (),
            "",
            "suspect" if pictures else "ok",
            ("mostly-picture",) if pictures else ("blank",),
        )
    return builder.page(number)


def _chart(chart: Any) -> list[list[str]]:
    """Categories down, series across."""
    plot = chart.plots[0]
    series = list(plot.series)
    rows = [["", *(str(s.name or "") for s in series)]]
    columns = [list(s.values) for s in series]
    for place, category in enumerate(plot.categories):
        rows.append(
            [
                str(category),
                *(f"{c[place]:.10g}" if place < len(c) and c[place] is not None else "" for c in columns),
            ]
        )
    return rows


def _shapes(shapes: Any, depth: int) -> list[Any]:
    """From top to bottom, then left to right; groups taken apart."""
    flat: list[Any] = []
    for shape in shapes:
        if hasattr(shape, "shapes") and depth < _DEEPEST:
            flat += _shapes(shape.shapes, depth + 1)
        else:
            flat.append(shape)
    return sorted(flat, key=lambda s: ((s.top or 0) // _ROW, s.left or 0))
