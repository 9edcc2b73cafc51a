"""PDF: text by pdfium, outlines, labels and encryption by pypdf, each a second opinion on a page that looks wrong."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kb.errors import LimitError, LoadError
from kb.load.encoding import clean, looks_garbled
from kb.load.limits import LoadLimits, shown, too_slow
from kb.load.ocr import ocr_available, ocr_installed, read_picture
from kb.load.pdf_layout import PageLayout, layout_found, layout_page, line_key, margin_lines
from kb.load.pdf_lines import read_lines
from kb.load.pdf_second import SecondOpinion
from kb.types import Block, LoadedFile, Page

OcrMode = Literal["auto", "off", "require"]
_ONE_FOR_ALL = re.compile(r"([\u4e00-\u9fff])\1\1")
"""A font that gives the same character for all of its glyphs."""
SAMPLE = 24
"""Pages that are looked at to find headers and footers."""


def open_pdf(path: Path, password: str = "") -> Any:
    """A pypdfium2 document. Raises LoadError with what to do."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(path.read_bytes(), password=password or None)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            wrong = " and this password is wrong" if password else " and needs a password"
            raise LoadError(
                f"{shown(path)} is encrypted{wrong}. Save it without one, or give the right one.",
                zh=f"{shown(path)} 已加密，{'密码不对' if password else '需要密码'}。请去掉密码后另存，或给出正确的密码。",
            ) from error
        raise LoadError(
            f"{shown(path)} is damaged ({error}). Open it in a PDF reader and save or print it as PDF again.",
            zh=f"{shown(path)} 已损坏（{error}）。请用 PDF 阅读器打开后重新另存或打印为 PDF。",
        ) from error
    except OSError as error:
        raise LoadError(
            f"{shown(path)} cannot be read ({error.strerror}).",
            zh=f"{shown(path)} 无法读取（{error.strerror}）。",
        ) from error


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading one page needs to know of its file."""

    document: Any
    other: SecondOpinion
    drop: frozenset[str]
    limits: LoadLimits
    ocr: OcrMode


def load_pdf(path: Path, limits: LoadLimits, *, ocr: OcrMode = "auto", password: str = "") -> LoadedFile:
    """A page each, with headings from the outline and from the size of the type."""
    deadline = time.monotonic() + limits.seconds
    document = open_pdf(path, password)
    try:
        count = len(document)
        if count > limits.max_pages:
            raise LimitError(
                f"{shown(path)} has {count:,} pages, more than {limits.max_pages:,}. Split it.",
                zh=f"{shown(path)} 有 {count:,} 页，超过 {limits.max_pages:,} 页。请拆分。",
            )
        drop = repeated_lines(document)
        reading = _Reading(document, SecondOpinion(path, password), drop, limits, ocr)
        notes = ["repeated-lines-dropped"] if drop else []
        pages: list[Page] = []
        total = 0
        for number in range(1, count + 1):
            if time.monotonic() > deadline:
                raise too_slow(path, limits)
            pages.append(_page(reading, number))
            total += len(pages[-1].text)
            if total > limits.max_characters:
                notes.append("too-long")
                break
        return LoadedFile(path, "pdf", tuple(pages), reading.other.title or path.stem, "", tuple(notes))
    finally:
        document.close()


def repeated_lines(document: Any) -> frozenset[str]:
    """Keys of the first and last lines that most pages share: headers, footers, page numbers. Needs three pages."""
    import pypdfium2

    count = len(document)
    if count < 3:
        return frozenset()
    sampled = range(count) if count <= SAMPLE else range(0, count, count // SAMPLE)
    seen: Counter[str] = Counter()
    for number in sampled:
        try:
            page = document[number]
            lines = read_lines(page.get_textpage()).lines
        except pypdfium2.PdfiumError:
            continue
        seen.update({line_key(line.text) for line in margin_lines(lines)})
    most = 0.4 * len(sampled)  # left and right pages may have headers of their own
    return frozenset(key for key, times in seen.items() if times >= most and times >= 3)


def _page(reading: _Reading, number: int) -> Page:
    import pypdfium2

    other, label = reading.other, reading.other.label(number)
    try:
        page = reading.document[number - 1]
        layout = layout_page(page.get_textpage(), drop=reading.drop)
    except pypdfium2.PdfiumError:
        return Page(number, "", (), label, "failed", ("page-failed",))
    if layout.characters == 0:
        return _picture(reading, page, number, label)
    if not layout.text.strip():
        return Page(number, "", (), label, "ok", ("blank",))
    reasons = ["too-long"] if layout.cut else []
    if is_doubtful(layout):
        second = clean(other.text(number))
        if len(second) > 0.5 * layout.characters and not looks_garbled(second):
            return Page(
                number,
                second,
                (Block("text", 0, len(second)),),
                label,
                "suspect",
                ("unmapped-font", "second-opinion"),
            )
        read = _picture(reading, page, number, label)
        if read.text:
            return read
        reasons.append("unmapped-font")
    elif len(set(_ONE_FOR_ALL.findall(layout.text))) > 1:
        reasons.append("unmapped-font")
    if is_mostly_picture(page, layout):
        read = _picture(reading, page, number, label)
        if len(read.text) > 2 * len(layout.text):
            return read
        reasons.append("mostly-picture")
    elif pictured(page) > 0.85:
        reasons.append("scanned-text")
    blocks = _with_outline(layout, other.headings(number))
    return Page(number, layout.text, blocks, label, "suspect" if reasons else "ok", tuple(reasons))


def is_doubtful(layout: PageLayout) -> bool:
    """Are too many of its characters without meaning? Then the page's text may come from elsewhere."""
    return layout.unmapped > 0.1 * layout.characters or looks_garbled(layout.text)


def is_mostly_picture(page: Any, layout: PageLayout) -> bool:
    """Hardly any text beside a picture that may hold more? Then the page's text may come from the picture."""
    if layout.characters >= 60:
        return False
    covered = pictured(page)
    return covered > 0.1 or (covered > 0.02 and layout.characters < 15)


def pictured(page: Any) -> float:
    """Share of the page that its largest picture covers, 0 to 1."""
    import pypdfium2.raw as pdfium

    width, height = page.get_size()
    largest: float = 0.0
    for shape in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        left, bottom, right, top = shape.get_bounds()
        wide = min(right, width) - max(left, 0.0)
        largest = max(largest, max(0.0, wide) * max(0.0, min(top, height) - max(bottom, 0.0)))
    return float(min(1.0, largest / max(1.0, width * height)))


def _picture(reading: _Reading, page: Any, number: int, label: str) -> Page:
    """A page without text: read its picture, or say that it could not be read; a blank page is no failure."""
    import pypdfium2.raw as pdfium

    drawn = any(
        o.type in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_PATH) for o in page.get_objects(max_depth=3)
    )
    if not drawn and not reading.other.text(number).strip():
        return Page(number, "", (), label, "ok", ("blank",))
    if reading.ocr == "off" or (reading.ocr == "auto" and not ocr_available()):
        broken = ocr_installed() and reading.ocr != "off"
        return Page(number, "", (), label, "failed", ("no-text-layer", *(("ocr-broken",) if broken else ())))
    width, height = page.get_size()
    scale = min(200 / 72, (reading.limits.max_pixels / max(1.0, width * height)) ** 0.5)
    found = layout_found(read_picture(page.render(scale=scale).to_pil()))
    if not found.text.strip():
        return Page(number, "", (), label, "failed", ("no-text-layer", "ocr-empty"), True)
    return Page(number, found.text, found.blocks, label, "suspect", ("ocr",), True)


def _with_outline(layout: PageLayout, headings: list[tuple[str, int]]) -> tuple[Block, ...]:
    """A paragraph that the outline names becomes a heading of its level; the page's other headings go below it."""
    if not headings:
        return layout.blocks
    wanted = {"".join(title.split()): level for title, level in headings}
    blocks = []
    for block in layout.blocks:
        text = "".join(layout.text[block.start : block.end].split())
        level = wanted.get(text)
        named = level is not None and block.kind in ("text", "heading")
        blocks.append(Block("heading", block.start, block.end, min(6, level or 1)) if named else block)
    return tuple(blocks)
