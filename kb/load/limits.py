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
    max_markup: int = 64 * 1024**2
    """Bytes of an HTML or JSON file: these take many times their size in memory."""
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
    "ocr-broken": (
        "OCR 已安装但无法启动（多半缺少 libGL）：pip uninstall -y opencv-python && "
        "pip install --force-reinstall --no-deps opencv-python-headless",
        "OCR is installed but does not start (most often libGL is missing): pip uninstall -y opencv-python && "
        "pip install --force-reinstall --no-deps opencv-python-headless",
    ),
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
    "mostly-picture": (
        "这一页主要是图片，图片里的文字没有读出：pip install 'zhiwen[ocr]' 后重新索引",
        "the page is mostly a picture whose words were not read: pip install 'zhiwen[ocr]', then index again",
    ),
    "scanned-text": (
        "这一页是扫描图，文字层由别的程序识别，可能有错字",
        "the page is a scan; its text layer comes from another program's OCR and may hold errors",
    ),
    "blank": ("空白页", "a blank page"),
    "no-formulas-saved": (
        "表格中的公式没有保存计算结果：请用 Excel 或 WPS 打开后另存",
        "formulas without saved results: open the workbook in Excel or WPS and save it again",
    ),
    "embedded-files": (
        "正文为空，内容在嵌入的附件里：请把附件另存到文件夹中",
        "the document is empty but for embedded files: save those into the folder",
    ),
    "repeated-lines-dropped": (
        "每页重复的页眉页脚已略去",
        "headers and footers that repeat on the pages were left out",
    ),
    "bad-lines": ("有些行不是合法的 JSON，已略过", "lines that are not valid JSON were left out"),
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


def too_slow(path: Path, limits: LoadLimits) -> LimitError:
    """The error of a file that takes too long."""
    return LimitError(
        f"{shown(path)} took more than {limits.seconds:.0f} s to read and was given up. Split it.",
        zh=f"{shown(path)} 读取超过 {limits.seconds:.0f} 秒，已放弃。请拆分文件。",
    )


def damaged(path: Path, error: Exception) -> LoadError:
    """The error of a file whose own program must repair it."""
    detail = f"{type(error).__name__}: {shown_text(str(error))}"
    return LoadError(
        f"{shown(path)} cannot be opened ({detail}). It is damaged or encrypted: open it in its program and save it "
        "again without a password.",
        zh=f"{shown(path)} 打不开（{detail}）。文件已损坏或加密：请用原软件打开，去掉密码后另存。",
    )


def shown_text(text: str) -> str:
    """A library's message in one line that is safe to print."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:120]


_OLE = b"\xd0\xcf\x11\xe0"
"""Old Office files, and new ones with a password."""


def check_zip(path: Path, limits: LoadLimits, *, book: bool = False) -> None:
    """Raises LoadError if it is not a zip file or defines XML entities, LimitError if it would unpack to too much.

    `book`: an EPUB, whose pages may carry a DOCTYPE (they are read without entities).
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == _OLE:
                raise LoadError(
                    f"{shown(path)} is encrypted, or an old Office file under a new name. Open it and save it again "
                    "without a password.",
                    zh=f"{shown(path)} 已加密，或是改了后缀的旧版 Office 文件。请打开后去掉密码，重新另存。",
                )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(path, members, limits)
            if not book:
                _check_entities(path, archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise LoadError(
            f"{shown(path)} is damaged or not what its name says ({shown_text(str(error))}). Open it and save it again.",
            zh=f"{shown(path)} 已损坏或与后缀不符（{shown_text(str(error))}）。请打开后重新另存。",
        ) from error


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], limits: LoadLimits) -> None:
    """zipfile reads no more of a member than these sizes say, so they can be trusted."""
    total = sum(m.file_size for m in members)
    large = (m for m in members if m.file_size > 10 * 1024**2)
    bomb = any(m.file_size > limits.max_ratio * max(1, m.compress_size) for m in large)
    if total > limits.max_unpacked or bomb or len(members) > 100_000:
        raise LimitError(
            f"{shown(path)} would unpack to {total:,} bytes: it looks like a zip bomb and was not opened.",
            zh=f"{shown(path)} 解压后有 {total:,} 字节，疑似压缩炸弹，没有打开。",
        )


def _check_entities(path: Path, archive: zipfile.ZipFile) -> None:
    """Office never writes a DOCTYPE; whoever does wants entities to be expanded."""
    for member in archive.infolist():
        if member.filename.lower().endswith((".xml", ".rels")):
            with archive.open(member) as file:
                start = file.read(2048).replace(b"\0", b"")
            if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
                raise LimitError(
                    f"{shown(path)} defines XML entities, which no Office program does. It was not read.",
                    zh=f"{shown(path)} 定义了 XML 实体，正常的 Office 文件不会这样，没有读取。",
                )
