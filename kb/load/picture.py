"""The picture of a page, and where on it a passage stands: what a citation is shown with."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from kb.errors import LoadError
from kb.load.limits import shown
from kb.load.pdf import open_pdf, repeated_lines
from kb.load.pdf_layout import layout_page


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on a page, each side as a share of the page's width or height, 0 to 1, from the top left."""

    left: float
    top: float
    right: float
    bottom: float


def page_picture(path: Path, page: int, *, scale: float = 1.5) -> bytes:
    """PNG of a page of a PDF. `scale` 1 is 72 dots an inch. Raises LoadError if there is no such page."""
    document = open_pdf(path)
    try:
        if not 1 <= page <= len(document):
            raise LoadError(f"{shown(path)} has no page {page}.", zh=f"{shown(path)} 没有第 {page} 页。")
        width, height = document[page - 1].get_size()
        scale = min(scale, (20_000_000 / max(1.0, width * height)) ** 0.5)
        out = io.BytesIO()
        document[page - 1].render(scale=scale).to_pil().save(out, format="PNG")
        return out.getvalue()
    finally:
        document.close()


def passage_boxes(path: Path, page: int, start: int, end: int) -> list[Box]:
    """Where the characters `start` to `end` of the page's text (as `load_file` gives it) stand: one box a line."""
    document = open_pdf(path)
    try:
        if not 1 <= page <= len(document):
            raise LoadError(f"{shown(path)} has no page {page}.", zh=f"{shown(path)} 没有第 {page} 页。")
        opened = document[page - 1]
        textpage = opened.get_textpage()
        layout = layout_page(textpage, drop=repeated_lines(document))
        width, height = opened.get_size()
        boxes: list[Box] = []
        for index in dict.fromkeys(i for i in layout.indices[start:end] if i >= 0):
            left, bottom, right, top = textpage.get_charbox(index)
            box = Box(left / width, 1 - top / height, right / width, 1 - bottom / height)
            last = boxes[-1] if boxes else None
            middle = (box.top + box.bottom) / 2
            if last and last.top <= middle <= last.bottom and -0.01 < box.left - last.right < 0.05:
                boxes[-1] = Box(
                    min(last.left, box.left),
                    min(last.top, box.top),
                    max(last.right, box.right),
                    max(last.bottom, box.bottom),
                )
            elif right > left:
                boxes.append(box)
        return boxes
    finally:
        document.close()
