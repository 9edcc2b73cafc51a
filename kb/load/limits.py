"""Bounds that protect the machine, and the advice for every reason that a page can have."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from kb.errors import LimitError, LoadError


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What one file may cost."""

    max_bytes: int = 200 * 1024**2
    """Bytes of the file on disk."""
    max_unpacked: int = 1024**3
    """Bytes that a zip-based file may unpack to."""
    max_ratio: int = 200
    """Unpacked over packed bytes of any large member: above it, it is a zip bomb."""
    max_characters: int = 50_000_000
    """Characters of text in the whole file."""
    max_pages: int = 20_000
    seconds: float = 600.0
    """For reading one file."""
    max_pixels: int = 50_000_000
    """Of a page that is drawn for OCR."""


ADVICE: dict[str, tuple[str, str]] = {
    "no-text-layer": (
        "这一页没有文字层（扫描件）：pip install 'zhiwen[ocr]' 后重新索引",
        "the page is a picture: pip install 'zhiwen[ocr]', then index again",
    ),
    "ocr": ("文字由 OCR 识别，可能有错字", "the text was read by OCR and may hold errors"),
    "ocr-empty": ("OCR 没有识别出文字", "OCR found no text on the page"),
    "unmapped-font": (
        "字体缺少字符映射，文字可能是乱码：请用原软件另存为 PDF，或启用 OCR",
        "a font has no character map, the text may be garbage: export the PDF again, or use OCR",
    ),
    "mojibake": ("文字像是乱码：请检查编码或另存为 UTF-8", "the text looks garbled: save the file as UTF-8"),
    "guessed-encoding": (
        "编码是猜的：如有乱码请另存为 UTF-8",
        "the encoding is a guess: if it is wrong, save as UTF-8",
    ),
    "second-opinion": (
        "两个解析器结果不同，已取较好的一个",
        "two parsers disagreed, the better one was taken",
    ),
    "empty": ("没有文字", "there is no text"),
    "unlisted-folder": (
        "文件夹无法列出：请检查权限",
        "the folder could not be listed: check its permissions",
    ),
    "page-failed": ("这一页无法解析", "the page could not be parsed"),
    "too-long": ("文字过多，已截断", "too much text: it was cut off"),
}
"""Reason code -> (Chinese, English): what it means and what to do."""


def shown(path: Path) -> str:
    """The name, safe to print: control characters escaped."""
    return repr(path.name)


def check_zip(path: Path, limits: LoadLimits) -> None:
    """Raises LoadError if it is not a zip file, LimitError if it would unpack to too much."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise LoadError(
            f"{shown(path)} is damaged or not what its name says ({error}). Open it and save it again.",
            zh=f"{shown(path)} 已损坏或与后缀不符（{error}）。请打开后重新另存。",
        ) from error
    total = sum(m.file_size for m in members)
    bomb = any(
        m.file_size > 10 * 1024**2 and m.file_size > limits.max_ratio * max(1, m.compress_size)
        for m in members
    )
    if total > limits.max_unpacked or bomb or len(members) > 100_000:
        raise LimitError(
            f"{shown(path)} would unpack to {total:,} bytes: it looks like a zip bomb and was not opened.",
            zh=f"{shown(path)} 解压后有 {total:,} 字节，疑似压缩炸弹，没有打开。",
        )
