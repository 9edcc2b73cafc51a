"""File -> pages of text, each with a verdict.

encoding.py    bytes -> text
text.py        txt, md, csv, json, jsonl
word.py        docx, with numbering.py (the numbers that Word writes by itself)
slides.py      pptx
sheets.py      xlsx, xls
web.py         html, epub
pdf.py         PDF: pdf_lines.py (characters -> lines), pdf_order.py (reading order), pdf_layout.py and
               pdf_headings.py (lines -> blocks),
               pdf_second.py (pypdf's opinion), ocr.py (pictures -> text)
picture.py     the picture of a page, and where a passage stands on it
limits.py      bounds, and advice for each reason
"""

from __future__ import annotations

from pathlib import Path

from kb.errors import LimitError, LoadError
from kb.load.limits import ADVICE, LoadLimits, shown
from kb.load.pdf import OcrMode
from kb.types import LoadedFile

__all__ = ["ADVICE", "LOADER_VERSION", "SUPPORTED", "LoadLimits", "OcrMode", "load_file"]

LOADER_VERSION = "2"
"""Changes when the same file would give other pages: part of what decides re-indexing."""

SUPPORTED: dict[str, str] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xls",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
    ".epub": "epub",
    ".md": "md",
    ".markdown": "md",
    ".txt": "txt",
    ".text": "txt",
    ".json": "json",
    ".jsonl": "jsonl",
}
"""Suffix -> kind."""

_OLD = {
    ".doc": ".docx", ".dot": ".docx", ".rtf": ".docx", ".wps": ".docx", ".odt": ".docx", ".ppt": ".pptx", ".dps": ".pptx",
    ".odp": ".pptx", ".et": ".xlsx", ".ods": ".xlsx",
}  # fmt: skip
"""Suffix -> what to save it as."""

_DEFAULT = LoadLimits()


def load_file(
    path: Path, *, limits: LoadLimits = _DEFAULT, ocr: OcrMode = "auto", password: str = ""
) -> LoadedFile:
    """The pages of a file.

    `ocr`: "auto" reads scanned pages if the extra is installed, "require" raises MissingExtra if it is not.
    Raises LoadError (LimitError for a bound) with what to do.
    """
    kind = SUPPORTED.get(path.suffix.lower())
    if (better := _OLD.get(path.suffix.lower())) is not None:
        raise LoadError(
            f"{shown(path)} is an old format. Save it as {better} (LibreOffice does it: soffice --headless "
            f"--convert-to {better[1:]} FILE).",
            zh=f"{shown(path)} 是旧格式。请另存为 {better}（LibreOffice 可批量转换：soffice --headless --convert-to {better[1:]} 文件）。",
        )
    if kind is None:
        known = ", ".join(sorted(SUPPORTED))
        raise LoadError(
            f"{shown(path)}: files of this type are not read. Save it as one of {known}.",
            zh=f"{shown(path)}：不支持这种文件。请另存为 {known} 之一。",
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise LoadError(
            f"{shown(path)} cannot be read ({error.strerror}).",
            zh=f"{shown(path)} 无法读取（{error.strerror}）。",
        ) from error
    if size > limits.max_bytes:
        raise LimitError(
            f"{shown(path)} has {size:,} bytes, more than {limits.max_bytes:,}. Split it.",
            zh=f"{shown(path)} 有 {size:,} 字节，超过 {limits.max_bytes:,}。请拆分。",
        )
    if size == 0:
        raise LoadError(f"{shown(path)} is empty.", zh=f"{shown(path)} 是空文件。")
    return _load(path, kind, limits, ocr, password)


def _load(path: Path, kind: str, limits: LoadLimits, ocr: OcrMode, password: str) -> LoadedFile:
    from kb.load import pdf, sheets, slides, text, web, word

    if kind == "pdf":
        return pdf.load_pdf(path, limits, ocr=ocr, password=password)
    readers = {
        "docx": word.load_docx,
        "pptx": slides.load_pptx,
        "xlsx": sheets.load_xlsx,
        "xls": sheets.load_xls,
        "csv": text.load_csv,
        "html": web.load_html,
        "epub": web.load_epub,
        "md": text.load_md,
        "txt": text.load_txt,
        "json": text.load_json,
        "jsonl": text.load_json,
    }
    return readers[kind](path, limits)
