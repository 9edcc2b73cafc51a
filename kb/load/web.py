"""HTML and EPUB."""

from __future__ import annotations

import codecs
import posixpath
import re
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kb.errors import LoadError
from kb.load.builder import PageBuilder
from kb.load.encoding import Decoded, decode
from kb.load.limits import LoadLimits, check_zip, shown, too_slow
from kb.load.text import TextFile, read, verdict_of
from kb.types import LoadedFile, Page

_DROPPED = ("script", "style", "noscript", "template", "nav", "svg", "iframe", "form", "button")
_BLOCKS = {
    "p", "div", "section", "article", "main", "li", "ul", "ol", "dl", "dt", "dd", "blockquote", "header", "footer",
    "aside", "figure", "figcaption", "body", "address", "details", "summary", "center", "td", "th",
}  # fmt: skip


def _soup(markup: str) -> Any:
    import warnings

    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML, as EPUB has it, reads well as HTML
        soup = BeautifulSoup(re.sub(r"^\s*<\?xml[^>]*\?>", "", markup), "lxml")
    for tag in soup(_DROPPED):
        tag.decompose()
    return soup


def add_html(builder: PageBuilder, root: Any) -> None:
    """Headings, paragraphs, lists, tables and preformatted text below `root`, in order."""
    waiting: list[str] = []

    def flush() -> None:
        text = re.sub(r"[ \t\r\f\v]*\n[ \t\r\f\v]*", "\n", "".join(waiting))
        builder.add("text", re.sub(r"[ \t]+", " ", text).strip())
        waiting.clear()

    def walk(node: Any, depth: int) -> None:
        for child in node.children:
            name = getattr(child, "name", None)
            if name is None:
                if type(child).__name__ == "NavigableString":
                    waiting.append(re.sub(r"\s+", " ", str(child)))
            elif re.fullmatch(r"h[1-6]", name):
                flush()
                builder.add("heading", " ".join(child.get_text(" ").split()), level=int(name[1]))
            elif name == "table" and not child.find("table"):
                flush()
                rows = [[c.get_text(" ") for c in row.find_all(["td", "th"])] for row in child.find_all("tr")]
                builder.table(rows)
            elif name == "pre":
                flush()
                builder.add("code", child.get_text())
            elif name == "br":
                waiting.append("\n")
            elif depth < 200 and (name in _BLOCKS or name in ("table", "tr", "tbody")):
                flush()
                if name == "li":
                    waiting.append("- ")
                walk(child, depth + 1)
                flush()
            elif depth < 200:
                walk(child, depth + 1)

    walk(root, 0)
    flush()


def load_html(path: Path, limits: LoadLimits) -> LoadedFile:
    """Scripts, styles and navigation are left out. An encoding that the page declares counts if it fits."""
    found = _declared(path, read(path, limits, markup=True))
    soup = _soup(found.text)
    title = soup.title.get_text().strip() if soup.title else ""
    builder = PageBuilder()
    add_html(builder, soup.body or soup)
    verdict, reasons = verdict_of(found)
    page = builder.page(1, verdict=verdict, reasons=reasons)
    if not page.text:
        page = Page(1, "", (), "", "failed", ("empty",))
    return LoadedFile(path, "html", (page,), title or path.stem, found.found.encoding)


def _declared(path: Path, file: TextFile) -> TextFile:
    """The encoding that the page declares decides where ours is a guess, if the bytes fit it."""
    if file.found.certain or file.cut:
        return file
    data = path.read_bytes()
    match = re.search(rb"charset=[\"']?([\w-]+)", data[:4096], re.IGNORECASE)
    if match is None:
        return file
    name = match.group(1).decode("ascii").lower()
    name = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}.get(name, name)
    try:
        if not codecs.lookup(name)._is_text_encoding:
            return file
        return TextFile(Decoded(data.decode(name), name, True), False)
    except (UnicodeDecodeError, LookupError):
        return file


def load_epub(path: Path, limits: LoadLimits) -> LoadedFile:
    """One page a chapter, in the order of the spine."""
    check_zip(path, limits, book=True)
    deadline = time.monotonic() + limits.seconds
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        try:
            container = _xml(archive.read("META-INF/container.xml"))
            package = container.find("rootfile")["full-path"]
            book = _xml(archive.read(package))
        except (KeyError, TypeError) as error:
            raise LoadError(
                f"{shown(path)} is not an EPUB book: it has no table of its contents ({error}).",
                zh=f"{shown(path)} 不是 EPUB 电子书：缺少内容目录（{error}）。",
            ) from error
        if "META-INF/encryption.xml" in names and b"idpf.org" not in archive.read("META-INF/encryption.xml"):
            raise LoadError(
                f"{shown(path)} is protected (DRM).", zh=f"{shown(path)} 受版权保护（DRM），无法读取。"
            )
        base = posixpath.dirname(package)
        items = {item.get("id"): item.get("href", "") for item in book.find_all("item")}
        pages: list[Page] = []
        for reference in book.find_all("itemref"):
            place = posixpath.normpath(posixpath.join(base, unquote(items.get(reference.get("idref"), ""))))
            if place not in names:
                continue
            if time.monotonic() > deadline:
                raise too_slow(path, limits)
            builder = PageBuilder()
            soup = _soup(decode(archive.read(place)).text)
            add_html(builder, soup.body or soup)
            if builder.length:
                pages.append(builder.page(len(pages) + 1))
        title = book.find("dc:title") or book.find("title")
    empty = Page(1, "", (), "", "failed", ("empty",))
    name = title.get_text().strip() if title else ""
    return LoadedFile(path, "epub", tuple(pages) or (empty,), name or path.stem)


def _xml(data: bytes) -> Any:
    """Read without entities: BeautifulSoup's HTML parser resolves none that the file defines."""
    import warnings

    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        return BeautifulSoup(decode(data).text, "html.parser")
