"""The picture of a page, and where on it a passage stands: what a citation is shown with."""

from __future__ import annotations

import ctypes
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import LoadError
from kb.load.limits import shown
from kb.load.pdf import is_doubtful, is_mostly_picture, open_pdf, repeated_lines
from kb.load.pdf_layout import layout_page

MOST_PIXELS = 20_000_000
"""Of a picture: a page may be said to be a kilometre wide."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on a page, each side as a share of the page's width or height, 0 to 1, from the top left."""

    left: float
    top: float
    right: float
    bottom: float


def page_picture(path: Path, page: int, *, scale: float = 1.5, password: str = "") -> bytes:
    """PNG of a page of a PDF. `scale` 1 is 72 dots an inch. Raises LoadError if there is no such page."""
    document = open_pdf(path, password)
    try:
        opened = _opened(document, path, page)
        width, height = opened.get_size()
        scale = min(scale, (MOST_PIXELS / max(1.0, width * height)) ** 0.5)
        out = io.BytesIO()
        opened.render(scale=scale).to_pil().save(out, format="PNG")
        return out.getvalue()
    finally:
        document.close()


def passage_boxes(path: Path, page: int, start: int, end: int, *, password: str = "") -> list[Box]:
    """Where the characters `start` to `end` of the page's text (as `load_file` gives it) stand: one box a line.

    Empty on pages whose text may have come from OCR or from the second parser. Raises LoadError if there is no such page.
    """
    document = open_pdf(path, password)
    try:
        opened = _opened(document, path, page)
        textpage = opened.get_textpage()
        layout = layout_page(textpage, drop=repeated_lines(document))
        boxes: list[Box] = []
        if is_doubtful(layout) or is_mostly_picture(opened, layout):
            return boxes
        for index in dict.fromkeys(i for i in layout.indices[max(0, start) : end] if i >= 0):
            box = _on_picture(opened, textpage.get_charbox(index, loose=True))
            if box.right <= box.left or box.bottom <= box.top:
                continue
            if boxes and (whole := _together(boxes[-1], box)) is not None:
                boxes[-1] = whole
            else:
                boxes.append(box)
        return boxes
    finally:
        document.close()


def _opened(document: Any, path: Path, page: int) -> Any:
    if not 1 <= page <= len(document):
        raise LoadError(f"{shown(path)} has no page {page}.", zh=f"{shown(path)} 没有第 {page} 页。")
    return document[page - 1]


_FINE = 100_000
"""Steps from edge to edge in which pdfium counts for us."""


def _on_picture(page: Any, box: tuple[float, float, float, float]) -> Box:
    """From points of the page (which may be turned or cropped) to shares of its picture."""
    import pypdfium2.raw as pdfium

    across, down = ctypes.c_int(), ctypes.c_int()
    places = []
    for x, y in ((box[0], box[1]), (box[2], box[3])):
        pdfium.FPDF_PageToDevice(page.raw, 0, 0, _FINE, _FINE, 0, x, y, across, down)
        places.append((min(1.0, max(0.0, across.value / _FINE)), min(1.0, max(0.0, down.value / _FINE))))
    (x1, y1), (x2, y2) = places
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _together(last: Box, box: Box) -> Box | None:
    """One box for neighbours in a line (or in a column of vertical writing); None if they are none. A turned page
    is read in any direction."""
    middle, centre = (box.top + box.bottom) / 2, (box.left + box.right) / 2
    across = max(box.left - last.right, last.left - box.right)
    down = max(box.top - last.bottom, last.top - box.bottom)
    beside = last.top <= middle <= last.bottom and -0.02 < across < 0.05
    below = last.left <= centre <= last.right and -0.02 < down < 0.02
    narrow = last.right - last.left < 2 * (box.right - box.left)
    if not beside and not (below and narrow):
        return None
    return Box(
        min(last.left, box.left),
        min(last.top, box.top),
        max(last.right, box.right),
        max(last.bottom, box.bottom),
    )
