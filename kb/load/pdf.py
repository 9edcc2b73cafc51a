"""PDF: text by pdfium, outlines, labels and encryption by pypdf, each a second opinion on a page that looks wrong."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from kb.errors import LoadError
from kb.load.encoding import clean, looks_garbled
from kb.load.limits import LoadLimits, shown
from kb.load.ocr import ocr_available, read_picture
from kb.load.pdf_layout import PageLayout, layout_page, line_key, read_lines
from kb.types import Block, LoadedFile, Page

OcrMode = Literal["auto", "off", "require"]


def open_pdf(path: Path, password: str = "") -> Any:
    """A pypdfium2 document. Raises LoadError with what to do."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(path.read_bytes(), password=password or None)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise LoadError(
                f"{shown(path)} is encrypted and needs a password. Save it without one, or give the password.",
                zh=f"{shown(path)} 已加密，需要密码。请去掉密码后另存，或给出密码。",
            ) from error
        raise LoadError(
            f"{shown(path)} is damaged ({error}). Open it in a PDF reader and save or print it as PDF again.",
            zh=f"{shown(path)} 已损坏（{error}）。请用 PDF 阅读器打开后重新另存或打印为 PDF。",
        ) from error


def load_pdf(path: Path, limits: LoadLimits, *, ocr: OcrMode = "auto", password: str = "") -> LoadedFile:
    """A page each, with headings from the outline and from the size of the type."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    document = open_pdf(path, password)
    try:
        count = len(document)
        if count > limits.max_pages:
            raise LoadError(
                f"{shown(path)} has {count:,} pages, more than {limits.max_pages:,}. Split it.",
                zh=f"{shown(path)} 有 {count:,} 页，超过 {limits.max_pages:,} 页。请拆分。",
            )
        other = _Second(path, password)
        drop = repeated_lines(document)
        notes = ("repeated-lines-dropped",) if drop else ()
        pages: list[Page] = []
        total = 0
        for number in range(1, count + 1):
            page = _page(document, number, other, drop, limits, ocr)
            pages.append(page)
            total += len(page.text)
            if total > limits.max_characters:
                notes = (*notes, "too-long")
                break
        return LoadedFile(path, "pdf", tuple(pages), other.title or path.stem, "", notes)
    finally:
        document.close()


def repeated_lines(document: Any) -> frozenset[str]:
    """Keys of the first and last lines that most pages share: headers, footers, page numbers. Needs three pages."""
    count = len(document)
    if count < 3:
        return frozenset()
    sampled = range(count) if count <= 40 else range(0, count, count // 40)
    seen: Counter[str] = Counter()
    for number in sampled:
        try:
            page = document[number]
            height = page.get_height()
            lines, _, _ = read_lines(page.get_textpage())
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            continue
        margins = [x for x in lines if x.bottom > 0.9 * height or x.top < 0.1 * height]
        seen.update({line_key(line.text) for line in margins})
    most = 0.6 * len(sampled)
    return frozenset(key for key, times in seen.items() if times >= most and times >= 3)


def _page(
    document: Any, number: int, other: _Second, drop: frozenset[str], limits: LoadLimits, ocr: OcrMode
) -> Page:
    import pypdfium2

    label = other.label(number)
    try:
        page = document[number - 1]
        layout = layout_page(page.get_textpage(), drop=drop)
    except pypdfium2.PdfiumError:
        return Page(number, "", (), label, "failed", ("page-failed",))
    text = clean(layout.text)
    if text != layout.text:  # the way back to the page needs every character where it was
        text = "".join(c if clean(c) == c else " " for c in layout.text)
    if layout.characters == 0:
        return _picture(page, number, label, limits, ocr)
    reasons: list[str] = []
    if layout.unmapped > 0.1 * layout.characters or looks_garbled(text):
        second = clean(other.text(number))
        if second.strip() and not looks_garbled(second) and len(second) > 0.5 * layout.characters:
            whole = (Block("text", 0, len(second)),)
            return Page(number, second, whole, label, "suspect", ("unmapped-font", "second-opinion"))
        read = _picture(page, number, label, limits, ocr)
        if read.text:
            return read
        reasons.append("unmapped-font")
    blocks = _with_outline(layout, other.headings(number))
    if not text.strip():
        return Page(number, "", (), label, "failed", ("empty",))
    return Page(number, text, blocks, label, "suspect" if reasons else "ok", tuple(reasons))


def _picture(page: Any, number: int, label: str, limits: LoadLimits, ocr: OcrMode) -> Page:
    """A page without text: read its picture, or say that it could not be read; a blank page is no failure."""
    import pypdfium2.raw as pdfium

    drawn = any(
        o.type in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_PATH) for o in page.get_objects(max_depth=3)
    )
    if not drawn:
        return Page(number, "", (), label, "ok", ())
    if ocr == "off" or (ocr == "auto" and not ocr_available()):
        return Page(number, "", (), label, "failed", ("no-text-layer",))
    width, height = page.get_size()
    scale = min(200 / 72, (limits.max_pixels / max(1.0, width * height)) ** 0.5)
    paragraphs = read_picture(page.render(scale=scale).to_pil())
    text = clean("\n".join(paragraphs))
    if not text.strip():
        return Page(number, "", (), label, "failed", ("no-text-layer", "ocr-empty"), True)
    return Page(number, text, (Block("text", 0, len(text)),), label, "suspect", ("ocr",), True)


def _with_outline(layout: PageLayout, headings: list[tuple[str, int]]) -> tuple[Block, ...]:
    """A paragraph that the outline names becomes a heading of its level."""
    if not headings:
        return layout.blocks
    wanted = {"".join(title.split()): level for title, level in headings}
    blocks = []
    for block in layout.blocks:
        level = wanted.get("".join(layout.text[block.start : block.end].split()))
        named = level is not None and block.kind in ("text", "heading")
        blocks.append(Block("heading", block.start, block.end, min(6, level or 1)) if named else block)
    return tuple(blocks)


class _Second:
    """pypdf's view of the file; what it cannot read is simply not there."""

    def __init__(self, path: Path, password: str) -> None:
        self._reader: Any = None
        self._labels: list[str] = []
        self._headings: dict[int, list[tuple[str, int]]] = {}
        self.title = ""
        import pypdf

        try:
            reader = pypdf.PdfReader(path, strict=False)
            if reader.is_encrypted:
                reader.decrypt(password)
            self._reader = reader
            self.title = clean(str(reader.metadata.title or "") if reader.metadata else "").strip()
            self._labels = list(reader.page_labels)
            self._walk(reader.outline, 1)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            logging.getLogger("kb.load").info("pypdf: %s", error)

    def _walk(self, outline: Any, level: int) -> None:
        for item in outline[:5000]:
            if isinstance(item, list):
                if level < 20:
                    self._walk(item, level + 1)
                continue
            number = self._reader.get_destination_page_number(item)
            if number is not None and item.title:
                self._headings.setdefault(int(number) + 1, []).append((clean(str(item.title)), level))

    def label(self, number: int) -> str:
        """What is printed on the page, if it differs from its number."""
        label = self._labels[number - 1] if number <= len(self._labels) else ""
        return "" if label == str(number) else label

    def headings(self, number: int) -> list[tuple[str, int]]:
        return self._headings.get(number, [])

    def text(self, number: int) -> str:
        if self._reader is None:
            return ""
        try:
            return str(self._reader.pages[number - 1].extract_text())
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            return ""
